"""What can happen to a request: each fault by name, and how it is brought about.

A fault decides the fate of one request. The turn is carried out for real by the offline
application, or it is not: what became of it is what the server's store says.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from chaos.exchange import Answer, Exchange
from qwen_conv.limits import OUTPUT_TOKENS_LEAST

Target = Literal["turn", "append", "page", "door", "consumer"]
"""What a fault befalls: a turn's request, one that adds items, one that lists them, the connecting,
or nothing: it is the consumer who leaves a stream."""

Way = Literal["whole", "stream"]

SETTLE_TIMEOUT = 2.0
"""Seconds for which the hubs look for a turn whose reply was lost."""

PATIENCE = 1.0
"""Seconds that a turn waits for an answer which is to come too late."""

SOON = (0.02, 0.3)
LATE = (1.8, 2.4)
"""Seconds after which a turn is stored whose reply was lost: while it is looked for, and later."""

SHUT = (0.05, 0.5)
"""Seconds for which a port refuses connections."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is to happen, and when.

    Attributes:
        kind: What, by its name in `KINDS`.
        moment: Where in a stream, from 0 (before its first event) to 1 (before its last).
        skips: How many matching requests go well before.
        seconds: How long what comes late takes.
        is_sequel: Whether it is the second part of one that befalls two requests.
    """

    kind: str
    moment: float = 0.0
    skips: int = 0
    seconds: float = 0.0
    is_sequel: bool = False


Fate = Callable[[Exchange, Fault], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault.

    Attributes:
        target: What it befalls.
        fate: Brings it about; `None` where the server has no part in it.
        ways: The turns it may befall: those answered whole, or by a stream.
        takes: From how many to how many seconds it takes.
        loses: Whether the turn is carried out, and its answer lost.
        is_late: Whether the turn is stored later than anybody looks for it.
    """

    target: Target
    fate: Fate | None
    ways: tuple[Way, ...] = ("whole", "stream")
    takes: tuple[float, float] = (0.0, 0.0)
    loses: bool = False
    is_late: bool = False


# --- Refusals -------------------------------------------------------------------------------------


def _refused(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> Fate:
    async def fate(exchange: Exchange, _: Fault) -> None:
        await exchange.send(refusal(status, code, message, headers))

    return fate


def refusal(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> Answer:
    """A refusal in the service's flat envelope."""
    body = json.dumps({"request_id": "chaos", "code": code, "message": message}).encode()
    told = {"content-type": "application/json", **(headers or {})}
    return Answer(status, told, [body])


_TOO_MANY = ("Throttling.RateQuota", "Requests rate limit exceeded, please try again later.")
_OVERLOADED = ("ServiceUnavailable", "The service is overloaded, please try again later.")
_FAILED = ("InternalError", "An internal error has occurred, please try again later.")
_LOCKED = (
    "conversation_locked",
    "Another process is currently operating on this conversation. Please retry in a few seconds.",
)


def _gateway(status: int) -> Answer:
    """What a gateway says that lost the server behind it: no JSON."""
    return Answer(status, {"content-type": "text/html"}, [f"<h1>{status}</h1>".encode()])


async def _failed_input_stored(exchange: Exchange, _: Fault) -> None:
    await exchange.send(await exchange.carried_out("failing_input_stored"))


async def _failed_stored(exchange: Exchange, _: Fault) -> None:
    await exchange.carried_out()
    await exchange.send(refusal(500, *_FAILED))


async def _gateway_stored(exchange: Exchange, _: Fault) -> None:
    await exchange.carried_out()
    await exchange.send(_gateway(502))


async def _gateway_stored_soon(exchange: Exchange, _: Fault) -> None:
    """The turn is stored after the first look for it.

    Not after a time: a client that does not find it sends it again, and must have had its chance.
    """
    await exchange.send(_gateway(504))
    await exchange.looked()
    await exchange.carried_out()


# --- Lost replies ---------------------------------------------------------------------------------


async def _lost_stored(exchange: Exchange, _: Fault) -> None:
    await exchange.carried_out()
    await exchange.hang_up()


async def _lost(exchange: Exchange, _: Fault) -> None:
    await exchange.hang_up()


async def _lost_stored_later(exchange: Exchange, fault: Fault) -> None:
    await exchange.hang_up()
    await asyncio.sleep(fault.seconds)
    await exchange.carried_out()


async def _half_stored(exchange: Exchange, _: Fault) -> None:
    """The connection breaks in the midst of the answer's body."""
    answer = await exchange.carried_out()
    body = b"".join(answer.pieces)
    await exchange.send(
        Answer(200, {**answer.headers, "content-length": str(len(body))}, [body[: len(body) // 2]]),
        ends=False,
    )
    await exchange.hang_up()


async def _stalled(exchange: Exchange, _: Fault) -> None:
    """The turn is stored at once, and its answer comes when nobody waits for it any more."""
    await exchange.carried_out()
    await exchange.left()


async def _stalled_stored_later(exchange: Exchange, fault: Fault) -> None:
    """The turn is stored a while after the client has gone."""
    await exchange.left()
    await asyncio.sleep(fault.seconds)
    await exchange.carried_out()


# --- Streams --------------------------------------------------------------------------------------


def _begun(answer: Answer, fault: Fault) -> Answer:
    """The events of a stream before the fault's moment."""
    return Answer(
        answer.status, answer.headers, answer.pieces[: int(fault.moment * len(answer.pieces))]
    )


async def _cut_stored(exchange: Exchange, fault: Fault) -> None:
    await exchange.send(_begun(await exchange.carried_out(), fault), ends=False)
    await exchange.hang_up()


async def _cut(exchange: Exchange, fault: Fault) -> None:
    await exchange.send(_begun(await exchange.carried_out("nowhere"), fault), ends=False)
    await exchange.hang_up()


async def _cut_stored_later(exchange: Exchange, fault: Fault) -> None:
    await exchange.cut_and_carried_out(fault.moment, fault.seconds)


async def _ends_stored(exchange: Exchange, fault: Fault) -> None:
    await exchange.send(_begun(await exchange.carried_out(), fault))


async def _ends(exchange: Exchange, fault: Fault) -> None:
    await exchange.send(_begun(await exchange.carried_out("nowhere"), fault))


async def _response_failed(exchange: Exchange, fault: Fault) -> None:
    await exchange.send(await exchange.carried_out("failing", after=int(fault.moment * 6)))


async def _response_failed_input_stored(exchange: Exchange, fault: Fault) -> None:
    answer = await exchange.carried_out("failing_input_stored", after=int(fault.moment * 6))
    await exchange.send(answer)


async def _response_failed_input_stored_later(exchange: Exchange, fault: Fault) -> None:
    await _response_failed(exchange, fault)
    await asyncio.sleep(fault.seconds)
    await exchange.carried_out("failing_input_stored")


def _with_event(event: Mapping[str, Any], name: str | None) -> Fate:
    """A stream that goes on with an event of its own, and ends; the turn is stored nowhere."""
    header = b"" if name is None else f"event:{name}\n".encode()
    piece = header + b"data:" + json.dumps(event).encode() + b"\n\n"

    async def fate(exchange: Exchange, fault: Fault) -> None:
        begun = _begun(await exchange.carried_out("nowhere"), fault)
        await exchange.send(Answer(begun.status, begun.headers, [*begun.pieces, piece]))

    return fate


def _told(code: str, message: str) -> dict[str, str]:
    return {"code": code, "message": message}


def _at_first(fate: Fate) -> Fate:
    async def first(exchange: Exchange, fault: Fault) -> None:
        await fate(exchange, Fault(fault.kind))

    return first


_RATE_LIMIT = _with_event(
    {
        "type": "error",
        **_told("server_error", "<429> InternalError.Algo: request failed. [Too many requests.]"),
    },
    "error",
)
"""As it was reported of the service: an HTTP 200, and the status in the words."""


async def _incomplete(exchange: Exchange, _: Fault) -> None:
    """The answer is cut, as the service does it at the limit of its tokens; it is stored so."""
    body = {**exchange.body, "max_output_tokens": OUTPUT_TOKENS_LEAST}
    await exchange.send(await exchange.carried_out(body=body))


# --- Appends and pages ----------------------------------------------------------------------------


Change = Callable[[dict[str, Any]], None]


def _changed(answer: Answer, change: Change) -> Answer:
    """A page that says something else than the server meant; a refusal stays as it is."""
    page = json.loads(b"".join(answer.pieces))
    if "data" in page:
        change(page)
    headers = {"content-type": "application/json"}
    return Answer(answer.status, headers, [json.dumps(page, separators=(",", ":")).encode()])


def _page(change: Change) -> Fate:
    async def fate(exchange: Exchange, _: Fault) -> None:
        await exchange.send(_changed(await exchange.carried_out(), change))

    return fate


_FEWER = 3


def _shortened(page: dict[str, Any]) -> None:
    """Fewer than were asked for; the page says itself that more follow."""
    if len(page["data"]) > _FEWER:
        page["data"] = page["data"][:_FEWER]
        page["last_id"] = page["data"][-1]["id"]
        page["has_more"] = True


def _without_last_id(page: dict[str, Any]) -> None:
    _shortened(page)
    del page["last_id"]


def _without_has_more(page: dict[str, Any]) -> None:
    del page["has_more"]


def _always_more(page: dict[str, Any]) -> None:
    page["has_more"] = True


def _twice(page: dict[str, Any]) -> None:
    page["data"] = [*page["data"], *page["data"]]


def _goes_back(change: Change) -> Fate:
    """The page after a short one begins with the first item again."""

    async def fate(exchange: Exchange, fault: Fault) -> None:
        if fault.is_sequel:
            exchange.query.pop("after", None)
            await exchange.send(_changed(await exchange.carried_out(), change))
            return
        page = await exchange.carried_out()
        short = _changed(page, _shortened)
        if len(short.pieces[0]) < len(b"".join(page.pieces)):
            exchange.arm_next(replace(fault, is_sequel=True))
        await exchange.send(short)

    return fate


def _as_it_is(_: dict[str, Any]) -> None:
    """Nothing is changed."""


_WHOLE: tuple[Way, ...] = ("whole",)
_STREAM: tuple[Way, ...] = ("stream",)

KINDS: Mapping[str, Kind] = {
    "429": Kind("turn", _refused(429, *_TOO_MANY)),
    "429, Retry-After: 0": Kind("turn", _refused(429, *_TOO_MANY, {"retry-after": "0"})),
    "503 overloaded": Kind("turn", _refused(503, *_OVERLOADED)),
    "conversation_locked": Kind("turn", _refused(400, *_LOCKED)),
    "connection refused": Kind("door", None, takes=SHUT),
    "500, not run": Kind("turn", _refused(500, *_FAILED)),
    "500, input stored": Kind("turn", _failed_input_stored, _WHOLE),
    "500, stored": Kind("turn", _failed_stored, loses=True),
    "502, stored": Kind("turn", _gateway_stored, loses=True),
    "504, stored soon": Kind("turn", _gateway_stored_soon, loses=True),
    "reply lost, stored": Kind("turn", _lost_stored, loses=True),
    "reply lost, never run": Kind("turn", _lost),
    "reply lost, stored soon": Kind("turn", _lost_stored_later, takes=SOON, loses=True),
    "reply lost, stored late": Kind(
        "turn", _lost_stored_later, takes=LATE, loses=True, is_late=True
    ),
    "reply cut, stored": Kind("turn", _half_stored, _WHOLE, loses=True),
    "timed out, stored": Kind("turn", _stalled, loses=True),
    "timed out, stored soon": Kind("turn", _stalled_stored_later, takes=SOON, loses=True),
    "timed out, stored late": Kind(
        "turn", _stalled_stored_later, takes=LATE, loses=True, is_late=True
    ),
    "response.incomplete": Kind("turn", _incomplete),
    "stream cut, stored": Kind("turn", _cut_stored, _STREAM, loses=True),
    "stream cut, not stored": Kind("turn", _cut, _STREAM),
    "stream cut, stored soon": Kind("turn", _cut_stored_later, _STREAM, SOON, loses=True),
    "stream cut, stored late": Kind(
        "turn", _cut_stored_later, _STREAM, LATE, loses=True, is_late=True
    ),
    "stream just ends, stored": Kind("turn", _ends_stored, _STREAM, loses=True),
    "stream just ends, not stored": Kind("turn", _ends, _STREAM),
    "response.failed": Kind("turn", _response_failed, _STREAM),
    "response.failed, input stored": Kind("turn", _response_failed_input_stored, _STREAM),
    "response.failed, input stored soon": Kind(
        "turn", _response_failed_input_stored_later, _STREAM, SOON
    ),
    "error event": Kind(
        "turn", _with_event({"type": "error", **_told(*_FAILED)}, "error"), _STREAM
    ),
    "error event without a type": Kind("turn", _with_event(_told(*_FAILED), None), _STREAM),
    "rate limit as first event": Kind("turn", _at_first(_RATE_LIMIT), _STREAM),
    "rate limit in mid-stream": Kind("turn", _RATE_LIMIT, _STREAM),
    "consumer stops": Kind("consumer", None, _STREAM, loses=True),
    "append: 429": Kind("append", _refused(429, *_TOO_MANY, {"retry-after": "0"})),
    "append: 500, not stored": Kind("append", _refused(500, *_FAILED)),
    "append: reply lost, stored": Kind("append", _lost_stored, loses=True),
    "append: reply lost, not stored": Kind("append", _lost),
    "page: 500": Kind("page", _refused(500, *_FAILED)),
    "page: reset": Kind("page", _lost),
    "page: fewer than asked for": Kind("page", _page(_shortened)),
    "page: no last_id": Kind("page", _page(_without_last_id)),
    "page: no has_more": Kind("page", _page(_without_has_more)),
    "page: has_more at the end": Kind("page", _page(_always_more)),
    "page: items twice": Kind("page", _page(_twice)),
    "page: comes again": Kind("page", _goes_back(_shortened)),
    "page: overlaps": Kind("page", _goes_back(_as_it_is)),
}
"""Every kind of fault, by its name in the ledger."""
