"""What came of it: counts by kind of fault and by who took the turns, and what went wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Count = Literal[
    "drawn",  # steps that the fault was drawn for
    "missed",  # the step was over before any request met the fault
    "at once",  # well at the first try, with no request more
    "resent",  # well at the first try, after the turn was sent again
    "found",  # well at the first try although the reply was lost: the stored turn was found
    "failed",  # errors that say that nothing was answered; the step was repeated
    "undecided",  # errors that say that it is not known what became of the turn
    "settled",  # doubts of those, and of streams that their consumer left, that came to an end
    "given up",  # the step failed again and again
]
COUNTS: tuple[Count, ...] = Count.__args__  # type: ignore[attr-defined]

Wrong = Literal["lost", "doubled", "misplaced", "foreign", "unreported", "given up"]
WRONGS: tuple[Wrong, ...] = Wrong.__args__  # type: ignore[attr-defined]


@dataclass(slots=True)
class Ledger:
    """Counts, which can be added up.

    Attributes:
        kinds: By kind of fault.
        takers: By who took the turns: turns, and what was wrong.
        wrong: What must be 0.
        moved: Sessions that went on in a new conversation.
        errors: Errors that drivers met, by their class.
        reports: What happened in the stories where something went wrong, by their numbers.
    """

    kinds: dict[str, Counter[str]] = field(default_factory=dict)
    takers: dict[str, Counter[str]] = field(default_factory=dict)
    wrong: Counter[str] = field(default_factory=Counter)
    moved: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    reports: list[tuple[int, str]] = field(default_factory=list)

    def count(self, kind: str, what: Count) -> None:
        """Counts something about a fault."""
        self.kinds.setdefault(kind, Counter())[what] += 1

    def add(self, other: Ledger) -> None:
        """Adds what another one counted."""
        for mine, theirs in ((self.kinds, other.kinds), (self.takers, other.takers)):
            for name, counts in theirs.items():
                mine.setdefault(name, Counter()).update(counts)
        self.wrong.update(other.wrong)
        self.errors.update(other.errors)
        self.moved += other.moved
        self.reports += other.reports

    @property
    def turns(self) -> int:
        """How many turns were taken."""
        return sum(counts["turns"] for counts in self.takers.values())

    @property
    def is_clean(self) -> bool:
        """Whether nothing went wrong."""
        return not self.wrong.total()

    def shown(self) -> str:
        """The ledger as text."""
        parts = [
            _table("fault", COUNTS, self.kinds),
            _table("who took the turns", ("turns", *WRONGS), self.takers),
        ]
        errors = ", ".join(f"{count} {name}" for name, count in self.errors.most_common())
        parts.append(f"errors met: {errors or 'none'}; sessions moved: {self.moved}")
        return "\n\n".join(parts)

    def verdict(self) -> str:
        """The counts that must be 0, in one line."""
        return ", ".join(f"{self.wrong[what]} {what}" for what in WRONGS)


def _table(title: str, columns: Iterable[str], rows: Mapping[str, Counter[str]]) -> str:
    columns = [*columns]
    wide = max(map(len, [title, *rows])) + 2
    lines = [title.ljust(wide) + "".join(f"{name:>11}" for name in columns)]
    total: Counter[str] = Counter()
    for name in sorted(rows):
        lines.append(name.ljust(wide) + _cells(columns, rows[name]))
        total.update(rows[name])
    lines.append("all".ljust(wide) + _cells(columns, total))
    return "\n".join(lines)


def _cells(columns: Iterable[str], counts: Counter[str]) -> str:
    return "".join(f"{counts[name] or '.':>11}" for name in columns)
