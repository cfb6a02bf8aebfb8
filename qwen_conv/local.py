"""The caller's list of messages, as the decision sees it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

from qwen_conv.items import (
    Fingerprint,
    FunctionCall,
    FunctionOutput,
    Item,
    Message,
    Refusal,
    Text,
    fingerprints,
)
from qwen_conv.limits import ITEM_LIFETIME
from qwen_conv.stamps import Stamp


@dataclass(frozen=True, slots=True)
class Entry:
    """One message of the caller's list: what it is on the wire, and what it claims of its place.

    Raises:
        NotRepresentableError: The message cannot be sent at all.
    """

    items: tuple[Item, ...]
    stamp: Stamp | None = None
    said: tuple[Fingerprint, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "said", fingerprints(self.items))

    @property
    def is_answer(self) -> bool:
        """Whether a model said it; only an answer can say nothing, and be no item at all."""
        return not self.items or any(
            isinstance(item, FunctionCall)
            or (isinstance(item, Message) and item.role == "assistant")
            for item in self.items
        )


def said_by(entries: Iterable[Entry]) -> tuple[Fingerprint, ...]:
    """What some messages say, one after another."""
    return tuple(chain.from_iterable(entry.said for entry in entries))


class Proof(NamedTuple):
    """The ledger's word that a conversation ends with a list of so many `messages`.

    `digest` stands for the list, within this process. `since` is when the oldest of them that
    still has to be there was stored, in seconds since 1970. `whole`: it holds nothing else.
    """

    messages: int
    digest: int
    since: float
    whole: bool = False


class LocalList:
    """The caller's messages, oldest first, converted only where somebody looks.

    Args:
        messages: The messages of the framework.
        entry_of: Converts one of them.
        keys: What `key_of` of each converted message is.
        stamp_of: Reads the stamp of one of them, which need not be converted for that.
    """

    def __init__(
        self,
        messages: Sequence[Any],
        entry_of: Callable[[Any], Entry],
        keys: tuple[Hashable, ...],
        stamp_of: Callable[[Any], Stamp | None] | None = None,
    ) -> None:
        self._messages = messages
        self._stamp_of = stamp_of
        self._entry_of = entry_of
        self._keys = keys
        self._entries: dict[int, Entry] = {}

    def __len__(self) -> int:
        return len(self._messages)

    def entries(self, start: int = 0) -> tuple[Entry, ...]:
        """The messages from `start` on.

        Raises:
            NotRepresentableError: One of them cannot be sent.
        """
        return tuple(map(self.entry, range(start, len(self._messages))))

    def entry(self, index: int) -> Entry:
        """The message at that place.

        Raises:
            NotRepresentableError: It cannot be sent.
        """
        found = self._entries.get(index)
        if found is None:
            found = self._entries[index] = self._entry_of(self._messages[index])
        return found

    def without(self, indices: Collection[int]) -> LocalList:
        """The list without the messages at those places."""
        left = [n for n in range(len(self._messages)) if n not in indices]
        keys = tuple(self._keys[n] for n in left)
        return LocalList([self._messages[n] for n in left], self._entry_of, keys, self._stamp_of)

    def stamp(self, index: int) -> Stamp | None:
        """What the message at that place says of where it is stored."""
        if self._stamp_of is None:
            return self.entry(index).stamp
        return self._stamp_of(self._messages[index])

    def proven(self, proof: Proof | None, now: float) -> int:
        """How many messages at the beginning the proof vouches for: all that it covers, or 0."""
        if proof is None or proof.messages > len(self._keys) or now >= proof.since + ITEM_LIFETIME:
            return 0
        return proof.messages if hash(self._keys[: proof.messages]) == proof.digest else 0

    def proof(self, since: float) -> Proof:
        """The proof that a conversation ends with this list."""
        return Proof(len(self._keys), hash(self._keys), since)

    def proof_with(self, answer: Hashable, since: float, *, whole: bool) -> Proof:
        """The proof for this list and the answer that it was given."""
        return Proof(len(self._keys) + 1, hash((*self._keys, answer)), since, whole)


def key_of(items: Iterable[Item]) -> Hashable:
    """A cheap value that is equal for two messages exactly if they say the same.

    It is `(role, text)` for a message that is nothing but text, so that a framework's message of
    that kind need not be converted to be told apart.
    """
    role, text = "assistant", ""
    spoken = [item for item in items if isinstance(item, _SPOKEN)]
    for item in spoken:
        if not (
            isinstance(item, Message)
            and (item.role == role or len(spoken) == 1)
            and all(isinstance(part, _WORDS) for part in item.content)
        ):
            return fingerprints(spoken)
        role, text = item.role, text + item.text
    return role, text


_SPOKEN = (Message, FunctionCall, FunctionOutput)
_WORDS = (Text, Refusal)
