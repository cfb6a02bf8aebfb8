"""One turn at a time per conversation, across processes: the registry says whose turn it is.

A turn takes the conversation's lease when it has the lock that orders the turns of its process, and
ends it before that lock goes on. In between the database is left alone, unless the turn takes long:
then a thread renews the lease. A process that is killed leaves a lease that runs out.
"""

from __future__ import annotations

import json
import logging
import os
import random
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import uuid4
from weakref import WeakSet

from qwen_conv.aside import running_loop, threads
from qwen_conv.doubt import Doubt
from qwen_conv.errors import LeaseLostError, RegistryError
from qwen_conv.registry import PLACE, Lease, Leases

if TYPE_CHECKING:
    from qwen_conv.api import Api
    from qwen_conv.hub import QwenConversations

logger = logging.getLogger("qwen_conv")

_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = PLACE / 4
"""Seconds between two askings for a lease that others have."""

_VERSION = 2
"""Of what one owner of a lease notes for the next."""

_REMEMBERED = 10_000
"""Conversations of which a process remembers the last lease; with one that it has forgotten, the
next turn looks at the conversation once more."""


class Tenant:
    """What a process is to the others, and which leases were its last ones."""

    def __init__(self) -> None:
        self._name = uuid4().hex[:12]
        self._mutex = threading.Lock()
        self._tokens: OrderedDict[tuple[str, str], int] = OrderedDict()

    @property
    def owner(self) -> str:
        """What names this process in leases; a forked one has another name."""
        return f"{socket.gethostname()}:{os.getpid()}:{self._name}"

    def note(self, lease: Lease) -> bool:
        """Notes a lease that was taken; whether anybody else had the conversation before it.

        Anybody, that is, since this process had it last.
        """
        conversation = (lease.base_url, lease.conversation_id)
        with self._mutex:
            last = self._tokens.get(conversation, 0)
            self._tokens[conversation] = lease.token
            self._tokens.move_to_end(conversation)
            if len(self._tokens) > _REMEMBERED:
                self._tokens.popitem(last=False)
        return lease.token != last + 1


class Heartbeat:
    """Renews the leases of turns that take long, from one thread for all of them.

    A lease is renewed once a third of its time has passed. The thread wakes up no more often than
    that, and ends when it finds no lease held.

    Args:
        seconds: How long a lease lasts.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._pause = seconds / 3
        self._mutex = threading.Lock()
        # Weakly: what nobody holds any more, and nobody released, is to run out.
        self._held: WeakSet[Tenure] = WeakSet()
        self._beats_in: int | None = None

    def keep(self, tenure: Tenure) -> None:
        """Has a lease that was just taken be renewed in time."""
        process = os.getpid()
        with self._mutex:
            if self._beats_in == process:
                self._held.add(tenure)
                return
            # Leases that were held when this process was forked are its parent's.
            self._held = WeakSet((tenure,))
            self._beats_in = process
        threading.Thread(target=self._beat, name="qwen-conv leases", daemon=True).start()

    def drop(self, tenure: Tenure) -> None:
        """Has a lease not be renewed any more."""
        with self._mutex:
            self._held.discard(tenure)

    def _beat(self) -> None:
        pause: float | None = self._pause
        while pause is not None:
            time.sleep(pause)
            self._renew_due()  # on its own: no tenure may be held on to during the next sleep
            pause = self._until_next()

    def _renew_due(self) -> None:
        with self._mutex:
            held = [*self._held]
        for tenure in held:
            if tenure.renewed <= time.monotonic() - self._pause:
                tenure.renew()

    def _until_next(self) -> float | None:
        """Seconds until a lease is to be renewed; `None` if none is held, and the thread ends.

        One that is taken meanwhile is to be renewed later than those that are held by now.
        """
        with self._mutex:
            if not (renewed := [each.renewed for each in self._held]):
                self._beats_in = None
                return None
        return max(0.0, min(renewed) + self._pause - time.monotonic())


class Tenure:
    """A conversation's lease for as long as one turn has the conversation.

    Its steps are taken one at a time, whichever threads they are taken in.

    Args:
        hub: The hub of the turn.
        registry: The hub's registry.
        tenant: This process.
        heartbeat: What renews the lease.
        conversation_id: The conversation.

    Attributes:
        taken_over: Whether others had the conversation since this process had it last.
        renewed: When the lease was last taken or tried to be renewed, as `time.monotonic()` tells.
    """

    def __init__(
        self,
        hub: QwenConversations,
        registry: Leases,
        tenant: Tenant,
        heartbeat: Heartbeat,
        conversation_id: str,
    ) -> None:
        self._hub = hub
        self._registry = registry
        self._tenant = tenant
        self._heartbeat = heartbeat
        self._conversation_id = conversation_id
        self._mutex = threading.Lock()
        self._lease: Lease | None = None
        self._is_lost = self._is_over = False
        self.taken_over = False
        self.renewed = 0.0

    async def enter(self, api: Api) -> None:
        """Waits until it is this process's turn, and takes the lease.

        Raises:
            RegistryError: The registry fails.
        """
        pause = _FIRST_PAUSE
        while not await api.ask(self._take):
            await api.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            pause = min(2 * pause, _LONGEST_PAUSE)

    def check(self) -> None:
        """Makes sure that the conversation is still this turn's, before anything is sent to it.

        Only if the lease has run out is the registry asked: nobody may have taken it yet.

        Raises:
            LeaseLostError: It is another process's.
            RegistryError: The registry fails.
        """
        lease = self._lease
        if lease is not None and time.time() >= lease.expires:
            self._renew()
        if self._is_lost:
            raise LeaseLostError(self._conversation_id, self._heartbeat.seconds)

    def renew(self) -> None:
        """Renews the lease; if the registry fails, that is tried again later."""
        try:
            self._renew()
        except RegistryError as error:
            logger.warning("the lease of %s was not renewed: %s", self._conversation_id, error)

    def leave(self, then: Callable[[], None]) -> None:
        """Ends the lease, and calls `then` when that is done, or failed.

        In an event loop both is done by a thread.
        """
        if running_loop() is not None:
            try:
                threads().submit(self._end, then)
            except RuntimeError:  # the interpreter is about to end
                pass
            else:
                return
        self._end(then)

    def _note(self, lease: Lease) -> str:
        """What the next owner has to know of."""
        ledger = self._hub.ledger
        end = ledger.end(self._conversation_id)
        return _written(ledger.of(self._conversation_id).doubt, end, lease.token)

    def _take(self) -> bool:
        """Whether there is no more to wait for: the lease is taken, or the turn was cancelled."""
        with self._mutex:
            if self._is_over:
                return True
            heartbeat, self.renewed = self._heartbeat, time.monotonic()
            owner, expires = self._tenant.owner, time.time() + heartbeat.seconds
            lease = self._registry.lease(
                self._hub.base_url, self._conversation_id, owner, heartbeat.seconds
            )
            if lease is None:
                return False
            self._lease = replace(lease, expires=expires)
            self.taken_over = self._tenant.note(lease)
            if self.taken_over:
                self._hub.ledger.take_over(self._conversation_id, *_read(lease.note, lease.token))
            heartbeat.keep(self)
        return True

    def _renew(self) -> None:
        with self._mutex:
            if self._lease is None or self._is_over or self._is_lost:
                return
            self.renewed = time.monotonic()
            expires = time.time() + self._heartbeat.seconds
            if self._registry.renew_lease(self._lease, self._heartbeat.seconds):
                self._lease = replace(self._lease, expires=expires)
            else:
                self._is_lost = True
                self._heartbeat.drop(self)

    def _end(self, then: Callable[[], None]) -> None:
        try:
            with self._mutex:
                self._is_over = True
                self._heartbeat.drop(self)
                if self._lease is None:
                    return
                note = self._note(self._lease)
                if self._is_lost or not self._registry.end_lease(self._lease, note):
                    logger.warning(
                        "the lease of %s was lost before its turn ended", self._conversation_id
                    )
        except Exception as error:  # noqa: BLE001 - the lease runs out, and the turn is done
            logger.warning("the lease of %s was not ended: %s", self._conversation_id, error)
        finally:
            then()


def _written(doubt: Doubt | None, end: str | None, token: int) -> str:
    """What the next owner of a conversation's lease is to know; it says nothing of the content.

    Args:
        doubt: The turn in doubt.
        end: The id of the item that the conversation ends with, or ended with before that turn.
        token: The token of the lease.
    """
    told = doubt and doubt._asdict()
    return json.dumps({"v": _VERSION, "doubt": told, "end": end, "token": token})


def _read(note: str | None, token: int) -> tuple[Doubt | None, str | None]:
    """The doubt, and the end, that the last owner has written.

    Where a later version wrote it, both are `None`; so is the end where the last owner did not come
    to write one, because it was killed.

    Args:
        note: What was written.
        token: The token of the lease that was taken just now.
    """
    noted = json.loads(note or "{}")
    if noted.get("v") != _VERSION:
        return None, None
    end = noted["end"] if noted["token"] == token - 1 else None
    if (told := noted["doubt"]) is None:
        return None, end
    tuples = {name: tuple(told[name]) for name in ("asked", "before", "since")}
    return Doubt(**{**told, **tuples, "forms": tuple(map(tuple, told["forms"]))}), end
