"""What this process holds of the conversation behind a key: its messages, and those that wait.

A store of a framework is handed messages one by one, by engines that also have a model answer them.
Who writes them? A turn does, if there is one: it sends what waits, and the service stores it with
the answer. So a message that a turn may yet take is *staged*: whoever reads sees it at once, and it
is written when a turn takes it, or when none will.

What a turn has stored is *claimed* when the engine hands it to the store; until then it is held and
not shown. What nobody has claimed by the time that something is written behind it is not what the
history says, and is taken out again: by its ids, and only if this process wrote it.

A message that was read from here is known by a reference to what is held, which lives in this
process alone, so that no client can forge it (`Form.held`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from qwen_conv.api import Api
from qwen_conv.erasing import Erased, forget_waiting
from qwen_conv.errors import DivergedError, NotRepresentableError
from qwen_conv.held import Held, Line, line, trailing
from qwen_conv.items import Item, fingerprints
from qwen_conv.limits import ITEM_LIFETIME
from qwen_conv.record import Draft
from qwen_conv.staging import Staging
from qwen_conv.turn import Outcome, Turn, TurnRequest
from qwen_conv.turns import begin

logger = logging.getLogger("qwen_conv")


class Mirror(Staging):
    """What stores and models of a framework do with the messages of one key; see `Reflection`."""

    # --- What stores ask for ------------------------------------------------------------------

    async def put(
        self, api: Api, messages: Sequence[Any], *, patience: float | None, archived: bool = False
    ) -> None:
        """Adds messages, in order: claims what a turn has stored, stages or writes the others.

        Args:
            api: What is awaited.
            messages: The messages.
            patience: Seconds that a message may wait for a turn; `None`: nothing waits.
            archived: Whether they are archived.

        Raises:
            NotRepresentableError: A message cannot be stored; nothing was done.
            PartlyWrittenError: Some are written; put the same messages again to write the rest.
            ServiceError: The service refused; none of these messages was added.
        """
        drafts = [self._storable(message) for message in messages]
        await self.read(api)
        due = self.hub.clock() + (patience or 0)
        fresh: list[Held] = []
        claimed: list[Held] = []
        with self._mutex:
            for message, draft in zip(messages, drafts, strict=True):
                # Behind one that is new there can be none that is stored.
                if not fresh and (found := self._claimed(message, draft)) is not None:
                    found.archived = archived
                    claimed.append(found)
                    continue
                fresh.append(self._new(message, draft, due))
                fresh[-1].archived = archived
                self._declare(message, draft)
            self._staged += fresh
            self._stale = self._stale or bool(fresh)
            self._moved = self._moved or (archived and bool(messages))
            upto = self._written_now(patience)
        try:
            await self._keep_waiting(api, fresh if upto is None else _behind(fresh, upto))
            if upto is not None:
                await self._write_upto(api, upto)
        except BaseException:
            with self._mutex:
                self._staged = [each for each in self._staged if each not in fresh]
                for each in claimed:
                    each.shown, each.claimable = False, True
            await self._rows.withdraw(api, fresh)
            raise
        self._use()

    async def _keep_waiting(self, api: Api, some: Sequence[Held]) -> None:
        """Keeps what waits in the outbox, unless a turn takes it just now."""
        await self._rows.post(api, some, self._form, self._behind(), self._held)
        await self._rows.withdraw(api, [each for each in some if each not in self._staged])

    def _use(self) -> None:
        if self.used_since is None:
            self.used_since = self.hub.clock()

    def _storable(self, message: Any) -> Draft:
        draft = self._form.draft(message)
        fingerprints(draft.items)  # what no JSON text can carry is refused before anything is done
        if not draft.items and not ((known := self._form.held(message)) and known.mirror is self):
            raise NotRepresentableError(
                "An assistant's message says nothing, and no conversation takes an empty message: "
                "leave it out, or say something in it."
            )
        return draft

    def _declare(self, message: Any, draft: Draft) -> None:
        """Says, once of each, what only this process will find again."""
        if new := sorted(self._form.lost(message, draft) - self._told_lost):
            self._told_lost.update(new)
            logger.warning(
                "key %r: the conversation does not keep of messages: %s", self.key, ", ".join(new)
            )

    def _claimed(self, message: Any, draft: Draft) -> Held | None:
        """What a turn has stored that this message is, if it is; it is shown from now on.

        Unless the message says so itself, what the history goes on behind is not meant by it.
        """
        known = self._form.held(message)
        unclaimed = [each for each in self._held if each.claimable and not each.leaving]
        ends = trailing(self._held, lambda each: each.claimable) if not self._staged else 0
        at_end = self._held[len(self._held) - ends :]
        for each in sorted(unclaimed, key=lambda one: one is not known):
            if each is not known and each not in at_end:
                continue
            if each.is_claimed_by(draft.items):
                each.shown, each.claimable = True, False
                each.message, each.face = self._form.copied(message), self._form.face(message)
                return each
        return None

    def _written_now(self, patience: float | None) -> Held | None:
        """The last of what waits that no turn will take."""
        last = None
        for each in self._staged:
            if patience is None or not each.may_wait:
                last = each
        return last

    async def set(
        self,
        api: Api,
        added: Sequence[Any],
        arranged: Callable[[Sequence[Held]], tuple[Sequence[Any], Sequence[Any]]],
        *,
        patience: float | None,
    ) -> None:
        """Has the conversation hold some messages and no others; rewrites only what differs.

        Args:
            api: What is awaited.
            added: Those of them that were not read from here.
            arranged: Makes, of those that are there once nobody else changes them, the messages
                that are to be archived and those that are to be active; that is their order.
            patience: As in `put`.
        """
        checked = {id(one): self._storable(one) for one in added}
        await self.read(api)
        due = self.hub.clock() + (patience or 0)
        async with self._alone(api):
            await self._catch_up(api)
            with self._mutex:
                shown = self._shown
                archived, active = arranged(shown)
                messages = [*archived, *active]
                drafts = [checked.get(id(one)) or self._storable(one) for one in messages]
                same = 0
                for each, message in zip(shown, messages, strict=False):
                    if each.said != fingerprints(drafts[same].items):
                        break
                    each.message, each.face = (
                        self._form.copied(message),
                        self._form.face(message),
                    )
                    same += 1
                keep = shown[:same]
                gone = [each for each in self._held if each not in keep]
                dropped = [each for each in self._staged if each not in keep]
                self._staged = [each for each in self._staged if each in keep]
            await self._rows.withdraw(api, dropped)
            if gone:
                await self._delete(api, gone)
            rest: list[Held] = []
            for message, draft in zip(messages[same:], drafts[same:], strict=True):
                rest.append(self._again(message, draft, due, rest))
                self._declare(message, draft)
            with self._mutex:
                self._staged += rest
                for index, each in enumerate((*self._held, *self._staged)):
                    self._moved = self._moved or each.archived != (index < len(archived))
                    each.archived = index < len(archived)
                last = self._written_now(patience)
                some = [] if last is None else self._staged[: self._staged.index(last) + 1]
            try:
                await self._keep_waiting(api, rest if last is None else _behind(rest, last))
                if some:
                    await self._write(api, some)
            except BaseException:
                with self._mutex:
                    self._staged = [each for each in self._staged if each not in rest]
                await self._rows.withdraw(api, rest)
                raise
        self._use()

    def _again(self, message: Any, draft: Draft, due: float, others: Sequence[Held]) -> Held:
        """The message as one that waits; it stays what references to it mean."""
        known = self._form.held(message)
        fresh = self._new(message, draft, due)
        if known is None or known.mirror is not self or known.face != fresh.face:
            return fresh
        if any(known is each for each in (*self._held, *self._staged, *others)):
            return fresh
        known.message, known.stamp, known.ids, known.once = fresh.message, None, (), ""
        known.shown, known.listed, known.due, known.number = True, False, due, None
        known.ours = known.leaving = known.written = known.claimable = False
        return known

    async def remove(
        self, api: Api, chosen: Callable[[Sequence[Held]], Sequence[Held]]
    ) -> Sequence[Held]:
        """Deletes messages, wherever they are.

        Args:
            api: What is awaited.
            chosen: Which of those that are there, once nobody else changes them.

        Returns:
            What was deleted, in order.
        """
        await self.read(api)
        async with self._alone(api):
            with self._mutex:
                waits = chosen(self._shown)
            if not all(each in self._staged for each in waits):
                await self._catch_up(api)
            with self._mutex:
                some = chosen(self._shown)
                dropped = [each for each in self._staged if each in some]
                self._staged = [each for each in self._staged if each not in dropped]
                gone = [each for each in self._held if each in some]
            await self._rows.withdraw(api, dropped)
            if gone:
                await self._delete(api, gone)
        return some

    async def clear(self, api: Api) -> None:
        """Deletes every message. A session's conversation goes as well, and its key is unbound.

        Raises:
            QwenConvError: Something could not be deleted. What could is; clear it again.
        """
        if self._record.session is not None:
            (await self.erase(api)).check()
            return
        async with self._alone(api):
            await self._forget_all(api)
            with self._telling():
                await self._record.clear(api)

    async def erase(self, api: Api) -> Erased:
        """Deletes all that is known of the session or conversation; says what is left."""
        async with self._alone(api):
            await self._forget_all(api)
            return await self._record.erase(api)

    async def _forget_all(self, api: Api) -> None:
        """Forgets what is held, and what waits; what is left then is what the list tells."""
        with self._mutex:
            self._staged = []
        self.forget()
        await forget_waiting(api, self.key)

    async def exists(self, api: Api) -> bool:
        """Whether there is such a key."""
        return self.used_since is not None or await self._record.conversation_id(api) is not None

    def archive(self, some: Sequence[Held]) -> None:
        """Marks messages as archived; where the active ones begin is kept at the next `keep`."""
        with self._mutex:
            for each in some:
                each.archived = True
            self._moved = self._moved or bool(some)

    async def keep(self, api: Api) -> None:
        """Writes down in the conversation's metadata where the active messages begin."""
        if not self._moved or self._conversation_id is None:
            return
        async with self._alone(api):
            await self._catch_up(api)
            if not all(each.listed for each in self._held):
                await self._refresh(api)
            if self._conversation_id is None:
                return  # its session was forgotten
            with self._mutex:
                archived = [one for each in self._held if each.archived for one in each.ids]
                self._moved = False
            try:
                await self._record.set_archived(api, archived[-1] if archived else None)
            except BaseException:
                self._moved = True
                raise

    def forget(self) -> None:
        """Forgets what is held of the conversation; what waits still waits."""
        with self._mutex:
            self._held, self._read_at, self._conversation_id = [], None, None
            self._unsure, self._moved = None, False
            if not self._staged:
                self.used_since = None

    # --- Turns --------------------------------------------------------------------------------

    async def begin(
        self, api: Api, request: TurnRequest, messages: Sequence[Any], *, is_bound: bool
    ) -> tuple[Turn, Line | None]:
        """Begins a turn: in the conversation if the messages are proved to continue it.

        Args:
            api: What is awaited.
            request: The turn as it is taken on no conversation.
            messages: What the model is passed, without the system prompt; at least one.
            is_bound: See `qwen_conv.held.line`.

        Returns:
            The turn; and what of it is to be committed, if it is one of the conversation.
        """
        holder = await api.lock(self.name)
        try:
            found = await self._line(api, messages, is_bound=is_bound)
            if isinstance(found, Line):
                whole = self._list([*self._held, *found.sent])
                attached = request._replace(
                    local=whole,
                    span="tail",
                    on_divergence="raise",
                    session=self._record.session,
                    conversation_id=self._record.named,
                )
                try:
                    turn = await begin(api, attached)
                except DivergedError as diverged:
                    found = diverged.reason
                else:
                    turn.holders.insert(0, holder)
                    self._turn = holder
                    return turn, found
        except BaseException:
            holder.release()
            raise
        holder.release()
        turn = await begin(api, request)
        turn.why = f"it was not proved to continue the conversation: {found}"
        logger.info("turn stateless: key of %s why=%s", self._conversation_id, found)
        return turn, None

    async def _line(self, api: Api, messages: Sequence[Any], *, is_bound: bool) -> Line | str:
        await self._leave_lost(api, self._staged)
        await self._catch_up(api, for_turn=True)
        oldest = min((each.at for each in self._held), default=None)
        if self._read_at is None or (
            oldest is not None and self.hub.clock() >= oldest + ITEM_LIFETIME
        ):
            await self._refresh(api)
        with self._mutex:
            return line(
                messages, self._held, self._staged, self._form, self._new, is_bound=is_bound
            )

    async def commit(
        self, api: Api, found: Line, outcome: Outcome, message: Any, said: Sequence[Item]
    ) -> Held | None:
        """Notes that the service took a turn, and what it answered.

        Args:
            api: What is awaited.
            found: What `begin` returned.
            outcome: What the turn came to.
            message: The answer as a message.
            said: The answer's items, as a message of the framework holds them.

        Returns:
            What the answer is here: a reference to it is to travel with the message.
        """
        stamp = outcome.stamp
        if stamp is None:
            return None
        answer = self._new(message, Draft(tuple(said)))
        answer.stamp, answer.ids = stamp, stamp.item_ids
        # Whoever asked without a store's knowing need not tell it what was answered either.
        by_itself = any(not each.results for each in found.new)
        with self._mutex:
            for each in (*found.new, answer):
                each.shown, each.claimable = by_itself, True
            for each in (*found.sent, answer):
                each.at, each.ours = stamp.at, True
            self._conversation_id = stamp.conversation_id
            self._read_at = self._read_at or self.hub.clock()
            self._move([*found.sent, answer])
            known = self.hub.ledger.of(stamp.conversation_id)
            self.hub.ledger.note(stamp.conversation_id, known._replace(unclaimed=()))
        await self._rows.withdraw(api, found.sent)
        return answer


def _behind(some: Sequence[Held], last: Held) -> Sequence[Held]:
    """Those that stand behind that one; all of them if it is not among them."""
    return some[some.index(last) + 1 :] if last in some else some
