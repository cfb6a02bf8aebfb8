"""`make bench`: measures everything, and writes docs/performance.md."""

from __future__ import annotations

import argparse
import os
import resource
from pathlib import Path

from benchmarks.figures import Row
from benchmarks.measures import MEASURES
from benchmarks.report import report
from benchmarks.server import ROOT, started
from benchmarks.workload import FULL, QUICK

FILES = 8_192
"""File descriptors: a thousand connections of each side, twice over."""


def main() -> None:
    """Measures, and writes the report."""
    arguments = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    arguments.add_argument(
        "--quick", action="store_true", help="as little as possible; the figures mean nothing"
    )
    arguments.add_argument("--output", type=Path, default=ROOT / "docs" / "performance.md")
    told = arguments.parse_args()
    _forget_settings()
    _allow_files()
    rows: list[Row] = []
    with started() as base_url:
        for measure in MEASURES:
            print(f"{measure.__name__} ...", flush=True)
            rows += measure(base_url, QUICK if told.quick else FULL)
    told.output.write_text(report(rows), "utf-8")
    print(f"written: {told.output}")


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
