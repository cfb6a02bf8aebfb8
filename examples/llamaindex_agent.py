"""A LlamaIndex agent with a tool, whose memory is a conversation: a step sends what is new in it.

Run it with `python examples/llamaindex_agent.py`. With DASHSCOPE_API_KEY it talks to Qwen; without
one it starts the offline server, which is no language model and calls no tools by itself: there it
follows the script `pretended`. It deletes all that it makes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage, ToolCallBlock
from llama_index.core.memory import Memory
from llamaindex_responses import responses_deleted

from llamaindex_qwen_conv import QwenConv, QwenConvAsyncChatStore
from qwen_conv import QwenConversations
from qwen_conv.offline import CallTool, OfflineServer

WEATHER = {"Singapore": "sunny, 31 degrees", "Oslo": "snow, 3 degrees below zero"}
QUESTIONS = ["How is the weather in Singapore?", "And in Oslo?"]


def weather(city: str) -> str:
    """The weather in a city."""
    return f"In {city}: {WEATHER.get(city, 'nobody knows')}."


def pretended(context: Sequence[Mapping[str, Any]], _: Mapping[str, Any]) -> str | CallTool:
    """What the offline server answers: a call of the tool, then the tool's result."""
    last = context[-1]
    if last["type"] == "function_call_output":
        return str(last["output"])
    city = next((city for city in WEATHER if city in str(last["content"])), "an unknown place")
    return CallTool("weather", {"city": city})


def told(message: ChatMessage) -> str:
    """What a message says, or which tools it calls."""
    calls = [block for block in message.blocks if isinstance(block, ToolCallBlock)]
    return message.content or ", ".join(f"{call.tool_name}({call.tool_kwargs})" for call in calls)


async def hold(hub: QwenConversations) -> None:
    """Asks the agent, shows what is in its memory, and deletes it."""
    memory = Memory.from_defaults(
        session_id="traveller", chat_store=QwenConvAsyncChatStore(conversations=hub)
    )
    agent = FunctionAgent(
        tools=[weather],
        llm=QwenConv(model="qwen3.6-plus", conversations=hub),
        system_prompt="Answer in one sentence.",
    )
    try:
        for question in QUESTIONS:
            await agent.run(question, memory=memory)
        for message in await memory.aget_all():
            print(f"{message.role.value:10} {told(message)}")
    finally:
        await memory.areset()


def main() -> None:
    """Asks the agent on Qwen, or on the offline server where there is no key."""
    with ExitStack() as clean_up:
        if not os.environ.get("DASHSCOPE_API_KEY"):
            server = clean_up.enter_context(OfflineServer(pretended))
            os.environ.update(DASHSCOPE_API_KEY="offline", DASHSCOPE_BASE_URL=server.base_url)

        hub = QwenConversations()  # what the LLM and the store share
        with responses_deleted(hub):
            asyncio.run(hold(hub))


if __name__ == "__main__":
    main()
