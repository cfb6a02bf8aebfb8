"""An agent that summarizes what grows too long: its model is shown the summary and the rest.

The summary is asked for on no conversation, by the same model.

Run it with `python examples/agent_summary.py`. With DASHSCOPE_API_KEY it talks to Qwen; without one
it starts the offline server, which is no language model. It deletes all that it makes.
"""

from __future__ import annotations

from agent_travel import MODEL, connected, show, thread_of, weather
from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langgraph.checkpoint.memory import InMemorySaver

from langchain_qwen_conv import ChatQwenConv, QwenConvMiddleware


def main() -> None:
    """Asks until there is a summary, and shows how the tokens that are read shrink."""
    with connected() as hub:
        chat = ChatQwenConv(model=MODEL, conversations=hub)
        agent = create_agent(
            chat,
            tools=[weather],
            middleware=[
                SummarizationMiddleware(chat, trigger=("messages", 8), keep=("messages", 2)),
                QwenConvMiddleware(),
            ],
            checkpointer=InMemorySaver(),
        )
        with thread_of(agent, hub) as config:
            tokens = []
            for question in (
                "How is the weather in Singapore?",
                "I shall take my umbrella with me, one never knows what the day will bring.",
                "And my sun hat, which I was given by my aunt, who has been there before me.",
                "What else?",
            ):
                state = agent.invoke({"messages": question}, config)
                tokens.append(state["messages"][-1].usage_metadata["input_tokens"])
            show(state["messages"])
            print("Fewer tokens than before." if tokens[-1] < tokens[-2] else "More tokens.")


if __name__ == "__main__":
    main()
