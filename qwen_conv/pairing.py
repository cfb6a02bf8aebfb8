"""Tool calls and their results: how they travel, and what is mended where a service refuses that.

A result follows its call directly where both are sent (help.aliyun.com, "OpenAI compatible -
Responses", input; read 2026-11-20). Where the conversation holds the call, no document says whether
the result goes alone or with it, nor what becomes of a call that was never answered. So a turn is
sent in the plain way first. One that is refused was not stored, and is sent again in the other way.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

from qwen_conv.errors import RequestRefusedError, UnansweredCallError
from qwen_conv.items import FunctionCall, FunctionOutput, Item

OnUnansweredCall = Literal["answer", "raise"]
"""What to do about a tool call that was given no result, and bars the conversation's next turn."""

NOT_EXECUTED = "Not executed."
"""The result that such a call is given."""

_ABOUT_TOOLS = re.compile(r"tool|function.?call|duplicate item", re.IGNORECASE)
_NAMED = re.compile(r"function call ([\w-]+)")


@dataclass(slots=True)
class Pairing:
    """How the tool calls and results of one turn travel.

    Attributes:
        paired: Whether a result goes with its call though the conversation holds it.
        calls: The calls that are known, by their ids.
        unanswered: The ids of calls that are told that they were not executed.
    """

    paired: bool = False
    calls: dict[str, FunctionCall] = field(default_factory=dict)
    unanswered: list[str] = field(default_factory=list)
    _tried: set[bool] = field(default_factory=set)

    def input(self, items: Sequence[Item]) -> tuple[Item, ...]:
        """What is sent for these items."""
        sent = {item.call_id for item in items if isinstance(item, FunctionCall)}
        answers = {one: FunctionOutput(one, NOT_EXECUTED) for one in self.unanswered}
        before = [answers[one] for one in self.unanswered if one not in sent]
        behind = [answers[one] for one in self.unanswered if one in sent]
        return beside([*self._with_calls((*before, *items), sent), *behind])

    def _with_calls(self, items: Iterable[Item], sent: set[str]) -> Iterator[Item]:
        for item in items:
            call = self.calls.get(item.call_id) if isinstance(item, FunctionOutput) else None
            if self.paired and call is not None and call.call_id not in sent:
                yield call
            yield item

    def learn(self, calls: Iterable[Item]) -> None:
        """Takes note of calls that a result may have to go with."""
        self.calls |= {item.call_id: item for item in calls if isinstance(item, FunctionCall)}

    def mend(
        self,
        refusal: RequestRefusedError,
        items: Sequence[Item],
        listed: Sequence[Item],
        policy: OnUnansweredCall,
    ) -> None:
        """Changes what is sent, so that it may be sent again.

        Args:
            refusal: What the service said.
            items: What the turn sends.
            listed: What the conversation holds, and the caller's list.
            policy: What to do about calls without a result.

        Raises:
            RequestRefusedError: There is nothing left to change.
        """
        everything = [*items, *listed]
        self.learn(everything)
        answered = {one.call_id for one in everything if isinstance(one, FunctionOutput)}
        is_named = isinstance(refusal, UnansweredCallError)
        named = _NAMED.findall(str(refusal)) if is_named else []
        new = [one for one in dict.fromkeys([*self.calls, *named]) if one not in answered]
        if new := [one for one in new if one not in self.unanswered]:
            if policy == "raise":
                raise refusal
            self.unanswered += new
            return
        self._tried.add(self.paired)
        if not (answered or self.unanswered) or (not self.paired) in self._tried:
            raise refusal
        self.paired = not self.paired


def is_about_tools(refusal: RequestRefusedError) -> bool:
    """Whether a turn may have been refused for its tool calls and results."""
    return bool(_ABOUT_TOOLS.search(str(refusal)))


def beside(items: Sequence[Item]) -> tuple[Item, ...]:
    """The items with each result directly behind its call, where both are among them."""
    calls = {item.call_id for item in items if isinstance(item, FunctionCall)}
    results: dict[str, list[Item]] = {}
    for item in items:
        if isinstance(item, FunctionOutput) and item.call_id in calls:
            results.setdefault(item.call_id, []).append(item)
    return tuple(
        chain.from_iterable(
            [item, *results.pop(item.call_id, ())] if isinstance(item, FunctionCall) else [item]
            for item in items
            if not (isinstance(item, FunctionOutput) and item.call_id in calls)
        )
    )
