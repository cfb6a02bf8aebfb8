"""Which rows a statement is about."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import sqlalchemy as sa

from qwen_conv.registry import Session

_CHUNK = 500
"""Ids or numbers in a statement; SQLite before 3.32 takes 999 values (sqlite.org, "Limits")."""


def key_of(table: sa.Table, session: Session) -> tuple[sa.ColumnElement[bool], ...]:
    """The rows of a key, whatever their base URL and account."""
    return (table.c.namespace == session.namespace, table.c.key == session.key)


def all_of(table: sa.Table, session: Session) -> tuple[sa.ColumnElement[bool], ...]:
    """The rows of a session, and of no other that has its key."""
    return (
        *key_of(table, session),
        table.c.base_url == session.base_url,
        table.c.account == session.account,
    )


def of_conversation(
    table: sa.Table, base_url: str, conversation_id: str
) -> tuple[sa.ColumnElement[bool], ...]:
    """The rows of a conversation."""
    return (table.c.base_url == base_url, table.c.conversation_id == conversation_id)


def among(column: sa.Column[Any], values: Collection[Any]) -> Iterator[sa.ColumnElement[bool]]:
    """Conditions that the column has one of the values, as many as a statement takes at a time."""
    each_once = sorted(set(values))
    for at in range(0, len(each_once), _CHUNK):
        yield column.in_(each_once[at : at + _CHUNK])
