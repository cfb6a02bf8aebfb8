"""A turn, from the caller's list of messages to an answer that is stored.

`begin` finds the conversation, takes its lock and decides what to send; the shell sends it, whole
or as a stream; `end` writes down what the service took. `take` is all three for a whole answer.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from contextlib import aclosing, closing
from itertools import chain

from qwen_conv.api import Api, AsyncApi, SyncApi, finish
from qwen_conv.calls import RetrieveConversation
from qwen_conv.chains import NOWHERE, follow, sealed
from qwen_conv.decision import Attach, settle
from qwen_conv.erasing import note_response
from qwen_conv.errors import (
    ConversationLockedError,
    ConversationNotFoundError,
    DivergedError,
    NotFoundError,
    QwenConvError,
    RequestRefusedError,
    UsageError,
)
from qwen_conv.flows import read
from qwen_conv.hub import QwenConversations
from qwen_conv.items import FunctionOutput, Item
from qwen_conv.planning import begin_anew, make_plan, outlast
from qwen_conv.responses import Delta
from qwen_conv.settling import find_out, pause_after
from qwen_conv.turn import Decision, Outcome, Turn, TurnRequest

logger = logging.getLogger("qwen_conv")


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
            with turn.attempt() as call:
                turn.response = await api.send(call)
        return await end(api, turn)


def deltas(api: SyncApi, turn: Turn) -> Generator[Delta, None, None]:
    """Takes a turn that was begun, piece by piece; `end` it then.

    Raises:
        ServiceError: The service refused, or failed on the way.
        NoReplyError: The answer did not come to its end.
    """
    while finish(unsent(api, turn)):
        with turn.attempt() as call, closing(api.stream(call)) as events:
            for event in events:
                yield from turn.feed(event)
    yield from turn.rest()


async def adeltas(api: AsyncApi, turn: Turn) -> AsyncGenerator[Delta, None]:
    """`deltas`, for tasks."""
    while await unsent(api, turn):
        with turn.attempt() as call:
            async with aclosing(api.stream(call)) as events:
                async for event in events:
                    for delta in turn.feed(event):
                        yield delta
    for delta in turn.rest():
        yield delta


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
        await make_plan(api, turn)
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
                raise DivergedError(None, found.changed)
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
    """Whether the turn has to be sent, or sent again; what came of a failure is seen to first.

    ```python
    while await unsent(api, turn):
        with turn.attempt() as call:
            ...  # send the call
    ```

    Raises:
        RequestRefusedError: The service refused, and that cannot be mended.
        UndecidedError: What became of the turn is not known.
        ServiceError: The service failed, and the turn is not to be sent again.
        NotConnectedError: The service cannot be reached.
    """
    failure, turn.failure = turn.failure, None
    if failure is None:
        return turn.response is None
    if turn.in_flight:
        await find_out(api, turn, failure)
        return turn.response is None
    match failure:
        case ConversationNotFoundError():
            await _part_from_lost(api, turn, failure)
        case NotFoundError():
            _recover(turn)
        case RequestRefusedError():
            await _mend(api, turn, failure)
        case ConversationLockedError() if turn.lost is not None:
            await outlast(api, turn, failure)
            return turn.response is None
        case _:
            await pause_after(api, turn, failure)
            return True
    turn.tries -= 1  # it was not sent for nothing: what was learned need not be told again
    return True


async def _part_from_lost(api: Api, turn: Turn, refusal: ConversationNotFoundError) -> None:
    """Has a turn begin a new conversation, if the service says that the one it was for is gone.

    Raises:
        ConversationNotFoundError: It is there: something else that the turn names was not found.
    """
    assert turn.conversation_id is not None  # noqa: S101 - the turn was refused for it
    try:
        await api.send(RetrieveConversation(turn.conversation_id))
    except ConversationNotFoundError:
        await begin_anew(api, turn)
        _pair(turn)
    else:
        raise refusal


async def _mend(api: Api, turn: Turn, refusal: RequestRefusedError) -> None:
    """Has a turn's calls and results go otherwise than they were refused."""
    held: Sequence[Item] | None = None
    turn.pairing.learn_earlier(_stored(turn))
    if turn.conversation_id is not None and turn.pairing.lacks(refusal, turn.items):
        try:
            held = await read(api, turn.conversation_id)
        except QwenConvError as error:
            if turn.may_begin_anew(error):
                await begin_anew(api, turn)
                _pair(turn)
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


async def end(api: Api, turn: Turn) -> Outcome:
    """Writes down what the service took.

    Args:
        api: The api that the turn was begun with.
        turn: The turn, answered; the service has stored it by now.
    """
    request, hub, response, received = turn.request, api.hub, turn.response, turn.received
    assert response is not None  # noqa: S101 - it is answered
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
    hub.ledger.note_written(turn.conversation_id, response.output)
    if not turn.is_last:
        hub.ledger.forget_end(turn.conversation_id)
    await note_response(api, turn.conversation_id, response.id)
    if turn.decision == "rebased" and request.keeper is not None:
        request.keeper.move(turn.conversation_id)
    turn.ended = True
    return Outcome(response, request.model, turn.decision, turn.why, stamp)
