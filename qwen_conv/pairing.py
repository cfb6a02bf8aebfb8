"""Tool calls and their results: how they travel, and what is mended where a service refuses that.

A result follows its call directly where both are sent (help.aliyun.com, "OpenAI compatible -
Responses", input; read 2026-11-20). Where the conversation holds the call, no document says whether
the result goes alone or with it, whether the conversation keeps calls and results at all, nor what
becomes of a call that was never answered. So a turn is sent in the plain way first. One that is
refused for that was not stored, and is sent again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from qwen_conv.errors import QwenConvError, RequestRefusedError, UnansweredCallError
from qwen_conv.items import FunctionCall, FunctionOutput, Item

OnUnansweredCall = Literal["answer", "raise"]
"""What to do about a tool call that was given no result, and bars the conversation's next turn."""

NOT_EXECUTED = "Not executed."
"""The result that such a call is given."""

_LONE = re.compile(r"no tool call found|must be a response to a prece", re.IGNORECASE)
_DOUBLE = re.compile(r"duplicate item", re.IGNORECASE)
_NAMED = re.compile(r"function call (\S+?)\.?(?:\s|$)")


@dataclass(slots=True)
class Pairing:
    """How the tool calls and results of one turn travel.

    Attributes:
        paired: Whether a result goes with its call though the conversation holds it.
        kept: Whether conversations keep calls and results; if not, those that stand in the list
            before what is sent go with every turn.
        calls: The calls that are known, by their ids: they go with a result that is sent.
        earlier: The calls and results that stand in the list before what is sent, in order.
        unanswered: The ids of calls that are told that they were not executed.
    """

    paired: bool = False
    kept: bool = True
    calls: dict[str, FunctionCall] = field(default_factory=dict)
    earlier: tuple[Item, ...] = ()
    unanswered: list[str] = field(default_factory=list)

    def input(self, items: Sequence[Item]) -> tuple[Item, ...]:
        """What is sent for these items."""
        items = (*self._earlier(items), *items)
        sent = {item.call_id for item in items if isinstance(item, FunctionCall)}
        answers = {one: FunctionOutput(one, NOT_EXECUTED) for one in self.unanswered}
        before = [answers[one] for one in self.unanswered if one not in sent]
        behind = [answers[one] for one in self.unanswered if one in sent]
        return beside([*self._with_calls((*before, *items), sent), *behind])

    def _earlier(self, items: Sequence[Item]) -> Iterator[Item]:
        """What the service was told before, and has not kept; calls only with their results."""
        if self.kept:
            return
        answered = {
            item.call_id for item in (*self.earlier, *items) if isinstance(item, FunctionOutput)
        }
        sent = {item.call_id for item in items if isinstance(item, FunctionCall)}
        for item in self.earlier:
            if not isinstance(item, FunctionCall) or item.call_id in answered - sent:
                yield item

    def _with_calls(self, items: Iterable[Item], sent: set[str]) -> Iterator[Item]:
        for item in items:
            call = self.calls.get(item.call_id) if isinstance(item, FunctionOutput) else None
            if self.paired and call is not None and call.call_id not in sent:
                yield call
            yield item

    def is_lesson(self, items: Sequence[Item]) -> bool:
        """Whether a turn that was taken shows how the service wants results of calls it holds."""
        sent = {item.call_id for item in items if isinstance(item, FunctionCall)}
        return any(
            isinstance(item, FunctionOutput) and item.call_id not in sent
            for item in self.input(items)
        )

    def lacks(self, refusal: RequestRefusedError, items: Iterable[Item]) -> bool:
        """Whether it takes what the conversation lists to mend that."""
        return (
            isinstance(refusal, UnansweredCallError)
            or _LONE.search(str(refusal)) is not None
            or any(
                isinstance(one, FunctionOutput) and one.call_id not in self.calls for one in items
            )
        )

    def learn(self, items: Iterable[Item]) -> None:
        """Takes note of the calls among some items."""
        self.calls |= {item.call_id: item for item in items if isinstance(item, FunctionCall)}

    def learn_earlier(self, items: Iterable[Item]) -> None:
        """Takes note of what stands in the list before what is sent."""
        kinds = FunctionCall | FunctionOutput
        self.earlier = tuple(item for item in items if isinstance(item, kinds))
        self.learn(self.earlier)

    def mend(
        self,
        refusal: RequestRefusedError,
        items: Sequence[Item],
        held: Sequence[Item] | None,
        policy: OnUnansweredCall,
    ) -> None:
        """Changes what is sent, so that it may be sent again.

        Args:
            refusal: What the service said; one that `is_mendable`.
            items: What the turn sends.
            held: What the conversation lists; `None` if it was not asked, or there is none.
            policy: What to do about calls without a result.

        Raises:
            RequestRefusedError: There is nothing to change.
        """
        before = self.input(items)
        listed = held or ()
        self.learn([*listed, *items])
        if not isinstance(refusal, UnansweredCallError):
            self.paired = not _DOUBLE.search(str(refusal))
            # A call that the service does not find, and does not list, it has not kept.
            if held is not None:
                self.kept = not self.paired or any(isinstance(one, FunctionCall) for one in held)
        elif policy == "answer":
            still_open = _open_calls([*listed, *items]) or self._named(refusal)
            self.unanswered += [one for one in still_open if one not in self.unanswered]
        if self.input(items) == before:
            raise refusal

    def _named(self, refusal: RequestRefusedError) -> list[str]:
        """The calls that the service names, where it does not list what it holds."""
        text = str(refusal)
        known = [
            one for one in self.calls if re.search(rf"(?<![\w-]){re.escape(one)}(?![\w-])", text)
        ]
        return known or _NAMED.findall(text)


def is_mendable(error: QwenConvError) -> bool:
    """Whether a turn was refused for how its tool calls and results travelled."""
    return isinstance(error, UnansweredCallError) or any(
        pattern.search(str(error)) for pattern in (_LONE, _DOUBLE)
    )


def _open_calls(items: Iterable[Item]) -> list[str]:
    """The ids of the calls that no result follows."""
    found: dict[str, None] = {}
    for item in items:
        if isinstance(item, FunctionCall):
            found[item.call_id] = None
        elif isinstance(item, FunctionOutput):
            found.pop(item.call_id, None)
    return [*found]


def with_results(items: Sequence[Item]) -> tuple[Item, ...]:
    """The items, where each call without a result is told that it was not executed."""
    return Pairing(unanswered=_open_calls(items)).input(items)


def beside(items: Iterable[Item]) -> tuple[Item, ...]:
    """The items with each result directly behind its call, where both are among them."""
    placed: list[list[Item]] = []
    waiting: dict[str, list[Item]] = {}
    for item in items:
        if isinstance(item, FunctionOutput) and item.call_id in waiting:
            waiting.pop(item.call_id).append(item)
            continue
        placed.append([item])
        if isinstance(item, FunctionCall):
            waiting[item.call_id] = placed[-1]
    return tuple(item for group in placed for item in group)


def told(items: Iterable[Item]) -> tuple[Item, ...]:
    """What a conversation's items say, without what was added to mend a turn."""
    waiting: set[str] = set()
    kept: list[Item] = []
    for item in items:
        if isinstance(item, FunctionCall):
            if item.call_id in waiting:
                continue  # it went along with its result
            waiting.add(item.call_id)
        elif isinstance(item, FunctionOutput):
            waiting.discard(item.call_id)
            if item.output == NOT_EXECUTED:
                continue
        kept.append(item)
    return beside(kept)
