"""What every side is given to do, and how often."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

KEY = "any"
"""An API key: the server lets everybody in."""

MODEL = "qwen3.6-plus"

QUESTION = ("What should I know before I travel there in the summer with two children? " * 2)[:117]
"""117 characters: what the user says in every turn."""

ANSWER = (
    "The ferry leaves every hour from the old harbour, and the island has three beaches. " * 4
)[:300]
"""300 characters: what the model says to it."""

LONG_QUESTION = ("Tell me all that you know of the island, its harbour and its ferries. " * 2)[:117]
"""117 characters: the question that gets the long answer."""

LONG_ANSWER = " word" * 400
"""So long that what a turn costs once hardly counts beside its deltas."""

STREAMS: Mapping[str, str] = {QUESTION: ANSWER, LONG_QUESTION: LONG_ANSWER}
"""The questions whose answers are streamed."""


def deltas(answer: str) -> int:
    """In how many deltas the offline server streams an answer: one for each word."""
    return len(answer.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """How much is measured, and in how many rounds.

    Attributes:
        dialogs: The rounds of dialogs, by the number of their turns.
        stream_rounds: The rounds of streams.
        start_sides: The sides that a fresh interpreter is started for.
        start_rounds: The rounds of starting it.
        warm_up: Whether every side does its work once before it is measured.
    """

    dialogs: Mapping[int, int]
    stream_rounds: int
    start_sides: tuple[str, ...]
    start_rounds: int
    warm_up: bool
