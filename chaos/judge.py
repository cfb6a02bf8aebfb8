"""The verdict on a conversation, from what the server's store holds, and from nothing else."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is wrong with a conversation: lines of what it says, as `chaos.marks.said` has them.

    Attributes:
        lost: Told to the caller as held, and not there.
        doubled: There once more than it was said; a line for each copy.
        misplaced: There, but not where it was said.
        foreign: There, though the caller was told that it is not, or was told something else.
    """

    lost: tuple[str, ...] = ()
    doubled: tuple[str, ...] = ()
    misplaced: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost or self.doubled or self.misplaced or self.foreign)


def judged(expected: Sequence[str], stored: Sequence[str]) -> Verdict:
    """What is wrong with a conversation.

    Args:
        expected: What the caller was told that it holds, in order.
        stored: What the store holds, in order.
    """
    wanted, there = Counter(expected), Counter(stored)
    more = there - wanted
    return Verdict(
        lost=tuple((wanted - there).elements()),
        doubled=tuple(line for line in more.elements() if line in wanted),
        misplaced=_misplaced(_first_ones(expected), _first_ones(stored)),
        foreign=tuple(line for line in more.elements() if line not in wanted),
    )


def judged_crowd(pairs: Sequence[tuple[str, str]], stored: Sequence[str]) -> Verdict:
    """What is wrong with a conversation whose turns several took, in whatever order.

    Args:
        pairs: Each question that was asked, with its answer.
        stored: What the store holds, in order: each answer has to stand behind its question.
    """
    answer_of = dict(pairs)
    asked = [line for line in _first_ones(stored) if line in answer_of]
    asked += [question for question, _ in pairs if question not in set(asked)]
    return judged([line for one in asked for line in (one, answer_of[one])], stored)


def _first_ones(lines: Sequence[str]) -> list[str]:
    return [*dict.fromkeys(lines)]


def _misplaced(expected: Sequence[str], stored: Sequence[str]) -> tuple[str, ...]:
    """The fewest lines without which the others are in order."""
    place = {line: number for number, line in enumerate(expected)}
    ends: list[
        int
    ] = []  # of the ascending rows so far: the place that the best of each length ends
    lengths: list[tuple[int, str]] = []
    for line in stored:
        if line in place:
            length = bisect_left(ends, place[line])
            ends[length : length + 1] = [place[line]]
            lengths.append((length, line))
    left, in_order = len(ends) - 1, set()
    for length, line in reversed(lengths):
        if length == left:
            in_order.add(line)
            left -= 1
    return tuple(line for _, line in lengths if line not in in_order)
