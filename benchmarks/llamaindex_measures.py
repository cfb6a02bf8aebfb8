"""What is measured with LlamaIndex: each function does one comparison, and yields its rows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from llama_index.core.llms import LLM, ChatMessage, ChatResponse, MessageRole

from benchmarks.engines import Engine, made
from benchmarks.figures import Cost, Exactly, Meter, Row, Target, compare, cost_of, each
from benchmarks.llamaindex_sides import FIRSTS, MEMORIES, Ours, Side, llamaindex_sides
from benchmarks.names import OURS, STOCK
from benchmarks.starts import rows
from benchmarks.traffic import Relay, Traffic, relayed
from benchmarks.workload import QUESTION, STREAMS, Workload, deltas

MS, MICROSECONDS = 1e3, 1e6

HALF_OF_STOCK = Target(0.5, STOCK)

PROMPT = "Answer briefly."
"""The system prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaIndexWorkload(Workload):
    """How much is measured with LlamaIndex.

    Attributes:
        turns: The turns of a dialog whose calls of the LLM are measured.
        chat_rounds: The rounds of such dialogs; `stream_rounds` are those that are streamed.
        questions: How many questions every engine is asked to count its requests.
    """

    turns: int
    chat_rounds: int
    questions: int


def traffic(base_url: str, work: LlamaIndexWorkload) -> Iterator[Row]:
    """Requests and bytes up of whole dialogs; they are the same each time, so there is one round.

    The conversation is created by the first turn.
    """
    with relayed(base_url) as relay:
        ours = Ours(relay.base_url, is_created=False)
        sides = llamaindex_sides(ours)
        for kind in MEMORIES:
            for turns in work.dialogs:
                found = {name: [_counted(relay, side, kind, turns)] for name, side in sides.items()}
                kept = {OURS: [ours.items()]}
                relay.taken()  # what asking for them took
                which = f"{turns} turns, {kind}"
                less = Target(1 / turns, STOCK)
                yield Row(f"requests, {which}", "", each(found, "requests"), Exactly(turns + 1))
                yield Row(f"bytes up, bodies, {which}", "B", each(found, "body"), less)
                yield Row(f"bytes up, with headers, {which}", "B", each(found, "total"))
                yield Row(f"items kept, {which}", "", kept, Exactly(2 * turns), NO_ITEMS)


NO_ITEMS = "Items kept: the stock class has no conversation that could keep them."


def _counted(relay: Relay, side: Side, kind: str, turns: int) -> Traffic:
    _talk(made("SimpleChatEngine", "chat", side.llm, side.begin(kind)), turns)
    return relay.taken()


def _talk(engine: Engine, turns: int) -> None:
    for _ in range(turns):
        engine.chat(QUESTION)


Ask = Callable[[LLM, list[ChatMessage], Meter], Awaitable[tuple[ChatResponse, int]]]
"""Asks an LLM, under a meter; the answer, or its last piece, and the number of its deltas."""


async def _chat(llm: LLM, messages: list[ChatMessage], meter: Meter) -> tuple[ChatResponse, int]:
    with meter:
        return llm.chat(messages), 0


async def _achat(llm: LLM, messages: list[ChatMessage], meter: Meter) -> tuple[ChatResponse, int]:
    with meter:
        return await llm.achat(messages), 0


async def _stream(llm: LLM, messages: list[ChatMessage], meter: Meter) -> tuple[ChatResponse, int]:
    seen = 0
    with meter:
        for piece in llm.stream_chat(messages):
            seen += bool(piece.delta)
    return piece, seen


async def _astream(llm: LLM, messages: list[ChatMessage], meter: Meter) -> tuple[ChatResponse, int]:
    seen = 0
    with meter:
        async for piece in await llm.astream_chat(messages):
            seen += bool(piece.delta)
    return piece, seen


CHATS: Mapping[str, Ask] = {"chat": _chat, "achat": _achat}
"""The methods whose answers come whole."""

STREAMED: Mapping[str, Ask] = {"stream_chat": _stream, "astream_chat": _astream}
"""The methods that stream."""


class Calls(NamedTuple):
    """What is called in each turn of a dialog.

    Attributes:
        ask: The method of the LLM.
        question: What it is asked.
        deltas: In how many deltas the answer comes.
    """

    ask: Ask
    question: str
    deltas: int = 0


def chats(base_url: str, work: LlamaIndexWorkload) -> Iterator[Row]:
    """CPU per call of the LLM, over a dialog whose list grows."""
    for way, ask in CHATS.items():
        found = _dialogs(base_url, work, work.chat_rounds, Calls(ask, QUESTION))
        title = f"CPU per {way}, {work.turns} turns"
        yield Row(title, "ms", each(found, "cpu", MS / work.turns), HALF_OF_STOCK)


def streams(base_url: str, work: LlamaIndexWorkload) -> Iterator[Row]:
    """CPU per delta of the LLM's streams, over a dialog whose list grows."""
    for way, ask in STREAMED.items():
        for question, answer in STREAMS.items():
            count = deltas(answer)
            found = _dialogs(base_url, work, work.stream_rounds, Calls(ask, question, count))
            title = f"CPU per {way} delta, {work.turns} turns of {count} deltas"
            scale = MICROSECONDS / work.turns / count
            yield Row(title, "µs", each(found, "cpu", scale), HALF_OF_STOCK)


def _dialogs(
    base_url: str, work: LlamaIndexWorkload, rounds: int, calls: Calls
) -> Mapping[str, list[Cost]]:
    with asyncio.Runner() as runner:  # the stock class works on one event loop only

        def held(side: Side) -> Cost:
            return runner.run(_held(side, work.turns, calls))

        sides = llamaindex_sides(Ours(base_url, is_created=True))
        samplers = {name: partial(held, side) for name, side in sides.items()}
        found = compare(rounds, samplers, warm_up=work.warm_up)
        for side in sides.values():
            runner.run(side.aclose())
    return found


async def _held(side: Side, turns: int, calls: Calls) -> Cost:
    """What the calls of the LLM cost in a dialog as an engine holds it.

    Raises:
        RuntimeError: A turn of ours was not one of the conversation, or deltas were missing.
    """
    memory, meter = side.begin("ChatMemoryBuffer"), Meter()
    prompt = ChatMessage(PROMPT, role=MessageRole.SYSTEM)
    for _ in range(turns):
        memory.put(ChatMessage(calls.question))
        answer, seen = await calls.ask(side.llm, [prompt, *memory.get()], meter)
        memory.put(answer.message)
        if seen != calls.deltas:
            raise RuntimeError(f"There were {seen} deltas, not {calls.deltas}.")
        if isinstance(side, Ours) and answer.additional_kwargs["decision"] != "attached":
            raise RuntimeError(f"A turn was {answer.additional_kwargs}, not attached.")
    return meter.cost


def engines(base_url: str, work: LlamaIndexWorkload) -> Iterator[Row]:
    """CPU per turn of an engine, with all that the memory and the engine do."""
    sides = llamaindex_sides(Ours(base_url, is_created=True))
    for kind in MEMORIES:
        cold = work.warm_up
        for turns, rounds in work.dialogs.items():
            samplers = {name: partial(_talked, side, kind, turns) for name, side in sides.items()}
            found = compare(rounds, samplers, warm_up=cold)
            cold = False
            title = f"CPU per engine.chat, {turns} turns, {kind}"
            yield Row(title, "ms", each(found, "cpu", MS / turns))


def _talked(side: Side, kind: str, turns: int) -> Cost:
    engine = made("SimpleChatEngine", "chat", side.llm, side.begin(kind))
    return cost_of(lambda: _talk(engine, turns))


def starts(base_url: str, work: LlamaIndexWorkload) -> Iterator[Row]:
    """What a fresh interpreter waits for."""
    yield from rows(FIRSTS, 1.1, "", base_url, work)


MEASURES = (traffic, chats, streams, engines, starts)
"""All of it, in the order of the report."""
