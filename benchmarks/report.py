"""The report in Markdown."""

from __future__ import annotations

import math
import os
import platform
import textwrap
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks.figures import PATIENCE, Row
from benchmarks.measures import PATIENCE_AT_ONCE
from benchmarks.names import FRAMEWORK, LEGEND, OURS
from benchmarks.workload import ANSWER, QUESTION

DISTRIBUTIONS = ("qwen-conv", "openai", "langchain-core", "langchain-openai", "pydantic")

SPREAD = """\
Medians (the first and the third quartile; the number of rounds). A figure alone is of one round, or
the same in all."""

METHOD = f"""\
Every question has {len(QUESTION)} characters and every answer {len(ANSWER)}, but for the long
stream. The answers come from the offline server (`qwen_conv.offline`), which runs in a process of
its own: no network and no model are in the figures, only what a client does. CPU is that of the
client's process, user and system, in all its threads. The sides warm up, and then take their
samples in turns, in one run; each round begins with another side. A side whose samples have taken
{PATIENCE:.0f} seconds is left out of the rounds to come. Conversations are created before the clock
starts; only the first answer, the requests and the bytes include it. Bytes are counted by a relay
between client and server, in a round of their own: what is sent is the same each time. A stream is
a conversation's first turn, and the offline server makes a delta of each word. The time to the
first chunk ends with the first text that the caller sees, and includes what the server takes.
Imports, and the first answer, are timed in fresh interpreters whose bytecode is compiled. Clients
and models are made once, and retry nothing. Conversations at once are given
{PATIENCE_AT_ONCE:.0f} seconds to connect, on all sides: by default the openai SDK gives up after 5,
in which a busy machine does not make so many connections.
"""


def report(rows: Sequence[Row]) -> str:
    """The whole report."""
    sides = [side for side in LEGEND if any(side in row.samples for row in rows)]
    return "\n".join(
        [
            "# Performance",
            "",
            "Written by `make bench`; every figure is of the same run.",
            "",
            *_table(["", ""], _circumstances()),
            "",
            "## Ratios",
            "",
            f"The median of {OURS} divided by that of the other side: below 1, {OURS} takes less.",
            "",
            *_table(["", *sides[1:], "target"], (_ratios(row, sides[1:]) for row in rows)),
            "",
            *_absences(rows),
            "",
            "## Figures",
            "",
            SPREAD,
            "",
            *_table(["", "unit", *sides], (_figures(row, sides) for row in rows)),
            "",
            "## Sides",
            "",
            *(f"* **{side}**: {LEGEND[side]}" for side in sides),
            "",
            "## How it is measured",
            "",
            *textwrap.wrap(METHOD, 100),
            "",
        ]
    )


def _table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> Iterator[str]:
    yield _line(head)
    yield _line(["---", *["---:"] * (len(head) - 1)])
    for row in rows:
        yield _line(row)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _circumstances() -> Iterator[Sequence[str]]:
    yield "date", f"{datetime.now(UTC):%Y-%m-%d}"
    yield "machine", f"{_processor()}, {os.cpu_count()} cores, {platform.system()}"
    yield "Python", f"{platform.python_implementation()} {platform.python_version()}"
    for name in DISTRIBUTIONS:
        yield name, version(name)


def _processor() -> str:
    """The model of the processor, or at least its architecture."""
    described = Path("/proc/cpuinfo")
    if described.exists():
        for line in described.read_text("utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _ratios(row: Row, sides: Sequence[str]) -> list[str]:
    ratios = [row.ratio(side) if side in row.samples else None for side in sides]
    told = ["-" if ratio is None else _number(ratio) for ratio in ratios]
    return [row.title, *told, _target(row)]


def _target(row: Row) -> str:
    if row.target is None:
        return ""
    wanted = f"{row.target.at_most:g} of {row.target.side}" if row.target.at_most else "none"
    return f"{wanted}: {'met' if row.meets_target() else '**missed**'}"


def _figures(row: Row, sides: Sequence[str]) -> list[str]:
    told = [_figure(row, side) if side in row.samples else "-" for side in sides]
    return [row.title, row.unit, *told]


def _figure(row: Row, side: str) -> str:
    low, high = row.spread(side)
    median = _number(row.median(side))
    if low == high:
        return median
    return f"{median} ({_number(low)} to {_number(high)}; {len(row.samples[side])})"


def _number(value: float) -> str:
    """A whole number whole; of any other at least three digits."""
    if value == round(value):
        return f"{value:,.0f}"
    decimals = max(0, 2 - math.floor(math.log10(value)))
    return f"{value:,.{decimals}f}"


def _absences(rows: Sequence[Row]) -> Iterator[str]:
    """Why there are dashes, each reason once."""
    yield "A dash: nothing to compare with."
    yield ""
    for reason in dict.fromkeys(row.absent for row in rows if row.absent):
        yield f"* {reason}"
    yield f"* {FRAMEWORK[0].upper()}{FRAMEWORK[1:]}: it takes no turns."
