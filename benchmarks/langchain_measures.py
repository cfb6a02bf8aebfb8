"""What is measured with LangChain: each function does one comparison, and yields its rows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import openai

from benchmarks.figures import Cost, Row, Target, compare, cost_of, each
from benchmarks.langchain_agents import agents
from benchmarks.langchain_sides import FIRSTS, Begin, Dialog, langchain_sides
from benchmarks.names import BY_HAND, DICTS, OURS, SDK
from benchmarks.starts import rows
from benchmarks.traffic import Relay, Traffic, relayed
from benchmarks.workload import ANSWER, KEY, QUESTION, STREAMS, Workload, deltas
from langchain_qwen_conv import QwenConvChatMessageHistory
from qwen_conv import QwenConversations, flows
from qwen_conv.items import Item, Message

MS, MICROSECONDS = 1e3, 1e6

PATIENCE_AT_ONCE = 120.0
"""Seconds to wait. By default the SDK gives up connecting after 5, in which a busy machine does not
make a thousand connections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LangChainWorkload(Workload):
    """How much is measured with LangChain.

    Attributes:
        agent_turns: The turns of an agent's thread.
        first_chunk_rounds: The rounds of waiting for a first chunk.
        items: The items of the conversation that is read.
        reading_rounds: The rounds of reading it.
        crowd: The conversations that take their turns at once.
        crowd_rounds: The rounds of such turns.
    """

    agent_turns: int
    first_chunk_rounds: int
    items: int
    reading_rounds: int
    crowd: int
    crowd_rounds: int


def traffic(base_url: str, work: Workload) -> Iterator[Row]:
    """Requests and bytes up of whole dialogs; they are the same each time, so there is one round.

    Creating the conversation is counted as well.
    """
    with relayed(base_url) as relay:
        sides = langchain_sides(relay.base_url)
        for turns in work.dialogs:
            counted = {name: _counted(relay, begin, turns) for name, begin in sides.items()}
            of_turns = f"{turns} turns"
            yield Row(f"requests, {of_turns}", "", each(counted, "requests"))
            yield Row(f"bytes up, bodies, {of_turns}", "B", each(counted, "body"))
            yield Row(f"bytes up, with headers, {of_turns}", "B", each(counted, "total"))


def _counted(relay: Relay, begin: Begin, turns: int) -> list[Traffic]:
    dialog = begin()
    for _ in range(turns):
        dialog.take()
    return [relay.taken()]


def invocations(base_url: str, work: Workload) -> Iterator[Row]:
    """CPU per turn of whole dialogs."""
    sides = langchain_sides(base_url)
    cold = work.warm_up
    for turns, rounds in work.dialogs.items():
        found = compare(
            rounds,
            {name: partial(_held, begin, turns) for name, begin in sides.items()},
            warm_up=cold,
        )
        cold = False
        title = f"CPU per turn, {turns} turns"
        yield Row(title, "ms", each(found, "cpu", MS / turns), Target(0.9, SDK))


def _held(begin: Begin, turns: int) -> Cost:
    dialog = begin()

    def hold() -> None:
        for _ in range(turns):
            dialog.take()

    return cost_of(hold)


def streams(base_url: str, work: Workload) -> Iterator[Row]:
    """CPU per delta of a conversation's first turn, streamed."""
    sides = langchain_sides(base_url)
    for question, answer in STREAMS.items():
        count = deltas(answer)
        found = compare(
            work.stream_rounds,
            {name: partial(_streamed, begin, question, count) for name, begin in sides.items()},
            warm_up=work.warm_up,
        )
        title = f"CPU per delta, {len(answer):,} characters in {count} deltas"
        yield Row(title, "µs", each(found, "cpu", MICROSECONDS / count), Target(0.6, SDK))


def _streamed(begin: Begin, question: str, count: int) -> Cost:
    dialog = begin()
    seen = 0

    def read() -> None:
        nonlocal seen
        for _ in dialog.stream(question):
            seen += 1

    cost = cost_of(read)
    if seen != count:
        raise RuntimeError(f"There were {seen} deltas, not {count}.")
    return cost


def first_chunks(base_url: str, work: LangChainWorkload) -> Iterator[Row]:
    """Time to the first chunk of text of a conversation's first turn."""
    found = compare(
        work.first_chunk_rounds,
        {name: partial(_first, begin) for name, begin in langchain_sides(base_url).items()},
        warm_up=work.warm_up,
    )
    yield Row("time to first chunk", "ms", each(found, "wall", MS))


def _first(begin: Begin) -> Cost:
    chunks = begin().stream(QUESTION)
    cost = cost_of(lambda: next(chunks))
    for _ in chunks:
        pass  # a stream that is left takes its connection with it
    return cost


def starts(base_url: str, work: Workload) -> Iterator[Row]:
    """What a fresh interpreter waits for."""
    same = "Import and first answer: the same, however the class or the SDK is used."
    yield from rows(FIRSTS, 1.15, same, base_url, work)


def reading(base_url: str, work: LangChainWorkload) -> Iterator[Row]:
    """Reading all items of a long conversation, oldest first, 100 a page."""
    hub = QwenConversations(api_key=KEY, base_url=base_url)
    client = openai.OpenAI(api_key=KEY, base_url=base_url, max_retries=0)
    items: list[Item] = [Message.of("user", QUESTION), Message.of("assistant", ANSWER)]
    conversation = hub.run(flows.create, items * (work.items // 2)).id
    history = "history"
    readers: Mapping[str, Callable[[], Sequence[Any]]] = {
        OURS: lambda: hub.run(flows.read, conversation),
        history: lambda: (
            QwenConvChatMessageHistory(conversation_id=conversation, conversations=hub).messages
        ),
        SDK: lambda: list(client.conversations.items.list(conversation, limit=100, order="asc")),
        DICTS: lambda: list(_pages(client, conversation)),
    }
    found = compare(
        work.reading_rounds,
        {name: partial(_read, read, work.items) for name, read in readers.items()},
        warm_up=work.warm_up,
    )
    as_messages = {OURS: found.pop(history), SDK: found[SDK], DICTS: found[DICTS]}
    absent = "Reading: the stock class reads no conversation."
    for what, costs in (("items", found), ("items as messages", as_messages)):
        for kind, cost in (("CPU", "cpu"), ("time", "wall")):
            title = f"reading {work.items:,} {what}, {kind}"
            yield Row(title, "ms", each(costs, cost, MS), absent=absent)


def _read(read: Callable[[], Sequence[Any]], count: int) -> Cost:
    seen: Sequence[Any] = ()

    def keep() -> None:
        nonlocal seen
        seen = read()

    cost = cost_of(keep)
    if len(seen) != count:
        raise RuntimeError(f"{len(seen)} items were read, not {count}.")
    return cost


def _pages(client: openai.OpenAI, conversation: str) -> Iterator[Any]:
    query: dict[str, Any] = {"limit": 100, "order": "asc"}
    more = True
    while more:
        page: Any = client.get(
            f"/conversations/{conversation}/items", cast_to=object, options={"params": query}
        )
        yield from page["data"]
        more, query["after"] = page["has_more"], page["last_id"]


def crowds(base_url: str, work: LangChainWorkload) -> Iterator[Row]:
    """Many conversations that take a turn at once, on one event loop."""
    sides = langchain_sides(base_url, PATIENCE_AT_ONCE)
    dialogs = {name: [sides[name]() for _ in range(work.crowd)] for name in (OURS, SDK, BY_HAND)}
    with asyncio.Runner() as runner:

        def at_once(several: Sequence[Dialog]) -> Cost:
            return cost_of(lambda: runner.run(_at_once(several)))

        found = compare(
            work.crowd_rounds,
            {name: partial(at_once, several) for name, several in dialogs.items()},
            warm_up=False,  # what is done only once is lost in so many turns
        )
    absent = "At once: left out for the time that they take."
    for kind, cost in (("CPU", "cpu"), ("time", "wall")):
        title = f"{work.crowd:,} conversations at once, {kind}"
        yield Row(title, "ms", each(found, cost, MS), absent=absent)


async def _at_once(dialogs: Sequence[Dialog]) -> None:
    async with asyncio.TaskGroup() as tasks:
        for dialog in dialogs:
            tasks.create_task(dialog.atake())


MEASURES = (traffic, agents, invocations, streams, first_chunks, starts, reading, crowds)
"""All of it, in the order of the report."""
