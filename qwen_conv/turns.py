"""A turn, from the caller's list of messages to an answer that is stored.

`begin` finds the conversation, takes its lock and decides what to send; the shell sends it, whole
or as a stream; `end` writes down what the service took. `take` is all three for a whole answer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from types import MappingProxyType, TracebackType
from typing import Literal, NamedTuple, Protocol, Self, get_args

from qwen_conv.api import Api
from qwen_conv.calls import CreateResponse, DeleteConversation, DeleteItem, RetrieveConversation
from qwen_conv.chains import NOWHERE, follow, sealed
from qwen_conv.decision import (
    Attach,
    Diverged,
    Doubt,
    LocalList,
    Look,
    OnDivergence,
    Seen,
    Span,
    decide,
    settle,
)
from qwen_conv.errors import (
    ConversationLockedError,
    ConversationNotFoundError,
    DivergedError,
    KeyRefusedError,
    NotFoundError,
    PermissionRefusedError,
    QwenConvError,
    RequestRefusedError,
    UsageError,
    blacken,
)
from qwen_conv.flows import create, read, remove
from qwen_conv.hub import QwenConversations
from qwen_conv.items import FunctionOutput, Item, Json, fingerprints
from qwen_conv.ledger import UNKNOWN
from qwen_conv.limits import checked_conversation_id, checked_session_id
from qwen_conv.locks import Holder
from qwen_conv.pairing import OnUnansweredCall, Pairing, is_mendable
from qwen_conv.registry import Row
from qwen_conv.responses import Response
from qwen_conv.seals import void_item
from qwen_conv.stamps import Stamp

logger = logging.getLogger("qwen_conv")

Decision = Literal["attached", "stateless", "chained", "rebased", "recovered"]

NOT_RUN = (
    UsageError,
    RequestRefusedError,
    NotFoundError,
    KeyRefusedError,
    PermissionRefusedError,
    ConversationLockedError,
)
"""After one of these the conversation is as it was."""


class Keeper(Protocol):
    """Who looks after the id of a conversation."""

    def begin(self, conversation_id: str) -> None:
        """Is told of a conversation that was created for a turn."""
        ...

    def move(self, conversation_id: str) -> None:
        """Is told that the turn was taken there, and all others are to go on there."""
        ...


class TurnRequest(NamedTuple):
    """What a turn is to do.

    Attributes:
        local: The caller's messages, oldest first, without the system prompt.
        model: The model's name.
        instructions: The system prompt.
        settings: Every other parameter, as it goes over the wire.
        stream: Whether the answer comes as events.
        conversation_id: The conversation to go on with.
        session: The key of the session to go on with.
        previous_response_id: The response to follow, which the caller looks after.
        on_divergence: What to do if the list is not what the conversation holds, followed by new
            messages: begin a new conversation ("rebase": only with a session, whose key is then
            bound to it), refuse ("raise"), send what stands behind the last answer ("ignore"), or
            send the whole list on no conversation ("stateless"). `None`: "rebase" with a session,
            "raise" with a bare id.
        span: What the list is at the least.
        looks: Whether the conversation is looked at although this process knows how it ends: others
            may have gone on with it since.
        metadata: That of a conversation that the turn begins.
        keeper: Who looks after the id of the conversation, where it was passed by its id: without
            one, "rebase" is not possible.
        chains: Whether the turn follows the response of the last one; see `qwen_conv.chains`.
        as_held: What an answer's items still say once they are a message of the framework.
        on_unanswered_call: Tell a call without a result, which bars the next turn, that it was not
            executed ("answer"), or raise `UnansweredCallError`.
    """

    local: LocalList
    model: str
    instructions: str | None = None
    settings: Json = MappingProxyType({})
    stream: bool = False
    conversation_id: str | None = None
    session: str | None = None
    previous_response_id: str | None = None
    on_divergence: OnDivergence | None = None
    as_held: Callable[[Sequence[Item]], Sequence[Item]] = tuple
    on_unanswered_call: OnUnansweredCall = "answer"
    span: Span = "new"
    looks: bool = False
    metadata: Mapping[str, str] = MappingProxyType({})
    keeper: Keeper | None = None
    chains: bool = False

    def check(self) -> None:
        """Raises `UsageError` unless the turn can be begun at all."""
        if self.on_divergence not in {None, *get_args(OnDivergence)}:
            raise UsageError(
                f"on_divergence is {self.on_divergence!r}; it is 'rebase', 'raise', 'ignore' "
                "or 'stateless'."
            )
        ways = [self.conversation_id, self.session, self.previous_response_id]
        if sum(way is not None for way in ways) + self.chains > 1:
            raise UsageError(
                "A turn follows one thing: pass one of conversation_id, session_id and "
                "previous_response_id, and none where responses follow each other."
            )
        if self.on_unanswered_call not in get_args(OnUnansweredCall):
            raise UsageError(
                f"on_unanswered_call is {self.on_unanswered_call!r}; it is 'answer' or 'raise'."
            )
        if self.conversation_id is not None:
            checked_conversation_id(self.conversation_id)
            if self.on_divergence == "rebase" and self.keeper is None:
                raise UsageError(
                    "on_divergence='rebase' binds the key of a session to a new conversation, and "
                    "a bare conversation_id has none: pass a session_id, or another on_divergence."
                )
        if self.session is not None:
            checked_session_id(self.session)
        if not len(self.local):
            raise UsageError(
                "There is nothing to send: pass at least one message that is no system prompt."
            )


@dataclass(slots=True)
class Turn:
    """A turn that was begun: what to send, and the locks that are held until it has ended.

    It is the context of the sending: if that does not reach its end, and the service did not
    refuse it either, the ledger keeps the doubt.
    """

    hub: QwenConversations
    request: TurnRequest
    decision: Decision
    why: str
    plan: Attach
    conversation_id: str | None = None
    rebind: Row | None = None
    holders: list[Holder] = field(default_factory=list)
    pairing: Pairing = field(default_factory=Pairing)
    refusal: RequestRefusedError | NotFoundError | None = None
    begun: bool = False
    in_flight: bool = False
    ended: bool = False

    @property
    def items(self) -> tuple[Item, ...]:
        """What the turn sends of the caller's messages."""
        return tuple(chain.from_iterable(entry.items for entry in self.plan.send))

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Sends the call inside, once; a refusal that may be mended is kept for `unsent`.

        Who has passed a part of the answer on sets `begun`: it was no refusal then.
        """
        self.in_flight = True
        try:
            yield
        except (RequestRefusedError, NotFoundError) as error:
            if self.begun:
                raise
            self.in_flight = False
            mends = is_mendable if isinstance(error, RequestRefusedError) else self.may_begin_anew
            if not mends(error):
                raise
            self.refusal = error

    def may_begin_anew(self, error: QwenConvError) -> bool:
        """Whether the turn is to begin anew because what it was to go on with is gone."""
        request = self.request
        if isinstance(error, NotFoundError) and request.previous_response_id is not None:
            return request.chains
        return (
            isinstance(error, ConversationNotFoundError)
            and request.keeper is not None
            and request.on_divergence == "rebase"
            and self.decision != "rebased"
        )

    @property
    def call(self) -> CreateResponse:
        """What to send.

        Raises:
            UsageError: It is nothing.
        """
        request = self.request
        return CreateResponse(
            request.model,
            self.pairing.input(self.items),
            conversation_id=self.conversation_id,
            previous_response_id=request.previous_response_id,
            instructions=request.instructions,
            store=False if self.decision == "stateless" else None,
            settings=request.settings,
            stream=request.stream,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            blacken(error, self.hub.secret)
        refused = isinstance(error, NOT_RUN) and not self.begun
        if self.conversation_id and self.in_flight and not self.ended and not refused:
            self._doubt(self.conversation_id)
        self.release(error)

    def _doubt(self, conversation_id: str) -> None:
        known = self.hub.ledger.of(conversation_id)
        asked = tuple(chain.from_iterable(entry.said for entry in self.plan.send))
        sent = fingerprints(self.pairing.input(self.items))
        last = "" if known.empty else known.head[-1] if len(known.head) > 1 else None
        doubt = Doubt(sent, last, asked)
        self.hub.ledger.note(conversation_id, known._replace(empty=False, doubt=doubt))

    def release(self, error: BaseException | None) -> None:
        """Releases the locks; tells what to do about a conversation that is gone."""
        for holder in reversed(self.holders):
            holder.release()
        if isinstance(error, ConversationNotFoundError) and self.conversation_id:
            self.hub.ledger.note(self.conversation_id, UNKNOWN)
            tell_way_out(error, self.request.session)


def tell_way_out(error: ConversationNotFoundError, session: str | None) -> None:
    """Has the error say how a session that is bound to the conversation gets away from it."""
    if session is not None:
        way_out = "hub.forget_session(key) lets its next turn begin a new conversation."
        error.args = (f"{error} The session {session!r} is bound to it: {way_out}",)


class Outcome(NamedTuple):
    """What a turn came to.

    Attributes:
        response: The answer.
        model: The model that was asked.
        decision: "attached", "rebased", "stateless", "chained" (to an earlier response), or
            "recovered" (a chain whose responses are not there any more, begun anew).
        why: What was decided by, in words, without content.
        stamp: Where the answer is stored; `None` if it is in no conversation, and no chain.
    """

    response: Response
    model: str
    decision: Decision
    why: str
    stamp: Stamp | None


async def take(api: Api, request: TurnRequest) -> Outcome:
    """Takes a turn whose answer comes whole.

    Raises:
        UsageError: There is nothing new to send, or something cannot be sent.
        DivergedError: The list is not what the conversation holds, and nothing else was asked for.
        ServiceError: The service refused.
        NoReplyError: Nothing came back.
    """
    with await begin(api, request) as turn:
        while await unsent(api, turn):
            with turn.attempt():
                response = await api.send(turn.call)
        return await end(api, turn, response, response.output)


async def begin(api: Api, request: TurnRequest) -> Turn:
    """Finds the conversation, takes its lock, and decides what to send; see `take`."""
    request.check()
    hub = api.hub
    if request.chains:
        turn = _chained(hub, request)
        _pair(turn)
        return turn
    if request.conversation_id is None and request.session is None:
        chained = request.previous_response_id is not None
        plan = Attach(request.local.entries(), "nothing selects a conversation")
        why = "it follows the response that was passed" if chained else plan.why
        turn = Turn(hub, request, "chained" if chained else "stateless", why, plan)
        _pair(turn)
        return turn
    turn = Turn(hub, request, "attached", "", Attach((), ""), request.conversation_id)
    try:
        await _plan(api, turn)
        _pair(turn)
    except BaseException as error:
        turn.release(error)
        raise
    logger.info(
        "turn %s: conversation=%s messages=%d sent=%d why=%s",
        turn.decision,
        turn.conversation_id,
        len(request.local),
        len(turn.plan.send),
        turn.why,
    )
    return turn


def _chained(hub: QwenConversations, request: TurnRequest) -> Turn:
    """A turn that follows the response of the last one, as far as the list says the same."""
    found = follow(
        request.local,
        base_url=hub.base_url,
        secret=hub.secret,
        now=hub.clock(),
        checks=request.on_divergence != "ignore",
    )
    send, response_id = found.send, found.response_id
    decision: Decision = "chained"
    why = "it follows the last answer" if response_id else "there is no answer to follow"
    if found.changed:
        why = f"it follows an earlier answer: {found.changed}" if response_id else found.changed
        match request.on_divergence:
            case "raise":
                raise DivergedError("the chain of its answers", found.changed)
            case "stateless":
                decision, send, response_id = "stateless", request.local.entries(), None
            case _ if response_id is None:
                decision = "recovered" if found.expired else "rebased"
    if not send:
        raise UsageError(
            "There is nothing new to send: the list ends with the answer that is followed. Add a "
            "message."
        )
    plan = Attach(send, why, after=response_id or "", since=hub.clock())
    return Turn(hub, request._replace(previous_response_id=response_id), decision, why, plan)


def _pair(turn: Turn) -> None:
    """Has calls and results go as the service has wanted it before."""
    in_conversation = turn.conversation_id is not None
    turn.pairing.paired, turn.pairing.kept = turn.hub.ledger.pairing(
        turn.hub.base_url, in_conversation=in_conversation
    )
    has_results = any(isinstance(item, FunctionOutput) for item in turn.items)
    if not turn.pairing.kept or (turn.pairing.paired and has_results):
        turn.pairing.learn_earlier(_stored(turn))


async def unsent(api: Api, turn: Turn) -> bool:
    """Whether the turn has to be sent, or sent again; what was refused is mended first.

    ```python
    while await unsent(api, turn):
        with turn.attempt():
            ...  # send turn.call
    ```

    Raises:
        RequestRefusedError: The service refused, and that cannot be mended.
    """
    refusal, turn.refusal = turn.refusal, None
    if isinstance(refusal, ConversationNotFoundError):
        await _begin_anew(api, turn, refusal)
    elif isinstance(refusal, NotFoundError):
        _recover(turn)
    elif refusal is not None:
        await _mend(api, turn, refusal)
    return not turn.in_flight


async def _mend(api: Api, turn: Turn, refusal: RequestRefusedError) -> None:
    """Has a turn's calls and results go otherwise than they were refused."""
    held: Sequence[Item] | None = None
    turn.pairing.learn_earlier(_stored(turn))
    if turn.conversation_id is not None and turn.pairing.lacks(refusal, turn.items):
        try:
            held = await read(api, turn.conversation_id)
        except QwenConvError as error:
            if turn.may_begin_anew(error):
                await _begin_anew(api, turn, error)
                return
            raise refusal from error
    turn.pairing.mend(refusal, turn.items, held, turn.request.on_unanswered_call)


def _recover(turn: Turn) -> None:
    """Has a turn send the whole list, because the response that it was to follow is not there."""
    turn.request = turn.request._replace(previous_response_id=None)
    turn.decision, turn.why = "recovered", "the response that it follows is not there any more"
    turn.plan = Attach(turn.request.local.entries(), turn.why, after="", since=turn.hub.clock())
    _pair(turn)


def _stored(turn: Turn) -> Iterator[Item]:
    """What stands in the caller's list before what is sent."""
    entries = turn.request.local.entries()
    return chain.from_iterable(entry.items for entry in entries[: -len(turn.plan.send)])


async def end(api: Api, turn: Turn, response: Response, received: Sequence[Item]) -> Outcome:
    """Writes down what the service took.

    Args:
        api: The api that the turn was begun with.
        turn: The turn.
        response: The answer, which the service has stored by now.
        received: The answer's items as the caller was given them.
    """
    request, hub = turn.request, api.hub
    if turn.pairing.is_lesson(turn.items):
        hub.ledger.note_pairing(
            hub.base_url,
            in_conversation=turn.conversation_id is not None,
            paired=turn.pairing.paired,
            kept=turn.pairing.kept,
        )
    if turn.pairing.unanswered:
        turn.why += f"; tool calls that were given no result: {len(turn.pairing.unanswered)}"
    if turn.conversation_id is None and (turn.decision == "stateless" or not request.chains):
        return Outcome(response, request.model, turn.decision, turn.why, None)
    stamp, known = settle(
        request.local,
        turn.plan,
        base_url=hub.base_url,
        conversation_id=turn.conversation_id or NOWHERE,
        response_id=response.id,
        item_ids=tuple(item.id for item in response.output if item.id),
        received=request.as_held(received),
        now=int(hub.clock()),
        whole=request.span == "whole",
    )
    if turn.conversation_id is None:
        stamp = sealed(stamp, hub.secret)
        return Outcome(response, request.model, turn.decision, turn.why, stamp)
    hub.ledger.note(turn.conversation_id, known)
    if turn.rebind is not None:
        await api.ask(hub.registry.rebind, turn.rebind, turn.conversation_id)
    if turn.decision == "rebased" and request.keeper is not None:
        request.keeper.move(turn.conversation_id)
    turn.ended = True
    return Outcome(response, request.model, turn.decision, turn.why, stamp)


async def _plan(api: Api, turn: Turn) -> None:
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
        await _begin_anew(api, turn, error)
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
    is_strange = items is None or (behind is not None and items and not left)
    if is_strange or any(entry.stamp and ids.intersection(entry.stamp.ids) for entry in entries):
        api.hub.ledger.forget_end(conversation_id)  # the list is compared with what is there
        return
    await remove(api, conversation_id, reversed(left))
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


async def _begin_anew(api: Api, turn: Turn, error: QwenConvError) -> None:
    """Has a turn begin a new conversation, because the one that it was for is not there.

    Raises:
        QwenConvError: It is there: something else was not found. That is the error that was passed.
    """
    assert turn.conversation_id is not None  # noqa: S101 - it was looked for
    try:
        await api.send(RetrieveConversation(turn.conversation_id))
    except ConversationNotFoundError:
        api.hub.ledger.note(turn.conversation_id, UNKNOWN)
    else:
        raise error
    await _part(api, turn, Diverged("the conversation is not there any more", ()), None)
    _pair(turn)


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
