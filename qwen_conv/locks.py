"""One turn at a time per conversation, first come, first served, for threads and tasks alike.

The standard library's locks serve threads, or the tasks of one event loop; a conversation has one
owner whoever it is. A waiting thread sleeps, a waiting task yields to its loop, and both stand in
the same queue, so that turns keep the order in which they were asked for.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol, Self
from weakref import WeakValueDictionary

from qwen_conv.aside import running_loop
from qwen_conv.errors import ConversationBusyError
from qwen_conv.leases import Tenant

if TYPE_CHECKING:
    from qwen_conv.api import Api


class Guard(Protocol):
    """What keeps other processes out of a conversation while a turn of this one has it.

    Attributes:
        taken_over: Whether others had the conversation since this process had it last.
    """

    taken_over: bool

    async def enter(self, api: Api) -> None:
        """Waits until the others are out."""
        ...

    def check(self) -> None:
        """Makes sure that they still are.

        Raises:
            LeaseLostError: They are not.
        """
        ...

    def leave(self, then: Callable[[], None]) -> None:
        """Lets them in if they were kept out, or the waiting was broken off; then calls `then`."""
        ...


class Holder:
    """Who holds a lock, or waits for it. `release` gives it on."""

    def __init__(self, lock: TurnLock) -> None:
        self._lock: TurnLock | None = lock
        self._guard: Guard | None = None
        self.loop = running_loop()
        self.turn: Future[None] | None = None  # set if it has to wait

    @property
    def lock(self) -> TurnLock | None:
        """The lock, until it is released."""
        return self._lock

    @property
    def taken_over(self) -> bool:
        """Whether another process is known to have had the conversation since this one had it."""
        return self._guard is not None and self._guard.taken_over

    async def enter(self, guard: Guard, api: Api) -> Self:
        """Keeps other processes out too, from now on until the release.

        If that fails, or is cancelled, the lock is released.
        """
        self._guard = guard
        try:
            await guard.enter(api)
        except BaseException:
            self.release()
            raise
        return self

    def check(self) -> None:
        """Makes sure, before anything is sent, that no other process has the conversation by now.

        Raises:
            LeaseLostError: One has.
            RegistryError: The registry has to be asked, and fails.
        """
        if self._guard is not None:
            self._guard.check()

    def release(self) -> None:
        """Hands the lock to whoever has waited longest; from any thread or task, and only once."""
        lock, self._lock = self._lock, None
        self.loop = None  # a released holder must not keep an event loop alive
        if lock is None:
            return
        hand_over = lock._hand_over  # noqa: SLF001 - the two are one mechanism
        if self._guard is None:
            hand_over()
        else:
            self._guard.leave(hand_over)


PATIENCE = 1.0
"""Seconds that a task waits for a lock which the line of execution it belongs to holds itself."""

_NEVER_ENDS = (
    "This conversation's turn is still open right here, and waiting for it would never end: read "
    "its stream to the end, or close it, before the next turn."
)

_held_here: ContextVar[tuple[Holder, ...]] = ContextVar("_held_here", default=())
"""The locks that this line of execution holds, or was begun by one that does: a stream's turn
stays open between its chunks."""


class TurnLock:
    """A lock for threads and tasks; whoever waits gets it in the order of asking."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._holder: Holder | None = None
        self._waiting: deque[tuple[Holder, Future[None]]] = deque()

    def acquire(self) -> Holder:
        """Takes the lock; sleeps until it is free.

        Raises:
            ConversationBusyError: This thread is what has to go on for the lock to become free.
        """
        me = self._enter(blocking=True)
        if me.turn is not None:
            try:
                me.turn.result()
            except BaseException:
                self._give_up(me, me.turn)
                raise
        return self._entered(me)

    async def acquire_async(self) -> Holder:
        """Takes the lock; leaves the event loop free until then.

        Raises:
            ConversationBusyError: This task is what has to go on for the lock to become free.
        """
        me = self._enter(blocking=False)
        if me.turn is not None:
            # An event loop closes a stream that was broken off, but not at once.
            patience = PATIENCE if self._is_held_here() else None
            try:
                await asyncio.wait_for(asyncio.wrap_future(me.turn), patience)
            except TimeoutError:
                self._give_up(me, me.turn)
                raise ConversationBusyError(_NEVER_ENDS) from None
            except BaseException:
                self._give_up(me, me.turn)
                raise
        return self._entered(me)

    def _enter(self, *, blocking: bool) -> Holder:
        me = Holder(self)
        with self._mutex:
            if self._holder is None:
                self._holder = me
                return me
            if blocking and self._never_ends(self._holder, me):
                raise ConversationBusyError(_NEVER_ENDS)
            me.turn = Future()
            self._waiting.append((me, me.turn))
            return me

    def _never_ends(self, holder: Holder, me: Holder) -> bool:
        # Sleeping in an event loop stops the loop in which the holder would go on.
        return (me.loop is not None and holder.loop is me.loop) or self._is_held_here()

    def _is_held_here(self) -> bool:
        # Tasks that LangChain starts for a call carry its context on, so this sees them too.
        holder = self._holder
        is_released = holder is None or holder.lock is None  # and is handed over in a moment
        return not is_released and holder in _held_here.get()

    @staticmethod
    def _entered(me: Holder) -> Holder:
        held = [one for one in _held_here.get() if one.lock is not None]
        _held_here.set((*held, me))
        return me

    def _give_up(self, me: Holder, turn: Future[None]) -> None:
        # One who can no longer be cancelled was handed the lock in the moment of giving up.
        if not turn.cancel():
            me.release()

    def _hand_over(self) -> None:
        handed: Future[None] | None = None
        with self._mutex:
            self._holder = None
            while self._waiting and handed is None:
                holder, turn = self._waiting.popleft()
                if turn.set_running_or_notify_cancel():
                    self._holder, handed = holder, turn
        if handed is not None:
            handed.set_result(None)


class TurnLocks:
    """The locks of conversations and sessions, by name; one that nobody uses is forgotten.

    Attributes:
        tenant: What those who share the locks are to other processes.
    """

    def __init__(self) -> None:
        self.tenant = Tenant()
        self._mutex = threading.Lock()
        self._locks: WeakValueDictionary[str, TurnLock] = WeakValueDictionary()

    def of(self, name: str) -> TurnLock:
        """The lock of that name."""
        with self._mutex:
            lock = self._locks.get(name)
            if lock is None:
                lock = self._locks[name] = TurnLock()
            return lock


PROCESS_LOCKS = TurnLocks()
"""What the hubs of a process share: two of them take turns on one conversation one by one."""
