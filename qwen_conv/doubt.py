"""A turn whose outcome is not known, and how what it left in its conversation is recognized."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from qwen_conv.items import (
    Fingerprint,
    FunctionOutput,
    Item,
    Message,
    as_users,
    fingerprints,
    said_together,
)

Said = tuple[Fingerprint, ...]


class Left(NamedTuple):
    """What a turn left in its conversation.

    Attributes:
        question: What it sent.
        answer: What was answered, if anything.
        alone: Whether nothing was written there since, by anybody else.
    """

    question: tuple[Item, ...]
    answer: tuple[Item, ...]
    alone: bool = True

    @property
    def items(self) -> tuple[Item, ...]:
        """All of it, in order."""
        return self.question + self.answer


class Doubt(NamedTuple):
    """A turn whose outcome is not known: no reply came, or it was not read to its end.

    Attributes:
        forms: What it sent, in order, in every form in which a service may list that.
        asked: What of that was in the caller's list.
        behind: The id of the item that the conversation ended with before; `""` if it was empty,
            `None` if that was not known.
        before: What the conversation ended with before, as far as it is known what that said.
        response_id: Its response, if that was told.
        until: When the service will have stored it, if it does; in seconds since 1970.
        since: The ids of the items that this process wrote since.
        has_failed: Whether the service said that it failed, so that no answer is to be waited for.
        is_missed: Whether its caller wants it and has no answer: who asks the same again means this
            turn, even behind a list that shows what it left, because it was read meanwhile.
    """

    forms: tuple[Said, ...]
    asked: Said
    behind: str | None
    before: Said = ()
    response_id: str | None = None
    until: float = 0.0
    since: tuple[str, ...] = ()
    has_failed: bool = False
    is_missed: bool = True

    def left(
        self, items: Sequence[Item], answer: Sequence[Item] = (), *, is_behind: bool = True
    ) -> Left | None:
        """What the turn left of itself, if it left anything.

        Args:
            items: What stands behind `behind`, or all items.
            answer: What was answered, if that is known.
            is_behind: Whether these are the items behind `behind`. If not, the last that could be
                the turn's is, unless the conversation may be as it was before.
        """
        found = [*_left_by(items, self.forms)]
        if not found and answer:
            # Where only messages are kept, tool results leave nothing but what was answered.
            found = [Left((), left.question) for left in _left_by(items, forms_of(answer))]
        if is_behind and found:
            return found[0]._replace(alone=len(found[0].items) == len(items))
        if is_behind or (self.before and _ends_with(fingerprints(items), self.before)):
            return None
        for left in reversed(found):
            start = next(n for n, item in enumerate(items) if item is left.items[0])
            is_last = items[-1] is left.items[-1]
            if self.before and _ends_with(fingerprints(items[:start]), self.before):
                return left._replace(alone=is_last)
            # Nothing is known of what stood before: the end of the conversation is the best guess.
            if not self.before and is_last:
                return left
        return None


def forms_of(items: Sequence[Item]) -> tuple[Said, ...]:
    """What the items say, in every form in which a service may list them.

    Some list system messages as the user's, and some nothing but messages: see the switches
    `system_role` and `stored_items` of the offline server.
    """
    messages = [item for item in items if isinstance(item, Message)]
    forms = [
        fingerprints(form)
        for some in (items, messages)
        for form in (some, [as_users(item) for item in some])
    ]
    return tuple(form for form in dict.fromkeys(forms) if form)


def left_by(items: Sequence[Item], sent: Said) -> Left | None:
    """What the last turn left that sent this, if one did."""
    return next(reversed([*_left_by(items, (sent,))]), None)


def _left_by(items: Sequence[Item], forms: Sequence[Said]) -> Iterator[Left]:
    """What turns left that sent this, in order.

    That is one answer at most: what stands behind it may be what others wrote since.
    """
    for start in range(len(items)):
        lengths = (_length(items[start:], form) for form in forms)
        if count := next(filter(None, lengths), 0):
            end = start + count
            yield Left(tuple(items[start:end]), _answer(items[end:]))


def _length(items: Sequence[Item], said: Said) -> int:
    """How many items at the beginning say that; 0 if no number does."""
    for count in range(1, len(items) + 1):
        found = fingerprints(items[:count])
        if found == said:
            return count
        # What an answer says may become more with its next item.
        sure = found[:-1] if _is_output(items[count - 1]) else found
        if not found or sure != said[: len(sure)]:
            break
    return 0


def _answer(items: Sequence[Item]) -> tuple[Item, ...]:
    answer = next(said_together(items), ())
    return answer if all(map(_is_output, answer)) else ()


def _is_output(item: Item) -> bool:
    """Whether a model made the item."""
    if isinstance(item, Message):
        return item.role == "assistant"
    return not isinstance(item, FunctionOutput)


def _ends_with(said: Said, end: Said) -> bool:
    return not end or said[-len(end) :] == end
