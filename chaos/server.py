"""The offline server, with faults: `ChaosServer`, and doors to it that can be shut."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Collection, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chaos.exchange import Applications, Exchange
from chaos.faults import KINDS, Fault
from chaos.marks import mark_in, said, script
from qwen_conv.offline import OfflineServer

T = TypeVar("T")

_ROUNDS = 20
"""Rounds of the event loop in which a connection is taken, and its request read and begun; half
a dozen would do."""

_NO_LOOK = 2.0
"""Seconds after which nobody is expected to look any more."""

_ITEMS = re.compile(r".*/conversations/([^/]+)/items$")
_RST = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 seconds: closing resets the connection


class ChaosServer(OfflineServer):
    """The offline server, where a story's next request meets the fault that it was armed with.

    A story is known by the marks in what it says (see `chaos.marks`), and its conversations by
    having been named together with them.
    """

    def __init__(self) -> None:
        self._armed: dict[int, dict[str, list[Fault]]] = {}
        self._story_of: dict[str, int] = {}
        self._running: Counter[int] = Counter()
        self._looks: dict[int, asyncio.Event] = {}
        self._loop: asyncio.AbstractEventLoop
        self._started = threading.Event()
        self.turns: Counter[int] = Counter()
        """How many turns on a conversation each story has sent."""
        super().__init__(script)

    # --- What the drivers call, from their threads ------------------------------------------------

    def arm(self, story: int, *faults: Fault) -> None:
        """Has the story's next requests meet these faults, one for each target."""
        for fault in faults:
            self._armed.setdefault(story, {}).setdefault(KINDS[fault.kind].target, []).append(fault)

    def is_armed(self, story: int) -> bool:
        """Whether something is still to happen."""
        return any(self._armed.get(story, {}).values())

    def disarm(self, story: int) -> bool:
        """Drops what did not happen; whether there was anything."""
        armed = self.is_armed(story)
        self._armed.pop(story, None)
        return armed

    def said(self, conversation_id: str) -> list[str]:
        """What a conversation holds, a line for each item."""
        return said(self.items(conversation_id))

    def at_rest(self, story: int) -> Future[None]:
        """Is done when nothing of a story is being carried out any more."""
        return self.submit(self._at_rest(story))

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Runs something in the server's event loop."""
        self._started.wait()
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def door(self) -> Door:
        """A port of its own before this server, which is open."""
        door = Door(urlsplit(self.base_url).port or 0)
        self.submit(door.open()).result()
        return door

    # --- The server's part ------------------------------------------------------------------------

    async def _at_rest(self, story: int) -> None:
        for _ in range(_ROUNDS):
            await asyncio.sleep(0)  # what lies in the sockets becomes requests
        while self._running[story]:  # noqa: ASYNC110 - of hundreds of stories, few are waited for
            await asyncio.sleep(0.005)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._started.set()
        await super()._serve()

    def _application(self, api_keys: Collection[str] | None) -> ASGIApp:
        assert api_keys is None  # noqa: S101 - all are let in
        self._applications = Applications(self._service)

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            await self._answer(scope, receive, send)  # uvicorn does not see that a method is async

        return answer

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw = await _body(receive)
        self._service.seen.clear()  # nobody asks, and whole lists would fill the memory
        target = _target(scope)
        story = self._story(scope, raw)
        if story is None:
            await self._passed_on(scope, raw, receive, send)
            return
        if target == "turn" and b'"conversation"' in raw:
            self.turns[story] += 1
        fault = self._drawn(story, target) if target else None
        self._running[story] += 1
        try:
            if fault is None:
                await self._passed_on(scope, raw, receive, send)
                return
            fate = KINDS[fault.kind].fate
            assert fate is not None  # noqa: S101 - only such are armed
            exchange = Exchange(
                self._applications,
                scope,
                raw,
                receive,
                send,
                hang_up=partial(self._hang_up, scope),
                arm_next=partial(self.arm, story),
                looked=partial(self._looked, story),
            )
            await fate(exchange, fault)
        finally:
            self._running[story] -= 1
            if target == "page":
                self._looks.setdefault(story, asyncio.Event()).set()

    async def _looked(self, story: int) -> None:
        look = self._looks[story] = asyncio.Event()
        with suppress(TimeoutError):
            await asyncio.wait_for(look.wait(), _NO_LOOK)

    async def _passed_on(self, scope: Scope, raw: bytes, receive: Receive, send: Send) -> None:
        told = [raw]

        async def again() -> Message:
            if told:
                return {"type": "http.request", "body": told.pop(), "more_body": False}
            return await receive()

        await self._applications.of("kept")(scope, again, send)

    def _story(self, scope: Scope, raw: bytes) -> int | None:
        listed = _ITEMS.match(scope["path"])
        named = listed[1] if listed else _conversation_in(raw)
        if named is None:
            return None
        if named not in self._story_of and (mark := mark_in(raw.decode())):
            self._story_of[named] = mark.story
        return self._story_of.get(named)

    def _drawn(self, story: int, target: str) -> Fault | None:
        waiting = self._armed.get(story, {}).get(target)
        if not waiting:
            return None
        fault = waiting.pop(0)
        if fault.skips:
            waiting.insert(0, replace(fault, skips=fault.skips - 1))
            return None
        return fault

    def _hang_up(self, scope: Scope) -> None:
        """Resets the connection that a request came by."""
        for connection in [*self._server.server_state.connections]:
            transport = connection.transport
            if transport is None or transport.get_extra_info("peername") != tuple(scope["client"]):
                continue
            peer = transport.get_extra_info("socket")
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
            transport.abort()


def _target(scope: Scope) -> str | None:
    if scope["method"] == "POST" and scope["path"].endswith("/responses"):
        return "turn"
    if _ITEMS.match(scope["path"]):
        return {"POST": "append", "GET": "page"}.get(scope["method"])
    return None


_CONVERSATION = re.compile(rb'"conversation": ?"(conv_\w+)"')


def _conversation_in(raw: bytes) -> str | None:
    found = _CONVERSATION.search(raw)
    return found[1].decode() if found else None


async def _body(receive: Receive) -> bytes:
    raw = b""
    while True:
        message = await receive()
        raw += message.get("body", b"")
        if not message.get("more_body"):
            return raw


class Door:
    """A port before a server, which can be shut for a while: connections are refused then.

    The port is taken all the time, so that nobody else gets it.

    Args:
        behind: The server's port.
    """

    def __init__(self, behind: int) -> None:
        self._behind = behind
        self._held = _bound(0)
        self.port = self._held.getsockname()[1]
        self._listening: asyncio.Server | None = None
        self._passing: set[asyncio.StreamWriter] = set()

    def base_url(self, of: str) -> str:
        """The base URL to give to a client."""
        return urlsplit(of)._replace(netloc=f"127.0.0.1:{self.port}").geturl()

    async def open(self) -> None:
        """Takes connections from now on."""
        self._listening = await asyncio.start_server(self._pass, sock=_bound(self.port))

    async def shut_for(self, seconds: float) -> None:
        """Breaks all connections, and refuses new ones for a while."""
        self._close()
        asyncio.get_running_loop().call_later(
            seconds, lambda: setattr(self, "_opening", asyncio.ensure_future(self.open()))
        )

    async def close(self) -> None:
        """Gives the port back."""
        self._close()
        self._held.close()

    def _close(self) -> None:
        if self._listening is not None:
            self._listening.close()
        for writer in self._passing:
            writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._passing.add(writer)
        there, back = await asyncio.open_connection("127.0.0.1", self._behind)
        try:
            # Whoever leaves first, the other is to learn of it.
            ways = [
                asyncio.ensure_future(_pumped(*way)) for way in ((reader, back), (there, writer))
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.wait(ways)
        finally:
            self._passing.discard(writer)
            back.transport.abort()
            writer.transport.abort()


async def _pumped(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while piece := await source.read(65_536):
            sink.write(piece)
            await sink.drain()
        await sink.drain()
    except ConnectionError:
        return


def _bound(port: int) -> socket.socket:
    # The type of the protocol is said, or asyncio would leave Nagle's algorithm on.
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind(("127.0.0.1", port))
    return bound
