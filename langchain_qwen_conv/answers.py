"""What a turn came to, as LangChain's messages and chunks.

The chunks of a stream add up to the message of `invoke`: text, reasoning and tool calls come piece
by piece; what must come once (usage, metadata, stamp) comes with the last chunk.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata

from langchain_qwen_conv.messages import STAMP, from_core, to_core
from langchain_qwen_conv.profiles import PROVIDER
from qwen_conv.items import Item, Message, Refusal, Text
from qwen_conv.responses import CallDelta, Delta, ReasoningDelta, TextDelta, Usage
from qwen_conv.stops import Stop
from qwen_conv.tools import arguments_of
from qwen_conv.turn import Outcome


def whole_message(outcome: Outcome, ending: Stop) -> AIMessage:
    """The answer as one message."""
    said = from_core(outcome.response.output)
    said["content"] = ending.feed(said["content"]) + ending.rest()
    return AIMessage(
        **said,
        usage_metadata=_usage(outcome.response.usage),
        response_metadata=_metadata(outcome),
    )


def chunk(delta: Delta, ending: Stop) -> AIMessageChunk:
    """A piece of the answer."""
    match delta:
        case TextDelta(text, item_id):
            return AIMessageChunk(content=ending.feed(text), id=item_id)
        case ReasoningDelta(text):
            return AIMessageChunk(content="", additional_kwargs={"reasoning_content": text})
        case CallDelta(index, arguments, call_id, name):
            told = arguments if arguments_of(arguments) is not None else json.dumps(arguments)
            piece = {"name": name, "args": told, "id": call_id, "index": index}
            # It says whose it is, so that `blocks` is asked how it is shown.
            whose = {"model_provider": PROVIDER}
            return AIMessageChunk(content="", tool_call_chunks=[piece], response_metadata=whose)


def as_held(items: Sequence[Item]) -> Sequence[Item]:
    """What the items of an answer still say when their message is passed back."""
    words = Text | Refusal
    if all(
        isinstance(item, Message) and all(isinstance(part, words) for part in item.content)
        for item in items
    ):
        return items
    return to_core(AIMessage(**from_core(items)))


def last_chunk(outcome: Outcome, ending: Stop) -> AIMessageChunk:
    """All of the answer that comes once."""
    said = from_core(outcome.response.output)
    said["additional_kwargs"].pop("reasoning_content", None)  # it came piece by piece
    return AIMessageChunk(
        content=ending.rest(),
        id=said["id"],
        additional_kwargs=said["additional_kwargs"],
        usage_metadata=_usage(outcome.response.usage),
        response_metadata=_metadata(outcome),
        chunk_position="last",
    )


def _metadata(outcome: Outcome) -> dict[str, Any]:
    response, stamp = outcome.response, outcome.stamp
    metadata: dict[str, Any] = {
        "model_name": response.model or outcome.model,
        "model_provider": PROVIDER,
        "status": response.status,
        "response_id": response.id,
        "decision": outcome.decision,
        "reason": outcome.why,
    }
    if response.incomplete_reason:
        metadata["incomplete_reason"] = response.incomplete_reason
    if stamp is not None:
        if stamp.conversation_id:
            metadata["conversation_id"] = stamp.conversation_id
        metadata[STAMP] = stamp.to_dict()
    return metadata


def _usage(usage: Usage | None) -> UsageMetadata | None:
    if usage is None:
        return None
    return UsageMetadata(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        total_tokens=usage.total_tokens,
        input_token_details=InputTokenDetails(
            cache_read=usage.cache_read, cache_creation=usage.cache_creation
        ),
        output_token_details=OutputTokenDetails(reasoning=usage.reasoning),
    )
