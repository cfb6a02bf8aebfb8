"""What of a message the wire cannot hold, and putting it back.

Kept as the difference between a message and what comes back for it, so that nothing need be listed
here, and what LangChain invents tomorrow is kept too.
"""

from __future__ import annotations

import json
from typing import Any

from langchain_core.messages import (
    BaseMessage,
    BaseMessageChunk,
    message_chunk_to_message,
    messages_from_dict,
)

from langchain_qwen_conv.messages import STAMP
from qwen_conv.items import Json

BOOKKEEPING = frozenset({"response_metadata", "usage_metadata"})
"""What models note about an answer. It is kept where it can be, and not missed elsewhere."""

_GENERATED = ("run-", "lc_")
"""How ids begin that LangChain gave, and no caller."""


def loss(message: BaseMessage, back: BaseMessage) -> dict[str, Any]:
    """What `back`, read from the conversation, lacks of `message`.

    Returns:
        JSON: the type of message and the fields that differ; empty if none does.
    """
    whole, told = _fields(message), _fields(back)
    is_other = _type(message) != _type(back)
    differ = {
        name: value
        for name, value in whole.items()
        if is_other or (value != told.get(name) and not (value in _NOTHING and name not in told))
    }
    kept = {name: value for name, value in differ.items() if _is_json(value)}
    lost: dict[str, Any] = {"data": kept} if kept else {}
    if unwritable := sorted(differ.keys() - kept.keys()):
        lost["unwritable"] = unwritable
    if is_other:
        lost["type"] = _type(message)
    return lost


_NOTHING: tuple[Any, ...] = (None, "", [], {})


def restored(back: BaseMessage, kept: Json) -> BaseMessage:
    """The message as it was, from what came back and what was kept beside."""
    data = {**({} if "type" in kept else _fields(back)), **kept.get("data", {})}
    (message,) = messages_from_dict([{"type": kept.get("type", back.type), "data": data}])
    stamp = back.response_metadata.get(STAMP)
    if stamp is not None:
        message.response_metadata = {**message.response_metadata, STAMP: stamp}
    return message


def missed(lost: Json, *, is_kept: bool = False) -> list[str]:
    """The fields that a caller would miss, sorted; what is kept beside is not missed."""
    if is_kept:
        return [*lost.get("unwritable", ())]
    fields = {
        name
        for name, value in lost.get("data", {}).items()
        if name not in BOOKKEEPING
        and value not in _NOTHING
        and not (name == "id" and _is_generated(value))
        and not ("type" in lost and name == "content")
    }
    return sorted({*fields, *lost.get("unwritable", ()), *(["type"] if "type" in lost else [])})


def _is_generated(value: object) -> bool:
    return value is None or str(value).startswith(_GENERATED)


def _type(message: BaseMessage) -> str:
    return message.type.removesuffix("MessageChunk").lower()


def _fields(message: BaseMessage) -> dict[str, Any]:
    if isinstance(message, BaseMessageChunk):
        message = message_chunk_to_message(message)
    data = message.model_dump()
    data.pop("type")
    metadata = message.response_metadata.items()
    data["response_metadata"] = {name: value for name, value in metadata if name != STAMP}
    return data


def _is_json(value: object) -> bool:
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError):
        return False
