"""What the wire cannot hold of messages."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from qwen_conv.sql.conditions import among, of_conversation
from qwen_conv.sql.database import Database
from qwen_conv.sql.tables import OVERLAYS, TRIES


class SqlOverlays(Database):
    """A database as `Overlays`."""

    def overlays(
        self, base_url: str, conversation_id: str, item_ids: Collection[str]
    ) -> dict[str, dict[str, Any]]:
        """What is kept of these items, by item id; those of which nothing is kept are left out.

        Very many ids are looked up in several steps: what is written or forgotten meanwhile may be
        told or not.
        """
        columns = OVERLAYS.c
        asked = sa.select(columns.item_id, columns.data)
        with self._step() as db:
            return {
                item_id: json.loads(data)
                for some in _of_items(base_url, conversation_id, item_ids)
                for item_id, data in db.execute(asked.where(*some))
            }

    def overlay(
        self, base_url: str, conversation_id: str, data: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Keeps data of items, by item id, in the place of what was kept of them; all or none."""
        now = time.time()
        rows = [
            {
                "base_url": base_url,
                "conversation_id": conversation_id,
                "item_id": item_id,
                "data": json.dumps(dict(data[item_id])),
                "created": now,
            }
            for item_id in sorted(data)  # in one order, so that no two writers wait for each other
        ]
        if not rows:
            return
        for _ in range(TRIES):
            with suppress(IntegrityError), self._step() as db:
                for some in _of_items(base_url, conversation_id, data):
                    db.execute(OVERLAYS.delete().where(*some))
                db.execute(OVERLAYS.insert(), rows)
                return
        raise self._crowded()

    def forget_overlays(
        self, base_url: str, conversation_id: str, item_ids: Collection[str] | None = None
    ) -> None:
        """Forgets what is kept of these items, or of all items of the conversation."""
        if item_ids is None:
            conditions = iter([of_conversation(OVERLAYS, base_url, conversation_id)])
        else:
            conditions = _of_items(base_url, conversation_id, item_ids)
        with self._step() as db:
            for some in conditions:
                db.execute(OVERLAYS.delete().where(*some))


def _of_items(
    base_url: str, conversation_id: str, item_ids: Collection[str]
) -> Iterator[tuple[sa.ColumnElement[bool], ...]]:
    """Conditions that are met by the items."""
    for some in among(OVERLAYS.c.item_id, item_ids):
        yield (*of_conversation(OVERLAYS, base_url, conversation_id), some)
