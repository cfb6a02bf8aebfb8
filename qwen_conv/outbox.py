"""What waits for a turn, kept in the registry's database: a killed process loses none of it."""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from collections.abc import Sequence
from functools import cache
from uuid import uuid4

from qwen_conv.api import Api
from qwen_conv.errors import RegistryError
from qwen_conv.held import Form, Held
from qwen_conv.hub import QwenConversations
from qwen_conv.registry import Outbox, Waiting

logger = logging.getLogger("qwen_conv")

SILENCE = 900.0
"""Seconds after which a process elsewhere that has not touched its rows is taken for dead: longer
than a turn takes that sends them (the SDK waits 600 seconds for an answer)."""


@cache
def owner(process: int) -> str:
    """What names this process in the outbox."""
    return f"{socket.gethostname()}:{process}:{uuid4().hex[:12]}"


class Rows:
    """The rows of one key; where the registry has no outbox, there are none.

    Args:
        hub: What has the registry.
        key: The session's key, or a conversation's id.
    """

    def __init__(self, hub: QwenConversations, key: str) -> None:
        registry = hub.registry
        self._outbox = registry if isinstance(registry, Outbox) else None
        self._session = hub.session(key)
        self.look_at = math.inf if self._outbox is None else 0.0
        """When to look for what a killed process left, in seconds since 1970."""

    async def post(
        self, api: Api, some: Sequence[Held], form: Form, behind: str | None, held: Sequence[Held]
    ) -> None:
        """Keeps messages that wait.

        Args:
            api: What is awaited.
            some: The messages.
            form: Writes them.
            behind: The id of the conversation's last item.
            held: What the conversation holds: where that item is not found again, it is told by
                how often the same was said before whether a message was written.
        """
        if self._outbox is None or not some:
            return
        data = [
            {
                "message": form.to_json(each.message),
                "behind": behind,
                "before": sum(one.said == each.said for one in held),
            }
            for each in some
        ]
        numbers = await api.ask(self._outbox.post, self._session, owner(os.getpid()), data)
        for each, number in zip(some, numbers, strict=True):
            each.number = number

    async def lost(self, api: Api, some: Sequence[Held]) -> list[Held]:
        """Which of the messages are another process's to write; the others are ours for a while."""
        numbers = [each.number for each in some if each.number is not None]
        mine = owner(os.getpid())
        if self._outbox is None or not numbers:
            return []
        if await api.ask(self._outbox.renew, self._session, mine, numbers):
            return []
        rows = await api.ask(self._outbox.waiting, self._session)
        still = {row.number for row in rows if row.owner == mine}
        return [each for each in some if each.number is not None and each.number not in still]

    async def withdraw(self, api: Api, some: Sequence[Held]) -> None:
        """Forgets messages that wait no more.

        Where that fails, they are found in the conversation by whoever takes them up.
        """
        numbers = [each.number for each in some if each.number is not None]
        if self._outbox is not None and numbers:
            try:
                await api.ask(self._outbox.withdraw, self._session, numbers)
            except RegistryError as error:
                logger.warning("what was sent stays in the outbox for now: %s", error)
        for each in some:
            each.number = None

    async def left(self, api: Api) -> list[Waiting]:
        """What others left who are dead: ours from now on, in order."""
        if self._outbox is None:
            self.look_at = math.inf
            return []
        mine, now = owner(os.getpid()), time.time()
        rows = await api.ask(self._outbox.waiting, self._session)
        lives = [_lives(other) for other in {row.owner for row in rows} - {mine}]
        all_dead = all(one is False for one in lives)
        found: list[Waiting] = []
        if lives and True not in lives:
            before = now if all_dead else now - SILENCE
            found = await api.ask(self._outbox.take_over, self._session, mine, before)
        self.look_at = math.inf if all_dead else now + SILENCE
        return found


def _lives(other: str) -> bool | None:
    """Whether a process of this machine is there; of another machine nothing is known."""
    host, process, _ = other.rsplit(":", 2)
    if host != socket.gethostname() or os.name == "nt":  # there, `kill` would end it
        return None
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it is somebody else's
    return True
