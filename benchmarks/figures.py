"""How a thing is measured, and what is told of it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self, TypeVar

T = TypeVar("T")


class Cost(NamedTuple):
    """Seconds.

    Attributes:
        cpu: Of this process, in all its threads.
        wall: That passed.
    """

    cpu: float
    wall: float


class Meter:
    """Adds up what it costs to run what stands under it: `with meter: ...`."""

    def __init__(self) -> None:
        self._cpu = self._wall = 0.0

    def __enter__(self) -> Self:
        self._wall -= time.perf_counter()
        self._cpu -= time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self._cpu += time.process_time()
        self._wall += time.perf_counter()

    @property
    def cost(self) -> Cost:
        """What it came to."""
        return Cost(self._cpu, self._wall)


def cost_of(task: Callable[[], object]) -> Cost:
    """What one run of the task costs."""
    with Meter() as meter:
        task()
    return meter.cost


PATIENCE = 20.0
"""Seconds of samples after which a side is left out of the rounds to come."""


def compare(
    rounds: int, samplers: Mapping[str, Callable[[], T]], *, warm_up: bool
) -> dict[str, list[T]]:
    """Takes samples of all sides in turns, so that whatever else the machine does hits all alike.

    Each round begins with another side, so that none is always behind the same one.

    Args:
        rounds: How many samples of each side to take; of a slow one, as many as fit `PATIENCE`.
        samplers: By side, what takes a sample.
        warm_up: Whether each side takes one sample more, before the first, that does not count.
    """
    found: dict[str, list[T]] = {name: [] for name in samplers}
    spent = dict.fromkeys(samplers, 0.0)
    if warm_up:
        for sample in samplers.values():
            sample()
    names = [*samplers]
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            if spent[name] < PATIENCE:
                begin = time.perf_counter()
                found[name].append(samplers[name]())
                spent[name] += time.perf_counter() - begin
    return found


def each(
    found: Mapping[str, Sequence[object]], figure: str, scale: float = 1
) -> dict[str, list[float]]:
    """An attribute of each sample in another unit, by side."""
    return {name: [getattr(one, figure) * scale for one in found[name]] for name in found}


@dataclass(frozen=True, slots=True)
class Target:
    """At most so many times what `side` costs."""

    at_most: float
    side: str

    def __str__(self) -> str:
        return f"{self.at_most:g} of {self.side}" if self.at_most else "none"


@dataclass(frozen=True, slots=True)
class Exactly:
    """So many, whatever another side says."""

    number: int

    def __str__(self) -> str:
        return f"{self.number:,}"


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was measured on several sides.

    Attributes:
        title: What it is.
        unit: The unit of the samples; "" for a number of things.
        samples: By side, that of this package first.
        target: What it is to be.
        absent: Why sides are missing, in a sentence.
    """

    title: str
    unit: str
    samples: Mapping[str, Sequence[float]]
    target: Target | Exactly | None = None
    absent: str = ""

    def median(self, side: str) -> float:
        """The median of a side's samples."""
        return statistics.median(self.samples[side])

    def spread(self, side: str) -> tuple[float, float]:
        """The first and the third quartile of a side's samples."""
        samples = self.samples[side]
        if len(set(samples)) == 1:
            return samples[0], samples[0]
        low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
        return low, high

    def ratio(self, side: str) -> float | None:
        """This package's median divided by that side's; `None` if that one is 0."""
        ours, *_ = self.samples
        theirs = self.median(side)
        return self.median(ours) / theirs if theirs else None

    def meets_target(self) -> bool | None:
        """Whether the target is met; `None` if there is none, or no side to compare with."""
        ours, *_ = self.samples
        match self.target:
            case Exactly(number):
                return self.median(ours) == number
            case Target(at_most, side) if side in self.samples:
                return self.median(ours) <= at_most * self.median(side)
        return None


@dataclass(frozen=True, slots=True)
class Table:
    """What a report tells beside its rows.

    Attributes:
        title: Its title.
        told: What it shows, in sentences.
        head: The titles of its columns.
        labels: How many columns, from the left, are words.
        rows: Its cells.
    """

    title: str
    told: str
    head: Sequence[str]
    labels: int
    rows: Sequence[Sequence[str]]
