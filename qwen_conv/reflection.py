"""What is held of the conversation behind a key, and how it is read and kept in step."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Literal, cast

from qwen_conv.api import Api
from qwen_conv.decision import Known
from qwen_conv.errors import ConversationNotFoundError
from qwen_conv.flows import remove
from qwen_conv.held import Form, Held, aligned
from qwen_conv.hub import QwenConversations
from qwen_conv.kept import Kept
from qwen_conv.limits import is_conversation_id
from qwen_conv.local import LocalList
from qwen_conv.locks import Holder
from qwen_conv.outbox import Rows
from qwen_conv.record import Draft, Record
from qwen_conv.registry import Waiting
from qwen_conv.settling import look_for
from qwen_conv.turn import tell_way_out

logger = logging.getLogger("qwen_conv")

Freshness = Literal["owned", "turn"] | float
"""When what others wrote is looked for: never, as this process holds the session ("owned"); once a
turn ("turn"); or when the last look is so many seconds old."""


class Reflection:
    """The messages of one key: of a session, or of a conversation that is named by its id.

    Args:
        hub: What clients, sessions and conversations share.
        key: The session's key, or a conversation's id.
        form: How the messages of the framework are read and written.

    Raises:
        UsageError: The key cannot name a session.
    """

    def __init__(self, hub: QwenConversations, key: str, form: Form) -> None:
        self.hub = hub
        self.key = key
        named = is_conversation_id(key)
        self._record = Record(
            hub, session=None if named else key, conversation_id=key if named else None
        )
        self._form = form
        self._rows = Rows(hub, key)
        self._mutex = threading.RLock()  # for the lists; never held while anything is awaited
        self._held: list[Held] = []
        self._staged: list[Held] = []
        self._conversation_id: str | None = None
        self._read_at: float | None = None
        self._stale = False
        self._unsure: tuple[list[Held], list[Held]] | None = None
        """What was held when a writing failed of which it is not known how far it came, and what
        it was to write."""
        self._turn: Holder | None = None
        self._moved = False
        """Whether messages were archived since that was written down."""
        self._told_lost: set[str] = set()
        self.used_since: float | None = None
        """When it was first handed messages, in seconds since 1970: an emptied key is still one."""

    @property
    def name(self) -> str:
        """The name of the lock under which the conversation is changed from here."""
        return f"mirror {self._record.target}"

    @property
    def conversation_id(self) -> str | None:
        """The conversation that something is held of, if anything is."""
        return self._conversation_id

    @property
    def due(self) -> float | None:
        """When something is to be written at the latest; `None` if nothing waits."""
        with self._mutex:
            return min((each.due for each in self._staged), default=None)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is lost if it is read anew when it is next used."""
        with self._mutex:
            busy = self._staged or self._moved or any(not each.shown for each in self._held)
        return not busy

    async def read(self, api: Api, freshness: Freshness = "owned") -> list[Held]:
        """Every message, oldest first, those that wait last.

        Raises:
            ConversationNotFoundError: The conversation is not there.
        """
        # A turn that is open here may be what reads: it is not waited for.
        if not self._is_fresh(freshness) and not (self._turn and self._turn.lock):
            async with self._alone(api):
                if not self._is_fresh(freshness):
                    await self._refresh(api)
        with self._mutex:
            return self._shown

    @property
    def _shown(self) -> list[Held]:
        return [each for each in (*self._held, *self._staged) if each.shown]

    def _is_fresh(self, freshness: Freshness) -> bool:
        if self._read_at is None or self._unsure or time.time() >= self._rows.look_at:
            return False
        if freshness in {"owned", "turn"}:
            return freshness == "owned" or not self._stale
        return self.hub.clock() < self._read_at + cast("float", freshness)

    async def _catch_up(self, api: Api, *, for_turn: bool = False) -> None:
        """Has what is held be what was left of it, if that is not known; the caller is alone.

        A writing or a turn may have failed of which it is not known how far it came, and the
        session may be another conversation by now. The next turn sees to the turn itself: it may
        be the same one again.
        """
        conversation_id = await self._record.conversation_id(api)
        moved = conversation_id != self._conversation_id and self._conversation_id is not None
        if moved or self._unsure or (self._read_at is None and conversation_id is not None):
            await self._refresh(api)
        elif conversation_id is not None and not for_turn:
            await self._settle(api, conversation_id)

    async def _refresh(self, api: Api) -> None:
        """Reads what came since the last reading, or everything."""
        conversation_id = await self._record.conversation_id(api)
        kept: list[Kept] = []
        archived: str | None = None
        before = Known()
        if conversation_id is not None:
            with self._telling():
                await self._settle(api, conversation_id)
                if unsure := self._unsure:
                    await self._record.settle(api, tuple(each.said for each in unsure[1]))
                before = self.hub.ledger.of(conversation_id)
                kept = await self._record.read(api)
                if kept and self._read_at is None:
                    archived = await self._record.archived(api)
        with self._mutex:
            if conversation_id != self._conversation_id:
                self._held, self._conversation_id = [], conversation_id
            known = {id(each) for each in self._held}
            self._held = aligned(self._held, kept, self._from_kept, self.hub.clock())
            if (unsure := self._unsure) is not None:
                self._unsure = None
                self._recognise(unsure[1], unsure[0])
                # It is known now how far that came: the same put again is meant anew.
                failed = self.hub.ledger.unfinished.get(conversation_id or "", {})
                failed.pop(tuple(each.said for each in unsure[1]), None)
            self._archive_upto(archived)
            if gone := len(known - {id(each) for each in self._held}):
                logger.warning(
                    "%s: %d messages are not there any more: the service keeps them for seven "
                    "days, or somebody deleted them",
                    self._record.target,
                    gone,
                )
            if conversation_id is not None:
                self._read_at, self._stale = self.hub.clock(), False
                self._note_end(before)
        if time.time() >= self._rows.look_at:
            await self._restore(api)

    def _archive_upto(self, item_id: str | None) -> None:
        place = next((n for n, each in enumerate(self._held) if item_id in each.ids), -1)
        for each in self._held[: place + 1]:
            each.archived = True

    def _from_kept(self, kept: Kept) -> Held:
        message = self._form.message(kept)
        face = self._form.face(message)
        draft = Draft(kept.items, kept.extra)
        return Held(self, message, draft, face, stamp=kept.stamp)

    def _new(self, message: Any, draft: Draft | None = None, due: float = 0.0) -> Held:
        draft = self._form.draft(message) if draft is None else draft
        return Held(self, self._form.copied(message), draft, self._form.face(message), due=due)

    def _note_end(self, before: Known) -> None:
        """Has the ledger know what the conversation ends with, if it knows no more than before."""
        if self._conversation_id is None:
            return
        last = self._held[-1] if self._held else None
        head: tuple[str, ...] = ()
        if last is not None:
            head = last.stamp.ids if last.stamp else last.ids[-1:]
        since = min((each.at for each in self._held), default=self.hub.clock())
        proof = self._list(self._held).proof(since)
        self.hub.ledger.note_unless_changed(
            self._conversation_id,
            before,
            Known(exists=True, empty=last is None, head=head, proof=proof, doubt=before.doubt),
        )

    @staticmethod
    def _list(held: Sequence[Held]) -> LocalList:
        return LocalList(
            held,
            lambda each: each.entry,
            tuple([each.key for each in held]),
            lambda each: each.stamp,
        )

    def _behind(self) -> str | None:
        """The id of the conversation's last item; `""` if there is none, `None` if not known."""
        if not self._held:
            return ""
        return self._held[-1].ids[-1] if self._held[-1].ids else None

    async def _settle(self, api: Api, conversation_id: str) -> None:
        """Takes back what a turn may have left whose reply was lost.

        What it sent still waits here, or was taken out of the history since.
        """
        if self.hub.ledger.of(conversation_id).doubt is None:
            return
        holder = await api.lock(conversation_id)
        try:
            if (doubt := self.hub.ledger.of(conversation_id).doubt) is None:
                return
            kept = await self._record.read(api)
            with self._mutex:
                # Only what is not held already can be what the turn left.
                aligned(self._held, kept, self._from_kept, self.hub.clock())
                known = {one for each in self._held for one in each.ids}
            seconds = doubt.until - self.hub.clock()
            found = await look_for(api, conversation_id, doubt, seconds=seconds, held=known)
            await remove(api, conversation_id, reversed(found.left.items if found.left else ()))
            self.hub.ledger.settle(conversation_id)
            self.hub.ledger.forget_end(conversation_id)
        finally:
            holder.release()

    def _recognise(self, some: Sequence[Held], before: Sequence[Held]) -> None:
        """Takes what was to be written for written that is listed behind what was held before.

        What does not wait any more, for whoever put it was told that it failed, is as if a turn had
        stored it: it is claimed by being put again, or taken out.
        """
        with self._mutex:
            old = {id(each) for each in before}
            fresh = [each for each in self._held if id(each) not in old and not each.ours]
            for each in some:
                match = next((one for one in fresh if one.said == each.said), None)
                if match is None:
                    continue
                fresh = fresh[fresh.index(match) + 1 :]
                each.stamp, each.ids, each.at = match.stamp, match.ids, match.at
                each.listed = each.ours = True
                each.once = match.once
                each.shown = each in self._staged
                each.claimable = not each.shown
                self._held[self._held.index(match)] = each
                self._staged = [one for one in self._staged if one is not each]

    async def _restore(self, api: Api) -> None:
        """Takes up what a process left that was killed: it waits, or was written after all."""
        for row in await self._rows.left(api):
            message = self._form.from_json(row.data["message"])
            each = self._new(message, due=self.hub.clock())
            each.number = row.number
            with self._mutex:
                self._staged.append(each)
                self._recognise([each], self._held[: self._place(row, each) + 1])
            if each not in self._staged:
                await self._rows.withdraw(api, [each])

    def _place(self, row: Waiting, each: Held) -> int:
        """Where the last message is that was held when this one was put; -1 if none was."""
        behind = row.data["behind"]
        found = [n for n, one in enumerate(self._held) if behind in one.ids]
        same = [n for n, one in enumerate(self._held) if one.said == each.said]
        return next(iter([*found, *reversed(same[: row.data["before"]])]), -1)

    @asynccontextmanager
    async def _alone(self, api: Api) -> AsyncIterator[None]:
        holder = await api.lock(self.name)
        try:
            yield
        finally:
            holder.release()

    @contextmanager
    def _telling(self) -> Any:
        try:
            yield
        except ConversationNotFoundError as error:
            tell_way_out(error, self._record.session)
            raise
