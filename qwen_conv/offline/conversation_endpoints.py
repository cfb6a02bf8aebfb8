"""The offline server's Conversations API: eight endpoints."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from qwen_conv.errors import UsageError
from qwen_conv.limits import ITEMS_PER_REQUEST, checked_metadata
from qwen_conv.offline import model
from qwen_conv.offline.refusals import Refusal, missing
from qwen_conv.offline.responder import Json
from qwen_conv.offline.service import Endpoint, Service, deleted, paging
from qwen_conv.offline.shapes import NewConversation, NewItems, NewMetadata, checked
from qwen_conv.offline.store import StoredItem
from qwen_conv.offline.switches import Switches


class ConversationEndpoints:
    """The endpoints; a path parameter is named in braces."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._store = service.store
        self.table: dict[str, dict[str, Endpoint]] = {
            "/conversations": {"POST": self._create},
            "/conversations/{conversation}": {
                "GET": self._retrieve,
                "POST": self._update,
                "DELETE": self._delete,
            },
            "/conversations/{conversation}/items": {
                "POST": self._create_items,
                "GET": self._list_items,
            },
            "/conversations/{conversation}/items/{item}": {
                "GET": self._retrieve_item,
                "DELETE": self._delete_item,
            },
        }

    async def _create(self, _: Request, body: Any) -> Response:
        body = checked({} if body is None else body, NewConversation)
        items = _new_messages(body.get("items") or [], self._service.switches)
        metadata = _metadata(body.get("metadata") or {})
        conversation = f"conv_{uuid.uuid4().hex}"
        self._store.create(conversation, metadata)
        self._store.add(conversation, [(model.new_item_id(), item) for item in items])
        return JSONResponse(self._service.shown_conversation(conversation))

    async def _retrieve(self, request: Request, _: Any) -> Response:
        return JSONResponse(self._service.shown_conversation(request.path_params["conversation"]))

    async def _update(self, request: Request, body: Any) -> Response:
        conversation = request.path_params["conversation"]
        self._service.shown_conversation(conversation)
        metadata = checked(body, NewMetadata)["metadata"]
        self._store.update(conversation, _metadata(metadata or {}))
        return JSONResponse(self._service.shown_conversation(conversation))

    async def _delete(self, request: Request, _: Any) -> Response:
        conversation = request.path_params["conversation"]
        self._service.shown_conversation(conversation)
        self._store.delete(conversation)
        return deleted(conversation, "conversation.deleted")

    async def _create_items(self, request: Request, body: Any) -> Response:
        conversation = request.path_params["conversation"]
        self._service.shown_conversation(conversation)
        new = _new_messages(checked(body, NewItems)["items"], self._service.switches)
        items = [(model.new_item_id(), item) for item in new]
        self._store.add(conversation, items)
        stored = [StoredItem(item_id, 0, item) for item_id, item in items]
        # The documents' answer to a create has no "object", unlike a list's.
        return JSONResponse(self._service.shown_page(stored, more=False))

    async def _list_items(self, request: Request, _: Any) -> Response:
        conversation = request.path_params["conversation"]
        self._service.shown_conversation(conversation)
        limit, newest_first, after = paging(request)
        expired = self._service.switches.expired_items == "listed"
        if after is not None and self._store.item(conversation, after, expired=True) is None:
            if self._service.switches.unknown_after == "refused":
                raise missing(f"Item with id '{after}'", self._service.switches)
            after = None
        found = self._store.page(
            conversation, after=after, newest_first=newest_first, most=limit + 1, expired=expired
        )
        page = self._service.shown_page(found[:limit], more=len(found) > limit)
        return JSONResponse({**page, "object": "list"})

    async def _retrieve_item(self, request: Request, _: Any) -> Response:
        return JSONResponse(self._service.shown_item(self._item(request)))

    async def _delete_item(self, request: Request, _: Any) -> Response:
        item = self._item(request)
        self._store.remove(request.path_params["conversation"], item.id)
        return deleted(item.id, "conversation.item.deleted")

    def _item(self, request: Request) -> StoredItem:
        conversation, wanted = request.path_params["conversation"], request.path_params["item"]
        self._service.shown_conversation(conversation)
        if (item := self._store.item(conversation, wanted)) is not None:
            return item
        raise missing(
            f"Item with id '{wanted}' in conversation '{conversation}'", self._service.switches
        )


def _new_messages(items: Sequence[Json], switches: Switches) -> list[dict[str, Any]]:
    if len(items) > ITEMS_PER_REQUEST:
        raise Refusal(
            f"Invalid 'items': array too long. Expected an array with maximum length "
            f"{ITEMS_PER_REQUEST}, but got an array with length {len(items)} instead."
        )
    messages = []
    for item in items:
        match item.get("type"), switches.other_items:
            case "message", _:
                messages.append(model.message(item["role"], item["content"]))
            case "function_call" | "function_call_output", "accepted" if "call_id" not in item:
                raise Refusal("Missing required parameter: 'items[].call_id'.")
            case _, "accepted":
                messages.append({name: value for name, value in item.items() if name != "id"})
            case kind, "refused":
                raise Refusal(f"Invalid item type: '{kind}'. Only message is supported.")
    return messages


def _metadata(metadata: dict[str, str]) -> dict[str, str]:
    try:
        checked_metadata(metadata)
    except UsageError as error:
        raise Refusal(f"Invalid 'metadata': {error}") from None
    return metadata
