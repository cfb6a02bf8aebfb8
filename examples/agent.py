"""A LangChain agent with a tool, whose thread is a conversation: a step sends what is new in it.

Run it with `python examples/agent.py`. With DASHSCOPE_API_KEY it talks to Qwen; without one it
starts the offline server, which is no language model. It deletes all that it makes.
"""

from __future__ import annotations

from agent_travel import MODEL, connected, show, thread_of, weather
from langchain.agents import create_agent
from langgraph.checkpoint.memory import InMemorySaver

from langchain_qwen_conv import ChatQwenConv, QwenConvMiddleware


def main() -> None:
    """Asks the agent twice, and shows what its thread holds."""
    with connected() as hub:
        agent = create_agent(
            ChatQwenConv(model=MODEL, conversations=hub),
            tools=[weather],
            system_prompt="Answer in one sentence.",
            middleware=[QwenConvMiddleware()],
            checkpointer=InMemorySaver(),
        )
        with thread_of(agent, hub) as config:
            for question in ("How is the weather in Singapore?", "Is it colder in Oslo?"):
                state = agent.invoke({"messages": question}, config)
            show(state["messages"])


if __name__ == "__main__":
    main()
