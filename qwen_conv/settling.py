"""What became of a turn whose reply did not come, and what is done about it.

Services commit late, and no request can be sent twice: so the conversation is read again and again
until the hub's `settle_timeout`. "Not there yet" is not "not there".
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Literal, NamedTuple

from qwen_conv.api import Api
from qwen_conv.calls import (
    CreateItems,
    CreateResponse,
    RetrieveConversation,
    RetrieveResponse,
)
from qwen_conv.doubt import Doubt, Left
from qwen_conv.errors import (
    ConversationNotFoundError,
    NoReplyError,
    NotFoundError,
    QwenConvError,
    RateLimitedError,
    RequestRefusedError,
    ServiceError,
    ServiceFailedError,
    UndecidedError,
    UnreadableError,
)
from qwen_conv.flows import read, remove
from qwen_conv.items import FunctionCall, FunctionOutput, Item, Message, to_wire
from qwen_conv.looking import lateness, longest, look_again, may_come
from qwen_conv.pages import is_there
from qwen_conv.pairing import told, with_results
from qwen_conv.responses import Response
from qwen_conv.retries import pause, sent_again
from qwen_conv.turn import Turn

State = Literal["nothing", "unanswered", "answered"]
"""What a turn left in its conversation: nothing, what it sent, or that and an answer."""

SENT = (Message, FunctionCall, FunctionOutput)
"""What of a conversation's items can be sent."""

_PASSING = (NoReplyError, RateLimitedError, ServiceFailedError)
"""Failures of a look, after which the next one may succeed."""


class Finding(NamedTuple):
    """What was found of a turn in doubt: in the conversation, and as a stored response."""

    left: Left | None
    response: Response | None

    @property
    def state(self) -> State:
        """What the conversation holds of it."""
        if self.left is None:
            return "nothing"
        return "answered" if self.left.answer else "unanswered"

    @property
    def answer(self) -> Response:
        """The answer, with what it cost where the response is stored, under the ids listed."""
        assert self.left is not None  # noqa: S101 - it was found
        if self.response is not None:
            return self.response
        return _answer_of(self.left.answer)


def _answer_of(items: tuple[Item, ...]) -> Response:
    """The answer that some items of a conversation are."""
    output = [to_wire(item) for item in items]
    response = Response.from_wire({"id": None, "output": output, "status": "completed"})
    return replace(response, output=items)


async def look_for(
    api: Api,
    conversation_id: str,
    doubt: Doubt,
    *,
    seconds: float,
    held: Collection[str] = (),
) -> Finding:
    """Looks for what a turn left, until all of it is there or the time is over.

    Args:
        api: What is awaited.
        conversation_id: The conversation.
        doubt: The turn.
        seconds: How long to look again; 0: one look.
        held: The ids of items that are known to be older.

    Raises:
        ConversationNotFoundError: The conversation is not there.
        ServiceError: The last look failed.
        NoReplyError: The last look failed.
    """
    response: Response | None = None
    ends = {"answered", "unanswered"} if doubt.has_failed else {"answered"}

    async def look() -> Finding:
        nonlocal response
        response = response or await _stored_response(api, doubt)
        answer = response.output if response else ()
        items = await behind(api, conversation_id, doubt.behind or None)
        is_behind = (doubt.behind is not None and items is not None) or bool(held)
        if items is None:
            items = await read(api, conversation_id)
        items = tuple(item for item in items if item.id not in held and item.id not in doubt.since)
        left = doubt.left(items, answer, is_behind=is_behind)
        if is_behind and doubt.behind and not held and left is not None and not left.alone:
            # If these are all items, a turn before may be taken for the one in doubt.
            is_behind = await is_there(api, conversation_id, doubt.behind)
            left = doubt.left(items, answer, is_behind=is_behind)
        return Finding(left, response)

    return await look_again(
        api,
        look,
        is_found=lambda found: found.state in ends,
        seconds=seconds,
        passing=_PASSING,
    )


async def _stored_response(api: Api, doubt: Doubt) -> Response | None:
    """The turn's response, if the service has it and it is finished."""
    if doubt.response_id is None or doubt.has_failed:
        return None
    try:
        return await api.send(RetrieveResponse(doubt.response_id))
    except (ServiceError, NoReplyError):
        return None  # it goes on, failed, or is not kept: the conversation tells


async def behind(api: Api, conversation_id: str, item_id: str | None) -> tuple[Item, ...] | None:
    """The items behind one, or all of them; `None` if the service does not begin there."""
    try:
        items = await read(api, conversation_id, after=item_id)
    except (NotFoundError, RequestRefusedError):
        # Either the conversation is gone, or the item to read behind is.
        await checked(api, conversation_id)
        if item_id is None:
            raise
        return None
    if item_id is not None and any(item.id == item_id for item in items):
        return None  # the server took no notice of where to begin
    return items


async def checked(api: Api, conversation_id: str) -> None:
    """Makes sure that a conversation is there: some services ignore an unknown id silently."""
    await api.send(RetrieveConversation(conversation_id))
    known = api.hub.ledger.of(conversation_id)
    api.hub.ledger.note(conversation_id, known._replace(exists=True))


async def pause_after(api: Api, turn: Turn, failure: QwenConvError) -> None:
    """Waits before a turn is sent again that certainly is not in its conversation.

    Raises:
        QwenConvError: The failure: it is not to be sent again.
    """
    seconds = _pause(api, turn, failure)
    if seconds is None:
        raise failure
    await api.sleep(seconds)


def _pause(api: Api, turn: Turn, failure: QwenConvError) -> float | None:
    """Seconds to wait before the turn is sent again; `None` if it is not to be."""
    return None if turn.begun else pause(failure, turn.tries, turn.waited, api.patience)


async def find_out(api: Api, turn: Turn, failure: QwenConvError) -> None:
    """Finds out what became of a turn, and has it be answered, or sent again.

    Raises:
        UndecidedError: That is not known.
        QwenConvError: The failure: the turn is not to be sent again.
    """
    assert turn.conversation_id is not None  # noqa: S101 - only there anything is left
    hub = api.hub
    says_so = isinstance(failure, ServiceError) and not isinstance(failure, UnreadableError)
    doubt = turn.note_doubt(failure)
    # Where the failure is the turn's in any case, what it left is the next one's to wait for.
    is_over = doubt.has_failed and _pause(api, turn, failure) is None
    seconds = 0.0 if is_over else lateness(failure, hub.settle_timeout)
    may_be_sent = says_so or hub.on_doubt == "resend"
    finding = await _found(api, turn.conversation_id, doubt, failure, seconds)
    if finding.left is None and may_be_sent:
        wait = _pause(api, turn, failure)
        if wait is None:
            if not may_come(failure):
                turn.forget_doubt()
            raise failure
        await api.sleep(wait)
        finding = await _found(api, turn.conversation_id, doubt, failure, 0.0)  # it may have come
    if finding.left is not None and finding.state == "answered":
        turn.response, turn.is_last = finding.answer, finding.left.alone
        if not turn.continues:
            raise failure
        turn.why += "; its reply was lost, and its answer was found in the conversation"
    elif finding.left is not None:
        if turn.begun:
            raise failure
        await answer(api, turn, finding.left)
        if turn.response is None:
            await pause_after(api, turn, failure)
    elif may_be_sent:
        turn.lost = doubt
        turn.forget_doubt()
    else:
        raise UndecidedError(turn.conversation_id, seconds, failure) from failure


async def _found(
    api: Api, conversation_id: str, doubt: Doubt, failure: QwenConvError, seconds: float
) -> Finding:
    try:
        return await look_for(api, conversation_id, doubt, seconds=seconds)
    except ConversationNotFoundError:
        raise
    except (ServiceError, NoReplyError) as error:
        raise UndecidedError(conversation_id, seconds, failure) from error


async def answer(api: Api, turn: Turn, left: Left) -> None:
    """Has a question be answered that stands in the conversation alone.

    It is answered on no conversation, and the answer is added. Where that may be a tool's call,
    which cannot be added, the question is taken back instead, and the turn is to be sent.
    """
    request, conversation_id = turn.request, turn.conversation_id
    assert conversation_id is not None  # noqa: S101 - the question stands there
    if request.settings.get("tools") or not left.alone:
        await remove(api, conversation_id, reversed(left.question))
        turn.forget_doubt()
        return
    listed = await read(api, conversation_id)
    response = await api.send(
        CreateResponse(
            request.model,
            with_results([item for item in told(listed) if isinstance(item, SENT)]),
            instructions=request.instructions,
            store=False,
            settings=request.settings,
        )
    )
    said = Message.of("assistant", "".join(_texts(response)))
    stored = await _added(api, turn, said) if said.text else ()
    # The response is stored nowhere, only what it says.
    turn.response = replace(response, id=None, output=tuple(stored))
    turn.why += "; it was stored without an answer, and was answered from what is listed"


async def _added(api: Api, turn: Turn, answer: Message) -> tuple[Item, ...]:
    """Adds the answer to a question that stands in the conversation alone.

    Raises:
        UndecidedError: Whether it is there is not known.
    """
    conversation_id = turn.conversation_id
    assert conversation_id is not None  # noqa: S101 - the question stands there
    try:
        return await sent_again(api, CreateItems(conversation_id, (answer,)))
    except (NoReplyError, ServiceFailedError) as error:
        lost = error
    seconds = lateness(lost, api.hub.settle_timeout)
    finding = await _found(api, conversation_id, turn.note_doubt(lost), lost, seconds)
    if finding.left is not None and finding.left.answer:
        return finding.left.answer
    if may_come(lost):
        raise UndecidedError(conversation_id, seconds, lost) from lost
    raise lost


def _texts(response: Response) -> list[str]:
    return [item.text for item in response.output if isinstance(item, Message)]


async def settle(api: Api, conversation_id: str) -> State | None:
    """Looks what became of the turn in doubt on a conversation; see `QwenConversations.settle`."""
    holder = await api.lock(conversation_id)
    try:
        doubt = api.hub.ledger.of(conversation_id).doubt
        if doubt is None:
            return None
        seconds = longest(api.hub.settle_timeout, after_failure=doubt.has_failed)
        finding = await look_for(api, conversation_id, doubt, seconds=seconds)
        if finding.left is None:
            api.hub.ledger.settle(conversation_id)
        elif finding.state == "answered":
            api.hub.ledger.note_doubt(conversation_id, doubt._replace(is_missed=False))
        return finding.state
    finally:
        holder.release()
