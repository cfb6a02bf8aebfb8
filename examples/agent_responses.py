"""An agent without a conversation: each call of its model follows the last one's response.

It needs no middleware, and a branch of its thread costs no request more.

Run it with `python examples/agent_responses.py`. With DASHSCOPE_API_KEY it talks to Qwen; without
one it starts the offline server, which is no language model. It deletes all that it makes.
"""

from __future__ import annotations

from agent_travel import MODEL, connected, show, thread_of, weather
from langchain.agents import create_agent
from langgraph.checkpoint.memory import InMemorySaver

from langchain_qwen_conv import ChatQwenConv


def main() -> None:
    """Asks, goes back to before the second question, and asks something else."""
    with connected() as hub:
        agent = create_agent(
            ChatQwenConv(model=MODEL, conversations=hub, state="response"),
            tools=[weather],
            checkpointer=InMemorySaver(),
        )
        with thread_of(agent, hub) as config:
            agent.invoke({"messages": "How is the weather in Singapore?"}, config)
            before = agent.get_state(config).config
            agent.invoke({"messages": "I go there."}, config)
            state = agent.invoke({"messages": "And in Oslo?"}, before)
            show(state["messages"])


if __name__ == "__main__":
    main()
