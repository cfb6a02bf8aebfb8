"""What a turn sends: its conversation is found, read as far as is needed, or parted from."""

from __future__ import annotations

from collections.abc import Collection

from qwen_conv.api import Api
from qwen_conv.calls import DeleteConversation, DeleteItem
from qwen_conv.decision import Attach, Diverged, Look, Seen, decide
from qwen_conv.errors import (
    ConversationLockedError,
    ConversationNotFoundError,
    DivergedError,
    UsageError,
)
from qwen_conv.flows import create, remove
from qwen_conv.ledger import UNKNOWN
from qwen_conv.local import LocalList, said_by
from qwen_conv.registry import Row
from qwen_conv.seals import void_item
from qwen_conv.settling import answer, behind, checked, look_for, pause_after
from qwen_conv.turn import Turn, TurnRequest


async def make_plan(api: Api, turn: Turn) -> None:
    """Finds out the turn's conversation, and what to send to it."""
    request, row = turn.request, None
    if request.session is not None:
        turn.holders.append(await api.lock(str(api.hub.session(request.session))))
        row = await _bound(api, turn, request.session)
    conversation_id = turn.conversation_id
    assert conversation_id is not None  # noqa: S101 - a conversation or a session is given
    if row is None:
        turn.holders.append(await api.lock(conversation_id))
    try:
        verdict = await _verdict(api, turn, conversation_id)
    except ConversationNotFoundError as error:
        if not turn.may_begin_anew(error):
            raise
        await begin_anew(api, turn)
        return
    if turn.response is not None:
        return
    if isinstance(verdict, Attach):
        turn.plan, turn.why = verdict, verdict.why
    else:
        await _part(api, turn, verdict, row)
    if turn.plan.take_back:
        _ = turn.call  # nothing is taken back for a turn that could not be sent
        api.hub.ledger.forget_end(conversation_id)
        stamp = turn.plan.send[0].stamp
        if stamp is not None and stamp.encoded:
            await void_item(api, conversation_id, turn.plan.take_back)
        await api.send(DeleteItem(conversation_id, turn.plan.take_back))
        api.hub.ledger.note_deletion(conversation_id)


async def _verdict(api: Api, turn: Turn, conversation_id: str) -> Attach | Diverged:
    settled = await _settled(api, turn, conversation_id)
    if settled is not None:
        return settled
    if turn.request.looks:
        api.hub.ledger.forget_end(conversation_id)
    return await _decided(api, turn.request, conversation_id)


async def _bound(api: Api, turn: Turn, key: str) -> Row:
    """Enters the conversation that the session is bound to, once nobody else is there any more.

    Who was there before may have bound the session to another one.
    """
    while True:
        row = await _row(api, key, turn.request.local)
        turn.conversation_id = row.conversation_id
        turn.holders.append(holder := await api.lock(row.conversation_id))
        if not holder.taken_over or await _row(api, key, turn.request.local) == row:
            return row
        turn.holders.pop().release()


async def _row(api: Api, key: str, local: LocalList) -> Row:
    """The session's row; its conversation is created if it has none yet."""
    registry, session = api.hub.registry, api.hub.session(key)
    row = await api.ask(registry.get, session)
    if row is not None:
        return row
    local.entries()  # what cannot be sent is refused before anything is created
    conversation = await create(api)
    row = await api.ask(registry.bind, session, conversation.id)
    if row.conversation_id != conversation.id:  # another process was first
        await api.send(DeleteConversation(conversation.id))
    return row


async def _settled(api: Api, turn: Turn, conversation_id: str) -> Attach | None:
    """Looks what a turn in doubt left in the conversation; decides, if that says what to do.

    If the turn is the same one again, it is given the answer that is found: also if the list is
    read from the conversation each time, shows what the turn left, and asks the same behind that.
    If the list goes on without it, what it left is taken back. What the list has taken up otherwise
    stays, and so does what stands before nothing but new messages.
    """
    hub, request = api.hub, turn.request
    doubt = hub.ledger.of(conversation_id).doubt
    if doubt is None:
        return None
    seconds = doubt.until - hub.clock()
    left = (found := await look_for(api, conversation_id, doubt, seconds=seconds)).left
    if left is None:
        turn.lost = doubt
        hub.ledger.settle(conversation_id)
        return None
    entries = request.local.entries()
    ids = frozenset(item.id for item in left.items if item.id)
    shown = [n for n, one in enumerate(entries) if one.stamp and ids.intersection(one.stamp.ids)]
    again = (
        request.is_reread
        and doubt.is_missed
        and shown
        and said_by(entries[shown[-1] + 1 :]) == doubt.asked
    )
    without: Attach | Diverged | None = None
    if again:
        request = request._replace(local=request.local.without(shown))
    if again or not shown:
        without = await _decided(api, request, conversation_id, hidden=ids)
    if isinstance(without, Diverged) and without.new and request.on_divergence == "ignore":
        without = Attach(without.new, without.why, since=hub.clock())
    if isinstance(without, Attach):
        if said_by(without.send) == doubt.asked:
            turn.request, turn.plan, turn.why = request, without, without.why
            if found.state == "answered":
                turn.response, turn.is_last = found.answer, left.alone
                turn.why = "it was sent before, and its answer was found in the conversation"
            else:
                await answer(api, turn, left)
            if turn.response or left.alone:
                return without
        elif not shown and (request.span != "new" or any(one.is_answer for one in entries)):
            await remove(api, conversation_id, reversed(left.items))
            if left.alone:
                hub.ledger.settle(conversation_id)
                return without
    hub.ledger.settle(conversation_id)
    hub.ledger.forget_end(conversation_id)
    return None


async def _decided(
    api: Api, request: TurnRequest, conversation_id: str, hidden: Collection[str] = ()
) -> Attach | Diverged:
    """Asks for the decision, and reads what it has to be told, until it is made.

    Items that are `hidden` count as if they were not there.
    """
    hub = api.hub
    seen: Seen | None = None
    while True:
        verdict = decide(
            request.local,
            hub.ledger.of(conversation_id).certain,
            seen,
            base_url=hub.base_url,
            conversation_id=conversation_id,
            now=hub.clock(),
            span=request.span,
        )
        if not isinstance(verdict, Look):
            return verdict
        if verdict.at == "conversation":
            await checked(api, conversation_id)
        else:
            seen = await _seen(api, conversation_id, verdict, hidden)


async def _seen(api: Api, conversation_id: str, look: Look, hidden: Collection[str]) -> Seen:
    """Reads what the decision has to be told."""
    items = await behind(api, conversation_id, look.item_id)
    if items or (items is not None and look.item_id is not None):
        known = api.hub.ledger.of(conversation_id)
        api.hub.ledger.note(conversation_id, known._replace(exists=True))
    if items is not None:
        items = tuple(item for item in items if item.id not in hidden)
    return Seen(look, items)


async def outlast(api: Api, turn: Turn, failure: ConversationLockedError) -> None:
    """Waits for what holds the conversation, and looks again what a lost turn left: it may be that.

    Raises:
        ConversationLockedError: The failure: the turn is not to be sent again.
    """
    assert turn.conversation_id is not None  # noqa: S101 - it was lost in a conversation
    assert turn.lost is not None  # noqa: S101 - else there is nothing to look for
    api.hub.ledger.note_doubt(turn.conversation_id, turn.lost)
    await pause_after(api, turn, failure)
    plan = await _settled(api, turn, turn.conversation_id)
    if plan is not None:
        turn.plan = plan


async def begin_anew(api: Api, turn: Turn) -> None:
    """Has a turn begin a new conversation, because the one that it was for is not there."""
    assert turn.conversation_id is not None  # noqa: S101 - it was looked for
    api.hub.ledger.note(turn.conversation_id, UNKNOWN)
    await _part(api, turn, Diverged("the conversation is not there any more", ()), None)


async def _part(api: Api, turn: Turn, verdict: Diverged, row: Row | None) -> None:
    """Does what was asked for if the list is not what the conversation holds."""
    request = turn.request
    match request.on_divergence or ("raise" if row is None else "rebase"):
        case "ignore":
            if not verdict.new:
                raise UsageError("There is nothing new to send: the list ends with an answer.")
            turn.plan = Attach(verdict.new, verdict.why, since=api.hub.clock())
            turn.why = f"asked to ignore that {verdict.why}"
        case "rebase":
            turn.conversation_id = (await create(api, metadata=request.metadata)).id
            if request.keeper is not None:
                request.keeper.begin(turn.conversation_id)
            turn.holders.append(await api.lock(turn.conversation_id))
            if row is not None:  # at once: what becomes of the turn may come to be known later
                await api.ask(api.hub.registry.rebind, row, turn.conversation_id)
            entries = request.local.entries()
            turn.plan = Attach(entries, verdict.why, after="", since=api.hub.clock())
            turn.decision, turn.why = "rebased", verdict.why
        case "stateless":
            turn.release(None)
            turn.holders.clear()
            turn.plan = Attach(request.local.entries(), verdict.why)
            turn.decision, turn.why, turn.conversation_id = "stateless", verdict.why, None
        case _:
            assert turn.conversation_id is not None  # noqa: S101 - there is one to part from
            raise DivergedError(turn.conversation_id, verdict.why)
