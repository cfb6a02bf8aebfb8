"""What is to happen, wholly told by a seed: stories, their steps, and the fault of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Literal

from chaos.faults import KINDS, Fault, Target, Way

Taker = Literal["model", "history", "agent", "llm", "engine"]
"""Who takes the turns: LangChain's `ChatQwenConv` on lists of the caller's, the same in a
`RunnableWithMessageHistory`, in an agent; LlamaIndex's `QwenConv` on lists of the caller's, the
same with a memory, as a chat engine uses it."""

Call = Literal["invoke", "stream", "ainvoke", "astream"]

_TAKERS: tuple[Taker, ...] = ("model", "history", "llm", "engine", "model", "llm", "agent")
_CALLS: tuple[Call, ...] = ("invoke", "stream", "ainvoke", "astream")
LENGTHS = (10, 20)
"""From how many to how many turns a story has."""

_OFTEN, _SOMETIMES, _SELDOM = 0.5, 0.3, 0.15
"""How likely it is that a thing is drawn."""

_READS: tuple[Taker, ...] = ("history",)
"""Who reads the conversation with every turn."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that is done with a conversation.

    Attributes:
        does: Asks a question (a turn), writes messages, or reads them all.
        faults: What happens meanwhile; the first one is what the ledger counts it under.
        by_tool: Whether the question is to be answered by a tool.
        at_length: Whether the answer is longer than a cut one.
        by_hand: Whether a doubt is settled by hand; if not, the turn is taken again.
        messages: How many are written.
    """

    does: Literal["ask", "write", "read"]
    faults: tuple[Fault, ...]
    by_tool: bool = False
    at_length: bool = False
    by_hand: bool = False
    messages: int = 0


@dataclass(frozen=True, slots=True)
class Story:
    """A conversation, and how it goes on.

    Attributes:
        number: Which one it is.
        taker: Who takes its turns.
        call: In which way.
        in_session: Whether it is a session's; if not, its id is passed.
        whole: Whether the caller passes his whole list; if not, new messages only.
        has_tools: Whether a tool is offered.
        retries: The hub's `max_retries`.
        steps: What is done, in order.
    """

    number: int
    taker: Taker
    call: Call
    in_session: bool
    whole: bool
    has_tools: bool
    retries: int
    steps: tuple[Step, ...]

    @property
    def in_tasks(self) -> bool:
        """Whether it is driven by a task; if not, by a thread."""
        return self.call.startswith("a")

    @property
    def needs_door(self) -> bool:
        """Whether it needs a port of its own."""
        return any(KINDS[fault.kind].target == "door" for one in self.steps for fault in one.faults)

    @property
    def needs_hub(self) -> bool:
        """Whether it needs a hub of its own.

        A store that is flushed writes all that waits on its hub: of a turn, too, that another story
        has in doubt, and that it has not come back to yet.
        """
        return self.needs_door or self.taker == "engine"

    @property
    def turns(self) -> int:
        """How many questions are asked."""
        return sum(step.does == "ask" for step in self.steps)

    @property
    def title(self) -> str:
        """Who takes its turns and how, as the ledger counts them."""
        framework = "LlamaIndex" if self.taker in {"llm", "engine"} else "LangChain"
        return f"{framework} {self.taker}, {self.call}{', tools' if self.has_tools else ''}"

    @property
    def told(self) -> str:
        """What there is to know of it, besides its steps."""
        place = "a session" if self.in_session else "a conversation's id"
        given = "the whole list" if self.whole else "new messages"
        return f"{self.title}; {place}, {given}, max_retries={self.retries}"


def planned(seed: int, turns: int, lengths: tuple[int, int] = LENGTHS) -> Iterator[Story]:
    """The stories of a seed, until they have so many turns; each has as many as `lengths` says."""
    decks = _Decks(Random(f"{seed}/decks"))
    for number in count():
        if turns <= 0:
            return
        random = Random(f"{seed}/{number}")
        story = _story(random, number, decks, min(turns, random.randint(*lengths)))
        turns -= story.turns
        yield story


class _Decks:
    """Kinds of faults, drawn as from packs of cards, so that all come equally often."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._decks: dict[tuple[Target, ...], list[str]] = {}

    def draw(self, way: Way, *targets: Target) -> str:
        deck = self._decks.setdefault((way, *targets), [])  # type: ignore[arg-type]  # any key will do
        if not deck:
            deck += [
                name for name, kind in KINDS.items() if kind.target in targets and way in kind.ways
            ]
            self._random.shuffle(deck)
        return deck.pop()


def _story(random: Random, number: int, decks: _Decks, turns: int) -> Story:
    taker = _TAKERS[number % len(_TAKERS)]
    call = _CALLS[number // len(_TAKERS) % len(_CALLS)]
    has_tools = taker == "agent" or (taker in {"model", "llm"} and random.random() < _OFTEN)
    in_session = taker in {"history", "engine"} or random.random() < _OFTEN
    steps: list[Step] = []
    way: Way = "stream" if call.endswith("stream") else "whole"
    for _ in range(turns):
        steps.append(_ask(random, decks, way, taker, has_tools=has_tools))
        if random.random() < _SELDOM:
            steps.append(Step("read", (_fault(random, decks.draw(way, "page")),)))
        if taker in {"history", "engine"} and random.random() < _SELDOM:
            fault = _fault(random, decks.draw(way, "append"), skips=random.randrange(2))
            steps.append(Step("write", (fault,), messages=random.choice((1, 2, 2, 24, 46))))
    return Story(
        number,
        taker,
        call,
        in_session,
        random.random() < _OFTEN,
        has_tools,
        random.choice((0, 2)),
        tuple(steps),
    )


def _ask(random: Random, decks: _Decks, way: Way, taker: Taker, *, has_tools: bool) -> Step:
    kind = decks.draw(way, "turn", "door", "consumer")
    by_tool = has_tools and random.random() < _OFTEN
    faults = [_fault(random, kind, skips=random.randrange(2) if by_tool else 0)]
    if taker in _READS or (KINDS[kind].loses and random.random() < _SOMETIMES):
        faults.append(_fault(random, decks.draw(way, "page")))
    at_length = kind == "response.incomplete" and not by_tool
    return Step("ask", tuple(faults), by_tool, at_length, by_hand=random.random() < _OFTEN)


def _fault(random: Random, kind: str, *, skips: int = 0) -> Fault:
    return Fault(kind, random.random(), skips, random.uniform(*KINDS[kind].takes))
