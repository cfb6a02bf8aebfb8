"""What waits, and how it is written where no turn takes it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from qwen_conv.api import Api
from qwen_conv.calls import DeleteItem
from qwen_conv.errors import (
    ItemNotFoundError,
    NoReplyError,
    PartlyWrittenError,
    ServiceFailedError,
)
from qwen_conv.flows import changing
from qwen_conv.held import Held
from qwen_conv.reflection import Reflection
from qwen_conv.seals import void
from qwen_conv.stamps import Stamp


class Staging(Reflection):
    """A reflection that writes what waits, and takes out what is not what the history says."""

    async def flush(self, api: Api, *, only_due: bool = False) -> None:
        """Writes what waits; only what has waited long enough if asked to.

        Raises:
            ServiceError: The service refused; it still waits.
        """
        now = self.hub.clock()
        with self._mutex:
            due = [each for each in self._staged if not only_due or each.due <= now]
        if due:
            await self._write_upto(api, due[-1])

    async def _write_upto(self, api: Api, last: Held) -> None:
        async with self._alone(api):
            with self._mutex:
                if last not in self._staged:
                    return  # a turn took it in between
                some = self._staged[: self._staged.index(last) + 1]
            await self._write(api, some)

    async def _write(self, api: Api, some: list[Held]) -> None:
        """Writes the first of what waits; the caller is alone."""
        if not await self._rows.renew(api, some):
            # Another process took us for dead: it writes them.
            with self._mutex:
                lost = [each for each in some if each.number is not None]
                self._staged = [each for each in self._staged if each not in lost]
            some = [each for each in some if each not in lost]
            await self._refresh(api)
        if self._conversation_id is None:
            self._conversation_id = await self._record.conversation_id(api)
        if self._conversation_id is not None:
            await self._settle(api, self._conversation_id)
            if self._unsure is not None:
                await self._refresh(api)
                self._recognise(some, self._unsure)
                self._unsure = None
            some = await self._repair(api, some)
        some = [each for each in some if each in self._staged]
        if some:
            await self._append(api, some)
        await self._rows.withdraw(api, some)

    async def _append(self, api: Api, some: Sequence[Held]) -> None:
        drafts = [each.draft for each in some]
        before = [*self._held]
        try:
            with self._telling():
                stored = await self._record.append(api, drafts)
        except (NoReplyError, ServiceFailedError, PartlyWrittenError):
            self._unsure = before
            raise
        conversation_id = self._conversation_id = await self._record.conversation_id(api)
        assert conversation_id is not None  # noqa: S101 - it was just written to
        heads = self._record.firsts(stored, drafts) if stored else [None] * len(some)
        with self._mutex:
            behind = self._behind()
            for each, head in zip(some, heads, strict=True):
                each.at, each.ours = self.hub.clock(), True
                if head is not None and head.id is not None:
                    each.ids, each.listed = (head.id,), True
                    each.stamp = Stamp(
                        self.hub.base_url,
                        conversation_id,
                        None,
                        each.ids,
                        each.at,
                        said=each.said,
                        after=behind,
                        encoded=bool(each.calls or each.results),
                    )
                behind = each.ids[-1] if each.ids else None
            self._move(some)
            self._read_at = self._read_at or self.hub.clock()
            self._note_end()

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
            again = last is not None and last.ours and last.calls & results and not last.once
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
        if not all(each.listed for each in gone):
            await self._refresh(api)  # what a turn sent has ids that only the list tells
        conversation_id = self._conversation_id
        if conversation_id is not None:
            if once := {each.once for each in gone if each.once}:
                await void(api, conversation_id, once)
            async with changing(api, conversation_id):
                self.hub.ledger.note_deletion(conversation_id)
                for item_id in [one for each in reversed(gone) for one in reversed(each.ids)]:
                    with suppress(ItemNotFoundError):
                        await api.send(DeleteItem(conversation_id, item_id))
        with self._mutex:
            self._held = [each for each in self._held if each not in gone]
            self._note_end()
