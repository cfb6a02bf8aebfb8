"""The ledger: what this process saw each conversation take."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from qwen_conv.decision import Known

if TYPE_CHECKING:
    from qwen_conv.record import Unfinished

UNKNOWN = Known()


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
        self._deletions: dict[str, int] = {}
        self.unfinished: dict[str, Unfinished] = {}
        """Addings of messages that failed, by conversation."""

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
        """How often this process has deleted items of a conversation."""
        return self._deletions.get(conversation_id, 0)

    def note_deletion(self, conversation_id: str) -> None:
        """Counts a deletion: what was read before may hold the item still."""
        with self._mutex:
            self._deletions[conversation_id] = self._deletions.get(conversation_id, 0) + 1

    def forget_end(self, conversation_id: str) -> None:
        """Keeps only that the conversation is there: what it ends with is not known any more."""
        self.note(conversation_id, Known(exists=self.of(conversation_id).exists))


PROCESS_LEDGER = Ledger()
"""What the hubs of a process share: a turn that one of them took is known to all."""
