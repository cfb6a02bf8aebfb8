"""One turn: what it is to do, what it is while it is open, and what it came to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from types import MappingProxyType, TracebackType
from typing import Literal, NamedTuple, Protocol, Self, get_args

from qwen_conv.calls import CreateResponse
from qwen_conv.decision import Attach, OnDivergence, Span
from qwen_conv.doubt import Doubt, forms_of
from qwen_conv.errors import (
    ConversationNotFoundError,
    KeyRefusedError,
    NoReplyError,
    NotFoundError,
    PermissionRefusedError,
    QwenConvError,
    RequestRefusedError,
    ServiceError,
    UsageError,
    blacken,
)
from qwen_conv.hub import QwenConversations
from qwen_conv.items import Item, Json, Message, to_wire
from qwen_conv.ledger import UNKNOWN
from qwen_conv.limits import checked_conversation_id, checked_session_id
from qwen_conv.local import LocalList, said_by
from qwen_conv.locks import Holder
from qwen_conv.looking import has_failed, lateness
from qwen_conv.pairing import OnUnansweredCall, Pairing, is_mendable
from qwen_conv.responses import Delta, Reading, Response
from qwen_conv.retries import PASSING
from qwen_conv.stamps import Stamp

Decision = Literal["attached", "stateless", "chained", "rebased", "recovered"]

NOT_RUN = (
    UsageError,
    RequestRefusedError,
    NotFoundError,
    KeyRefusedError,
    PermissionRefusedError,
    *PASSING,
)
"""After one of these the conversation is as it was, unless a stream had begun."""


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
        is_reread: Whether the list is read from the conversation anew for each turn, so that what a
            turn left stands in it before the caller asks the same again.
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
    is_reread: bool = False
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

    It is the context of the sending: if that does not reach its end, and the service may have begun
    with it, the ledger keeps the doubt.

    Attributes:
        reading: Receives the events of an answer.
        response: The answer, once it is known.
        failure: Why the last attempt failed.
        lost: A turn of before that was in doubt, and is not in the conversation; not yet, if it
            runs still.
        tries: How often the turn was sent.
        begun: Whether a part of the answer was passed on.
        in_flight: Whether the turn may be in its conversation.
        is_last: Whether the conversation ends with the turn, as far as is known.
    """

    hub: QwenConversations
    request: TurnRequest
    decision: Decision
    why: str
    plan: Attach
    conversation_id: str | None = None
    holders: list[Holder] = field(default_factory=list)
    pairing: Pairing = field(default_factory=Pairing)
    reading: Reading = field(default_factory=Reading)
    response: Response | None = None
    failure: QwenConvError | None = None
    lost: Doubt | None = None
    tries: int = 0
    begun: bool = False
    in_flight: bool = False
    is_last: bool = True
    ended: bool = False
    _since: float = field(default_factory=time.monotonic)

    @property
    def items(self) -> tuple[Item, ...]:
        """What the turn sends of the caller's messages."""
        return tuple(chain.from_iterable(entry.items for entry in self.plan.send))

    @property
    def waited(self) -> float:
        """Seconds since the turn began."""
        return time.monotonic() - self._since

    @contextmanager
    def attempt(self) -> Iterator[CreateResponse]:
        """The call is sent inside, once; a failure that may not be the end is kept for `unsent`."""
        call = self.call
        for holder in self.holders:
            holder.check()
        self.in_flight, self.tries = True, self.tries + 1
        if call.stream:
            self.reading = Reading(call)
        try:
            yield call
            self.response = self.response or self.reading.response
        except QwenConvError as error:
            if isinstance(error, NoReplyError | ServiceError):
                error.received, error.response_id = self.reading.text, self.reading.response_id
            self.in_flight = not self._is_not_run(error)
            if not self._survives(error):
                raise
            self.failure = error

    def feed(self, event: object) -> tuple[Delta, ...]:
        """What is new in an event of the answer; see `Reading.feed`."""
        news = self.reading.feed(event)
        if news:
            self.begun = True
        return news

    @property
    def received(self) -> Sequence[Item]:
        """The answer's items as the caller was given them."""
        assert self.response is not None  # noqa: S101 - the turn has come to its end
        return self.reading.received if self.request.stream else self.response.output

    @property
    def continues(self) -> bool:
        """Whether the answer that was found begins with what was passed on of it."""
        assert self.response is not None  # noqa: S101 - it was found
        text = "".join(one.text for one in self.response.output if isinstance(one, Message))
        return text.startswith(self.reading.text)

    def rest(self) -> tuple[Delta, ...]:
        """What was found of the answer, and not passed on before."""
        assert self.response is not None  # noqa: S101 - the turn has come to its end
        if self.reading.is_whole:
            return ()
        output = [*map(to_wire, self.response.output)]
        wire = {**self.response.wire, "output": output, "id": self.response.id}
        return self.reading.feed({"type": "response.completed", "response": wire})

    def _is_not_run(self, error: QwenConvError) -> bool:
        """Whether the service has certainly not begun with the turn."""
        if self.begun or not isinstance(error, NOT_RUN):
            return False
        # Some services tell only on the way what they refuse: "<429>" within an HTTP 200.
        return self.reading.response_id is None or self._mends(error)

    def _survives(self, error: QwenConvError) -> bool:
        """Whether the failure need not be the turn's."""
        if self.in_flight:
            is_refused = isinstance(error, NOT_RUN) and not isinstance(error, PASSING)
            return self.conversation_id is not None and not is_refused
        if isinstance(error, PASSING):
            return not self.call.repeatable  # the SDK has tried the others again by now
        return self._mends(error)

    def _mends(self, error: QwenConvError) -> bool:
        """Whether the turn is to go otherwise than it was refused."""
        mends = is_mendable if isinstance(error, RequestRefusedError) else self.may_begin_anew
        return mends(error)

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
        if self.conversation_id and not self.ended:
            self._leave(self.conversation_id, error)
        self.release(error)

    def _leave(self, conversation_id: str, error: BaseException | None) -> None:
        doubt = self.hub.ledger.of(conversation_id).doubt
        if doubt is None and self.in_flight:
            self.note_doubt(error)
        elif doubt is not None and _is_left(error):
            self.hub.ledger.note_doubt(conversation_id, doubt._replace(is_missed=False))

    def note_doubt(self, failure: BaseException | None) -> Doubt:
        """Has the ledger remember that it is not known what became of the turn.

        Args:
            failure: What it ended with, if with anything.
        """
        assert self.conversation_id is not None  # noqa: S101 - only there it matters
        known = self.hub.ledger.of(self.conversation_id).certain
        end = "" if known.empty else self.hub.ledger.end(self.conversation_id)
        before = said_by(self.request.local.entries()[: -len(self.plan.send)])
        doubt = Doubt(
            forms_of(self.pairing.input(self.items)),
            said_by(self.plan.send),
            end if self.plan.end is None else self.plan.end,
            before or known.unclaimed,
            self.reading.response_id,
            self.hub.clock() + lateness(failure, self.hub.settle_timeout),
            has_failed=has_failed(failure),
            is_missed=not _is_left(failure),
        )
        self.hub.ledger.note_doubt(self.conversation_id, doubt)
        return doubt

    def forget_doubt(self) -> None:
        """Notes that nothing of the turn is in its conversation."""
        assert self.conversation_id is not None  # noqa: S101 - only there it matters
        self.in_flight = False
        self.hub.ledger.settle(self.conversation_id)

    def release(self, error: BaseException | None) -> None:
        """Releases the locks; tells what to do about a conversation that is gone."""
        for holder in reversed(self.holders):
            holder.release()
        if isinstance(error, ConversationNotFoundError) and self.conversation_id:
            self.hub.ledger.note(self.conversation_id, UNKNOWN)
            tell_way_out(error, self.request.session)


def _is_left(error: BaseException | None) -> bool:
    """Whether the caller does not want the answer any more."""
    return isinstance(error, GeneratorExit | None)


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
