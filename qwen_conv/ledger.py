"""The ledger: what this process saw each conversation take."""

from __future__ import annotations

import threading
from collections import OrderedDict

from qwen_conv.decision import Known

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

    def forget_end(self, conversation_id: str) -> None:
        """Keeps only that the conversation is there: what it ends with is not known any more."""
        self.note(conversation_id, Known(exists=self.of(conversation_id).exists))
