"""What a fresh interpreter waits for: imports, and the first turn."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from typing import NamedTuple

from benchmarks.figures import Row, Target, compare, each
from benchmarks.names import FRAMEWORK
from benchmarks.server import ROOT
from benchmarks.workload import KEY, MODEL, QUESTION, Workload


class Start(NamedTuple):
    """What a fresh interpreter tells.

    Attributes:
        imported: Seconds that the import took.
        openai_modules: How many modules of the openai SDK it loaded.
        answered: Seconds from the beginning of the import until the first turn was answered.
    """

    imported: float
    openai_modules: float
    answered: float


class First(NamedTuple):
    """What a side does first, as Python code.

    Attributes:
        imports: What it imports.
        turn: How it takes a turn, given `MODEL`, `QUESTION`, and the `service` as keyword
            arguments (`base_url`, `api_key`).
    """

    imports: str
    turn: str = ""


_CODE = """
import sys
from time import perf_counter
MODEL, QUESTION, service = {model!r}, {question!r}, dict(base_url={base_url!r}, api_key={key!r})
start = perf_counter()
{imports}
imported = perf_counter() - start
openai_modules = sum(name.partition(".")[0] == "openai" for name in sys.modules)
{turn}
print(imported, openai_modules, perf_counter() - start)
"""


def start(first: First, base_url: str) -> Start:
    """Starts an interpreter that does this first."""
    code = _CODE.format(
        model=MODEL, question=QUESTION, base_url=base_url, key=KEY, **first._asdict()
    )
    # What is installed is compiled. Where nothing may be written, a checkout would be compiled by
    # every import anew.
    environment = {**os.environ}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    told = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=environment,
    )
    return Start(*map(float, told.stdout.split()))


def rows(
    firsts: Mapping[str, First], at_most: float, absent: str, base_url: str, work: Workload
) -> Iterator[Row]:
    """What a fresh interpreter waits for.

    Args:
        firsts: By side, what it does first; the framework alone takes no turn.
        at_most: How many times the framework's import ours is to take at most.
        absent: Why sides are missing, in a sentence.
        base_url: The server.
        work: How much to do.
    """
    samplers = {side: partial(start, firsts[side], base_url) for side in work.start_sides}
    found = compare(work.start_rounds, samplers, warm_up=work.warm_up)
    imports = each(found, "imported", 1e3)
    yield Row("import time", "ms", imports, Target(at_most, FRAMEWORK), absent)
    modules = each(found, "openai_modules")
    title = "modules of openai that the import loads"
    yield Row(title, "", modules, Target(0, FRAMEWORK), absent)
    del found[FRAMEWORK]
    answers = each(found, "answered", 1e3)
    yield Row("time from import to first answer", "ms", answers, absent=absent)
