"""What the offline server answers with. It is no language model.

`quote` says the sentence of the context again that shares most with the question. A test passes a
script of its own instead: a callable that is given the context and the request, and returns what to
answer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum
from typing import Any

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Say:
    """The answer's text, and what it cites, as the service writes that."""

    text: str
    annotations: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Think:
    """Reasoning, before the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class CallTool:
    """A function call. `arguments` is JSON text, or what it is made of."""

    name: str
    arguments: Mapping[str, Any] | str = field(default_factory=dict)
    call_id: str | None = None


@dataclass(frozen=True, slots=True)
class UseTool:
    """What a tool of the service's own did: its item, as the service writes it, without an id."""

    item: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Fail:
    """An error instead of an answer. `after` pieces of text are streamed before it."""

    message: str
    code: str = "InternalError"
    status: int = 500
    after: int = 0


Piece = Say | Think | CallTool | UseTool | Fail
Answer = str | Piece | Sequence[str | Piece]
Script = Callable[[Sequence[Json], Json], Answer | Awaitable[Answer]]
"""Given what the model is shown (the instructions as a first system message, the conversation, the
input), oldest first, and the request's body, returns the answer: a text, a piece, or several."""


def pieces_of(answer: Answer) -> tuple[Piece, ...]:
    """The answer as pieces."""
    several = [answer] if isinstance(answer, str | Piece) else [*answer]
    return tuple(Say(one) if isinstance(one, str) else one for one in several)


def quote(context: Sequence[Json], _request: Json) -> Answer:
    """The sentence of the context that shares most with the last question.

    A shared word counts the more, the fewer sentences have it. Of sentences that share as much,
    the later one is said; questions are never said.
    """
    *told, question = [
        text_of(item) for item in context if item.get("type", "message") == "message"
    ] or [""]
    parts = [part.strip() for text in told for part in re.split(r"(?<=[.!?])\s+|\n+", text)]
    sentences = {part: _words(part) for part in reversed(parts) if not part.endswith("?")}
    spread = Counter(word for words in sentences.values() for word in words)
    asked = _words(question)
    best, most = "I was told nothing about that.", 0.0
    for sentence, words in sentences.items():
        # fsum, since sets have no order and the order of a plain sum shows in its last digit
        shared = fsum(1 / spread[word] for word in words & asked)
        if shared > most:
            best, most = sentence, shared
    return best


def text_of(item: Json) -> str:
    """What a message says in words."""
    content = item.get("content")
    if isinstance(content, str):
        return content
    return " ".join(part["text"] for part in content or () if isinstance(part.get("text"), str))


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))
