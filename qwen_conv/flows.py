"""What is done with conversations, each said once, for threads and tasks alike.

A flow awaits nothing but its `api` (see `qwen_conv.api`) and is never an async generator. Run one
with `hub.run(flow, ...)` in a thread and with `await hub.arun(flow, ...)` in a task.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from qwen_conv import pages
from qwen_conv.api import Api
from qwen_conv.calls import Call, CreateConversation, DeleteConversation, messages_only
from qwen_conv.conversations import Conversation
from qwen_conv.decision import Known
from qwen_conv.items import Item, fingerprints
from qwen_conv.limits import ITEMS_PER_REQUEST
from qwen_conv.pages import Pages
from qwen_conv.retries import sent_again
from qwen_conv.writing import (
    Behind,
    Said,
    Unfinished,
    finish_writing,
    forget_undecided,
    last_known,
    remove,
    take_up,
)

__all__ = [
    "Pages",
    "append",
    "changing",
    "clear",
    "create",
    "delete",
    "read",
    "remove",
    "send",
]

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

    Where that failed behind the first 20 messages, creating the same again finishes it.

    Raises:
        UsageError: An item is not a message, or the metadata is over its limits.
        PartlyWrittenError: A later request failed; the messages before it are written.
        ServiceError: The service refused.
    """
    first, rest = tuple(items[:ITEMS_PER_REQUEST]), _checked(items[ITEMS_PER_REQUEST:])
    ledger, said, metadata = api.hub.ledger, _said(items), dict(metadata or {})
    begun = (api.hub.base_url, api.hub.account, said, frozenset(metadata.items()))
    conversation = ledger.unfinished_creations.pop(begun, None) if rest else None
    if conversation is None:
        conversation = await sent_again(api, CreateConversation(first, metadata))
        ledger.note(conversation.id, Known(exists=True, empty=not items))
        if first:
            ledger.note_begun(conversation.id, first)
    if rest:
        async with changing(api, conversation.id):
            behind = Behind(None, len(first))
            todo = take_up(api, conversation.id, said) or Unfinished(said, rest, behind, len(first))
            try:
                await finish_writing(api, conversation.id, todo)
            except BaseException:
                ledger.unfinished_creations[begun] = conversation
                raise
    return conversation


async def append(api: Api, conversation_id: str, items: Sequence[Item]) -> tuple[Item, ...]:
    """Adds any number of messages to a conversation, in order, 20 a request.

    Where an earlier adding of the same messages failed, it is finished: what was written by then,
    or is found to have been, is not written again.

    Returns:
        The messages as they are stored, with their ids.

    Raises:
        UsageError: An item is not a message; nothing was written.
        PartlyWrittenError: A later request failed; the messages before it are written.
        ServiceError: The service refused.
    """
    wires, said = _checked(items), _said(items)
    if not wires:
        return ()
    async with changing(api, conversation_id):
        todo = take_up(api, conversation_id, said)
        if todo is None:
            todo = Unfinished(said, wires, last_known(api.hub.ledger, conversation_id))
        await finish_writing(api, conversation_id, todo)
    return tuple(todo.stored)


def _checked(items: Sequence[Item]) -> tuple[Item, ...]:
    """The items; nothing is sent of any if one of them cannot be created."""
    messages_only(*items)
    return tuple(items)


def _said(items: Sequence[Item]) -> Said:
    return tuple(fingerprints([item]) for item in items)


async def read(api: Api, conversation_id: str, after: str | None = None) -> tuple[Item, ...]:
    """Every item of a conversation, oldest first, or every one behind the item `after`.

    Raises:
        ItemNotFoundError: `after` is not there.
        ConversationNotFoundError: The conversation is not there.
        ServiceFailedError: It cannot be read to its end, or its order cannot be told.
    """
    items = await pages.read(api, conversation_id, after)
    forget_undecided(api.hub.ledger, conversation_id)
    return items


async def clear(api: Api, conversation_id: str) -> None:
    """Deletes every item of a conversation; the conversation stays."""
    async with changing(api, conversation_id):
        await remove(api, conversation_id, await read(api, conversation_id))


async def delete(api: Api, conversation_id: str) -> None:
    """Deletes a conversation and all it holds; the service deletes items only one by one.

    help.aliyun.com, "Delete a conversation": its message items are not deleted; read 2026-11-20.
    """
    await clear(api, conversation_id)
    await api.send(DeleteConversation(conversation_id))
    api.hub.ledger.note(conversation_id, Known())
