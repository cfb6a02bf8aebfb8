"""References: how a message says what it was read from, without saying it to anybody else.

A message of LlamaIndex has no field for it, and a mark in `additional_kwargs` would make it unequal
to its like, cost tokens in every estimate, and be printed into prompts. So its `additional_kwargs`
is a dict that has an attribute more: it is equal to a plain one, prints as one, and is dumped,
pickled and validated into one. What is made anew of a message's parts has no reference, and is then
known by nothing.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from copy import deepcopy
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, TextBlock

from llamaindex_qwen_conv import messages as mapping
from qwen_conv.held import Held
from qwen_conv.items import FunctionCall, FunctionOutput
from qwen_conv.kept import Kept
from qwen_conv.record import Draft


class Extras(dict[str, Any]):
    """A message's `additional_kwargs`, and what the message was read from."""

    __slots__ = ("held",)
    held: Held

    def __copy__(self) -> Extras:
        return _extras(self, self.held)

    def __deepcopy__(self, memo: object) -> Extras:
        return _extras(deepcopy(dict(self), memo), self.held)  # type: ignore[arg-type]  # its memo

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


def _extras(plain: Mapping[str, Any], held: Held) -> Extras:
    extras = Extras(plain)
    extras.held = held
    return extras


def referring(message: ChatMessage, held: Held) -> ChatMessage:
    """The message, which says from now on what it was read from."""
    message.additional_kwargs = _extras(message.additional_kwargs, held)
    return message


class ChatMessageForm:
    """How LlamaIndex's messages are read and written; see `qwen_conv.held.Form`."""

    def draft(self, message: ChatMessage) -> Draft:
        """What a message is on the wire, and what is sealed with it where it is encoded."""
        extras = {
            name: value
            for name, value in message.additional_kwargs.items()
            if name not in {"tool_call_id", "tool_calls"} and _is_json(value)
        }
        return Draft(mapping.to_core(message), {"additional_kwargs": extras} if extras else None)

    def message(self, kept: Kept) -> ChatMessage:
        """The message that some items of a conversation are."""
        message = mapping.from_core(kept.items)
        message.additional_kwargs |= kept.extra.get("additional_kwargs", {})
        return message

    def copied(self, message: ChatMessage) -> ChatMessage:
        """A copy that shares nothing with the message, and has no reference."""
        return mapping.copied(message)

    def face(self, message: ChatMessage) -> Hashable:
        """What is equal for two messages exactly if they say the same."""
        return mapping.key(message)

    def held(self, message: ChatMessage) -> Held | None:
        """What a message was read from."""
        return getattr(message.additional_kwargs, "held", None)

    def lost(self, message: ChatMessage, draft: Draft) -> set[str]:
        """What of the message another process will not find in the conversation, by name."""
        if not message.additional_kwargs and all(type(one) is TextBlock for one in message.blocks):
            return set()
        back = mapping.from_core(draft.items)
        encoded = (
            (draft.extra or {})
            if {FunctionCall, FunctionOutput} & set(map(type, draft.items))
            else {}
        )
        kept = back.additional_kwargs | encoded.get("additional_kwargs", {})
        extras = {
            f"additional_kwargs[{name!r}]"
            for name, value in message.additional_kwargs.items()
            if name != "tool_calls" and name not in kept and value
        }
        kinds = {one.block_type for one in message.blocks} - {one.block_type for one in back.blocks}
        return extras | {f"{kind} blocks" for kind in kinds}

    def to_json(self, message: ChatMessage) -> Mapping[str, Any]:
        """The message as JSON."""
        return message.model_dump(mode="json")

    def from_json(self, data: Mapping[str, Any]) -> ChatMessage:
        """The message that a piece of JSON is."""
        return ChatMessage.model_validate(data)


FORM = ChatMessageForm()


def _is_json(value: object) -> bool:
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError):
        return False
