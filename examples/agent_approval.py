"""An agent that asks before it calls a tool: approved, rejected, and passed over.

Run it with `python examples/agent_approval.py`. With DASHSCOPE_API_KEY it talks to Qwen; without
one it starts the offline server, which is no language model. It deletes all that it makes.
"""

from __future__ import annotations

from agent_travel import MODEL, connected, show, thread_of, weather
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from langchain_qwen_conv import ChatQwenConv, QwenConvMiddleware


def main() -> None:
    """Approves a call, rejects one, and goes on to something else before the third."""
    with connected() as hub:
        agent = create_agent(
            ChatQwenConv(model=MODEL, conversations=hub),
            tools=[weather],
            middleware=[
                HumanInTheLoopMiddleware(interrupt_on={"weather": True}),
                QwenConvMiddleware(),
            ],
            checkpointer=InMemorySaver(),
        )
        with thread_of(agent, hub) as config:
            agent.invoke({"messages": "How is the weather in Singapore?"}, config)
            agent.invoke(Command(resume={"decisions": [{"type": "approve"}]}), config)
            agent.invoke({"messages": "And in Oslo?"}, config)
            no = {"type": "reject", "message": "Nobody goes to Oslo."}
            agent.invoke(Command(resume={"decisions": [no]}), config)
            agent.invoke({"messages": "But if I went to Oslo?"}, config)
            # No decision: the service is told that this call was not executed.
            state = agent.invoke({"messages": "Never mind."}, config)
            show(state["messages"])


if __name__ == "__main__":
    main()
