"""What is done with conversations, each said once, for threads and tasks alike.

A flow awaits nothing but its `api` (see `qwen_conv.api`) and is never an async generator. Run one
with `hub.run(flow, ...)` in a thread and with `await hub.arun(flow, ...)` in a task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from qwen_conv.errors import Failure, ServiceFailedError
from qwen_conv.items import Item
from qwen_conv.limits import ITEMS_PER_REQUEST, PAGE_SIZE

T = TypeVar("T")


async def send(api: Api, call: Call[T]) -> T:
    """Sends one call of `qwen_conv.calls`: `hub.run(flows.send, UpdateConversation(...))`.

    Raises:
        UsageError: The call breaks a documented limit; nothing was sent.
        ServiceError: The service refused.
    """
    return await api.send(call)


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
    holder = await api.lock(conversation_id)
    try:
        for batch in batches:
            stored += await api.send(batch)
    finally:
        api.hub.ledger.forget_end(conversation_id)
        holder.release()
    return tuple(stored)


async def read(api: Api, conversation_id: str, after: str | None = None) -> tuple[Item, ...]:
    """Every item of a conversation, oldest first, or every one behind the item `after`.

    Pages are asked for by `order=asc` and `limit=100`, until one is the last. Each item is
    returned once, also where a server repeats some.

    Raises:
        ItemNotFoundError: `after` is not there.
        ConversationNotFoundError: The conversation is not there.
        ServiceFailedError: The server repeats its pages, so that the rest cannot be read.
    """
    found: list[Item] = []
    ids: set[str | None] = set()
    while True:
        page = await api.send(ListItems(conversation_id, after=after))
        fresh = [item for item in page.items if item.id is None or item.id not in ids]
        found += fresh
        ids.update(item.id for item in fresh)
        told = page.has_more
        if told is False or not page.items or (told is None and len(page.items) < PAGE_SIZE):
            return tuple(found)
        if not fresh or page.last_id is None:
            raise ServiceFailedError(
                Failure(f"{conversation_id} cannot be read to its end: a page came twice")
            )
        after = page.last_id


async def clear(api: Api, conversation_id: str) -> None:
    """Deletes every item of a conversation; the conversation stays."""
    holder = await api.lock(conversation_id)
    try:
        for item in await read(api, conversation_id):
            if item.id:
                await api.send(DeleteItem(conversation_id, item.id))
    finally:
        api.hub.ledger.forget_end(conversation_id)
        holder.release()


async def delete(api: Api, conversation_id: str) -> None:
    """Deletes a conversation and all it holds; the service deletes items only one by one.

    help.aliyun.com, "Delete a conversation": its message items are not deleted; read 2026-11-20.
    """
    await clear(api, conversation_id)
    await api.send(DeleteConversation(conversation_id))
    api.hub.ledger.note(conversation_id, Known())
