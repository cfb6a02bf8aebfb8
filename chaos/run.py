"""Runs the stories of a plan, many at once, in threads and in tasks."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, suppress

from chaos.drivers import Driver
from chaos.faults import SETTLE_TIMEOUT
from chaos.langchain_drivers import AgentDriver, HistoryDriver, ModelDriver
from chaos.ledger import Ledger
from chaos.llamaindex_drivers import EngineDriver, LLMDriver
from chaos.plan import Story, Taker, planned
from chaos.server import ChaosServer
from chaos.user import User
from qwen_conv import QwenConversations
from qwen_conv.api import finish
from qwen_conv.errors import QwenConvError
from qwen_conv.registry import MemoryRegistry

_DRIVERS: dict[Taker, type[Driver]] = {
    "model": ModelDriver,
    "history": HistoryDriver,
    "agent": AgentDriver,
    "llm": LLMDriver,
    "engine": EngineDriver,
}

_SWITCH = 0.0005
"""Seconds after which a thread lets others go on."""

MOST_SECONDS = 900
"""Seconds after which a process is taken to hang."""

THREADS = 24
TASKS = 24
"""Stories that are lived at the same time in one process: most of them wait most of the time."""


def run(seed: int, turns: int, workers: int) -> Ledger:
    """Lives all stories of a seed, shared out between processes; each has a server of its own."""
    if workers == 1:
        return lived(tuple(planned(seed, turns)))
    ledger = Ledger()
    spawn = multiprocessing.get_context("spawn")  # a fork would copy locks in whatever state
    with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
        shares = [pool.submit(_share, seed, turns, each, workers) for each in range(workers)]
        for share in shares:
            ledger.add(share.result())
    return ledger


def _share(seed: int, turns: int, number: int, workers: int) -> Ledger:
    """Every so-many-th story of a seed."""
    logging.getLogger().addHandler(logging.NullHandler())  # errors are told in the ledger
    faulthandler.dump_traceback_later(MOST_SECONDS, exit=True)  # says where a story hangs
    return lived([one for one in planned(seed, turns) if one.number % workers == number])


def lived(stories: Sequence[Story]) -> Ledger:
    """Lives stories, and adds up what came of them."""
    interval = sys.getswitchinterval()
    # The server answers in a thread beside those that ask: it must not come last.
    sys.setswitchinterval(_SWITCH)
    try:
        with ChaosServer() as server:
            return _Stage(server).lived(stories)
    finally:
        sys.setswitchinterval(interval)


def _written(hub: QwenConversations) -> None:
    """Closes a hub; what stores could not write for a fault that was left is written then."""
    for _ in range(3):
        with suppress(QwenConvError):
            return hub.close()
    return hub.close()


class _Stage:
    """What the stories of one process share.

    Args:
        server: The server.
    """

    def __init__(self, server: ChaosServer) -> None:
        self._server = server
        self._registry = MemoryRegistry()
        self._hubs = {retries: self._hub(retries, server.base_url) for retries in (0, 2)}
        self._ledger = Ledger()

    def _hub(self, retries: int, base_url: str) -> QwenConversations:
        return QwenConversations(
            api_key="made-up-for-chaos",
            base_url=base_url,
            registry=self._registry,
            max_retries=retries,
            settle_timeout=SETTLE_TIMEOUT,
        )

    def lived(self, stories: Sequence[Story]) -> Ledger:
        """Lives stories, and adds up what came of them."""
        with ThreadPoolExecutor(THREADS + 1) as pool:
            in_tasks = pool.submit(asyncio.run, self._in_tasks(stories))
            in_threads = [
                pool.submit(self._in_thread, story) for story in stories if not story.in_tasks
            ]
            for one in in_threads:
                self._ledger.add(one.result())
            self._ledger.add(in_tasks.result())
        for hub in self._hubs.values():
            hub.close()
        return self._ledger

    def _in_thread(self, story: Story) -> Ledger:
        with self._user(story) as user:
            ledger = finish(user.live())
            if story.needs_hub:
                _written(user.driver.hub)
            return ledger

    async def _in_tasks(self, stories: Sequence[Story]) -> Ledger:
        at_once = asyncio.Semaphore(TASKS)
        ledger = Ledger()

        async def live(story: Story) -> None:
            async with at_once:
                with self._user(story) as user:
                    ledger.add(await user.live())
                    if story.needs_hub:
                        await asyncio.to_thread(_written, user.driver.hub)
                        await user.driver.hub.aclose()

        # What the tasks had of the hubs is closed with their loop; the threads may still go on.
        await asyncio.gather(*(live(story) for story in stories if story.in_tasks))
        return ledger

    @contextmanager
    def _user(self, story: Story) -> Iterator[User]:
        """Who lives a story; with a door and a hub of its own, if it needs them."""
        door = self._server.door() if story.needs_door else None
        base_url = self._server.base_url
        hub = self._hubs[story.retries]
        if story.needs_hub:
            hub = self._hub(story.retries, door.base_url(base_url) if door else base_url)
        try:
            yield User(_DRIVERS[story.taker](story, hub), self._server, door)
        finally:
            if door is not None:
                self._server.submit(door.close()).result()
