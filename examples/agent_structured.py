"""An agent that ends with an object: by a tool call, and the thread goes on behind it.

Run it with `python examples/agent_structured.py`. With DASHSCOPE_API_KEY it talks to Qwen; without
one it starts the offline server, which is no language model. It deletes all that it makes.
"""

from __future__ import annotations

import json

from agent_travel import MODEL, connected, thread_of, weather
from langchain.agents import create_agent
from langchain.agents.structured_output import ToolStrategy
from langgraph.checkpoint.memory import InMemorySaver
from typing_extensions import TypedDict

from langchain_qwen_conv import ChatQwenConv, QwenConvMiddleware


class Forecast(TypedDict):
    """What to expect of a city."""

    city: str
    degrees: int


def main() -> None:
    """Asks twice, and prints both objects."""
    with connected() as hub:
        agent = create_agent(
            ChatQwenConv(model=MODEL, conversations=hub),
            tools=[weather],
            response_format=ToolStrategy(Forecast),
            middleware=[QwenConvMiddleware()],
            checkpointer=InMemorySaver(),
        )
        with thread_of(agent, hub) as config:
            for question in ("How is the weather in Oslo?", "Still, in Oslo?"):
                state = agent.invoke({"messages": question}, config)
                print(json.dumps(state["structured_response"]))


if __name__ == "__main__":
    main()
