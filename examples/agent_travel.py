"""What the examples of agents share: a tool, a hub, and what the offline server pretends to be.

The offline server is no language model and calls no tools by itself: it follows `pretended`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from langchain_core.messages import AIMessage, AnyMessage
from langchain_core.tools import tool

from qwen_conv import QwenConversations, flows
from qwen_conv.calls import DeleteResponse
from qwen_conv.errors import NotFoundError
from qwen_conv.offline import CallTool, OfflineServer

MODEL = "qwen3.6-plus"
WEATHER = {"Singapore": "sunny, 31 degrees", "Oslo": "snow, 3 degrees below zero"}


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"In {city}: {WEATHER.get(city, 'nobody knows')}."


def pretended(context: Sequence[Mapping[str, Any]], request: Mapping[str, Any]) -> Any:
    """Calls the tool for each city of the question, then says what the tool said."""
    last = context[-1]
    if last["type"] == "function_call_output":
        results = [item["output"] for item in context if item["type"] == "function_call_output"]
        if any(one["name"] == "Forecast" for one in request["tools"]):
            return CallTool("Forecast", {"city": "Oslo", "degrees": -3})
        return str(results[-1])
    text = str(last["content"])
    if "Context Extraction" in text:  # as LangChain's middleware asks for a summary
        return "The user travels to Singapore, where it is sunny."
    calls = [CallTool("weather", {"city": city}) for city in WEATHER if city in text]
    return calls or "Have a good journey."


@contextmanager
def connected() -> Iterator[QwenConversations]:
    """A hub on Qwen, or on the offline server where there is no key."""
    if os.environ.get("DASHSCOPE_API_KEY"):
        yield QwenConversations()
        return
    with OfflineServer(pretended) as server:
        yield QwenConversations(api_key="offline", base_url=server.base_url)


@contextmanager
def thread_of(agent: Any, hub: QwenConversations) -> Iterator[dict[str, Any]]:
    """The config of a thread of the agent, whose conversations and responses are deleted."""
    config = {"configurable": {"thread_id": "traveller"}}
    try:
        yield config
    finally:
        states = [state.values for state in agent.get_state_history(config)]
        answers = [
            message.response_metadata
            for state in states
            for message in state.get("messages", ())
            if isinstance(message, AIMessage)
        ]
        for response_id in {answer["response_id"] for answer in answers if answer}:
            with suppress(NotFoundError):
                hub.run(flows.send, DeleteResponse(response_id))
        for conversation_id in {state.get("qwen_conversation_id") for state in states} - {None}:
            hub.run(flows.delete, conversation_id)


def show(messages: Sequence[AnyMessage]) -> None:
    """Prints what messages say, or which tools they call."""
    for message in messages:
        calls = message.tool_calls if isinstance(message, AIMessage) else ()
        told = ", ".join(f"{call['name']}({call['args']})" for call in calls) or message.text
        print(f"{message.type:6} {told}")
