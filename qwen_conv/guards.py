"""The user's own lock, which keeps other processes out of a conversation."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any

from qwen_conv.aside import running_loop
from qwen_conv.errors import UsageError

if TYPE_CHECKING:
    from qwen_conv.api import Api
    from qwen_conv.locks import Guard

logger = logging.getLogger("qwen_conv")


class OwnLocks:
    """What makes the user's locks: for threads, for tasks, or for both.

    Args:
        lock: Makes of a conversation's id a context manager.
        async_lock: Makes of it an asynchronous context manager.
    """

    def __init__(
        self,
        lock: Callable[[str], AbstractContextManager[Any]] | None,
        async_lock: Callable[[str], AbstractAsyncContextManager[Any]] | None,
    ) -> None:
        self._lock = lock
        self._async_lock = async_lock

    def of(self, *, tasks: bool) -> Callable[[str], Guard]:
        """What makes the guard of a conversation for tasks, or for threads.

        Raises:
            UsageError: There is only a lock for the other way of calling.
        """
        if tasks and (async_lock := self._async_lock):
            return lambda conversation_id: _OfTask(conversation_id, async_lock(conversation_id))
        if not tasks and (lock := self._lock):
            return lambda conversation_id: _OfThread(conversation_id, lock(conversation_id))
        raise UsageError(
            "The hub was given a lock of yours for the other way of calling: pass "
            f"{'async_lock' if tasks else 'lock'} too, so that both keep others out."
        )


class _OwnLock:
    """What both kinds of locks have in common: they do not tell who had the conversation before."""

    def __init__(self, conversation_id: str) -> None:
        self._conversation_id = conversation_id
        self._is_entered = False
        self.taken_over = False

    def check(self) -> None:
        """Does nothing: a lock does not tell that it was lost."""

    def _failed(self, error: Exception) -> None:
        logger.warning("the lock of %s was not left: %r", self._conversation_id, error)


class _Leaving(asyncio.Task[None]):
    """Leaves a lock; an event loop that is wound up waits for that instead of cancelling it."""

    def __init__(self, leaving: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(leaving, loop=loop)
        _LEAVING.add(self)
        self.add_done_callback(_LEAVING.discard)

    def cancel(self, msg: Any = None) -> bool:  # noqa: ARG002 - as a task's
        return False


_LEAVING: set[asyncio.Task[None]] = set()
"""An event loop forgets a task that nobody else holds."""


class _OfThread(_OwnLock):
    def __init__(self, conversation_id: str, lock: AbstractContextManager[Any]) -> None:
        super().__init__(conversation_id)
        self._lock = lock

    async def enter(self, _: Api) -> None:
        self._lock.__enter__()
        self._is_entered = True

    def leave(self, then: Callable[[], None]) -> None:
        try:
            if self._is_entered:
                self._is_entered = False
                self._lock.__exit__(None, None, None)
        except Exception as error:  # noqa: BLE001 - what the turn came to stays as it is
            self._failed(error)
        finally:
            then()


class _OfTask(_OwnLock):
    def __init__(self, conversation_id: str, lock: AbstractAsyncContextManager[Any]) -> None:
        super().__init__(conversation_id)
        self._lock = lock
        self._loop = asyncio.get_running_loop()

    async def enter(self, _: Api) -> None:
        await self._lock.__aenter__()
        self._is_entered = True

    def leave(self, then: Callable[[], None]) -> None:
        """Has the event loop leave the lock; whoever is next here waits for the lock itself."""
        if self._is_entered:
            self._is_entered = False
            try:
                self._begin_to_leave()
            except RuntimeError as error:  # the loop is closed
                self._failed(error)
        then()

    def _begin_to_leave(self) -> None:
        if self._loop is running_loop():
            _Leaving(self._leave(), loop=self._loop)
        else:
            self._loop.call_soon_threadsafe(self._begin_to_leave)

    async def _leave(self) -> None:
        try:
            await self._lock.__aexit__(None, None, None)
        except Exception as error:  # noqa: BLE001 - what the turn came to stays as it is
            self._failed(error)
