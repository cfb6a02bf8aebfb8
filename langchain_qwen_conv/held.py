"""Which of some messages a conversation holds already, so that a history does not write them again.

It goes by what turns have reported, by the stamps of messages, which are looked up, and by what
this process saw its last turn add; never by a text alone.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from langchain_qwen_conv.answers import as_held
from langchain_qwen_conv.reports import Report
from qwen_conv.api import Api
from qwen_conv.doubt import left_by
from qwen_conv.flows import changing, read, remove
from qwen_conv.items import Message, fingerprints
from qwen_conv.kept import Kept
from qwen_conv.local import Entry
from qwen_conv.record import Record
from qwen_conv.stamps import Stamp

logger = logging.getLogger("qwen_conv")


async def unheld(
    api: Api,
    record: Record,
    conversation_id: str,
    entries: Sequence[Entry],
    reports: Sequence[Report],
) -> list[int]:
    """Which of the messages the conversation does not hold yet."""
    if any(_stamp_of(report, conversation_id) for report in reports) and entries:
        _claim(record, conversation_id)
        for index in reversed(range(len(entries))):
            if _answers(reports[-1], entries[index]) or any(
                _is_of(report, entries[index]) for report in reports
            ):
                return [*range(index + 1, len(entries))]  # the turns are the run's up to there
        for report in reports:  # what the run came to is another's answer
            if stamp := _stamp_of(report, conversation_id):
                await _undo(api, record, stamp)
        record.hub.ledger.write_outside(record.target)
    elif len(reports) == 1 and entries and fit(reports[0], entries) > 1:
        record.hub.ledger.write_inside(record.target)  # it would have done
    held = await _held(api, record, conversation_id, entries)
    for index in reversed(range(len(entries))):
        entry = entries[index]
        if held[index] and entry.stamp and entry.stamp.response_id:
            _cover(entries, held, index)
    rest = [index for index in range(len(entries)) if not held[index]]
    return _unclaimed(record, conversation_id, entries, rest)


async def _held(
    api: Api, record: Record, conversation_id: str, entries: Sequence[Entry]
) -> list[bool]:
    """Whether each of the messages is where its stamp says, and as it was."""
    stamps = [
        entry.stamp
        if entry.stamp is not None
        and entry.stamp.conversation_id == conversation_id
        and entry.stamp.base_url == record.hub.base_url
        and entry.stamp.said == entry.said
        else None
        for entry in entries
    ]
    head = set(record.hub.ledger.of(conversation_id).head)
    held = [stamp is not None and not head.isdisjoint(stamp.ids) for stamp in stamps]
    if any(held):
        _claim(record, conversation_id)
    asked = {n: stamp for n, stamp in enumerate(stamps) if stamp and not held[n]}
    if not asked:
        return held
    wanted = {one for stamp in asked.values() for one in stamp.item_ids}
    kept = await record.with_items(api, wanted)
    listed = {one for each in kept for one in each.stamp.item_ids}
    end = len(kept)
    for n, stamp in reversed(asked.items()):
        held[n] = bool(stamp.item_ids) and listed.issuperset(stamp.item_ids)
        if not held[n] and stamp.response_id:
            # Some services list an answer under other ids than they gave it.
            found = _place_of(stamp, kept[:end])
            held[n], end = found is not None, end if found is None else found
    return held


def _unclaimed(
    record: Record, conversation_id: str, entries: Sequence[Entry], rest: list[int]
) -> list[int]:
    """Leaves out what this process's last turn has added, and nobody has read since."""
    known = record.hub.ledger.of(conversation_id)
    left = known.unclaimed
    new: list[int] = []
    for index in rest:
        said = entries[index].said
        starts = range(len(left) - len(said) + 1) if said and not new else ()
        start = next((at for at in starts if left[at : at + len(said)] == said), None)
        if start is None:
            new.append(index)
        else:
            left = left[start + len(said) :]
    if left != known.unclaimed:
        logger.info(
            "history: the last turn in %s has added %d of the messages",
            conversation_id,
            len(rest) - len(new),
        )
        record.hub.ledger.note(conversation_id, known._replace(unclaimed=left))
    return new


def _claim(record: Record, conversation_id: str) -> None:
    known = record.hub.ledger.of(conversation_id)
    record.hub.ledger.note(conversation_id, known._replace(unclaimed=()))


async def _undo(api: Api, record: Record, stamp: Stamp) -> None:
    """Takes a turn out of the conversation whose answer was not what the run came to."""
    async with changing(api, stamp.conversation_id):
        listed = await read(api, stamp.conversation_id, after=record.last_id)
        if not any(item.id in stamp.item_ids for item in listed):
            listed = await read(api, stamp.conversation_id)  # the run has read it by then
        left = left_by(listed, stamp.sent)
        # Some services list an answer under other ids than they gave it.
        if left is not None and (
            set(stamp.item_ids) <= {item.id for item in left.items}
            or fingerprints(left.items) == stamp.sent + stamp.said
        ):
            await remove(api, stamp.conversation_id, reversed(left.items))


def _stamp_of(report: Report, conversation_id: str) -> Stamp | None:
    stamp = report.outcome.stamp if report.outcome else None
    return stamp if stamp and stamp.conversation_id == conversation_id else None


def is_system(entry: Entry) -> bool:
    """Whether a message is a system message."""
    return all(isinstance(one, Message) and one.role in _SYSTEM for one in entry.items)


_SYSTEM = {"system", "developer"}


def fit(report: Report, entries: Sequence[Entry]) -> int:
    """How well messages fit a turn whose run they may be of: by ids, or by what is said."""
    if report.outcome is None or not entries:
        return 0
    if _is_of(report, entries[-1]):
        return 3
    if fingerprints(as_held(report.outcome.response.output)) != entries[-1].said:
        return 0
    asked = report.request.local.entries()[-1:]
    return 2 if any(one.said == entry.said for one in asked for entry in entries) else 1


def _is_of(report: Report, entry: Entry) -> bool:
    """Whether a message is the very answer of a turn, as it was given."""
    stamp = report.outcome.stamp if report.outcome else None
    return (
        stamp is not None
        and entry.stamp is not None
        and entry.stamp.response_id == stamp.response_id
        and entry.said == stamp.said
    )


def _answers(report: Report, entry: Entry) -> bool:
    """Whether a message is a turn's answer, or says what it said, and not where it is from."""
    stamp = report.outcome.stamp if report.outcome else None
    says = stamp is not None and entry.stamp is None and entry.said == stamp.said
    return says or _is_of(report, entry)


def _place_of(stamp: Stamp, kept: Sequence[Kept]) -> int | None:
    """Where a turn stands, by what it sent and answered; the last place, if there are several."""
    turn = stamp.sent + stamp.said
    said: tuple[str, ...] | None = None  # from the answer back, as far as it may be the turn
    for place in reversed(range(len(kept))):
        mine = kept[place].stamp.said
        if mine == stamp.said:
            said = mine
        elif said is not None:
            said = mine + said
        if said == turn:
            return place
        if said is not None and len(said) > len(turn):
            said = None
    return None


def _cover(entries: Sequence[Entry], held: list[bool], answer: int) -> None:
    """Marks what stands before an answer and was sent with it: that is held as well."""
    stamp = entries[answer].stamp
    assert stamp is not None  # noqa: S101 - the caller saw it
    sent = stamp.sent
    index = answer - 1
    while index >= 0 and not held[index]:
        said = entries[index].said
        matches = bool(said) and sent[len(sent) - len(said) :] == said
        if not matches and not is_system(entries[index]):
            break  # a system prompt went along, but is not stored
        held[index] = True
        sent = sent[: len(sent) - len(said)] if matches else sent
        index -= 1
