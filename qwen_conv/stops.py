"""Ending a text where the caller wants it to end; the Responses API has no parameter for it.

help.aliyun.com, "OpenAI compatible - Responses": only listed parameters are processed, `stop` is
not among them; read 2026-11-20.
"""

from __future__ import annotations

from collections.abc import Sequence


class Stop:
    """Passes a text on until one of some words comes, whatever pieces it arrives in.

    Args:
        words: The words to end before; none: the text passes unchanged.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._words = tuple(words)
        self._held = ""
        self.reached = False

    def feed(self, piece: str) -> str:
        """What can be passed on now; what might be the beginning of a word is held back."""
        if self.reached or not self._words:
            return "" if self.reached else piece
        self._held += piece
        found = [at for word in self._words if (at := self._held.find(word)) >= 0]
        if found:
            self.reached = True
            return self._held[: min(found)]
        keep = max((_overlap(self._held, word) for word in self._words), default=0)
        free, self._held = self._held[: len(self._held) - keep], self._held[-keep:] if keep else ""
        return free

    def rest(self) -> str:
        """What was held back for nothing, once the text has ended."""
        held, self._held = "" if self.reached else self._held, ""
        return held


def _overlap(text: str, word: str) -> int:
    """How many characters at the end of the text may be the beginning of the word."""
    for length in range(min(len(text), len(word) - 1), 0, -1):
        if text.endswith(word[:length]):
            return length
    return 0
