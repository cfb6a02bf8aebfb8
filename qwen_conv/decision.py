"""What a turn sends: the one decision that everything else here carries out.

`decide` is a pure function. It is given the caller's list of messages, what this process knows of
the conversation, and what was read of it so far; it answers with one of

    Attach    send these messages, the conversation holds the others
    Look      that cannot be told yet: read this of the conversation, and ask again
    Diverged  the list is not what the conversation holds, followed by new messages

Two things vouch for a message: the *ledger*, what this process saw the service take (`Known`),
and the *stamp* that travels with an answer. Where neither does, the conversation is read and
compared whole. Position alone proves nothing, and neither does an equal text: people do say
"yes" twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Literal, NamedTuple

from qwen_conv.doubt import Doubt
from qwen_conv.errors import UsageError
from qwen_conv.items import (
    Fingerprint,
    FunctionCall,
    FunctionOutput,
    Item,
    as_users,
    fingerprints,
    is_system,
)
from qwen_conv.limits import ITEM_LIFETIME
from qwen_conv.local import Entry, LocalList, Proof, key_of, said_by
from qwen_conv.pairing import told
from qwen_conv.stamps import Stamp

OnDivergence = Literal["rebase", "raise", "ignore", "stateless"]
"""What to do if a list is not what the conversation holds, followed by new messages."""

Span = Literal["new", "tail", "whole"]
"""What a list is at the least: nothing but new messages; the end of the conversation, whose older
part may have been dropped; or the whole of it. A list that goes back to before the first answer
looks like one of nothing but new messages."""

UNDATED_TRUST = 24 * 60 * 60
"""Seconds that a reading of the conversation vouches for it. Listed items carry no date
(help.aliyun.com, "Conversations", list items; read 2026-11-20), so some may be about to expire."""


class Known(NamedTuple):
    """What this process knows of one conversation.

    Attributes:
        exists: The service said that it is there.
        empty: It holds nothing.
        head: The ids of what it ended with when this process last saw it, the response's first;
            empty if that is not known.
        proof: The list that this process saw it end with.
        doubt: A turn that was sent after all that; what became of it is not known. All the rest is
            about the conversation before it.
        unclaimed: What the last turn added, sent and answered, which nobody has read since, nor
            added to a history: that would be to add it twice.
    """

    exists: bool = False
    empty: bool = False
    head: tuple[str, ...] = ()
    proof: Proof | None = None
    doubt: Doubt | None = None
    unclaimed: tuple[Fingerprint, ...] = ()

    @property
    def certain(self) -> Known:
        """What is known of the conversation as it was before a turn in doubt."""
        return self if self.doubt is None else self._replace(doubt=None)


class Look(NamedTuple):
    """What has to be read before it can be decided.

    `conversation`: whether it is there. `behind`: every item behind `item_id`. `everything`:
    every item.
    """

    at: Literal["conversation", "behind", "everything"]
    item_id: str | None = None


class Seen(NamedTuple):
    """What a look found, oldest first; `items` is `None` if `item_id` was not there."""

    look: Look
    items: tuple[Item, ...] | None


class Attach(NamedTuple):
    """Send these entries; the conversation holds what stands before them.

    Attributes:
        send: The messages to send, never empty.
        why: What vouches for the others, in words.
        take_back: An item that is stored already and has to be deleted before it is sent.
        after: What the conversation ends with, for the next stamp; see `Stamp.after`.
        since: When the oldest message of the list that is vouched for was stored.
        end: The id of the item that the conversation was seen to end with; `""` if it holds
            nothing, `None` if it was not read.
    """

    send: tuple[Entry, ...]
    why: str
    take_back: str | None = None
    after: str | None = None
    since: float = 0.0
    end: str | None = None


class Diverged(NamedTuple):
    """The list is not what the conversation holds, followed by new messages.

    Attributes:
        why: What does not fit, in words, without content.
        new: What stands behind the last answer.
    """

    why: str
    new: tuple[Entry, ...]


def decide(
    local: LocalList,
    known: Known,
    seen: Seen | None,
    *,
    base_url: str,
    conversation_id: str,
    now: float,
    span: Span = "new",
) -> Attach | Look | Diverged:
    """What to send of `local` to a conversation, what to read first, or why it cannot be.

    Args:
        local: The caller's messages, oldest first, at least one.
        known: What this process knows of the conversation.
        seen: What the last look found, if there was one.
        base_url: The service that holds the conversation.
        conversation_id: The conversation.
        now: Seconds since 1970.
        span: What the list is at the least.

    Raises:
        UsageError: The conversation holds every message, and the last is an answer.
        NotRepresentableError: A message cannot be sent.
    """
    verdict = _decide(
        local, known, seen, base_url=base_url, conversation_id=conversation_id, now=now, span=span
    )
    if isinstance(verdict, Attach) and (results := _results(verdict.send)):
        entries = local.entries()
        for entry in entries:
            if entry.stamp and entry.stamp.encoded and results & _calls(entry):
                return Diverged("the call of a tool's result is stored as text", _new(entries))
    return verdict


def _decide(
    local: LocalList,
    known: Known,
    seen: Seen | None,
    *,
    base_url: str,
    conversation_id: str,
    now: float,
    span: Span,
) -> Attach | Look | Diverged:
    if proven := local.proven(known.proof, now):
        assert known.proof is not None  # noqa: S101 - proven says so
        new = local.entries(proven)
        if (
            (span != "whole" or known.proof.whole)
            # An answer behind it may have been given there, to another process, and more with it.
            and not _has_answer(new)
            and not _is_elsewhere(local.stamp(proven - 1), known, base_url, conversation_id)
        ):
            return _attach(
                new,
                "this process saw the conversation take the others",
                stored=None if new else local.entry(proven - 1),
                item_id=known.head[-1] if known.head else None,
                after=known.head[0] if known.head else None,
                since=known.proof.since,
            )

    entries = local.entries()
    anchor = last_stamped(entries, base_url, conversation_id)

    if anchor < 0 and span == "new" and not _has_answer(entries):
        if not known.exists:
            return Look("conversation")
        after = "" if known.empty else None
        return _attach(entries, "all messages are new", after=after, since=now)
    if anchor < 0 and known.empty:
        return _attach(entries, "the conversation is empty", after="", since=now)

    if anchor >= 0:
        held = verified(entries, anchor, now, whole=span == "whole")
        if isinstance(held, str):
            return Diverged(held, _new(entries))
        stamp = entries[anchor].stamp
        assert stamp is not None  # noqa: S101 - what an anchor is
        rest = entries[anchor + 1 :]
        if held and not _has_answer(rest) and set(stamp.ids) & set(known.head):
            return _attach(
                rest,
                "the last answer's stamp is where the conversation ends",
                stored=entries[anchor],
                after=stamp.ids[0],
                since=_oldest(entries, now),
            )
        if held and stamp.item_ids:
            if seen is None:
                return Look("behind", stamp.item_ids[-1])
            if seen.look.at == "behind":
                verdict = _compared(entries, anchor, seen.items, after=stamp.ids[0], now=now)
                if isinstance(verdict, Attach):
                    return verdict

    # Nothing vouches for the messages, or not where the service says: it has to be read whole.
    if seen is None or seen.look.at != "everything":
        return Look("everything")
    if not (seen.items or known.exists):
        return Look("conversation")  # nothing listed may also mean that there is nothing to list
    return _compared(entries, -1, seen.items, after=None, now=now)


def settle(
    local: LocalList,
    plan: Attach,
    *,
    base_url: str,
    conversation_id: str,
    response_id: str | None,
    item_ids: tuple[str, ...],
    received: Sequence[Item],
    now: float,
    whole: bool = False,
) -> tuple[Stamp, Known]:
    """What there is to remember of a turn that the service took.

    Args:
        local: The caller's messages.
        plan: What was sent of them.
        base_url: The service that holds the conversation.
        conversation_id: The conversation.
        response_id: The answer's response.
        item_ids: The answer's items.
        received: What the answer says, as the caller was given it.
        now: Seconds since 1970. Our clock: a server's may be of another kind, and minutes do not
            matter in seven days.
        whole: Whether the conversation held nothing but the list.

    Returns:
        The stamp for the answer, and what this process knows of the conversation now.
    """
    sent = said_by(plan.send)
    said = fingerprints(received)
    stamp = Stamp(base_url, conversation_id, response_id, item_ids, now, sent, said, plan.after)
    proof = local.proof_with(key_of(received), plan.since, whole=whole)
    known = Known(exists=True, head=stamp.ids, proof=proof, unclaimed=sent + said)
    return stamp, known


def _compared(
    entries: tuple[Entry, ...],
    anchor: int,
    listed: tuple[Item, ...] | None,
    *,
    after: str | None,
    now: float,
) -> Attach | Diverged:
    """Decides by what the conversation holds behind the anchor (-1: from its beginning)."""
    rest = entries[anchor + 1 :]
    held = None if listed is None else _leading(rest, listed)
    if listed is None or held is None:
        return Diverged("what it holds is not what stands before the new messages", _new(entries))
    oldest = _oldest(entries, now)
    if not held or not listed:
        stored = entries[anchor] if anchor >= 0 else None
        after = "" if anchor < 0 else after
        end = stored.stamp.item_ids[-1] if stored and stored.stamp else ""
        return _attach(
            rest,
            "nothing came behind",
            stored=stored,
            after=after,
            since=oldest,
            end=listed[-1].id if listed else end,
        )
    return _attach(
        rest[held:],
        "the conversation was read, and holds the others",
        stored=rest[held - 1],
        item_id=listed[-1].id,
        end=listed[-1].id,
        since=min(oldest, now - ITEM_LIFETIME + UNDATED_TRUST),
    )


def _attach(
    new: tuple[Entry, ...],
    why: str,
    *,
    stored: Entry | None = None,
    item_id: str | None = None,
    after: str | None = None,
    since: float,
    end: str | None = None,
) -> Attach:
    """Attaches the new messages, or takes the last stored one back if there are none."""
    if new:
        return Attach(new, why, None, after, since, end)
    if stored is None or stored.is_answer:
        raise UsageError(
            "There is nothing new to send: the conversation holds every message of the list, and "
            "the last one is an answer. Add a message."
        )
    if item_id is None and stored.stamp and stored.stamp.item_ids:
        item_id = stored.stamp.item_ids[-1]
    return Attach((stored,), "the last message is stored, but unanswered", item_id, None, since)


def _has_answer(entries: Iterable[Entry]) -> bool:
    return any(entry.is_answer for entry in entries)


def _is_elsewhere(stamp: Stamp | None, known: Known, base_url: str, conversation_id: str) -> bool:
    """Whether a message says that it stands in the conversation, but not at its end.

    That a list says the same as the conversation's end is then by chance: it goes back.
    """
    return (
        stamp is not None
        and _is_there(stamp, base_url, conversation_id)
        and bool(known.head)
        and not set(stamp.ids) & set(known.head)
    )


def _is_there(stamp: Stamp | None, base_url: str, conversation_id: str) -> bool:
    """Whether a message says that it stands in the conversation."""
    return (
        stamp is not None
        and stamp.conversation_id == conversation_id
        and stamp.base_url == base_url
    )


def last_stamped(entries: Sequence[Entry], base_url: str, conversation_id: str) -> int:
    """Where the last message stands that claims to be in this conversation; -1 if none does."""
    for index in range(len(entries) - 1, -1, -1):
        if _is_there(entries[index].stamp, base_url, conversation_id):
            return index
    return -1


def verified(entries: Sequence[Entry], anchor: int, now: float, *, whole: bool) -> bool | str:
    """Whether the stamps vouch for every message up to the anchor; a text says what contradicts.

    Walks backwards: an answer, what its turn sent, the answer before that. The beginning of the
    list may be missing, unless it is to be whole: the service has it still.
    """
    place = entries[anchor].stamp
    assert place is not None  # noqa: S101 - what an anchor is
    index, expected = anchor, None
    taken: set[str] = set()
    while index >= 0:
        entry = entries[index]
        stamp = entry.stamp
        if stamp is None or not _is_there(stamp, place.base_url, place.conversation_id):
            return False
        if stamp.expired(now):
            return f"message {index + 1} is older than seven days, the service has forgotten it"
        if entry.said != stamp.said:
            return f"message {index + 1} was changed since it was stored"
        if not taken.isdisjoint(stamp.ids):
            return f"message {index + 1} says that it stands where another does"
        taken.update(stamp.ids)
        if expected is not None and expected not in stamp.ids:
            return f"something is missing or moved behind message {index + 1}"
        sent = stamp.sent
        index -= 1
        while sent and index >= 0:
            said = entries[index].said
            if said != sent[len(sent) - len(said) :]:
                return f"message {index + 1} is not what was sent there"
            sent = sent[: len(sent) - len(said)]
            index -= 1
        if stamp.after is None and (index >= 0 or whole):
            return False  # nobody knew what the conversation ended with before that turn
        expected = stamp.after
    if whole and (sent or expected):
        return "the older part of what it holds is missing"
    return True


def _leading(entries: Sequence[Entry], listed: Sequence[Item]) -> int | None:
    """How many entries at the beginning say exactly what was listed; `None` if no number does."""
    content = fingerprints(told(listed))
    found = _beginning(entries, content)
    if found is None and not any(is_system(item) for item in listed):
        # Some services list system messages as the user's: docs.qwencloud.com, "List items",
        # shows as `user` what "Conversations" creates as `system`; read 2026-11-20.
        found = _beginning([Entry(tuple(map(as_users, entry.items))) for entry in entries], content)
    return found


def _beginning(entries: Sequence[Entry], content: tuple[Fingerprint, ...]) -> int | None:
    found, total = None, 0
    for count in range(len(entries) + 1):
        total += len(entries[count - 1].said) if count else 0
        if total < len(content):
            continue  # too short, whatever it says
        items = [*chain.from_iterable(entry.items for entry in entries[:count])]
        said = fingerprints(told(items))
        if said == content:
            found = count
        elif len(said) > len(content):
            break
    return found


def _results(entries: Iterable[Entry]) -> set[str]:
    """The calls that the entries bring results of."""
    items = chain.from_iterable(entry.items for entry in entries)
    return {item.call_id for item in items if isinstance(item, FunctionOutput)}


def _calls(entry: Entry) -> set[str]:
    return {item.call_id for item in entry.items if isinstance(item, FunctionCall)}


def _new(entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    """What is new if nothing is compared: what stands behind the last answer."""
    last = max((index for index, entry in enumerate(entries) if entry.is_answer), default=-1)
    return entries[last + 1 :]


def _oldest(entries: Iterable[Entry], now: float) -> float:
    return min((entry.stamp.at for entry in entries if entry.stamp), default=now)
