"""Which requests LlamaIndex's engines and agents come to, counted one by one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeVar

from benchmarks.engines import AGENTS, ENGINES, WAYS, ask, made, run
from benchmarks.figures import Table
from benchmarks.llamaindex_measures import LlamaIndexWorkload
from benchmarks.llamaindex_sides import MEMORIES, OnStockStores, Ours, Side
from benchmarks.script import scripted
from benchmarks.workload import KEY, MODEL
from llamaindex_qwen_conv import QwenConv
from qwen_conv.offline import OfflineServer, SeenRequest

T = TypeVar("T")

QUESTIONS = (
    "Which ferry goes to the island?",
    "What is the weather in Rome?",
    "How long does it take?",
    "And is the weather there good for bathing?",
)
"""What is asked; an agent uses its tool for every other."""

KINDS = ("on it", "on none", "creates", "reads", "writes", "deletes")
"""The kinds of requests, in the order of the columns."""

Talk = Callable[[Side, str, int], None]
"""Asks so many questions, with a memory of that kind."""


def requests(work: LlamaIndexWorkload) -> Table:
    """How many requests of which kind every engine and agent comes to."""
    count = work.questions
    with OfflineServer(scripted) as server:
        ours = Ours(server.base_url, is_created=False)
        stock = OnStockStores(QwenConv(model=MODEL, api_key=KEY, base_url=server.base_url))

        def counted(talk: Talk, side: Side, kind: str) -> Counter[str]:
            server.requests.clear()
            talk(side, kind, count)
            ours.hub.close()  # what still waits is written
            return Counter(map(_kind, server.requests))

        def cells(talk: Talk, kind: str) -> tuple[str, ...]:
            found = counted(talk, ours, kind)
            totals = (counted(talk, stock, kind).total(), found.total())
            per_question = [f"{total / count:.2f}" for total in totals]
            return (*per_question, *(str(found[each]) for each in KINDS))

        rows = [row for name, talks in TALKS.items() for row in _rows(name, talks, cells)]
    return Table("Requests per turn", TOLD.format(count=count), HEAD, 3, rows)


HEAD = ("", "methods", "memories", "stock stores", "our stores", *KINDS)

TOLD = """\
`QwenConv` in every chat engine and every agent of LlamaIndex, each asked {count} questions in a
dialog of its own; agents take every other to a tool. On the stores that LlamaIndex brings, no
request is on a conversation; on ours, those that are proved to go on with it are. The columns to
the left are requests per question, and those to the right are those of our stores for all
questions, by kind: turns on the conversation, turns on none (which are sent all that they need),
conversations created, readings, writings (of messages or metadata) and deletions. What still waits
when the dialog is over is written then, and counted. Methods and memories that come to the same
share a row. What the model says is in `benchmarks/script.py`."""


def _rows(
    name: str, talks: Mapping[str, Talk], cells: Callable[[Talk, str], tuple[str, ...]]
) -> Iterator[Sequence[str]]:
    by_memory = {
        kind: tuple(_alike({way: cells(talk, kind) for way, talk in talks.items()}))
        for kind in MEMORIES
    }
    for groups, kinds in _alike(by_memory):
        for told, ways in groups:
            yield name, ways, kinds, *told


def _alike(found: Mapping[str, T]) -> Iterator[tuple[T, str]]:
    """Each thing that was found, once, and the names under which it was."""
    names: dict[T, list[str]] = {}
    for name, one in found.items():
        names.setdefault(one, []).append(name)
    for one, alike in names.items():
        yield one, ", ".join(alike)


def _talk_to_engine(name: str, way: str, side: Side, kind: str, count: int) -> None:
    engine = made(name, way, side.llm, side.begin(kind))
    for question in QUESTIONS[:count]:
        ask(engine, way, question)


def _talk_to_agent(name: str, side: Side, kind: str, count: int) -> None:
    agent, memory = AGENTS[name](side.llm, streaming=True), side.begin(kind)

    async def talk() -> None:
        for question in QUESTIONS[:count]:
            await run(agent, question, memory)

    asyncio.run(talk())


TALKS: Mapping[str, Mapping[str, Talk]] = {
    **{name: {way: partial(_talk_to_engine, name, way) for way in WAYS} for name in ENGINES},
    **{name: {"run": partial(_talk_to_agent, name)} for name in AGENTS},
}
"""By engine or agent, and by method."""


def _kind(request: SeenRequest) -> str:
    """What kind of a request it is."""
    match request.method, request.path.strip("/").split("/"):
        case "POST", ["responses"]:
            return "on it" if request.body.get("conversation") else "on none"
        case "POST", ["conversations"]:
            return "creates"
        case "POST", _:
            return "writes"
        case "GET", _:
            return "reads"
        case "DELETE", _:
            return "deletes"
    raise ValueError(f"A request of no known kind: {request.method} {request.path}")
