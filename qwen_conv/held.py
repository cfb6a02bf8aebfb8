"""Messages that a process holds of a conversation, in the conversation's order. No I/O.

`Held` is one of them, and what a reference to it points to. `aligned` brings what is held together
with what the conversation lists; `line` finds out whether a list of messages is what the
conversation ends with, followed by what waits to be sent.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

from qwen_conv.decision import UNDATED_TRUST
from qwen_conv.items import Fingerprint, FunctionCall, FunctionOutput, Item, Message, fingerprints
from qwen_conv.kept import Kept
from qwen_conv.limits import ITEM_LIFETIME
from qwen_conv.local import Entry, key_of
from qwen_conv.record import Draft
from qwen_conv.stamps import Stamp


@dataclass(eq=False, slots=True)
class Held:
    """One message, and where it is.

    Attributes:
        mirror: Whose it is.
        message: The framework's message, a copy that nobody else has.
        draft: What it is on the wire, and in the conversation if it is there.
        face: What tells whether a message of the framework still says what `message` does.
        stamp: Where it is, if it vouches for itself; what a turn has sent is vouched for by the
            answer's stamp.
        ids: The items that it is in the conversation, as far as that is known.
        at: When it was stored, in seconds since 1970; the latest that it may have been if others
            wrote it, for listed items have no date.
        shown: Whether the store was handed it, or read it; else a turn has stored it and nobody
            claimed it yet.
        claimable: Whether a turn has stored it and no store was handed it yet: it is then what the
            store is handed next, if that says the same.
        leaving: Whether it is being deleted: then nobody can claim it any more.
        ours: Whether this process wrote it.
        listed: Whether it was found in the conversation's list.
        once: The seal that it was stored with; `""` if with none.
        written: Whether it was written as a message, and not sent by a turn.
        archived: Whether it is archived.
        due: When it is to be written at the latest if it waits, in seconds since 1970.
        number: Its row in the outbox.
    """

    mirror: Any
    message: Any
    draft: Draft
    face: Hashable
    stamp: Stamp | None = None
    ids: tuple[str, ...] = ()
    at: float = 0.0
    shown: bool = True
    claimable: bool = False
    leaving: bool = False
    ours: bool = False
    listed: bool = False
    once: str = ""
    written: bool = False
    archived: bool = False
    due: float = 0.0
    number: int | None = None
    key: Hashable = field(init=False)
    said: tuple[Fingerprint, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.key = key_of(self.draft.items)
        self.said = fingerprints(self.draft.items)

    def is_listed_as(self, said: tuple[Fingerprint, ...]) -> bool:
        """Whether it may be what is listed so.

        Some services list no calls, some list what the system says as the user's.
        """
        if self.said == said:
            return True
        spoken = [item for item in self.draft.items if isinstance(item, Message)]
        as_users = [
            replace(one, role="user") if one.role in {"system", "developer"} else one
            for one in spoken
        ]
        return bool(spoken) and said in {fingerprints(spoken), fingerprints(as_users)}

    @property
    def entry(self) -> Entry:
        """The message as the decision sees it."""
        return Entry(self.draft.items, self.stamp)

    @property
    def may_wait(self) -> bool:
        """Whether a turn can take it: users and tools are answered, all else is not."""
        return all(
            isinstance(item, FunctionOutput) or (isinstance(item, Message) and item.role == "user")
            for item in self.draft.items
        )

    @property
    def calls(self) -> set[str]:
        """The ids of the tool calls in it."""
        return {item.call_id for item in self.draft.items if isinstance(item, FunctionCall)}

    @property
    def results(self) -> set[str]:
        """The ids of the tool calls that it is the result of."""
        return {item.call_id for item in self.draft.items if isinstance(item, FunctionOutput)}

    def is_claimed_by(self, items: Sequence[Item]) -> bool:
        """Whether an engine that hands this to its store means this message.

        Engines strip what a stream has said.
        """
        return fingerprints(items) == self.said or (
            not self.may_wait and _trimmed(items) == _trimmed(self.draft.items)
        )


def _trimmed(items: Iterable[Item]) -> tuple[Hashable, ...]:
    """What somebody says, and who, without the white space around it."""
    items = [*items]
    spoken = [item for item in items if isinstance(item, Message)]
    rest = [item for item in items if not isinstance(item, Message)]
    text = "".join(item.text for item in spoken).strip()
    return (frozenset(item.role for item in spoken), text, *fingerprints(rest))


class Form(Protocol):
    """How the messages of a framework are read and written."""

    def draft(self, message: Any) -> Draft:
        """What a message is on the wire.

        Raises:
            NotRepresentableError: The wire has no place for it.
        """
        ...

    def message(self, kept: Kept) -> Any:
        """The message that some items of a conversation are."""
        ...

    def copied(self, message: Any) -> Any:
        """A copy that shares nothing with the message."""
        ...

    def face(self, message: Any) -> Hashable:
        """What is equal for two messages exactly if they say the same."""
        ...

    def held(self, message: Any) -> Held | None:
        """What a message was read from, if it was read from a mirror, or answered into one."""
        ...

    def lost(self, message: Any, draft: Draft) -> set[str]:
        """What of the message another process will not find in the conversation, by name."""
        ...

    def to_json(self, message: Any) -> Mapping[str, Any]:
        """The message as JSON, with all that it has."""
        ...

    def from_json(self, data: Mapping[str, Any]) -> Any:
        """The message that a piece of JSON is."""
        ...


def aligned(
    held: Sequence[Held],
    kept: Sequence[Kept],
    made: Callable[[Kept], Held],
    now: float,
) -> list[Held]:
    """What is held once the conversation was read: the listed messages, in their order.

    A message that is held already stays the same object. What a turn has just stored may be listed
    later, and some services never list tool calls: that stays where it was. All else that is not
    listed, though something behind it is, or is older than seven days, is gone.
    """
    found: list[Held] = []
    used: set[int] = set()
    now_listed = {one for each in kept for one in each.stamp.item_ids}
    by_id = {one: each for each in held for one in each.ids}
    position = {id(each): index for index, each in enumerate(held)}
    start = 0
    for one in kept:
        match = next((by_id[each] for each in one.stamp.item_ids if each in by_id), None)
        if match is None:
            said = fingerprints(one.items)
            match = next(
                (
                    each
                    for each in held[start:]
                    if not (each.listed or id(each) in used or now_listed.intersection(each.ids))
                    and each.is_listed_as(said)
                ),
                None,
            )
        if match is None:
            match = made(one)
        elif id(match) in used:
            match.ids += one.stamp.item_ids  # an answer of several messages is one here
            continue
        else:
            start = max(start, position[id(match)] + 1)
        if not match.ours:
            match.at = now - ITEM_LIFETIME + UNDATED_TRUST
        match.ids, match.listed, match.once = one.stamp.item_ids, True, one.once
        used.add(id(match))
        found.append(match)
    for index, each in enumerate(held):
        if id(each) in used or each.listed or each.written:
            continue
        if index < start and any(isinstance(item, Message) for item in each.draft.items):
            continue
        before = next((one for one in reversed(held[:index]) if one in found), None)
        found.insert(0 if before is None else found.index(before) + 1, each)
    return [each for each in found if now < each.at + ITEM_LIFETIME]


class Line(NamedTuple):
    """A list that is what the conversation ends with, followed by what is to be sent.

    `sent` are the messages to send, in order; `new` those of them that no store was handed yet.
    """

    sent: tuple[Held, ...]
    new: tuple[Held, ...]


def line(
    messages: Sequence[Any],
    held: Sequence[Held],
    staged: Sequence[Held],
    form: Form,
    new_of: Callable[[Any], Held],
    *,
    is_bound: bool,
) -> Line | str:
    """Whether the messages are the end of what is held, all that waits, and perhaps more.

    The first of them has to have been read from here, and so has each that follows, down to the
    last that waits; but for results of tools, which no store was handed yet, and which are known by
    the call that they answer. What is behind that may be results of the last answer's calls.

    Args:
        messages: The list that a model is passed, without its system prompt.
        held: What the conversation holds.
        staged: What waits.
        form: Reads the messages.
        new_of: Makes of a message what is not in the conversation yet.
        is_bound: Whether the model was told which conversation it is on: then messages may also be
            known by what they say, each in its place, and end with a user's that no store has yet;
            where nothing is held, all of them are new.

    Returns:
        The line, or in words why there is none.
    """
    order = [*held, *staged]
    start = _start(messages, order, form, is_bound=is_bound)
    if start is None:
        return "it does not begin with a message of the conversation"
    if not all(each.shown for each in order[:start]):
        return "an answer that no store was handed stands before it"
    new: list[Held] = []
    for index, message in enumerate(messages, start):
        if index >= len(order):
            each = new_of(message)
            fits = each.results & _last_calls([*order, *new])
            if not (fits or (is_bound and (each.may_wait or not order))):
                return "it ends with a message that no store was handed"
            new.append(each)
            continue
        each, known = order[index], form.held(message)
        unread = known is None and (is_bound or not each.shown)
        if not (known is each or unread):
            return "a message of it stands elsewhere in the conversation"
        if form.face(message) != each.face:
            return "a message of it was changed since it was read"
    if start + len(messages) < len(order):
        return "the conversation goes on behind it"
    sent = (*staged, *new)
    return Line(sent, tuple(new)) if sent else "there is nothing new in it"


def _start(
    messages: Sequence[Any], order: Sequence[Held], form: Form, *, is_bound: bool
) -> int | None:
    """Where in the conversation the list begins."""
    first = form.held(messages[0])
    if first is not None:
        return next((n for n, each in enumerate(order) if each is first), None)
    if not is_bound:
        return None
    faces = [form.face(message) for message in messages]
    for start in range(max(0, len(order) - len(faces)), max(1, len(order))):
        rest = order[start:]
        if [each.face for each in rest] == faces[: len(rest)]:
            return start
    return None


def _last_calls(order: Sequence[Held]) -> set[str]:
    """The calls of the last answer that have no result yet."""
    done: set[str] = set()
    for each in reversed(order):
        if not each.results:
            return each.calls - done
        done |= each.results
    return set()


def trailing(held: Sequence[Held], fits: Callable[[Held], bool]) -> int:
    """How many at the end of the list fit, without a gap."""
    count = 0
    while count < len(held) and fits(held[-1 - count]):
        count += 1
    return count
