"""What a turn sends: its conversation is found, read as far as is needed, or parted from."""

from __future__ import annotations

from qwen_conv.api import Api
from qwen_conv.calls import DeleteConversation, DeleteItem, RetrieveConversation
from qwen_conv.decision import Attach, Diverged, Look, Seen, decide
from qwen_conv.errors import (
    ConversationNotFoundError,
    DivergedError,
    NotFoundError,
    RequestRefusedError,
    UsageError,
)
from qwen_conv.flows import create, read, remove
from qwen_conv.items import Item
from qwen_conv.ledger import UNKNOWN
from qwen_conv.local import LocalList
from qwen_conv.registry import Row
from qwen_conv.seals import void_item
from qwen_conv.turn import Turn, TurnRequest


async def make_plan(api: Api, turn: Turn) -> None:
    """Finds out the turn's conversation, and what to send to it."""
    request, row = turn.request, None
    if request.session is not None:
        turn.holders.append(await api.lock(str(api.hub.session(request.session))))
        row = await _row(api, request.session, request.local)
        turn.conversation_id = row.conversation_id
    conversation_id = turn.conversation_id
    assert conversation_id is not None  # noqa: S101 - a conversation or a session is given
    turn.holders.append(await api.lock(conversation_id))
    try:
        await settle_doubt(api, request.local, conversation_id)
        if request.looks:
            api.hub.ledger.forget_end(conversation_id)
        verdict = await _decided(api, request, conversation_id)
    except ConversationNotFoundError as error:
        if not turn.may_begin_anew(error):
            raise
        await begin_anew(api, turn)
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


async def settle_doubt(api: Api, local: LocalList, conversation_id: str) -> None:
    """Looks what a turn in doubt left in the conversation, and takes it back.

    What the list has taken up by now, because it was read from the conversation, stays.
    """
    known = api.hub.ledger.of(conversation_id)
    if known.doubt is None or not known.doubt.concerns(entries := local.entries()):
        return
    behind = known.doubt.behind or None
    items = await _behind(api, conversation_id, behind)
    left = () if items is None else known.doubt.left(items)
    ids = {item.id for item in left}
    if any(entry.stamp and ids.intersection(entry.stamp.ids) for entry in entries):
        left = ()
    await remove(api, conversation_id, reversed(left))
    if items is None or (behind is not None and len(left) < len(items)) or (ids and not left):
        api.hub.ledger.forget_end(conversation_id)  # the list is compared with what is there
    else:
        api.hub.ledger.note(conversation_id, known._replace(doubt=None))


async def _decided(api: Api, request: TurnRequest, conversation_id: str) -> Attach | Diverged:
    """Asks for the decision, and reads what it has to be told, until it is made."""
    hub = api.hub
    seen: Seen | None = None
    while True:
        verdict = decide(
            request.local,
            hub.ledger.of(conversation_id),
            seen,
            base_url=hub.base_url,
            conversation_id=conversation_id,
            now=hub.clock(),
            span=request.span,
        )
        if not isinstance(verdict, Look):
            return verdict
        if verdict.at == "conversation":
            await _checked(api, conversation_id)
        else:
            seen = await _seen(api, conversation_id, verdict)


async def _checked(api: Api, conversation_id: str) -> None:
    """Makes sure that a conversation is there: some services ignore an unknown id silently."""
    await api.send(RetrieveConversation(conversation_id))
    known = api.hub.ledger.of(conversation_id)
    api.hub.ledger.note(conversation_id, known._replace(exists=True))


async def _seen(api: Api, conversation_id: str, look: Look) -> Seen:
    """Reads what the decision has to be told."""
    items = await _behind(api, conversation_id, look.item_id)
    if items or (items is not None and look.item_id is not None):
        known = api.hub.ledger.of(conversation_id)
        api.hub.ledger.note(conversation_id, known._replace(exists=True))
    return Seen(look, items)


async def _behind(api: Api, conversation_id: str, item_id: str | None) -> tuple[Item, ...] | None:
    """The items behind one, or all of them; `None` if the service does not begin there."""
    try:
        items = await read(api, conversation_id, after=item_id)
    except (NotFoundError, RequestRefusedError):
        # Either the conversation is gone, or the item to read behind is.
        await _checked(api, conversation_id)
        if item_id is None:
            raise
        return None
    if item_id is not None and any(item.id == item_id for item in items):
        return None  # the server took no notice of where to begin
    return items


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
            entries = request.local.entries()
            turn.plan = Attach(entries, verdict.why, after="", since=api.hub.clock())
            turn.decision, turn.why, turn.rebind = "rebased", verdict.why, row
        case "stateless":
            turn.release(None)
            turn.holders.clear()
            turn.plan = Attach(request.local.entries(), verdict.why)
            turn.decision, turn.why, turn.conversation_id = "stateless", verdict.why, None
        case _:
            assert turn.conversation_id is not None  # noqa: S101 - there is one to part from
            raise DivergedError(turn.conversation_id, verdict.why)
