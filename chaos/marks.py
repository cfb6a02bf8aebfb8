"""What is said: every text has a mark, so that it is found again, in requests and in the store."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from qwen_conv.offline import CallTool, Fail, Say
from qwen_conv.offline.responder import text_of

Json = Mapping[str, Any]

TOOL = "look_up"
TOOL_WIRE: Json = {
    "type": "function",
    "name": TOOL,
    "description": "Looks something up.",
    "parameters": {"type": "object", "properties": {"about": {"type": "string"}}},
}
"""The tool that the scripted model calls when it is asked to."""

_MARK = re.compile(r"\bc(\d+)\.(\d+)\b")
_BY_TOOL, _AT_LENGTH = "by tool", "at length"


class Mark(NamedTuple):
    """The step of a story that a text belongs to; written as `c17.3`."""

    story: int
    step: int

    def __str__(self) -> str:
        return f"c{self.story}.{self.step}"


def mark_in(text: str) -> Mark | None:
    """The last mark in a text."""
    found = _MARK.findall(text)
    return Mark(int(found[-1][0]), int(found[-1][1])) if found else None


def question(mark: Mark, *, by_tool: bool = False, at_length: bool = False) -> str:
    """A question; it says itself how it wants to be answered."""
    how = [_BY_TOOL] * by_tool + [_AT_LENGTH] * at_length
    return " ".join(["question", str(mark), *how])


def note(mark: Mark, number: int) -> str:
    """A message that is written without asking a model."""
    return f"note {number} of {mark}"


def result(about: str) -> str:
    """What the tool finds."""
    return f"result {about}"


def script(context: Sequence[Json], request: Json) -> Say | CallTool | Fail:
    """The scripted model: what it answers depends on the last item alone."""
    last = context[-1]
    text = str(last["output"]) if last.get("type") == "function_call_output" else text_of(last)
    mark = mark_in(text)
    if mark is None:
        return Fail(f"The script was asked something without a mark: {text[:100]!r}")
    if _BY_TOOL in text and request.get("tools"):
        return CallTool(TOOL, {"about": str(mark)}, f"call_{uuid.uuid4().hex}")
    words = 30 if _AT_LENGTH in text else 4
    return Say(f"answer {mark}: {' '.join(['so'] * words)}")


def said(items: Sequence[Json]) -> list[str]:
    """What stored items say, a line each, without what differs from try to try (ids of calls)."""
    return [_line(item) for item in items]


def _line(item: Json) -> str:
    match item["type"]:
        case "message":
            return line(item["role"], text_of(item))
        case "function_call":
            return call_line(json.loads(item["arguments"])["about"])
        case "function_call_output":
            return line("tool", item["output"])
        case kind:
            return f"{kind}: ?"


def line(role: str, text: str) -> str:
    """What a message says, in the words of `said`."""
    return f"{role}: {text}"


def call_line(about: str) -> str:
    """What a call of the tool says, in the words of `said`."""
    return f"call: {about}"
