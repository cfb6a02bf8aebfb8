"""`make chaos`: takes turns on a server that misbehaves, and shows what became of them."""

from __future__ import annotations

import argparse
import logging
import os
import platform
import secrets
import sys
import time
from importlib.metadata import version

_LIBRARIES = ("openai", "langchain-core", "langchain", "llama-index-core", "uvicorn")


def main() -> int:
    """Takes the turns, and prints the ledger; 0 if nothing was wrong."""
    arguments = argparse.ArgumentParser(prog="python -m chaos", description=main.__doc__)
    arguments.add_argument("what", nargs="?", choices=("faults", "crowd"), default="faults")
    arguments.add_argument("--turns", type=int, default=10_000, help="by default 10000")
    arguments.add_argument("--seed", type=int, help="by default a new one")
    arguments.add_argument("--workers", type=int, default=2, help="processes; by default 2")
    arguments.add_argument("--story", type=int, help="only this one of them; by default all")
    told = arguments.parse_args()
    _forget_settings()
    logging.getLogger().addHandler(logging.NullHandler())  # errors are told in the ledger
    if told.what == "crowd":
        return crowd()
    seed = secrets.randbelow(1_000_000) if told.seed is None else told.seed
    return faults(seed, told.turns, told.workers, told.story)


def faults(seed: int, turns: int, workers: int, story: int | None) -> int:
    """Turns with a fault each."""
    from chaos.plan import planned
    from chaos.run import lived, run

    began = time.monotonic()
    if story is None:
        ledger = run(seed, turns, workers)
    else:
        ledger = lived([one for one in planned(seed, turns) if one.number == story])
    seconds = time.monotonic() - began
    print(ledger.shown())
    for number, report in ledger.reports:
        again = f"python -m chaos --seed {seed} --turns {turns} --story {number}"
        print(f"\n{report}\n  again: {again}")
    libraries = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    print(f"\n{ledger.turns} turns in {seconds:.0f} s, seed {seed}: {ledger.verdict()}")
    print(f"Python {platform.python_version()}, {libraries}")
    return 0 if ledger.is_clean else 1


def crowd() -> int:
    """Many who take turns on the same conversations."""
    from chaos.crowd import processes, threads_and_tasks

    clean = True
    for what in (threads_and_tasks, processes):
        began = time.monotonic()
        told = what()
        print(f"{told} in {time.monotonic() - began:.0f} s")
        clean = clean and told.is_clean
    return 0 if clean else 1


def _forget_settings() -> None:
    """Drops what would turn the clients elsewhere."""
    foreign = ("OPENAI_", "DASHSCOPE_", "LANGCHAIN_", "LANGSMITH_")
    for name in list(os.environ):
        if name.startswith(foreign) or name.lower().endswith("_proxy"):
            del os.environ[name]


if __name__ == "__main__":
    sys.exit(main())
