"""The report of a half, in Markdown."""

from __future__ import annotations

import math
import os
import platform
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.figures import PATIENCE, Row, Table
from benchmarks.half import Half
from benchmarks.names import OURS
from benchmarks.workload import ANSWER, QUESTION

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
between client and server, in a round of their own: what is sent is the same each time. {{streams}}
Imports, and the first answer, are timed in fresh interpreters whose bytecode is compiled. Clients
and models are made once, and retry nothing. {{more}}
"""


def report(half: Half, rows: Sequence[Row], tables: Sequence[Table] = ()) -> str:
    """The whole report."""
    sides = [side for side in half.legend if any(side in row.samples for row in rows)]
    method = METHOD.format(streams=half.streams, more=half.more)
    return "\n".join(
        [
            f"# {half.title}",
            "",
            "Written by `make bench`; every figure is of the same run.",
            "",
            *_table(["", ""], _circumstances(half)),
            "",
            "## Ratios",
            "",
            f"The median of {OURS} divided by that of the other side: below 1, {OURS} takes less.",
            "",
            *_table(["", *sides[1:], "target"], (_ratios(row, sides[1:]) for row in rows)),
            "",
            *_absences(half, rows),
            "",
            "## Figures",
            "",
            SPREAD,
            "",
            *_table(["", "unit", *sides], (_figures(row, sides) for row in rows)),
            "",
            *(line for table in tables for line in _section(table)),
            "## Sides",
            "",
            *(f"* **{side}**: {half.legend[side]}" for side in sides),
            "",
            "## How it is measured",
            "",
            *textwrap.wrap(method, 100),
            "",
        ]
    )


def _section(table: Table) -> Iterator[str]:
    yield from (f"## {table.title}", "", *textwrap.wrap(table.told, 100), "")
    yield from _table(table.head, table.rows, table.labels)
    yield ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], labels: int = 1) -> Iterator[str]:
    yield _line(head)
    yield _line(["---"] * labels + ["---:"] * (len(head) - labels))
    for row in rows:
        yield _line(row)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _circumstances(half: Half) -> Iterator[Sequence[str]]:
    yield "date", f"{datetime.now(UTC):%Y-%m-%d}"
    yield "machine", f"{_processor()}, {os.cpu_count()} cores, {platform.system()}"
    yield "Python", f"{platform.python_implementation()} {platform.python_version()}"
    for name in half.distributions:
        yield name, _version(name)


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"


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
    told = {True: "met", False: "**missed**", None: "not compared"}[row.meets_target()]
    return f"{row.target}: {told}"


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


def _absences(half: Half, rows: Sequence[Row]) -> Iterator[str]:
    """Why there are dashes, each reason once."""
    yield "A dash: nothing to compare with."
    yield ""
    reasons = (*(row.absent for row in rows if row.absent), *half.absent)
    yield from (f"* {reason}" for reason in dict.fromkeys(reasons))
