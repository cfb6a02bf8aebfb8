"""What the Conversations API answers with, besides items: a conversation, a page, a deletion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType

from qwen_conv.errors import Failure, ServiceFailedError
from qwen_conv.items import Item, Json, from_wire

_MILLISECONDS_FROM = 1e11
"""A number this large counts milliseconds: as seconds it would lie in the year 5138."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation; its items are read apart.

    Attributes:
        id: `conv_...`
        created: When it was created, or last updated: the documents leave that open.
        metadata: At most 16 pairs.
    """

    id: str
    created: datetime | None
    metadata: Mapping[str, str]

    @classmethod
    def from_wire(cls, wire: Json) -> Conversation:
        """Reads a conversation. Its `created_at` counts milliseconds, a response's seconds.

        help.aliyun.com, "OpenAI compatible - Conversations", conversation object; read 2026-11-20.

        Raises:
            ServiceFailedError: It is none.
        """
        if not isinstance(wire.get("id"), str):
            raise ServiceFailedError(Failure("The service's answer is not a conversation"))
        metadata = MappingProxyType(dict(wire.get("metadata") or {}))
        return cls(wire["id"], moment(wire.get("created_at")), metadata)


@dataclass(frozen=True, slots=True)
class Page:
    """Some of a conversation's items, in the order that was asked for.

    Attributes:
        items: The items.
        has_more: Whether more follow, if the service says so.
        last_id: The id of the last item as the service says it; it need not be right.
    """

    items: tuple[Item, ...]
    has_more: bool | None
    last_id: str | None

    @classmethod
    def from_wire(cls, wire: Json) -> Page:
        """Reads a page, with or without the `object: "list"` that only some endpoints send.

        Raises:
            ServiceFailedError: It is none.
        """
        data = wire.get("data")
        if not isinstance(data, list):
            raise ServiceFailedError(Failure("The service's answer is not a list of items"))
        items = tuple(map(from_wire, data))
        has_more, last_id = wire.get("has_more"), wire.get("last_id")
        return cls(
            items,
            has_more if isinstance(has_more, bool) else None,
            last_id if isinstance(last_id, str) and last_id else None,
        )


def deleted_from_wire(wire: Json) -> None:
    """Reads the answer to a deletion.

    It is `{"deleted": true, "id": ...}` with or without an `object` (help.aliyun.com, "Delete a
    conversation", "Delete a response"; read 2026-11-20); OpenAI's document of a deleted item
    promises the conversation instead.

    Raises:
        ServiceFailedError: Nothing was deleted.
    """
    if wire.get("deleted") is not True and wire.get("object") != "conversation":
        raise ServiceFailedError(Failure("The service did not confirm the deletion"))


def moment(count: float | None) -> datetime | None:
    """The moment that a `created_at` names, whether it counts seconds or milliseconds."""
    if count is None:
        return None
    return datetime.fromtimestamp(count / 1000 if count >= _MILLISECONDS_FROM else count, UTC)
