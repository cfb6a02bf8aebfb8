"""The only I/O to Qwen: a call goes out, its answer comes back, once for threads, once for tasks.

A flow (see `qwen_conv.flows`) is an `async def` that awaits nothing but an `Api`. The asynchronous
shell awaits it. The synchronous shell runs the same coroutine with `finish`: over a `SyncApi` it
never suspends, so it needs no event loop, no thread and no generated twin, and it works inside a
running loop too.

JSON stays JSON: the SDK is asked for plain dicts, through its documented door for endpoints that
it does not know. Its models misread what they do not know, and cost several times the CPU.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

from qwen_conv.errors import UNREADABLE, Failure, ServiceFailedError, own_errors, service_error

if TYPE_CHECKING:
    from qwen_conv.calls import Call
    from qwen_conv.hub import QwenConversations
    from qwen_conv.locks import Holder

T = TypeVar("T")
P = ParamSpec("P")


class Api(Protocol):
    """What a flow may await."""

    @property
    def hub(self) -> QwenConversations:
        """What clients, sessions and conversations share."""
        ...

    async def send(self, call: Call[T]) -> T:
        """Sends a call and returns what its answer means.

        Raises:
            ServiceError: The service answered otherwise.
            NoReplyError: It did not answer.
        """
        ...

    async def lock(self, name: str) -> Holder:
        """Waits for the lock of that name, and takes it."""
        ...

    async def ask(self, question: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls something that may block, such as a registry."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Lets that much time pass."""
        ...


def finish(flow: Coroutine[Any, Any, T]) -> T:
    """Runs a flow over a `SyncApi` to its end.

    Raises:
        RuntimeError: The flow awaited something else, and suspended.
    """
    try:
        flow.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    flow.close()
    raise RuntimeError("A flow may await nothing but its api.")


class _Shared:
    """What both kinds of `Api` are made of.

    Args:
        hub: What clients, sessions and conversations share.
        client: The SDK's client.
        timeout: Seconds to wait for an answer; `None`: as the client says.
        max_retries: How often a call is sent again that may be sent twice; `None`: as the client
            says.
    """

    def __init__(
        self,
        hub: QwenConversations,
        client: Any,
        timeout: float | None = None,
        max_retries: int | None = None,
    ) -> None:
        self.hub = hub
        self._client = client
        self._timeout = timeout
        self._max_retries = max_retries

    def _address(self, call: Call[Any]) -> str:
        # Given whole, the SDK need not put it together, which took 5 % of a turn's CPU.
        return self.hub.base_url + call.path

    def _arguments(self, call: Call[Any]) -> dict[str, Any]:
        """What the SDK is told about a call, besides its address."""
        options: dict[str, Any] = {}
        if query := call.query:
            options["params"] = query
        if not call.repeatable:
            options["max_retries"] = 0  # what was stored once must not be stored again
        elif self._max_retries is not None:
            options["max_retries"] = self._max_retries
        if self._timeout is not None:
            options["timeout"] = self._timeout
        arguments = {"cast_to": object, "options": options}
        if call.method == "post":
            arguments["body"] = call.body
        return arguments


class SyncApi(_Shared):
    """An `Api` for threads: its methods block, and never suspend."""

    async def send(self, call: Call[T]) -> T:
        """Sends a call and returns what its answer means."""
        request = getattr(self._client, call.method)
        with own_errors(call, self.hub.secret):
            return _read(call, request(self._address(call), **self._arguments(call)))

    def stream(self, call: Call[Any]) -> Generator[object, None, None]:
        """Sends a call that is answered by events; closing the iterator closes the connection."""
        from qwen_conv.client import Events

        with own_errors(call, self.hub.secret):
            events = self._client.post(
                self._address(call),
                stream=True,
                stream_cls=Events,
                **self._arguments(call),
            )
            with events:
                yield from events

    async def lock(self, name: str) -> Holder:
        """Waits for the lock of that name, and takes it."""
        return self.hub.locks.of(name).acquire()

    async def ask(self, question: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls something that may block."""
        return question(*args, **kwargs)

    async def sleep(self, seconds: float) -> None:
        """Lets that much time pass."""
        time.sleep(seconds)  # noqa: ASYNC251 - a flow of a thread


class _ForTasks:
    """What tasks wait for, besides the service."""

    hub: QwenConversations

    async def lock(self, name: str) -> Holder:
        """Waits for the lock of that name, and takes it."""
        return await self.hub.locks.of(name).acquire_async()

    async def ask(self, question: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls something that may block, beside the event loop if it does."""
        if self.hub.registry_blocks:
            return await asyncio.to_thread(question, *args, **kwargs)
        return question(*args, **kwargs)

    async def sleep(self, seconds: float) -> None:
        """Lets that much time pass."""
        await asyncio.sleep(seconds)


class AsyncApi(_ForTasks, _Shared):
    """An `Api` for the tasks of one event loop."""

    async def send(self, call: Call[T]) -> T:
        """Sends a call and returns what its answer means."""
        request = getattr(self._client, call.method)
        with own_errors(call, self.hub.secret):
            return _read(call, await request(self._address(call), **self._arguments(call)))

    async def stream(self, call: Call[Any]) -> AsyncGenerator[object, None]:
        """Sends a call that is answered by events; closing the iterator closes the connection."""
        from qwen_conv.client import AsyncEvents

        with own_errors(call, self.hub.secret):
            events = await self._client.post(
                self._address(call),
                stream=True,
                stream_cls=AsyncEvents,
                **self._arguments(call),
            )
            async with events:
                async for event in events:
                    yield event


class ThreadedApi(_ForTasks):
    """An `Api` for tasks whose requests go out from threads, by the client for threads.

    For what is called from one event loop after the other, and from short-lived ones: no connection
    belongs to any of them.
    """

    def __init__(self, hub: QwenConversations) -> None:
        self.hub = hub

    async def send(self, call: Call[T]) -> T:
        """Sends a call and returns what its answer means."""
        return await asyncio.to_thread(lambda: finish(self.hub.sync().send(call)))


def _read(call: Call[T], wire: object) -> T:
    """What an answer with the status 200 means; it may yet be an error."""
    if not isinstance(wire, Mapping):
        what = str(wire)[:200] if wire else "nothing"
        raise ServiceFailedError(
            Failure(f"The service answered with something that is not a JSON object: {what!r}")
        )
    if wire.keys() & {"error", "code", "message"} and not wire.keys() & {"id", "data", "deleted"}:
        raise service_error(Failure.from_wire(wire), call)
    try:
        return call.reply(wire)
    except UNREADABLE as error:
        raise ServiceFailedError(
            Failure(f"The service's answer cannot be read: {error}")
        ) from error
