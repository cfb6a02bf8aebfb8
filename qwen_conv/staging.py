"""What waits, and how it is written where no turn takes it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from qwen_conv.api import Api
from qwen_conv.calls import DeleteItem
from qwen_conv.decision import Known
from qwen_conv.errors import ItemNotFoundError
from qwen_conv.flows import changing
from qwen_conv.held import Held
from qwen_conv.reflection import Reflection
from qwen_conv.seals import void
from qwen_conv.stamps import Stamp
from qwen_conv.turn import NOT_RUN


class Staging(Reflection):
    """A reflection that writes what waits, and takes out what is not what the history says."""

    async def flush(self, api: Api, *, only_due: bool = False) -> None:
        """Writes what waits, and takes out what nobody has claimed.

        Args:
            api: What is awaited.
            only_due: Whether to write only what has waited long enough, and take out nothing but
                what would stand before that.

        Raises:
            ServiceError: The service refused; it still waits.
        """
        now = self.hub.clock()
        with self._mutex:
            due = [each for each in self._staged if not only_due or each.due <= now]
            untidy = self._is_untidy and not only_due
        if due or untidy:
            await self._write_upto(api, due[-1] if due else None)

    @property
    def _is_untidy(self) -> bool:
        """Whether the conversation may hold what the history does not."""
        doubt = self._conversation_id and self.hub.ledger.of(self._conversation_id).doubt
        return bool(doubt or self._unsure or not all(each.shown for each in self._held))

    async def _write_upto(self, api: Api, last: Held | None) -> None:
        async with self._alone(api):
            with self._mutex:
                if last is not None and last not in self._staged:
                    return  # a turn took it in between
                some = [] if last is None else self._staged[: self._staged.index(last) + 1]
            await self._write(api, some)

    async def _write(self, api: Api, some: list[Held]) -> None:
        """Writes the first of what waits; the caller is alone."""
        await self._leave_lost(api, some)
        await self._catch_up(api)
        waits = [each for each in some if each in self._staged]
        if self._held:
            waits = await self._repair(api, waits)
        if waits:
            await self._append(api, waits)
        await self._rows.withdraw(api, some)

    async def _leave_lost(self, api: Api, some: Sequence[Held]) -> None:
        """Leaves to another process what it writes, for it took this one for dead."""
        if lost := await self._rows.lost(api, some):
            with self._mutex:
                self._staged = [each for each in self._staged if each not in lost]
            for each in lost:
                each.number = None
            await self._refresh(api)

    async def _append(self, api: Api, some: Sequence[Held]) -> None:
        drafts = [each.draft for each in some]
        held = [*self._held]
        try:
            with self._telling():
                stored = await self._record.append(api, drafts, held=self._behind())
            conversation_id = await self._record.conversation_id(api)
        except BaseException as error:
            if not isinstance(error, NOT_RUN):
                self._unsure = (held, [*some])
            raise
        if conversation_id is None:
            return  # its session was forgotten just now
        before = self.hub.ledger.of(conversation_id)
        self._conversation_id = conversation_id
        heads = self._record.firsts(stored, drafts) if stored else [None] * len(some)
        with self._mutex:
            behind = self._behind()
            for each, head in zip(some, heads, strict=True):
                each.at, each.ours = self.hub.clock(), True
                each.written = True
                encoded = bool(each.calls or each.results)
                if head is not None and head.id is not None:
                    each.ids = (head.id,)
                    each.listed = not encoded  # the list tells the seal of one that is encoded
                    each.stamp = Stamp(
                        self.hub.base_url,
                        conversation_id,
                        None,
                        each.ids,
                        each.at,
                        said=each.said,
                        after=behind,
                        encoded=encoded,
                    )
                behind = each.ids[-1] if each.ids else None
            self._move(some)
            self._read_at = self._read_at or self.hub.clock()
            self._note_end(before)

    def _move(self, some: Sequence[Held]) -> None:
        """Puts what waited behind what is held: it is in the conversation now."""
        self._staged = [each for each in self._staged if each not in some]
        self._held += some

    async def _repair(self, api: Api, some: list[Held]) -> list[Held]:
        """Takes out of the conversation what is not what the history says.

        That is what turns have stored and nobody claimed; and a call whose result is to be written,
        where a turn has stored the call as such: messages are all that can be written, so both are
        written as messages.
        """
        with self._mutex:
            gone = [each for each in self._held if not each.shown]
            results = {one for each in some for one in each.results}
            last = next((each for each in reversed(self._held) if each.shown), None)
            again = last is not None and last.ours and last.calls & results and not last.written
            if last is not None and again:
                gone.append(last)
            for each in gone:
                each.leaving = True
        if not gone:
            return some
        await self._delete(api, gone)
        if last is None or not again:
            return some
        with self._mutex:
            last.stamp, last.ids, last.listed, last.leaving = None, (), False, False
            self._staged.insert(0, last)
        return [last, *some]

    async def _delete(self, api: Api, gone: Sequence[Held]) -> None:
        """Deletes messages from the conversation, the last ones first."""
        self._moved = self._moved or any(each.archived for each in gone)
        if not all(each.listed for each in gone):
            await self._refresh(api)  # what a turn sent has ids that only the list tells
        conversation_id = self._conversation_id
        before = Known()
        if conversation_id is not None:
            if once := {each.once for each in gone if each.once}:
                await void(api, conversation_id, once)
            async with changing(api, conversation_id):
                self.hub.ledger.note_deletion(conversation_id)
                for item_id in [one for each in reversed(gone) for one in reversed(each.ids)]:
                    with suppress(ItemNotFoundError):
                        await api.send(DeleteItem(conversation_id, item_id))
            before = self.hub.ledger.of(conversation_id)
        with self._mutex:
            self._held = [each for each in self._held if each not in gone]
            self._note_end(before)
