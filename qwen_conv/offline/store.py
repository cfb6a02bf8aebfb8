"""The offline server's state: conversations, items and responses, in memory or in a SQLite file.

In memory is SQLite too, so there is one description of both.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwen_conv.limits import ITEM_LIFETIME

Json = Mapping[str, Any]

_SCHEMA = """
create table if not exists conversations (
    id text primary key, created real not null, metadata text not null
);
create table if not exists items (
    position integer primary key autoincrement,
    id text not null, conversation text not null, created real not null, body text not null
);
create index if not exists items_of on items (conversation, position);
create index if not exists items_by_id on items (id);
create table if not exists responses (
    id text primary key, created real not null, body text not null, shown text not null
);
"""


class Clock:
    """The server's time, which a test can move forward."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def now(self) -> float:
        """Seconds since 1970."""
        return time.time() + self._ahead

    def advance(self, *, days: float = 0, seconds: float = 0) -> None:
        """Moves the time forward."""
        self._ahead += days * 86_400 + seconds


@dataclass(frozen=True, slots=True)
class StoredItem:
    """An item as the server keeps it."""

    id: str
    created: float
    body: Json


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response as the server keeps it, and the items that the model was shown for it."""

    created: float
    body: Json
    shown: Sequence[Json]


class Store:
    """Everything that the server remembers. Safe to use from any thread.

    Args:
        path: A SQLite file, or ":memory:".
        clock: When things are stored.
    """

    def __init__(self, path: str, clock: Clock) -> None:
        self._clock = clock
        self._mutex = threading.RLock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        try:
            self._db.executescript(_SCHEMA)
        except sqlite3.Error:
            self._db.close()
            raise

    def close(self) -> None:
        """Closes the file."""
        with self._mutex:
            self._db.close()

    def _run(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._mutex:
            return self._db.execute(statement, values).fetchall()

    def create(self, conversation: str, metadata: Json) -> None:
        """Creates a conversation."""
        self._run(
            "insert into conversations values (?, ?, ?)",
            conversation,
            self._clock.now(),
            json.dumps(metadata),
        )

    def conversation(self, conversation: str) -> tuple[float, Json] | None:
        """When a conversation was created, and its metadata; `None` if there is none."""
        rows = self._run("select created, metadata from conversations where id = ?", conversation)
        return (rows[0][0], json.loads(rows[0][1])) if rows else None

    def update(self, conversation: str, metadata: Json) -> None:
        """Replaces a conversation's metadata."""
        self._run(
            "update conversations set metadata = ? where id = ?",
            json.dumps(metadata),
            conversation,
        )

    def delete(self, conversation: str) -> None:
        """Deletes a conversation; its items stay, as documented, though nothing shows them."""
        self._run("delete from conversations where id = ?", conversation)

    def add(self, conversation: str, items: Iterable[tuple[str, Json]]) -> None:
        """Adds items at the end of a conversation, all or none."""
        now = self._clock.now()
        rows = [(item_id, conversation, now, json.dumps(body)) for item_id, body in items]
        with self._mutex:
            self._db.execute("begin")
            self._db.executemany(
                "insert into items (id, conversation, created, body) values (?, ?, ?, ?)", rows
            )
            self._db.execute("commit")

    def items(self, conversation: str, *, expired: bool = False) -> list[StoredItem]:
        """A conversation's items, oldest first; with `expired`, those of over seven days too."""
        return self.page(conversation, expired=expired)

    def item(self, conversation: str, item: str, *, expired: bool = False) -> StoredItem | None:
        """One of a conversation's items; with `expired`, also one of over seven days."""
        rows = self._run(
            "select id, created, body from items where id = ? and conversation = ? and created > ?",
            item,
            conversation,
            self._oldest_alive(expired=expired),
        )
        return _item(*rows[0]) if rows else None

    def _oldest_alive(self, *, expired: bool) -> float:
        return 0.0 if expired else self._clock.now() - ITEM_LIFETIME

    def page(
        self,
        conversation: str,
        *,
        after: str | None = None,
        newest_first: bool = False,
        most: int = -1,
        expired: bool = False,
    ) -> list[StoredItem]:
        """Some of a conversation's items, in order, behind the item `after` in that order."""
        way, beyond = ("desc", "<") if newest_first else ("asc", ">")
        where = "conversation = ? and created > ?"
        values: list[Any] = [conversation, self._oldest_alive(expired=expired)]
        if after is not None:
            where += f" and position {beyond} (select position from items where id = ?)"
            values.append(after)
        shown = f"select id, created, body from items where {where}"
        rows = self._run(f"{shown} order by position {way} limit ?", *values, most)
        return [_item(*row) for row in rows]

    def remove(self, conversation: str, item: str) -> None:
        """Deletes an item."""
        self._run("delete from items where conversation = ? and id = ?", conversation, item)

    def keep_response(self, response: str, body: Json, shown: Sequence[Json]) -> None:
        """Keeps a response, and what the model was shown for it."""
        self._run(
            "insert into responses values (?, ?, ?, ?)",
            response,
            self._clock.now(),
            json.dumps(body),
            json.dumps(shown),
        )

    def response(self, response: str) -> StoredResponse | None:
        """A response of the last seven days."""
        rows = self._run(
            "select created, body, shown from responses where id = ? and created > ?",
            response,
            self._clock.now() - ITEM_LIFETIME,
        )
        if not rows:
            return None
        return StoredResponse(rows[0][0], json.loads(rows[0][1]), json.loads(rows[0][2]))

    def delete_response(self, response: str) -> None:
        """Deletes a response."""
        self._run("delete from responses where id = ?", response)


def _item(item: str, created: float, body: str) -> StoredItem:
    return StoredItem(item, created, json.loads(body))
