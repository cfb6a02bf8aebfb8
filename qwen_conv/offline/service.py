"""What the offline server's endpoints share, and how a stored item is shown."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from qwen_conv.limits import PAGE_SIZE
from qwen_conv.offline.refusals import Refusal, missing
from qwen_conv.offline.responder import Script, text_of
from qwen_conv.offline.store import Clock, Store, StoredItem
from qwen_conv.offline.switches import Switches

Endpoint = Callable[[Request, Any], Awaitable[Response]]
"""Given the request and its JSON body, answers, or raises a `Refusal`."""

_DEFAULT_PAGE = 20
_LIMITS = {str(number) for number in range(1, PAGE_SIZE + 1)}


@dataclass(frozen=True, slots=True)
class SeenRequest:
    """A request that the server got.

    Attributes:
        method: "GET", "POST", or whatever it was.
        path: The path below the base path.
        query: The query parameters.
        body: The JSON body, or `None`.
        body_bytes: The size of the body.
        headers: The headers, their names in small letters; without the key.
    """

    method: str
    path: str
    query: dict[str, str]
    body: Any
    body_bytes: int
    headers: dict[str, str]


@dataclass(slots=True)
class Service:
    """What the endpoints share.

    Attributes:
        store: What the server remembers.
        clock: The server's time.
        script: What answers.
        switches: How to behave where the documents are silent.
        seen: Every request that came.
        busy: The conversations whose turn is being answered.
    """

    store: Store
    clock: Clock
    script: Script
    switches: Switches
    seen: list[SeenRequest] = field(default_factory=list)
    busy: set[str] = field(default_factory=set)

    def shown_conversation(self, conversation: str) -> dict[str, Any]:
        """The conversation as the service shows it; its time counts milliseconds."""
        found = self.store.conversation(conversation)
        if found is None:
            raise missing(f"Conversation with id '{conversation}'", self.switches)
        created, metadata = found
        return {
            "created_at": int(created * 1000),
            "id": conversation,
            "metadata": metadata,
            "object": "conversation",
        }

    def shown_item(self, item: StoredItem) -> dict[str, Any]:
        """An item as the service lists it."""
        body = {**item.body, "id": item.id}
        if body.get("type") != "message":
            return body
        if self.switches.system_role == "user" and body["role"] in {"system", "developer"}:
            body["role"] = "user"
        if self.switches.listed_content == "text" and all(
            part["type"] in {"input_text", "output_text"} for part in body["content"]
        ):
            body["content"] = text_of(body)
        return body

    def shown_page(self, items: Sequence[StoredItem], *, more: bool) -> dict[str, Any]:
        """A page of items, without the `object` that only lists have."""
        return {
            "data": [self.shown_item(item) for item in items],
            "first_id": items[0].id if items else None,
            "has_more": more,
            "last_id": items[-1].id if items else None,
        }


def paging(request: Request) -> tuple[int, bool, str | None]:
    """The page that is asked for: its size, whether the newest come first, and behind what.

    By default 20 items, the newest first (help.aliyun.com, "OpenAI compatible - Conversations",
    list items; read 2026-11-20).
    """
    query = request.query_params
    limit, order = query.get("limit", str(_DEFAULT_PAGE)), query.get("order", "desc")
    if limit not in _LIMITS:
        raise Refusal(
            f"Invalid 'limit': Expected an integer between 1 and {PAGE_SIZE}, but got {limit} "
            "instead."
        )
    if order not in {"asc", "desc"}:
        raise Refusal(f"Invalid 'order': {order}. Supported values are: 'asc' and 'desc'.")
    return int(limit), order == "desc", query.get("after")


def deleted(what: str, kind: str | None) -> Response:
    """The answer to a deletion."""
    return JSONResponse({"deleted": True, "id": what, **({"object": kind} if kind else {})})
