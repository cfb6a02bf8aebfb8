"""Messages that wait to be sent."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any
from uuid import uuid4

import sqlalchemy as sa

from qwen_conv.registry import Session, Waiting
from qwen_conv.sql.conditions import all_of, among, key_of
from qwen_conv.sql.database import Database
from qwen_conv.sql.tables import OUTBOX


class SqlOutbox(Database):
    """A database as an `Outbox`."""

    def post(self, session: Session, owner: str, data: Sequence[Mapping[str, Any]]) -> list[int]:
        """Adds messages, all or none; returns their numbers, which ascend.

        Raises:
            UsageError: A text holds half of a character, so it could not be sent either.
        """
        message = asdict(session) | {"owner": owner, "updated": time.time()}
        with self._step() as db:
            messages = [message | {"data": _sendable(each)} for each in data]
            # One by one: databases number the rows of one INSERT in what order they like.
            keys: list[Any] = [
                db.execute(OUTBOX.insert().values(each)).inserted_primary_key for each in messages
            ]
            return [number for (number,) in keys]

    def waiting(self, session: Session) -> list[Waiting]:
        """The messages of the session, whoever owns them, in the order of their numbers."""
        with self._step() as db:
            return _waiting(db, *all_of(OUTBOX, session))

    def take_over(self, session: Session, owner: str, before: float) -> list[Waiting]:
        """Takes over from other owners the messages not updated since a time, and renews them.

        Returns what this very call took over, in the order of the numbers.
        """
        columns, ours = OUTBOX.c, all_of(OUTBOX, session)
        # Within the step they are of an owner that nobody is: so they are told from those that the
        # owner has already, or is given by another thread at this moment.
        nobody = uuid4().hex
        late = (*ours, columns.owner != owner, columns.updated < before)
        taken = (*ours, columns.owner == nobody)
        with self._step() as db:
            if not _changed(db, OUTBOX.update().values(owner=nobody, updated=time.time()), *late):
                return []
            found = _waiting(db, *taken)
            db.execute(OUTBOX.update().where(*taken).values(owner=owner))
        return [replace(each, owner=owner) for each in found]

    def renew(self, session: Session, owner: str, numbers: Collection[int]) -> bool:
        """Whether all of these are still there and the owner's; if so, they are renewed."""
        theirs = (*all_of(OUTBOX, session), OUTBOX.c.owner == owner)
        touch = OUTBOX.update().values(updated=time.time())
        with self._step() as db:
            renewed = sum(
                _changed(db, touch, *theirs, some) for some in among(OUTBOX.c.number, numbers)
            )
            all_there = renewed == len(set(numbers))
            if not all_there:
                db.rollback()
        return all_there

    def withdraw(self, session: Session, numbers: Collection[int]) -> None:
        """Removes messages, whoever owns them; one that is gone already is as it should be.

        That the session was adopted meanwhile keeps none: what was sent is not to be sent again.
        """
        theirs = key_of(OUTBOX, session)
        with self._step() as db:
            for some in among(OUTBOX.c.number, numbers):
                _changed(db, OUTBOX.delete(), *theirs, some)


def adopt_messages(db: sa.Connection, session: Session) -> None:
    """Moves what waits under the session's key to its base URL and account."""
    here = {"base_url": session.base_url, "account": session.account}
    _changed(db, OUTBOX.update().values(here), *key_of(OUTBOX, session))


def _sendable(data: Mapping[str, Any]) -> str:
    """The message as JSON, in ASCII for databases that have no more.

    Raises:
        UnicodeEncodeError: A text holds half of a character.
    """
    json.dumps(message := dict(data), ensure_ascii=False).encode()
    return json.dumps(message)


def _waiting(db: sa.Connection, *conditions: sa.ColumnElement[bool]) -> list[Waiting]:
    columns = OUTBOX.c
    asked = sa.select(columns.number, columns.owner, columns.data, columns.updated)
    return [
        Waiting(number, owner, json.loads(data), updated)
        for number, owner, data, updated in db.execute(
            asked.where(*conditions).order_by(columns.number)
        )
    ]


def _changed(
    db: sa.Connection, change: sa.Update | sa.Delete, *conditions: sa.ColumnElement[bool]
) -> int:
    """Changes messages of the outbox that meet the conditions; returns how many.

    Rows are locked in one order before, and no others changed, so that no two steps wait for each
    other. SQLite lets one step write at a time; there, reading first would only be in the way.
    """
    if db.dialect.name == "sqlite":
        return db.execute(change.where(*conditions)).rowcount
    number = OUTBOX.c.number
    rows = sa.select(number).where(*conditions).order_by(number).with_for_update()
    locked = db.scalars(rows).all()
    return sum(
        db.execute(change.where(*conditions, some)).rowcount for some in among(number, locked)
    )
