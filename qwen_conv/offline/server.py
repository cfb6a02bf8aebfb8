"""`OfflineServer`: the service on loopback, in a thread of this process."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvicorn
from starlette.types import ASGIApp

from qwen_conv.offline.app import BASE_PATHS, application
from qwen_conv.offline.responder import Script, quote
from qwen_conv.offline.service import SeenRequest, Service
from qwen_conv.offline.store import Clock, Store
from qwen_conv.offline.switches import Switches


class OfflineServer:
    """A server of the documented contract on loopback, for demonstrations and tests.

    It is no language model: by default it says again the sentence of the context that shares most
    words with the question.

    ```python
    with OfflineServer() as server:
        chat = ChatQwenConv(model="qwen3.6-plus", base_url=server.base_url, api_key="any")
    ```

    Args:
        script: What to answer instead: a callable that is given what the model is shown and the
            request's body, and returns a text, a piece (`Say`, `Think`, `CallTool`, `Fail`) or
            several.
        path: A SQLite file to keep the state in; by default it is kept in memory.
        port: The port; by default a free one.
        host: The address to listen on.
        api_keys: The keys that are let in; by default any.
        switches: How to behave where the documents are silent.
        **changes: Single switches, by name: `OfflineServer(stored_items="messages")`.

    Raises:
        OSError: The address cannot be listened on.
        sqlite3.Error: The file cannot be opened, or is no SQLite file.

    Attributes:
        clock: The server's time; `server.clock.advance(days=7)` lets everything expire.
    """

    def __init__(
        self,
        script: Script = quote,
        *,
        path: str | Path | None = None,
        port: int = 0,
        host: str = "127.0.0.1",
        api_keys: Collection[str] | None = None,
        switches: Switches | None = None,
        **changes: Any,
    ) -> None:
        self.clock = Clock()
        chosen = replace(switches or Switches(), **changes)
        self._store = Store(str(path or ":memory:"), self.clock)
        self._service = Service(self._store, self.clock, script, chosen)
        try:
            self._socket = _listening(host, port)
        except OSError:
            self._store.close()
            raise
        self._server = _Server(
            uvicorn.Config(
                self._application(api_keys),
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_keep_alive=300,
                timeout_graceful_shutdown=1,
            )
        )
        self._thread: threading.Thread | None = None

    def _application(self, api_keys: Collection[str] | None) -> ASGIApp:
        return application(self._service, api_keys)

    @property
    def base_url(self) -> str:
        """The base URL to give to a client."""
        host, port = self._socket.getsockname()[:2]
        return f"http://{host}:{port}{BASE_PATHS[0]}"

    @property
    def requests(self) -> list[SeenRequest]:
        """Every request that came, oldest first. Clear the list to count anew."""
        return self._service.seen

    @property
    def script(self) -> Script:
        """What answers. It can be changed while the server runs."""
        return self._service.script

    @script.setter
    def script(self, script: Script) -> None:
        self._service.script = script

    def items(self, conversation_id: str) -> list[dict[str, Any]]:
        """A conversation's items as they are stored, oldest first, expired ones too."""
        stored = self._store.items(conversation_id, expired=True)
        return [{**item.body, "id": item.id} for item in stored]

    def serve(self) -> None:
        """Serves until it is told to stop (by a signal, in the main thread)."""
        try:
            asyncio.run(self._serve())
        finally:
            self._store.close()

    async def _serve(self) -> None:
        await self._server.serve(sockets=[self._socket])
        # uvicorn does not close connections that began while it was closing the others.
        for connection in [*self._server.server_state.connections]:
            if connection.transport is not None:
                connection.transport.abort()
        await asyncio.sleep(0)  # what is aborted is closed in the loop's next round

    def __enter__(self) -> Self:
        # The socket listens already: requests wait there until the thread takes them.
        self._thread = threading.Thread(target=self.serve, name="OfflineServer", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.end()
        if self._thread is not None:
            self._thread.join()
        self._socket.close()


class _Server(uvicorn.Server):
    """Ends when it is told to: uvicorn looks ten times a second whether it was, and then waits."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._wake: Callable[[], object] = lambda: None

    def end(self) -> None:
        """Has it end; from any thread."""
        self.should_exit = True
        self._wake()

    async def main_loop(self) -> None:
        """Serves until it is told to end, or by a signal."""
        told, loop = asyncio.Event(), asyncio.get_running_loop()
        self._wake = partial(loop.call_soon_threadsafe, told.set)
        serving = asyncio.ensure_future(super().main_loop())
        waiting = asyncio.ensure_future(told.wait())
        await asyncio.wait([serving, waiting], return_when=asyncio.FIRST_COMPLETED)
        self._wake = lambda: None
        waiting.cancel()
        if serving.done():
            serving.result()
        serving.cancel()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Closes the connections; who is being answered is waited for."""
        if self.server_state.tasks:
            await super().shutdown(sockets)
            return
        for server in self.servers:
            server.close()
        for connection in [*self.server_state.connections]:
            connection.shutdown()


def _listening(host: str, port: int) -> socket.socket:
    # asyncio switches Nagle's algorithm off only where the socket says that it is TCP, which
    # `socket.create_server` leaves out: every answer would then come 40 ms late.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(1024)
    except OSError:
        listening.close()
        raise
    return listening
