"""The messages of a conversation, made of its items in the order in which they are listed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from qwen_conv.encodings import Seal, decode
from qwen_conv.items import (
    FunctionCall,
    FunctionOutput,
    Item,
    Json,
    Message,
    fingerprints,
    said_together,
)
from qwen_conv.stamps import Stamp


class Kept(NamedTuple):
    """A message of the record.

    Attributes:
        items: What it says: one item, or all items of an answer.
        stamp: Where it is.
        extra: What was kept with it; see `encode`.
        once: The seal that it was stored with; `""` if with none.
    """

    items: tuple[Item, ...]
    stamp: Stamp
    extra: Json
    once: str = ""


@dataclass(slots=True)
class Reader:
    """Makes messages of items that come page by page; `ids` are those of all it was fed.

    `tail` are the ids of the last two, `waiting` the calls whose results did not come yet, and
    `passed_over` the ids of items that no message shows, for the next one.
    """

    base_url: str
    conversation_id: str
    now: float
    at: float
    used: dict[str, str] = field(default_factory=dict)
    tail: tuple[str, ...] = ()
    open: list[Item] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    waiting: tuple[FunctionCall, ...] = ()
    passed_over: tuple[str, ...] = ()

    @property
    def after(self) -> str:
        """The last item's id; `""` if there was none."""
        return self.tail[-1] if self.tail else ""

    @property
    def before(self) -> str | None:
        """The id of the item before the last one; `None` if there was none."""
        return self.tail[0] if self.tail[1:] else None

    def copy(self) -> Reader:
        """A reader that goes on from here, and leaves this one as it is."""
        return replace(self, used={**self.used}, ids={*self.ids})

    def feed(self, items: Sequence[Item], seal: Seal | None, *, ended: bool = False) -> list[Kept]:
        """The messages that are complete now; `ended` if nothing can follow."""
        found: list[Kept] = []
        for item in items:
            decoded = None
            if seal is not None and isinstance(item, Message) and item.id is not None:
                decoded = decode(item, seal.secret, self.now)
            if decoded is None or decoded.once in seal.void:  # type: ignore[union-attr]  # there was one
                self.open.append(item)
            elif self.used.setdefault(decoded.once, item.id or "") != item.id:
                self.open.append(item)  # said again by somebody
            else:
                found += self._closed()
                found += self._kept((item,), decoded.items, decoded.extra, decoded.once)
        return [*found, *self._closed(goes_on=not ended)]

    def _closed(self, *, goes_on: bool = False) -> list[Kept]:
        """The messages of what is open; the last of it stays open if the next page may go on."""
        groups, self.open = [*said_together(self.open)], []
        if groups and goes_on:
            self.open = [*groups.pop()]
        return [kept for group in groups for kept in self._kept(group, group)]

    def _kept(
        self,
        stored: tuple[Item, ...],
        items: tuple[Item, ...],
        extra: Json | None = None,
        once: str = "",
    ) -> list[Kept]:
        after = self.after
        own = tuple(item.id for item in stored if item.id)
        self.tail = (*self.tail, *own)[-2:]
        self.ids.update(own)
        ids, said = self.passed_over + own, items if once else self._first_said(items)
        if not said:
            self.passed_over = ids
            return []
        self.passed_over = ()
        stamp = Stamp(
            self.base_url,
            self.conversation_id,
            None,
            ids,
            self.at,
            said=fingerprints(said),
            after=after,
            encoded=bool(once),
        )
        return [Kept(said, stamp, extra or {}, once)]

    def _first_said(self, items: tuple[Item, ...]) -> tuple[Item, ...]:
        """The items without calls that wait for their results already.

        A service that wants a result beside its call is sent that again, and may list it twice.
        """
        said: list[Item] = []
        for item in items:
            if isinstance(item, FunctionOutput):
                done = item.call_id
                self.waiting = tuple(one for one in self.waiting if one.call_id != done)
            elif isinstance(item, FunctionCall):
                if item in self.waiting:
                    continue
                self.waiting += (item,)
            said.append(item)
        return tuple(said)
