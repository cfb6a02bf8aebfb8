"""What the two halves of the benchmark have in common: one is of LangChain, one of LlamaIndex."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.figures import Row, Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Half:
    """What is measured of one framework, and what its report says of that.

    Attributes:
        title: The title of the report.
        output: Its file, in docs/.
        distributions: The names of those whose versions it tells.
        legend: What each side does, in the order of the columns.
        absent: Sentences: why sides are missing altogether.
        streams: How streams are measured, in sentences.
        more: What else there is to say of how it is measured, in sentences.
        full: How much is measured.
        quick: How little shows that everything runs; its figures mean nothing.
        measures: Each does one comparison, given the server's base URL and how much to do.
        tables: Each makes a table of its own, given how much to do.
    """

    title: str
    output: str
    distributions: Sequence[str]
    legend: Mapping[str, str]
    absent: Sequence[str]
    streams: str
    more: str = ""
    full: Any
    quick: Any
    measures: Sequence[Callable[[str, Any], Iterator[Row]]]
    tables: Sequence[Callable[[Any], Table]] = ()
