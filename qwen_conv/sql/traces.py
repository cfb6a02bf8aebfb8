"""What has to be erased with a session: its responses, and its former conversations."""

from __future__ import annotations

import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from qwen_conv.limits import ITEM_LIFETIME
from qwen_conv.registry import Row, Session
from qwen_conv.sql.conditions import all_of, among, key_of, of_conversation
from qwen_conv.sql.database import Database
from qwen_conv.sql.tables import FORMER, RESPONSES

_SWEEP = 3600.0
"""Seconds between the looks for responses that the service has forgotten by now."""


class SqlTraces(Database):
    """A database as `Traces`."""

    _sweep_at = 0.0
    """When to look again for what the service has forgotten, in seconds since 1970."""

    def note_response(self, base_url: str, conversation_id: str, response_id: str) -> None:
        """Notes that the service has stored a response of the conversation."""
        now = time.time()
        noted = {"base_url": base_url, "conversation_id": conversation_id}
        with suppress(IntegrityError), self._step() as db:  # it is noted already
            db.execute(
                RESPONSES.insert().values(noted | {"response_id": response_id, "created": now})
            )
        if now >= self._sweep_at:
            self._sweep_at = now + _SWEEP
            with self._step() as db:
                db.execute(RESPONSES.delete().where(RESPONSES.c.created < now - ITEM_LIFETIME))

    def responses(self, base_url: str, conversation_id: str) -> list[str]:
        """The responses of the conversation that were noted in the last seven days, in order."""
        columns = RESPONSES.c
        asked = (
            sa.select(columns.response_id)
            .where(*of_conversation(RESPONSES, base_url, conversation_id))
            .where(columns.created >= time.time() - ITEM_LIFETIME)
            .order_by(columns.created)
        )
        with self._step() as db:
            return [*db.scalars(asked)]

    def forget_responses(
        self, base_url: str, conversation_id: str, response_ids: Collection[str]
    ) -> None:
        """Forgets these responses of the conversation."""
        place = of_conversation(RESPONSES, base_url, conversation_id)
        with self._step() as db:
            for some in among(RESPONSES.c.response_id, response_ids):
                db.execute(RESPONSES.delete().where(*place, some))

    def former(self, session: Session) -> list[str]:
        """The conversations that the session was bound to before, the first of them first."""
        asked = sa.select(FORMER.c.conversation_id).where(*all_of(FORMER, session))
        with self._step() as db:
            return [*db.scalars(asked.order_by(FORMER.c.created))]

    def forget_former(self, session: Session, conversation_id: str) -> None:
        """Forgets that the session was once bound to the conversation."""
        one = FORMER.c.conversation_id == conversation_id
        with self._step() as db:
            db.execute(FORMER.delete().where(*all_of(FORMER, session), one))


def note_former(db: sa.Connection, row: Row) -> None:
    """Notes the conversation that the row's session is bound to no more; once."""
    one = (FORMER.c.conversation_id == row.conversation_id,)
    db.execute(FORMER.delete().where(*key_of(FORMER, row.session), *one))
    noted = asdict(row.session) | {"conversation_id": row.conversation_id, "created": time.time()}
    db.execute(FORMER.insert().values(noted))


def adopt_former(db: sa.Connection, session: Session) -> None:
    """Moves what was noted under the session's key to its base URL and account."""
    here = {"base_url": session.base_url, "account": session.account}
    db.execute(FORMER.update().where(*key_of(FORMER, session)).values(here))
