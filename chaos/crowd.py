"""Many who take turns on the same conversations: threads, tasks, and processes.

Each passes only his own question. Nobody may stand between a question and its answer.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from chaos.drivers import MODEL
from chaos.judge import Verdict, judged_crowd
from chaos.marks import Mark, line, question
from chaos.server import ChaosServer
from langchain_qwen_conv import ChatQwenConv
from qwen_conv import QwenConversations
from qwen_conv.registry import MemoryRegistry, Registry, SqlRegistry

Pair = tuple[str, str]
"""A question and the answer that was given to it, as `chaos.marks.said` has them."""


@dataclass(frozen=True, slots=True)
class Crowd:
    """What came of a crowd's turns.

    Attributes:
        who: How many took turns, and where.
        turns: How many turns were taken.
        verdicts: What is wrong with the conversations where anything is.
    """

    who: str
    turns: int
    verdicts: Sequence[Verdict]

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.verdicts

    def __str__(self) -> str:
        told = [f"{self.who}: {self.turns} turns, {len(self.verdicts)} conversations wrong"]
        return "\n".join([*told, *(f"  {verdict}" for verdict in self.verdicts)])


def threads_and_tasks(
    threads: int = 64, tasks: int = 256, conversations: int = 32, turns: int = 4
) -> Crowd:
    """Threads and tasks of one process, each of which takes some turns."""
    with ChaosServer() as server:
        hub = _hub(server.base_url, MemoryRegistry())
        chat = ChatQwenConv(model=MODEL, conversations=hub)
        taken: list[list[Pair]] = []

        def marks(who: int) -> list[Mark]:
            return [Mark(who % conversations, who * turns + each) for each in range(turns)]

        def in_thread(who: int) -> list[Pair]:
            return [_pair(mark, chat.invoke(*_asked(mark)).text) for mark in marks(who)]

        async def in_task(who: int) -> list[Pair]:
            return [_pair(mark, (await chat.ainvoke(*_asked(mark))).text) for mark in marks(who)]

        async def all_tasks() -> list[list[Pair]]:
            return await asyncio.gather(*map(in_task, range(threads, threads + tasks)))

        with ThreadPoolExecutor(threads + 1) as pool:
            others = pool.submit(asyncio.run, all_tasks())
            taken += pool.map(in_thread, range(threads))
            taken += others.result()
        who = f"{threads} threads and {tasks} tasks on {conversations} conversations"
        return _judged(who, server, hub, taken)


def processes(count: int = 8, sessions: int = 8, turns: int = 5) -> Crowd:
    """Processes that share sessions by a SQLite file, each of which takes some turns on each."""
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, ChaosServer() as server:
        url = f"sqlite:///{Path(folder) / 'sessions.db'}"
        with ProcessPoolExecutor(count, mp_context=spawn) as pool:
            shares = [
                pool.submit(_of_process, server.base_url, url, each, sessions, turns)
                for each in range(count)
            ]
            taken = [share.result() for share in shares]
        with closing(SqlRegistry(url)) as registry, closing(_hub(server.base_url, registry)) as hub:
            who = f"{count} processes on {sessions} sessions"
            return _judged(who, server, hub, taken)


def _of_process(base_url: str, url: str, who: int, sessions: int, turns: int) -> list[Pair]:
    """One process: goes round the sessions, from one of its own on."""
    with closing(SqlRegistry(url)) as registry, closing(_hub(base_url, registry)) as hub:
        chat = ChatQwenConv(model=MODEL, conversations=hub)
        marks = [
            Mark((who + each) % sessions, who * turns + turn)
            for turn in range(turns)
            for each in range(sessions)
        ]
        return [_pair(mark, chat.invoke(*_asked(mark)).text) for mark in marks]


def _hub(base_url: str, registry: Registry) -> QwenConversations:
    return QwenConversations(api_key="made-up-for-chaos", base_url=base_url, registry=registry)


def _asked(mark: Mark) -> tuple[str, dict[str, dict[str, str]]]:
    return question(mark), {"configurable": {"session_id": _key(mark.story)}}


def _key(conversation: int) -> str:
    return f"crowded {conversation}"


def _pair(mark: Mark, answer: str) -> Pair:
    return line("user", question(mark)), line("assistant", answer)


def _judged(
    who: str, server: ChaosServer, hub: QwenConversations, taken: Sequence[Sequence[Pair]]
) -> Crowd:
    pairs = [pair for each in taken for pair in each]
    verdicts = []
    for row in hub.registry.sessions(hub.namespace):
        number = row.session.key.rpartition(" ")[2]
        mine = [pair for pair in pairs if f" c{number}." in pair[0]]
        verdicts.append(judged_crowd(mine, server.said(row.conversation_id)))
    hub.close()
    return Crowd(who, len(pairs), [verdict for verdict in verdicts if not verdict])
