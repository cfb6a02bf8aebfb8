"""Which conversation a session is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from qwen_conv.errors import SessionElsewhereError, UsageError
from qwen_conv.registry import Row, Session
from qwen_conv.sql.conditions import all_of, key_of
from qwen_conv.sql.database import Database
from qwen_conv.sql.outbox import adopt_messages
from qwen_conv.sql.tables import SESSIONS, TRIES
from qwen_conv.sql.traces import adopt_former, note_former


class SqlSessions(Database):
    """A database as a `Registry`, whose sessions can be adopted."""

    def get(self, session: Session) -> Row | None:
        """The session's row, or `None` if it has none.

        Raises:
            SessionElsewhereError: The key is a session of another base URL or account.
        """
        with self._step() as db:
            found = db.execute(SESSIONS.select().where(*key_of(SESSIONS, session))).one_or_none()
        if found is None:
            return None
        row = _row(found)
        if row.session != session:
            raise _elsewhere(session, row)
        return row

    def bind(self, session: Session, conversation_id: str) -> Row:
        """Binds a session that has no conversation; returns the row that is there afterwards.

        Raises:
            SessionElsewhereError: The key is a session of another base URL or account.
        """
        now = time.time()
        return self._put(Row(session, conversation_id, "open", 1, now, now))

    def rebind(self, row: Row, conversation_id: str) -> Row:
        """Binds the session to another conversation, if the row is as given.

        Returns the row that is there afterwards: somebody else's if they were first.

        Raises:
            SessionElsewhereError: The key is a session of another base URL or account by now.
        """
        fresh = replace(
            row, conversation_id=conversation_id, revision=row.revision + 1, updated=time.time()
        )
        as_given = (
            *all_of(SESSIONS, row.session),
            SESSIONS.c.conversation_id == row.conversation_id,
            SESSIONS.c.revision == row.revision,
        )
        with self._step() as db:
            changed = db.execute(SESSIONS.update().where(*as_given).values(_columns(fresh)))
            if changed.rowcount:
                _note_parting(db, row, conversation_id)
        return fresh if changed.rowcount else self._put(fresh, before=row)

    def unbind(self, session: Session) -> None:
        """Forgets the session, if it is of that base URL and account."""
        with self._step() as db:
            db.execute(SESSIONS.delete().where(*all_of(SESSIONS, session)))

    def adopt(self, session: Session) -> Row:
        """Moves the row of the session's key to the session's base URL and account.

        For a rotated API key, or a service that moved: the new key must see the same
        conversations. What waits to be sent goes along. Overlays and traces of responses stay with
        the base URL they were written for.

        Raises:
            UsageError: The key has no row.
        """
        differs = sa.or_(
            SESSIONS.c.base_url != session.base_url, SESSIONS.c.account != session.account
        )
        with self._step() as db:
            db.execute(
                SESSIONS.update()
                .where(*key_of(SESSIONS, session), differs)
                .values(
                    base_url=session.base_url,
                    account=session.account,
                    revision=SESSIONS.c.revision + 1,
                    updated=time.time(),
                )
            )
            found = db.execute(SESSIONS.select().where(*key_of(SESSIONS, session))).one_or_none()
            if found is not None:
                adopt_former(db, session)
                adopt_messages(db, session)
        if found is None:
            raise UsageError(
                f"There is no session {session.key!r} in namespace {session.namespace!r} to adopt: "
                "check both, or just begin it."
            )
        return _row(found)

    def sessions(self, namespace: str) -> list[Row]:
        """The sessions of a namespace, whatever their base URL and account, the oldest first."""
        columns = SESSIONS.c
        asked = SESSIONS.select().where(columns.namespace == namespace)
        with self._step() as db:
            return [_row(found) for found in db.execute(asked.order_by(columns.created))]

    def _put(self, row: Row, before: Row | None = None) -> Row:
        """Adds a row unless its key has one; returns the row that is there afterwards."""
        for _ in range(TRIES):
            with suppress(IntegrityError), self._step() as db:
                db.execute(SESSIONS.insert().values(_columns(row)))
                if before is not None:
                    _note_parting(db, before, row.conversation_id)
                return row
            if (found := self.get(row.session)) is not None:
                return found
        raise self._crowded()


def _note_parting(db: sa.Connection, row: Row, conversation_id: str) -> None:
    if row.conversation_id != conversation_id:
        note_former(db, row)


def _row(found: Sequence[Any]) -> Row:
    return Row(Session(*found[:4]), *found[4:])


def _columns(row: Row) -> dict[str, Any]:
    columns = asdict(row)
    return columns.pop("session") | columns  # type: ignore[no-any-return]


def _elsewhere(session: Session, row: Row) -> SessionElsewhereError:
    differs = []
    if row.session.base_url != session.base_url:
        differs.append(f"base URL ({row.session.base_url}, and not {session.base_url})")
    if row.session.account != session.account:
        differs.append("account (it was made with another API key)")
    return SessionElsewhereError(
        f"Session {session.key!r} of namespace {session.namespace!r} has another "
        f"{' and another '.join(differs)}. Ways out: the base URL and API key it was made with; "
        "another namespace=; or, if the key was rotated and still sees the conversation, "
        f"registry.adopt(hub.session({session.key!r}))."
    )
