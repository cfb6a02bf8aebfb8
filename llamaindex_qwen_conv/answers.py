"""What a turn came to, as LlamaIndex's responses, whole or piece by piece.

The message of each piece holds all that came so far. What was decided about the turn, and why,
stands in the response's `additional_kwargs`, never in the message's, which travels on into prompts.
"""

from __future__ import annotations

from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    ContentBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)

from llamaindex_qwen_conv.messages import from_core
from qwen_conv.items import FunctionCall
from qwen_conv.responses import CallDelta, Delta, ReasoningDelta, TextDelta
from qwen_conv.tools import arguments_of
from qwen_conv.turn import Outcome


def response(outcome: Outcome, message: ChatMessage, *, streamed: bool = False) -> ChatResponse:
    """The whole answer; behind a stream it is the last piece, whose `delta` is empty."""
    return ChatResponse(
        message=message,
        raw=dict(outcome.response.wire),
        delta="" if streamed else None,
        additional_kwargs=_told(outcome),
    )


def _told(outcome: Outcome) -> dict[str, Any]:
    answer, stamp = outcome.response, outcome.stamp
    told: dict[str, Any] = {
        "decision": outcome.decision,
        "reason": outcome.why,
        "response_id": answer.id,
        "status": answer.status,
    }
    if answer.incomplete_reason:
        told["incomplete_reason"] = answer.incomplete_reason
    if stamp is not None:
        told["conversation_id"] = stamp.conversation_id
    return told


class Pieces:
    """Makes responses of the deltas of one stream.

    A tool call is shown once its arguments are known. One whose arguments are no JSON object is
    only in the whole answer, where whoever would run it is refused.

    Args:
        one_call: Whether the first tool call is the only one to show.
    """

    def __init__(self, *, one_call: bool = False) -> None:
        self._one_call = one_call
        self._text = ""
        self._thought = ""
        self._named: dict[int, tuple[str, str]] = {}
        self._calls: list[ContentBlock] = []

    def piece(self, delta: Delta) -> ChatResponse | None:
        """The response that a delta makes; `None` if it brings nothing that can be shown yet."""
        new, extra = "", {}
        match delta:
            case TextDelta(text):
                self._text += text
                new = text
            case ReasoningDelta(text):
                self._thought += text
                extra = {"thinking_delta": text}
            case CallDelta(index, _, str(call_id), str(name)):
                self._named[index] = call_id, name
                return None
            case CallDelta(index, arguments):
                first = next(iter(self._named))
                if arguments_of(arguments) is None or (self._one_call and index != first):
                    return None
                call = FunctionCall(*self._named[index], arguments)
                self._calls += from_core([call]).blocks
        # Checked constructors: pydantic's `model_construct` is not faster, but three times slower.
        return ChatResponse(message=self._message(), delta=new, additional_kwargs=extra)

    def _message(self) -> ChatMessage:
        thoughts = [ThinkingBlock(content=self._thought)] if self._thought else []
        words = [TextBlock(text=self._text)] if self._text else []
        return ChatMessage(role=MessageRole.ASSISTANT, blocks=[*thoughts, *words, *self._calls])


def with_first_call(message: ChatMessage) -> ChatMessage:
    """The message without any tool call but its first."""
    calls = [block for block in message.blocks if isinstance(block, ToolCallBlock)]
    rest = {id(call) for call in calls[1:]}
    message.blocks = [block for block in message.blocks if id(block) not in rest]
    return message


def as_objects(answer: ChatResponse) -> ChatResponse:
    """The answer as LlamaIndex's programs look for objects in a stream: not in its blocks."""
    calls = [block for block in answer.message.blocks if isinstance(block, ToolCallBlock)]
    answer.message.additional_kwargs = {"tool_calls": calls}
    return answer


def completion(answer: ChatResponse) -> CompletionResponse:
    """The same as the completion of a prompt."""
    return CompletionResponse(
        text=answer.message.content or "",
        delta=answer.delta,
        raw=answer.raw,
        additional_kwargs=answer.additional_kwargs,
    )
