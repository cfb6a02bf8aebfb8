"""Whose turn it is on a conversation."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from qwen_conv.registry import PLACE, Lease
from qwen_conv.sql.conditions import of_conversation
from qwen_conv.sql.database import Database
from qwen_conv.sql.tables import LEASES


class SqlLeases(Database):
    """A database as `Leases`."""

    def lease(
        self, base_url: str, conversation_id: str, owner: str, seconds: float
    ) -> Lease | None:
        """Takes the lease of a conversation; `None` if it is not the owner's turn."""
        now = time.time()
        columns, row = LEASES.c, of_conversation(LEASES, base_url, conversation_id)
        fresh = Lease(base_url, conversation_id, owner, 1, now + seconds)
        is_free = sa.or_(columns.owner.is_(None), columns.expires < now)
        is_next = columns.next_owner == owner
        nobody_is_next = sa.or_(columns.next_owner.is_(None), columns.next_until < now)
        may_take = sa.or_(columns.owner == owner, is_free & sa.or_(is_next, nobody_is_next))
        keeps_place = is_next & (columns.next_until < now + PLACE / 2)  # each poll need not write
        take = LEASES.update().values(
            owner=owner,
            token=columns.token + 1,
            expires=fresh.expires,
            next_owner=None,
            next_until=None,
        )
        queue_up = LEASES.update().values(next_owner=owner, next_until=now + PLACE)
        with suppress(IntegrityError), self._step() as db:
            if db.execute(take.where(*row, may_take)).rowcount:
                token, note = db.execute(sa.select(columns.token, columns.note).where(*row)).one()
                return replace(fresh, token=token, note=note)
            if db.execute(queue_up.where(*row, sa.or_(nobody_is_next, keeps_place))).rowcount:
                return None
            if db.execute(sa.select(columns.token).where(*row)).one_or_none() is None:
                db.execute(LEASES.insert().values(asdict(fresh)))
                return fresh
        return None

    def renew_lease(self, lease: Lease, seconds: float) -> bool:
        """Has the lease run out so many seconds from now; `False` if somebody took it since."""
        return self._change_lease(lease, expires=time.time() + seconds)

    def end_lease(self, lease: Lease, note: str | None) -> bool:
        """Frees the conversation, and leaves a note for its next owner.

        `False` if somebody has taken the lease since; then nothing is changed.
        """
        return self._change_lease(lease, owner=None, note=note)

    def _change_lease(self, lease: Lease, **values: Any) -> bool:
        is_ours = (LEASES.c.owner == lease.owner, LEASES.c.token == lease.token)
        row = of_conversation(LEASES, lease.base_url, lease.conversation_id)
        with self._step() as db:
            changed = db.execute(LEASES.update().where(*row, *is_ours).values(values))
        return bool(changed.rowcount)
