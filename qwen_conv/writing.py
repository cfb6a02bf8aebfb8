"""What is written to a conversation: messages added in order, each once; items taken out by id.

An adding of messages that failed is remembered in the ledger, by what it was to say. Who adds the
same again finishes it: what was written by then, or is found to have been, is not written again.
"""

from __future__ import annotations

import time
from collections.abc import Container, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from qwen_conv.api import Api
from qwen_conv.calls import CreateItems, DeleteItem
from qwen_conv.errors import (
    Failure,
    ItemNotFoundError,
    NoReplyError,
    NotConnectedError,
    PartlyWrittenError,
    QwenConvError,
    ServiceFailedError,
)
from qwen_conv.items import Item, Message, fingerprints
from qwen_conv.ledger import Ledger
from qwen_conv.limits import ITEMS_PER_REQUEST
from qwen_conv.looking import look_again, may_come
from qwen_conv.pages import is_there, read
from qwen_conv.retries import sent_again

Said = tuple[tuple[str, ...], ...]
"""What messages say: the fingerprints of each one's items."""


class Behind(NamedTuple):
    """A place in a conversation: behind an item, or behind the first few if none is named."""

    item_id: str | None = None
    begun: int = 0


@dataclass(slots=True)
class Unfinished:
    """An adding of messages: what it is to write, and how far it came.

    Attributes:
        said: What the messages say, those included that were written with the conversation.
        wires: What is to be written of them.
        behind: The last that is known to stand before the rest; `None` if nothing is known.
        begun: How many items were written with the conversation itself.
        stored: What is written of `wires`, as it is stored.
        lost_at: When a request failed of which it is not known whether it was carried out, on the
            clock of `time.monotonic`; `None` if none did.
        may_be_late: Whether that request may be carried out yet.
    """

    said: Said
    wires: tuple[Item, ...]
    behind: Behind | None
    begun: int = 0
    stored: list[Item] = field(default_factory=list)
    lost_at: float | None = None
    may_be_late: bool = False

    @property
    def rest(self) -> tuple[Item, ...]:
        """What is not known to be written."""
        return self.wires[len(self.stored) :]

    def note_stored(self, items: Sequence[Item]) -> None:
        """Notes what is written."""
        self.stored += items
        self.behind = next((Behind(one.id) for one in reversed(items) if one.id), self.behind)
        self.lost_at = None


def take_up(api: Api, conversation_id: str, said: Said) -> Unfinished | None:
    """An adding of these messages that failed; the caller finishes it, or begins a new one.

    Others that failed and may have written nothing are forgotten: the same is meant anew by now.
    """
    unfinished = api.hub.ledger.unfinished
    failed = unfinished.pop(conversation_id, {})
    todo = failed.pop(said, None)
    if failed := {each: one for each, one in failed.items() if one.begun or one.stored}:
        unfinished[conversation_id] = failed
    return todo


def last_known(
    ledger: Ledger, conversation_id: str, seen: str | None = None, seen_ids: Container[str] = ()
) -> Behind | None:
    """The last that the conversation is known to hold.

    Args:
        ledger: What this process saw.
        conversation_id: The conversation.
        seen: The last item that the caller has read.
        seen_ids: All items that the caller has read.

    Returns:
        The place behind it; `None` if this process has neither read the conversation nor written
        to it.
    """
    known = ledger.of(conversation_id)
    if known.empty:
        return Behind()
    if known.head:
        return Behind(known.head[-1])
    written = ledger.written(conversation_id)
    if seen is not None and (not written.ids or written.ids[-1] in seen_ids):
        return Behind(seen)
    if written.ids:
        return Behind(written.ids[-1])
    return Behind(None, written.begun) if written.begun else None


def forget_undecided(ledger: Ledger, conversation_id: str) -> None:
    """Forgets addings of which it cannot be told whether they were carried out; see `_decided`.

    Who has read the conversation sees what it holds: the same added again is meant anew.
    """
    unfinished = ledger.unfinished
    if failed := unfinished.get(conversation_id):
        for said in [said for said, one in failed.items() if one.behind is None]:
            failed.pop(said, None)


async def finish_writing(
    api: Api, conversation_id: str, todo: Unfinished, *, native: bool = False
) -> None:
    """Writes what is not written yet, 20 items a request; the caller has the conversation's lock.

    Raises:
        PartlyWrittenError: A later request failed; those before it are written.
        ServiceFailedError: The service stored something else than it was sent.
    """
    try:
        await settle_writing(api, conversation_id, todo)
        while batch := todo.rest[:ITEMS_PER_REQUEST]:
            told = await _written(api, conversation_id, todo, batch, native=native)
            todo.note_stored(told)
            api.hub.ledger.note_written(conversation_id, told)
    except BaseException as error:
        written = todo.begun + len(todo.stored)
        if written or todo.lost_at is not None:
            api.hub.ledger.unfinished.setdefault(conversation_id, {})[todo.said] = todo
        if written and isinstance(error, QwenConvError):
            raise PartlyWrittenError(written, todo.begun + len(todo.wires)) from error
        raise


async def _written(
    api: Api, conversation_id: str, todo: Unfinished, batch: tuple[Item, ...], *, native: bool
) -> tuple[Item, ...]:
    try:
        told = await sent_again(api, CreateItems(conversation_id, batch, native=native))
    except BaseException as error:
        # Whether it was carried out is not known either of a request that was cancelled.
        is_refused = isinstance(error, NotConnectedError) or (
            isinstance(error, QwenConvError)
            and not isinstance(error, NoReplyError | ServiceFailedError)
        )
        if not is_refused:
            todo.lost_at = time.monotonic()
            todo.may_be_late = may_come(error)
        raise
    try:
        _compare(batch, told)
    except ServiceFailedError:
        await remove(api, conversation_id, told)
        raise
    return told


async def settle_writing(api: Api, conversation_id: str, todo: Unfinished) -> None:
    """Finds out whether a request that failed has been carried out after all.

    Servers store late: what is not there is looked for again, until `settle_timeout` has passed
    since the request failed.

    Raises:
        NoReplyError: It cannot be found out.
    """
    if todo.lost_at is None:
        return
    if todo.behind is None:
        todo.behind = await _decided(api, conversation_id, todo)
    anchor = todo.behind.item_id
    anchored = anchor is None or await is_there(api, conversation_id, anchor)
    begun = todo.behind.begun

    async def look() -> tuple[Item, ...]:
        listed = await read(api, conversation_id, after=anchor if anchored else None)
        return _found(listed[begun:], todo, anchored=anchored)

    late = todo.lost_at + api.hub.settle_timeout - time.monotonic()
    seconds = late if todo.may_be_late else 0.0
    if found := await look_again(api, look, is_found=bool, seconds=seconds):
        todo.note_stored(found)
        api.hub.ledger.note_written(conversation_id, found)
    else:
        todo.lost_at = None


async def _decided(api: Api, conversation_id: str, todo: Unfinished) -> Behind:
    """What the conversation ends with, of which nothing was known when the request failed.

    Raises:
        NoReplyError: That is what was to be written: it may have been there before.
    """
    listed = await read(api, conversation_id)
    if _found(listed, todo, anchored=False):
        raise NoReplyError(
            f"{conversation_id} ends with the messages whose adding was not answered; whether that "
            "was carried out, or they stood there before, cannot be told, as this process had not "
            "read it. Read it: if they are missing, add them again."
        )
    return Behind(listed[-1].id, 0) if listed and listed[-1].id else Behind(None, len(listed))


def _found(listed: tuple[Item, ...], todo: Unfinished, *, anchored: bool) -> tuple[Item, ...]:
    """The next items of what is to be written, if they are there.

    They stand behind the last item that was known before. If that is gone by now, only what the
    conversation ends with is taken for them.
    """
    batch = todo.rest[:ITEMS_PER_REQUEST]
    last = len(listed) - len(batch)
    for start in range(0 if anchored else max(0, last), last + 1):
        found = listed[start : start + len(batch)]
        if all(map(is_same, batch, found)):
            return found
    return ()


def is_same(sent: Item, stored: Item) -> bool:
    """Whether an item is stored as what was sent; services may give a message another role."""
    if isinstance(sent, Message) and isinstance(stored, Message):
        stored = replace(stored, role=sent.role)
    return fingerprints([sent]) == fingerprints([stored])


def _compare(sent: Sequence[Item], stored: Sequence[Item]) -> None:
    """Raises `ServiceFailedError` unless the service stored what it was sent, but for roles."""
    if len(sent) != len(stored):
        raise ServiceFailedError(
            Failure(f"The service was sent {len(sent)} messages and answered with {len(stored)}")
        )
    for one, other in zip(sent, stored, strict=True):
        if not is_same(one, other):
            raise ServiceFailedError(
                Failure(f"The service stored something else than it was sent, as {other.id}")
            )


async def remove(api: Api, conversation_id: str, items: Iterable[Item]) -> None:
    """Deletes some items of a conversation; one that is gone already is as it is to be."""
    api.hub.ledger.note_deletion(conversation_id)
    for item in items:
        if item.id:
            with suppress(ItemNotFoundError):
                await api.send(DeleteItem(conversation_id, item.id))
