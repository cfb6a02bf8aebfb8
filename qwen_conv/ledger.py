"""The ledger: what this process saw each conversation take."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakValueDictionary

from qwen_conv.decision import Known
from qwen_conv.items import Fingerprint, Item, fingerprints

if TYPE_CHECKING:
    from qwen_conv.conversations import Conversation
    from qwen_conv.doubt import Doubt
    from qwen_conv.writing import Said, Unfinished

UNKNOWN = Known()


class Written(NamedTuple):
    """What this process has written to a conversation as messages.

    Attributes:
        begun: How many items the conversation was created with.
        first: What the first of them says, if there were any.
        ids: Of two items that were written since, the older one first; or of one, or of none.
    """

    begun: int = 0
    first: tuple[Fingerprint, ...] = ()
    ids: tuple[str, ...] = ()


class Listing(NamedTuple):
    """How a server lists a conversation's items, as far as that is known.

    Attributes:
        tells_more: Whether it says of a page that more follow, if they do.
        heeds_order: Whether it takes notice of `order`.
        oldest_first: Whether the oldest item comes first where that is asked for.
    """

    tells_more: bool | None = None
    heeds_order: bool | None = None
    oldest_first: bool | None = None


class Ledger:
    """What is known of each conversation, the most recent ones kept.

    To forget is safe: the next turn then reads the conversation first.

    Args:
        most: How many conversations are remembered.
    """

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._mutex = threading.Lock()
        self._known: OrderedDict[str, Known] = OrderedDict()
        self._count = count(1)
        self._deletions: dict[str, int] = {}
        self._forgotten = 0
        self._written_outside: set[str] = set()
        self._pairing: dict[tuple[str, bool], tuple[bool, bool]] = {}
        self._listing: dict[str, Listing] = {}
        self._written: OrderedDict[str, Written] = OrderedDict()
        self.unfinished: dict[str, dict[Said, Unfinished]] = {}
        """Addings of messages that failed, by conversation and what they were to say."""
        self.unfinished_creations: dict[tuple[object, ...], Conversation] = {}
        """Conversations whose first messages are not all written, by where they are and what they
        were to say."""

    def of(self, conversation_id: str) -> Known:
        """What is known of a conversation."""
        return self._known.get(conversation_id, UNKNOWN)

    def note(self, conversation_id: str, known: Known) -> None:
        """Replaces what is known of a conversation."""
        with self._mutex:
            self._known[conversation_id] = known
            self._known.move_to_end(conversation_id)
            if len(self._known) > self._most:
                self._known.popitem(last=False)

    def note_unless_changed(self, conversation_id: str, before: Known, known: Known) -> None:
        """Replaces what is known, if that is still `before`: what was seen may be old by now."""
        with self._mutex:
            if self._known.get(conversation_id, UNKNOWN) == before:
                self._known[conversation_id] = known

    def deletions(self, conversation_id: str) -> int:
        """A number that is another one once this process has deleted items of a conversation."""
        return self._deletions.get(conversation_id, self._forgotten)

    def note_deletion(self, conversation_id: str) -> None:
        """Notes that items are deleted: what was read before may hold them still."""
        with self._mutex:
            if len(self._deletions) >= self._most:
                self._deletions.clear()
                self._forgotten = next(self._count)
            self._deletions[conversation_id] = next(self._count)

    def write_outside(self, target: str) -> None:
        """Notes that a history had to take a turn back; see `is_written_outside`."""
        with self._mutex:
            if len(self._written_outside) >= self._most:
                self._written_outside.clear()
            self._written_outside.add(target)

    def write_inside(self, target: str) -> None:
        """Notes that a turn would have been what a history was given."""
        self._written_outside.discard(target)

    def is_written_outside(self, target: str) -> bool:
        """Whether the turns of a history's runs are better taken on no conversation.

        They are not what the history is then given: it would have to take them back.
        """
        return target in self._written_outside

    def note_pairing(
        self, base_url: str, *, in_conversation: bool, paired: bool, kept: bool
    ) -> None:
        """Notes how a service took a tool's result; see `pairing`."""
        self._pairing[base_url, in_conversation] = paired, kept

    def pairing(self, base_url: str, *, in_conversation: bool) -> tuple[bool, bool]:
        """Whether a tool's result goes with its call there, though the service has that.

        And whether it keeps calls and results at all.
        """
        return self._pairing.get((base_url, in_conversation), (False, True))

    def note_doubt(self, conversation_id: str, doubt: Doubt) -> None:
        """Notes more of a turn in doubt, or another one; the rest stays as it is known."""
        self.note(conversation_id, self.of(conversation_id)._replace(doubt=doubt))

    def settle(self, conversation_id: str) -> None:
        """Notes that a turn in doubt is not in the conversation, which is as it was before."""
        self.note(conversation_id, self.of(conversation_id).certain)

    def end(self, conversation_id: str) -> str | None:
        """The id of the item that the conversation ended with when this process last saw it."""
        ids = self.of(conversation_id).head or self.written(conversation_id).ids
        return ids[-1] if ids else None

    def take_over(self, conversation_id: str, doubt: Doubt | None, end: str | None) -> None:
        """Notes that others had the conversation, and what they say of a doubt, and of its end.

        That is no end that this process has seen: it vouches for nothing, and only tells where to
        look behind for what gets lost.
        """
        exists = self.of(conversation_id).exists
        self.note(conversation_id, Known(exists=exists, doubt=doubt))
        ids = () if end is None else (end,)
        self._note_written(conversation_id, self.written(conversation_id)._replace(ids=ids))

    def note_listing(
        self,
        base_url: str,
        *,
        tells_more: bool | None = None,
        heeds_order: bool | None = None,
        oldest_first: bool | None = None,
    ) -> None:
        """Notes how a server lists items; what is `None` stays as it is known."""
        with self._mutex:
            old = self.listing(base_url)
            self._listing[base_url] = Listing(
                old.tells_more if tells_more is None else tells_more,
                old.heeds_order if heeds_order is None else heeds_order,
                old.oldest_first if oldest_first is None else oldest_first,
            )

    def listing(self, base_url: str) -> Listing:
        """How a server lists items."""
        return self._listing.get(base_url, _ANY)

    def note_begun(self, conversation_id: str, items: Sequence[Item]) -> None:
        """Notes that the conversation was created with these items."""
        self._note_written(conversation_id, Written(len(items), fingerprints(items[:1])))

    def note_written(self, conversation_id: str, items: Sequence[Item]) -> None:
        """Notes that these items were written, in that order, behind all that was there."""
        old, new = self.written(conversation_id), [item.id for item in items if item.id]
        if ids := [*old.ids[-1:], *new]:
            ends = (ids[0], ids[-1]) if ids[1:] else (ids[0],)
            self._note_written(conversation_id, old._replace(ids=ends))
        if (doubt := self.of(conversation_id).doubt) is not None:
            since = doubt.since + tuple(new)
            self.note_doubt(conversation_id, doubt._replace(since=since, is_missed=False))

    def _note_written(self, conversation_id: str, written: Written) -> None:
        with self._mutex:
            self._written[conversation_id] = written
            self._written.move_to_end(conversation_id)
            if len(self._written) > self._most:
                self._written.popitem(last=False)

    def written(self, conversation_id: str) -> Written:
        """What this process has written to a conversation."""
        return self._written.get(conversation_id, _NOTHING)

    def forget_end(self, conversation_id: str) -> None:
        """Keeps only that the conversation is there, and a turn in doubt.

        What it ends with is not known any more.
        """
        known = self.of(conversation_id)
        self.note(conversation_id, Known(exists=known.exists, doubt=known.doubt))

    def forget(self, conversation_id: str) -> None:
        """Forgets all about a conversation, which is erased; what was read of it is not current."""
        self.note_deletion(conversation_id)
        self.note(conversation_id, UNKNOWN)
        self.unfinished.pop(conversation_id, None)


_ANY = Listing()
_NOTHING = Written()


class Ledgers:
    """The ledgers of a process, one for each account at each base URL.

    What one service says of an id, or takes under it, says nothing of the conversation that another
    service, or another account, has under the same one.

    Args:
        most: How many ledgers are remembered that no hub has any more.
    """

    def __init__(self, most: int = 100) -> None:
        self._most = most
        self._mutex = threading.Lock()
        self._ledgers: WeakValueDictionary[tuple[str, str], Ledger] = WeakValueDictionary()
        self._recent: OrderedDict[tuple[str, str], Ledger] = OrderedDict()

    def of(self, base_url: str, account: str) -> Ledger:
        """The ledger of that account there."""
        place = base_url, account
        with self._mutex:
            ledger = self._ledgers.get(place)
            if ledger is None:
                ledger = self._ledgers[place] = Ledger()
            self._recent[place] = ledger
            self._recent.move_to_end(place)
            if len(self._recent) > self._most:
                self._recent.popitem(last=False)
            return ledger


PROCESS_LEDGERS = Ledgers()
"""What the hubs of a process share: a turn that one of them took is known to all of its account."""
