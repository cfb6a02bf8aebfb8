"""`make bench`: measures what conversations cost with one framework, and writes its report."""

from __future__ import annotations

import argparse
import os
import resource
from importlib import import_module
from pathlib import Path

from benchmarks.figures import Row
from benchmarks.half import Half
from benchmarks.report import report
from benchmarks.server import ROOT, started

FILES = 8_192
"""File descriptors: a thousand connections of each side, twice over."""


def main() -> None:
    """Measures, and writes the report."""
    arguments = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    arguments.add_argument(
        "--llamaindex", action="store_true", help="the half of LlamaIndex, not that of LangChain"
    )
    arguments.add_argument(
        "--quick", action="store_true", help="as little as possible; the figures mean nothing"
    )
    arguments.add_argument("--output", type=Path, help="by default the report in docs/")
    told = arguments.parse_args()
    _forget_settings()
    _allow_files()
    # Each half imports its framework, which the environment of the other may lack.
    name = "llamaindex" if told.llamaindex else "langchain"
    half: Half = import_module(f"benchmarks.{name}_half").HALF
    work = half.quick if told.quick else half.full
    rows: list[Row] = []
    with started() as base_url:
        for measure in half.measures:
            print(f"{measure.__name__} ...", flush=True)
            rows += measure(base_url, work)
    tables = [make(work) for make in half.tables]
    output = told.output or ROOT / "docs" / half.output
    output.write_text(report(half, rows, tables), "utf-8")
    print(f"written: {output}")


def _forget_settings() -> None:
    """Drops what would turn the clients elsewhere, or have them do more than they are asked to."""
    foreign = ("OPENAI_", "DASHSCOPE_", "LANGCHAIN_", "LANGSMITH_")
    for name in list(os.environ):
        if name.startswith(foreign) or name.lower().endswith("_proxy"):
            del os.environ[name]


def _allow_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < FILES or soft == resource.RLIM_INFINITY:
        most = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


if __name__ == "__main__":
    main()
