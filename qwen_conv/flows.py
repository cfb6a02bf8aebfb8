"""What is done with conversations, each said once, for threads and tasks alike.

A flow awaits nothing but its `api` (see `qwen_conv.api`) and is never an async generator. Run one
with `hub.run(flow, ...)` in a thread and with `await hub.arun(flow, ...)` in a task.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from qwen_conv.api import Api
from qwen_conv.calls import (
    Call,
    CreateConversation,
    CreateItems,
    DeleteConversation,
    DeleteItem,
    ListItems,
)
from qwen_conv.conversations import Conversation
from qwen_conv.decision import Known
from qwen_conv.errors import Failure, ItemNotFoundError, ServiceFailedError
from qwen_conv.items import Item
from qwen_conv.limits import ITEMS_PER_REQUEST, PAGE_SIZE

T = TypeVar("T")


async def send(api: Api, call: Call[T]) -> T:
    """Sends one call of `qwen_conv.calls`: `hub.run(flows.send, UpdateConversation(...))`.

    Raises:
        UsageError: The call breaks a documented limit; nothing was sent.
        ServiceError: The service refused.
    """
    conversation_id = getattr(call, "conversation_id", None)
    if not (call.changes_items and conversation_id):
        return await api.send(call)
    async with changing(api, conversation_id):
        if call.method == "delete":
            api.hub.ledger.note_deletion(conversation_id)
        return await api.send(call)


@asynccontextmanager
async def changing(api: Api, conversation_id: str) -> AsyncIterator[None]:
    """Holds a conversation's lock, and has the ledger forget how the conversation ends."""
    holder = await api.lock(conversation_id)
    try:
        yield
    finally:
        api.hub.ledger.forget_end(conversation_id)
        holder.release()


async def create(
    api: Api, items: Sequence[Item] = (), metadata: Mapping[str, str] | None = None
) -> Conversation:
    """Creates a conversation with any number of messages in it, in order.

    Raises:
        UsageError: An item is not a message, or the metadata is over its limits.
        ServiceError: The service refused.
    """
    conversation = await api.send(
        CreateConversation(tuple(items[:ITEMS_PER_REQUEST]), dict(metadata or {}))
    )
    api.hub.ledger.note(conversation.id, Known(exists=True, empty=not items))
    if len(items) > ITEMS_PER_REQUEST:
        await append(api, conversation.id, items[ITEMS_PER_REQUEST:])
    return conversation


async def append(api: Api, conversation_id: str, items: Sequence[Item]) -> tuple[Item, ...]:
    """Adds any number of messages to a conversation, in order, 20 a request.

    Returns:
        The messages as they are stored, with their ids.

    Raises:
        UsageError: An item is not a message; nothing was written.
        ServiceError: The service refused a batch; those before it are written.
    """
    batches = [
        CreateItems(conversation_id, tuple(items[start : start + ITEMS_PER_REQUEST]))
        for start in range(0, len(items), ITEMS_PER_REQUEST)
    ]
    stored: list[Item] = []
    async with changing(api, conversation_id):
        for batch in batches:
            stored += await api.send(batch)
    return tuple(stored)


class Pages:
    """Reads a conversation's items page by page, oldest first; holds no page itself.

    Pages are asked for by `order=asc` and `limit=100`, until one is the last. Each item is
    returned once, also where a server repeats some.

    Args:
        conversation_id: The conversation.
        after: The id of the item to begin behind.
    """

    def __init__(self, conversation_id: str, after: str | None = None) -> None:
        self._conversation_id = conversation_id
        self._after = after
        self._ids: set[str] = set()
        self._ended = False

    async def next(self, api: Api) -> tuple[Item, ...] | None:
        """The items of the next page; `None` if there is none.

        Raises:
            ItemNotFoundError: `after` is not there.
            ConversationNotFoundError: The conversation is not there.
            ServiceFailedError: The server repeats its pages, so that the rest cannot be read.
        """
        if self._ended:
            return None
        page = await api.send(ListItems(self._conversation_id, after=self._after))
        fresh = tuple(item for item in page.items if item.id is None or item.id not in self._ids)
        self._ids.update(item.id for item in fresh if item.id is not None)
        told = page.has_more
        if told is False or not page.items or (told is None and len(page.items) < PAGE_SIZE):
            self._ended = True
        elif not fresh or page.last_id is None:
            raise ServiceFailedError(
                Failure(f"{self._conversation_id} cannot be read to its end: a page came twice")
            )
        self._after = page.last_id
        return fresh


async def read(api: Api, conversation_id: str, after: str | None = None) -> tuple[Item, ...]:
    """Every item of a conversation, oldest first, or every one behind the item `after`.

    Raises:
        ItemNotFoundError: `after` is not there.
        ConversationNotFoundError: The conversation is not there.
        ServiceFailedError: The server repeats its pages, so that the rest cannot be read.
    """
    pages = Pages(conversation_id, after)
    found: list[Item] = []
    while (page := await pages.next(api)) is not None:
        found += page
    return tuple(found)


async def clear(api: Api, conversation_id: str) -> None:
    """Deletes every item of a conversation; the conversation stays."""
    async with changing(api, conversation_id):
        await remove(api, conversation_id, await read(api, conversation_id))


async def remove(api: Api, conversation_id: str, items: Iterable[Item]) -> None:
    """Deletes some items of a conversation; one that is gone already is as it is to be."""
    api.hub.ledger.note_deletion(conversation_id)
    for item in items:
        if item.id:
            with suppress(ItemNotFoundError):
                await api.send(DeleteItem(conversation_id, item.id))


async def delete(api: Api, conversation_id: str) -> None:
    """Deletes a conversation and all it holds; the service deletes items only one by one.

    help.aliyun.com, "Delete a conversation": its message items are not deleted; read 2026-11-20.
    """
    await clear(api, conversation_id)
    await api.send(DeleteConversation(conversation_id))
    api.hub.ledger.note(conversation_id, Known())
