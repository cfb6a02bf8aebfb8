"""A turn whose outcome is not known, and what it may have left in its conversation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

from qwen_conv.items import (
    Fingerprint,
    FunctionOutput,
    Item,
    Message,
    fingerprints,
    said_together,
)
from qwen_conv.local import Entry


class Doubt(NamedTuple):
    """A turn whose outcome is not known: no reply came, or it was not read to its end.

    Attributes:
        sent: What it sent, in order.
        behind: The id of the item that the conversation ended with before; `""` if it was empty,
            `None` if that was not known.
        asked: What of that was in the caller's list; all of it if `None`.
    """

    sent: tuple[Fingerprint, ...]
    behind: str | None
    asked: tuple[Fingerprint, ...] | None = None

    def concerns(self, entries: Sequence[Entry]) -> bool:
        """Whether it matters to that list: it has answers, or would send the same again.

        Who passes only new messages, and other ones, goes on behind the turn, if it is there.
        """
        said = tuple(chain.from_iterable(entry.said for entry in entries))
        asked = self.sent if self.asked is None else self.asked
        again = said[: len(asked)] == asked
        return again or any(entry.is_answer for entry in entries)

    def left(self, items: Sequence[Item]) -> Sequence[Item]:
        """What the turn left of itself, of the items behind `behind`, if anything.

        Of all items, if that is not known: what it left is what they end with then.
        """
        if self.behind is not None:
            return left_by(items, self.sent)
        for start in reversed(range(len(items))):
            end = len(items)
            while end > start and _is_output(items[end - 1]):
                end -= 1
            if fingerprints(items[start:end]) == self.sent:
                return items[start:]
        return ()


def left_by(items: Sequence[Item], sent: tuple[Fingerprint, ...]) -> Sequence[Item]:
    """What a turn left that sent this, if the items begin with that.

    That is one answer at most: what stands behind it may be what others wrote since.
    """
    count = next((n for n in range(1, len(items) + 1) if fingerprints(items[:n]) == sent), None)
    if count is None:
        return ()
    answer = next(said_together(items[count:]), ())
    return (*items[:count], *(answer if all(map(_is_output, answer)) else ()))


def _is_output(item: Item) -> bool:
    """Whether a model made the item."""
    if isinstance(item, Message):
        return item.role == "assistant"
    return not isinstance(item, FunctionOutput)
