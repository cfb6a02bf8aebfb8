"""The endpoints of the Conversations API and the Responses API, one value class each.

A call says what is sent and how the answer is read; it does not send anything. Each is checked
when it is made, so that what the service would refuse, or silently ignore, never leaves.

Documents, all read 2026-11-20: docs.qwencloud.com, "Conversations" and its pages for the eight
endpoints; help.aliyun.com, "OpenAI compatible - Responses", "Retrieve a response",
"Delete a response", "List input items".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, TypeVar
from urllib.parse import quote

from qwen_conv.conversations import Conversation, Page, deleted_from_wire
from qwen_conv.errors import UsageError
from qwen_conv.items import Item, Json, Message, from_wire, input_to_wire, to_wire
from qwen_conv.limits import (
    PAGE_SIZE,
    checked_conversation_id,
    checked_id,
    checked_items,
    checked_metadata,
)
from qwen_conv.responses import Response

Reply = TypeVar("Reply", covariant=True)  # noqa: PLC0105 - the plain name reads best
Order = Literal["asc", "desc"]


@dataclass(frozen=True)
class Call(Generic[Reply]):
    """One request: its path, its query, its body, and what its answer means.

    Attributes:
        method: How the request is made.
        changes_items: Whether it changes what a conversation holds.
    """

    method: ClassVar[Literal["get", "post", "delete"]]
    changes_items: ClassVar[bool] = False

    @property
    def path(self) -> str:
        """The path below the base URL."""
        raise NotImplementedError

    @property
    def repeatable(self) -> bool:
        """Whether sending it twice does no more than sending it once."""
        return True

    @property
    def query(self) -> dict[str, object]:
        """The query parameters."""
        return {}

    @property
    def body(self) -> dict[str, Any] | None:
        """The JSON that is sent."""
        return None

    def reply(self, wire: Json) -> Reply:
        """What the answer's JSON means."""
        raise NotImplementedError


def messages_only(*items: Item) -> None:
    """Raises `UsageError` unless a conversation takes these as new items."""
    for item in items:
        if not isinstance(item, Message):
            raise UsageError(
                f"A conversation takes only messages as new items, not a {type(item).__name__}: "
                "send it as the input of a turn."
            )


@dataclass(frozen=True)
class CreateConversation(Call[Conversation]):
    """Creates a conversation, with up to 20 messages in it."""

    method = "post"
    items: tuple[Item, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checked_items(self.items)
        messages_only(*self.items)
        checked_metadata(self.metadata)

    @property
    def path(self) -> str:
        return "/conversations"

    @property
    def repeatable(self) -> bool:
        return False  # it would create two

    @property
    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = {}
        if self.items:
            body["items"] = [*map(to_wire, self.items)]
        if self.metadata:
            body["metadata"] = dict(self.metadata)
        return body

    def reply(self, wire: Json) -> Conversation:
        return Conversation.from_wire(wire)


@dataclass(frozen=True)
class _OfConversation(Call[Reply]):
    """A call about one conversation."""

    conversation_id: str

    def __post_init__(self) -> None:
        checked_conversation_id(self.conversation_id)

    @property
    def path(self) -> str:
        return f"/conversations/{self.conversation_id}"


@dataclass(frozen=True)
class RetrieveConversation(_OfConversation[Conversation]):
    """Reads a conversation's metadata; not its items."""

    method = "get"

    def reply(self, wire: Json) -> Conversation:
        return Conversation.from_wire(wire)


@dataclass(frozen=True)
class UpdateConversation(_OfConversation[Conversation]):
    """Replaces a conversation's metadata, all of it."""

    method = "post"
    metadata: Mapping[str, str]

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_metadata(self.metadata)

    @property
    def body(self) -> dict[str, Any]:
        return {"metadata": dict(self.metadata)}

    def reply(self, wire: Json) -> Conversation:
        return Conversation.from_wire(wire)


@dataclass(frozen=True)
class DeleteConversation(_OfConversation[None]):
    """Deletes a conversation. Its items are not deleted by that: delete them first."""

    method = "delete"
    changes_items = True

    def reply(self, wire: Json) -> None:
        deleted_from_wire(wire)


@dataclass(frozen=True)
class CreateItems(_OfConversation[tuple[Item, ...]]):
    """Adds 1 to 20 messages to a conversation; answers with them as they are stored, in order.

    `native` allows items that are no messages, which only some servers create.
    """

    method = "post"
    changes_items = True
    items: tuple[Item, ...]
    native: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_items(self.items, least=1)
        if not self.native:
            messages_only(*self.items)

    @property
    def repeatable(self) -> bool:
        return False  # it would store them twice

    @property
    def path(self) -> str:
        return f"{super().path}/items"

    @property
    def body(self) -> dict[str, Any]:
        return {"items": [*map(to_wire, self.items)]}

    def reply(self, wire: Json) -> tuple[Item, ...]:
        return Page.from_wire(wire).items


@dataclass(frozen=True)
class ListItems(_OfConversation[Page]):
    """Reads a page of a conversation's items.

    `order` is always sent: the documents say that "desc" is the default, their example shows
    "asc". Only "asc" makes both readings of `after` agree: behind in the list, created later.
    """

    method = "get"
    after: str | None = None
    order: Order = "asc"
    limit: int = PAGE_SIZE

    def __post_init__(self) -> None:
        super().__post_init__()
        _checked_page(self.after, self.limit)

    @property
    def path(self) -> str:
        return f"{super().path}/items"

    @property
    def query(self) -> dict[str, object]:
        return _page_query(self.after, self.order, self.limit)

    def reply(self, wire: Json) -> Page:
        return Page.from_wire(wire)


@dataclass(frozen=True)
class _OfItem(_OfConversation[Reply]):
    """A call about one item of a conversation."""

    item_id: str

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_id(self.item_id, "an item")

    @property
    def path(self) -> str:
        return f"{super().path}/items/{quote(self.item_id, safe='')}"


@dataclass(frozen=True)
class RetrieveItem(_OfItem[Item]):
    """Reads one item of a conversation."""

    method = "get"

    def reply(self, wire: Json) -> Item:
        return from_wire(wire)


@dataclass(frozen=True)
class DeleteItem(_OfItem[None]):
    """Deletes one item of a conversation: the model is not shown it any more."""

    method = "delete"
    changes_items = True

    def reply(self, wire: Json) -> None:
        deleted_from_wire(wire)


_DECIDED = frozenset(
    {"model", "input", "conversation", "previous_response_id", "instructions", "stream"}
)
"""Parameters that are no setting of a turn, but what it is."""


@dataclass(frozen=True)
class CreateResponse(Call[Response]):
    """Has a model answer: in a conversation, behind an earlier response, or on its own.

    Attributes:
        model: The model's name.
        input: What is new, in order.
        conversation_id: The conversation that the turn belongs to: the service puts what it holds
            before the input, and adds the input and the answer to it.
        previous_response_id: The response that the input follows. Not with a conversation.
        instructions: The system prompt of this turn. It is not stored.
        store: Whether the response is kept for 7 days; `None` leaves it to the service, which
            keeps it.
        settings: Every other parameter, as it goes over the wire.
        stream: Whether the answer comes as events.
    """

    method = "post"
    changes_items = True
    model: str
    input: tuple[Item, ...]
    conversation_id: str | None = None
    previous_response_id: str | None = None
    instructions: str | None = None
    store: bool | None = None
    settings: Json = field(default_factory=dict)
    stream: bool = False

    def __post_init__(self) -> None:
        if self.conversation_id is not None:
            checked_conversation_id(self.conversation_id)
        if self.conversation_id and self.previous_response_id:
            raise UsageError(
                "A turn follows a conversation or an earlier response, not both: pass "
                "conversation_id or previous_response_id."
            )
        if not self.input:
            raise UsageError("There is nothing to send: pass at least one message.")
        decided = _DECIDED | {"store"} if self.conversation_id else _DECIDED
        if taken := sorted(decided & self.settings.keys()):
            raise UsageError(
                f"extra_body holds {' and '.join(map(repr, taken))}, which the turn itself decides:"
                " pass it as an argument of its own (the system prompt as a SystemMessage)."
            )

    @property
    def path(self) -> str:
        return "/responses"

    @property
    def repeatable(self) -> bool:
        # Only what is stored nowhere can be sent twice.
        return self.settings.get("store", self.store) is False and not self.conversation_id

    @property
    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.model, "input": input_to_wire(self.input)}
        if self.conversation_id:
            # A plain string is the documented form; the object form was once ignored silently.
            body["conversation"] = self.conversation_id
        if self.previous_response_id:
            body["previous_response_id"] = self.previous_response_id
        if self.instructions:
            body["instructions"] = self.instructions
        if self.store is not None:
            body["store"] = self.store
        if self.stream:
            body["stream"] = True
        body.update(self.settings)
        return body

    def reply(self, wire: Json) -> Response:
        return Response.from_wire(wire)


@dataclass(frozen=True)
class _OfResponse(Call[Reply]):
    """A call about one stored response."""

    response_id: str

    def __post_init__(self) -> None:
        checked_id(self.response_id, "a response")

    @property
    def path(self) -> str:
        return f"/responses/{quote(self.response_id, safe='')}"


@dataclass(frozen=True)
class RetrieveResponse(_OfResponse[Response]):
    """Reads a response that was stored in the last 7 days."""

    method = "get"

    def reply(self, wire: Json) -> Response:
        return Response.from_wire(wire)


@dataclass(frozen=True)
class DeleteResponse(_OfResponse[None]):
    """Deletes a stored response."""

    method = "delete"

    def reply(self, wire: Json) -> None:
        deleted_from_wire(wire)


@dataclass(frozen=True)
class ListInputItems(_OfResponse[Page]):
    """Reads a page of what a stored response was shown, earlier turns of its chain included."""

    method = "get"
    after: str | None = None
    order: Order = "asc"
    limit: int = PAGE_SIZE

    def __post_init__(self) -> None:
        super().__post_init__()
        _checked_page(self.after, self.limit)

    @property
    def path(self) -> str:
        return f"{super().path}/input_items"

    @property
    def query(self) -> dict[str, object]:
        return _page_query(self.after, self.order, self.limit)

    def reply(self, wire: Json) -> Page:
        return Page.from_wire(wire)


def _checked_page(after: str | None, limit: int) -> None:
    if after is not None:
        checked_id(after, "an item")
    if not 1 <= limit <= PAGE_SIZE:
        raise UsageError(f"A page has 1 to {PAGE_SIZE} items, not {limit}.")


def _page_query(after: str | None, order: Order, limit: int) -> dict[str, object]:
    return {"order": order, "limit": limit, **({"after": after} if after else {})}
