"""One request at the server, and what can be done with it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import urlencode

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qwen_conv.offline import Fail
from qwen_conv.offline.app import application
from qwen_conv.offline.responder import pieces_of
from qwen_conv.offline.service import Service

How = Literal["kept", "nowhere", "failing", "failing_input_stored"]
"""How a turn is carried out: it is stored; it is stored nowhere; it fails, and leaves nothing, or
its input."""

_AFTER: ContextVar[int] = ContextVar("_AFTER", default=0)
"""After how many texts a turn fails that is being carried out."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the application answers; a stream's pieces are its events."""

    status: int
    headers: Mapping[str, str]
    pieces: list[bytes]


class Applications:
    """The offline application over one store, in all the ways of carrying a turn out."""

    def __init__(self, service: Service) -> None:
        self.service = service
        changed = {
            "kept": service,
            "nowhere": replace(
                service, switches=replace(service.switches, store_false="not_appended")
            ),
            "failing": replace(service, script=self._failing),
            "failing_input_stored": replace(
                service,
                script=self._failing,
                switches=replace(service.switches, failed_turn="input_stored"),
            ),
        }
        self._apps: dict[str, ASGIApp] = {
            how: application(one, api_keys=None) for how, one in changed.items()
        }

    def _failing(self, context: Any, request: Any) -> Any:
        """The script's answer, which fails on its way."""
        return [
            *pieces_of(self.service.script(context, request)),  # type: ignore[arg-type]  # ours waits for nothing
            Fail("An internal error has occurred.", after=_AFTER.get()),
        ]

    def of(self, how: How) -> ASGIApp:
        """The application that carries a turn out in that way."""
        return self._apps[how]


class Exchange:
    """One request, whose fate a fault decides.

    Args:
        applications: What carries it out.
        scope: As ASGI has it.
        raw: Its body.
        receive: Tells when the client has gone.
        send: Where an answer goes.
        hang_up: Breaks the connection.
        arm_next: Has the conversation's next matching request meet a fault, too.
        looked: Waits until the conversation has been listed once more.
    """

    def __init__(
        self,
        applications: Applications,
        scope: Scope,
        raw: bytes,
        receive: Receive,
        send: Send,
        *,
        hang_up: Callable[[], None],
        arm_next: Callable[[Any], None],
        looked: Callable[[], Awaitable[None]],
    ) -> None:
        self._applications = applications
        self._scope = scope
        self._raw = raw
        self._receive = receive
        self._send = send
        self._hang_up = hang_up
        self.arm_next = arm_next
        self.looked = looked
        query = scope["query_string"].decode()
        self.query = dict(part.split("=", 1) for part in query.split("&") if "=" in part)

    @property
    def body(self) -> dict[str, Any]:
        """The request's JSON."""
        told: dict[str, Any] = json.loads(self._raw)
        return told

    async def left(self) -> None:
        """Waits until the client has gone."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def hang_up(self) -> None:
        """Breaks the connection."""
        self._hang_up()
        await self.left()

    async def send(self, answer: Answer, *, ends: bool = True) -> None:
        """Sends an answer; unless it `ends`, more of it is to be expected."""
        await self._send(_start(answer))
        for piece in answer.pieces:
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        if ends:
            await self._send({"type": "http.response.body", "body": b""})

    async def carried_out(
        self, how: How = "kept", *, body: Mapping[str, Any] | None = None, after: int = 0
    ) -> Answer:
        """Has the application carry the request out, to its end, and keeps the answer back."""
        if how == "nowhere":
            body = {**self.body, "store": False}
        heard: list[Message] = []

        async def keep(message: Message) -> None:
            heard.append(message)

        _AFTER.set(after)
        await self._run(self._applications.of(how), keep, body)
        pieces = [one["body"] for one in heard[1:] if one.get("body")]
        headers = {
            name.decode(): value.decode()
            for name, value in heard[0]["headers"]
            if name != b"content-length"
        }
        return Answer(heard[0]["status"], headers, pieces)

    async def cut_and_carried_out(self, moment: float, seconds: float) -> None:
        """Sends the beginning of a stream, hangs up, and stores the turn some seconds later."""
        # How many events there will be: as many as when it is stored nowhere.
        count = int(moment * len((await self.carried_out("nowhere")).pieces))
        sent = 0

        async def part(message: Message) -> None:
            nonlocal sent
            piece = message.get("body")
            if piece and sent >= count:
                await self.hang_up()
                await asyncio.sleep(seconds)
                raise OSError  # the application brings the turn to its end, and stores it
            sent += bool(piece)
            await self._send(message)

        with suppress(ClientDisconnect):
            await self._run(self._applications.of("kept"), part, None)

    async def _run(self, app: ASGIApp, send: Send, body: Mapping[str, Any] | None) -> None:
        raw = self._raw if body is None else json.dumps(body).encode()
        told = [{"type": "http.request", "body": raw, "more_body": False}]

        async def receive() -> Message:
            if told:
                return told.pop()
            await asyncio.Event().wait()  # whoever carries it out is not told that anybody left
            raise AssertionError

        # From 2.4 on, a `send` that fails is how an application learns that its client left.
        scope = {
            **self._scope,
            "asgi": {**self._scope["asgi"], "spec_version": "2.4"},
            "query_string": urlencode(self.query).encode(),
        }
        await app(scope, receive, send)


def _start(answer: Answer) -> Message:
    headers = [(name.encode(), value.encode()) for name, value in answer.headers.items()]
    return {"type": "http.response.start", "status": answer.status, "headers": headers}
