"""A registry in an SQL database: sessions outlast the process, and several processes share them.

Imported only for `qwen_conv.registry.SqlRegistry`; it needs SQLAlchemy.

No step reads before it writes: a primary key decides who was first, and a conditional UPDATE
whether a row is still as it was seen. Only what every database of SQLAlchemy has is used for that.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.pool import NullPool, QueuePool

from qwen_conv.errors import RegistryError, SessionElsewhereError, UsageError
from qwen_conv.registry import SCHEMA_VERSION, Row, Session

# Lengths are for databases that index no text without one; SQLite takes no notice of them.
_NAME = sa.String(255)

_TABLES = sa.MetaData()

_SCHEMA = sa.Table(
    "qwen_conv_schema",
    _TABLES,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
)

_SESSIONS = sa.Table(  # the columns in the order of the fields of Session, then of Row
    "qwen_conv_sessions",
    _TABLES,
    sa.Column("namespace", _NAME, primary_key=True),
    sa.Column("key", _NAME, primary_key=True),
    sa.Column("base_url", _NAME, nullable=False),
    sa.Column("account", _NAME, nullable=False),
    sa.Column("conversation_id", _NAME, nullable=False),
    sa.Column("state", _NAME, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("updated", sa.Double, nullable=False),
    sa.Column("schema_version", sa.Integer, nullable=False),
)

_OVERLAYS = sa.Table(
    "qwen_conv_overlays",
    _TABLES,
    sa.Column("base_url", _NAME, primary_key=True),
    sa.Column("conversation_id", _NAME, primary_key=True),
    sa.Column("item_id", _NAME, primary_key=True),
    sa.Column("data", sa.Text, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
)

_TRIES = 10
"""How often a step is taken that others came in between; each time, one of them got on."""

_BUSY = 30
"""Seconds to wait for another process that writes to the same SQLite file."""

_CHUNK = 500
"""Item ids in a statement; SQLite before 3.32 takes 999 values (sqlite.org, "Limits")."""


class SqlRegistry:
    """A registry in a database, with overlays beside it. Safe from any thread and process.

    A key of a namespace is one session here, of one base URL and account. A session that says
    otherwise is refused: with a rotated API key, a user's history would else be left behind
    without a word, for a new and empty conversation. See `adopt`.

    Every step takes a connection of its own, so none is stale or carried into a forked process;
    a database in memory has the one, which threads take in turns. Keys are compared to the letter
    if the database compares text so, as SQLite and PostgreSQL do.

    Args:
        url: Where, as SQLAlchemy writes it: "sqlite:///sessions.db" is a file in the current
            folder, "sqlite:////var/lib/app/sessions.db" one by its full path, "sqlite://" is in
            memory. Tables that are missing are created; their names begin with qwen_conv_. A new
            SQLite file is put into WAL mode, so it may not lie on a network drive.

    Raises:
        RegistryError: It cannot be opened, or was written by a newer qwen-conv. Every method
            raises it if the database fails.
    """

    def __init__(self, url: str | sa.URL) -> None:
        where = _parsed(url)
        if where is None:
            raise RegistryError(
                "That is no database URL: write 'sqlite:///sessions.db' for a file in the current "
                "folder, 'sqlite:////var/lib/app/sessions.db' for one by its full path, or "
                "'sqlite://' for memory."
            )
        # Drivers take passwords in the query too.
        self._name = where.set(query={}).render_as_string(hide_password=True)
        try:
            self._engine = _engine(where)
            self._prepare()
        except (SQLAlchemyError, ImportError, TypeError, ValueError) as error:
            raise RegistryError(
                f"The registry {self._name} cannot be opened: {_reason(error)}. Check the URL, and "
                "that its driver is installed. A file's folder must exist, both must be writable, "
                "and a file that is there must be a database."
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"SqlRegistry({self._name!r})"

    def close(self) -> None:
        """Closes the connections; what is in memory is gone then."""
        self._engine.dispose()

    def get(self, session: Session) -> Row | None:
        """The session's row, or `None` if it has none.

        Raises:
            SessionElsewhereError: The key is a session of another base URL or account.
        """
        with self._step() as db:
            found = db.execute(_SESSIONS.select().where(*_key_of(session))).one_or_none()
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
            *_all_of(row.session),
            _SESSIONS.c.conversation_id == row.conversation_id,
            _SESSIONS.c.revision == row.revision,
        )
        with self._step() as db:
            changed = db.execute(_SESSIONS.update().where(*as_given).values(_columns(fresh)))
        return fresh if changed.rowcount else self._put(fresh)

    def unbind(self, session: Session) -> None:
        """Forgets the session, if it is of that base URL and account."""
        with self._step() as db:
            db.execute(_SESSIONS.delete().where(*_all_of(session)))

    def adopt(self, session: Session) -> Row:
        """Moves the row of the session's key to the session's base URL and account.

        For a rotated API key, or a service that moved: the new key must see the same
        conversations. Overlays stay with the base URL they were written for.

        Raises:
            UsageError: The key has no row.
        """
        differs = sa.or_(
            _SESSIONS.c.base_url != session.base_url, _SESSIONS.c.account != session.account
        )
        with self._step() as db:
            db.execute(
                _SESSIONS.update()
                .where(*_key_of(session), differs)
                .values(
                    base_url=session.base_url,
                    account=session.account,
                    revision=_SESSIONS.c.revision + 1,
                    updated=time.time(),
                )
            )
            found = db.execute(_SESSIONS.select().where(*_key_of(session))).one_or_none()
        if found is None:
            raise UsageError(
                f"There is no session {session.key!r} in namespace {session.namespace!r} to adopt: "
                "check both, or just begin it."
            )
        return _row(found)

    def sessions(self, namespace: str) -> list[Row]:
        """The sessions of a namespace, whatever their base URL and account, the oldest first."""
        columns = _SESSIONS.c
        asked = _SESSIONS.select().where(columns.namespace == namespace)
        with self._step() as db:
            return [_row(found) for found in db.execute(asked.order_by(columns.created))]

    def overlays(
        self, base_url: str, conversation_id: str, item_ids: Collection[str]
    ) -> dict[str, dict[str, Any]]:
        """What is kept of these items, by item id; those of which nothing is kept are left out.

        Very many ids are looked up in several steps: what is written or forgotten meanwhile may be
        told or not.
        """
        columns = _OVERLAYS.c
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
        for _ in range(_TRIES):
            with suppress(IntegrityError), self._step() as db:
                for some in _of_items(base_url, conversation_id, data):
                    db.execute(_OVERLAYS.delete().where(*some))
                db.execute(_OVERLAYS.insert(), rows)
                return
        raise self._crowded()

    def forget_overlays(
        self, base_url: str, conversation_id: str, item_ids: Collection[str] | None = None
    ) -> None:
        """Forgets what is kept of these items, or of all items of the conversation."""
        if item_ids is None:
            conditions = iter([_of_conversation(base_url, conversation_id)])
        else:
            conditions = _of_items(base_url, conversation_id, item_ids)
        with self._step() as db:
            for some in conditions:
                db.execute(_OVERLAYS.delete().where(*some))

    def _prepare(self) -> None:
        """Creates the tables unless they are there; several processes may be at it at once."""
        for left in reversed(range(_TRIES)):
            with self._engine.begin() as db:
                version = _version(db)
            if version is not None:
                break
            try:
                with self._engine.begin() as db:
                    if db.dialect.name == "sqlite":
                        db.exec_driver_sql("PRAGMA journal_mode=WAL")  # stays with the file
                    _TABLES.create_all(db)
                    db.execute(_SCHEMA.insert().values(version=SCHEMA_VERSION))
            except DBAPIError:  # somebody else created it in between, or it is in vain
                if not left:
                    raise
        if version is not None and version > SCHEMA_VERSION:
            raise RegistryError(
                f"The registry {self._name} is of schema version {version}, and this qwen-conv "
                f"knows version {SCHEMA_VERSION}: upgrade qwen-conv (pip install -U qwen-conv)."
            )

    def _put(self, row: Row) -> Row:
        """Adds a row unless its key has one; returns the row that is there afterwards."""
        for _ in range(_TRIES):
            with suppress(IntegrityError), self._step() as db:
                db.execute(_SESSIONS.insert().values(_columns(row)))
                return row
            if (found := self.get(row.session)) is not None:
                return found
        raise self._crowded()

    @contextmanager
    def _step(self) -> Iterator[sa.Connection]:
        """One transaction.

        Raises:
            IntegrityError: Somebody else was first.
            RegistryError: The database fails.
            UsageError: A text cannot be stored.
        """
        try:
            with self._engine.begin() as db:
                yield db
        except IntegrityError:
            raise
        except SQLAlchemyError as error:
            raise RegistryError(
                f"The registry {self._name} failed: {_reason(error)}. Check that the database is "
                "still there and writable and has room, and that nothing else holds it; then try "
                "again."
            ) from error
        except UnicodeEncodeError as error:
            raise UsageError(
                f"{error.object!a} holds half of a character, which no database stores."
            ) from error

    def _crowded(self) -> RegistryError:
        return RegistryError(
            f"The registry {self._name} did not get to it: others kept changing the same row. Try "
            "again."
        )


def _parsed(url: str | sa.URL) -> sa.URL | None:
    """The URL, or `None` if it is none; the error would show a password that is in it."""
    try:
        return sa.make_url(url)
    except (SQLAlchemyError, ValueError):
        return None


def _engine(where: sa.URL) -> sa.Engine:
    """An engine whose errors show no values: keys may be names of people."""
    sqlite = where.get_backend_name() == "sqlite"
    if sqlite and (
        not where.database or ":memory:" in where.database or where.query.get("mode") == "memory"
    ):
        return sa.create_engine(
            where,
            hide_parameters=True,
            poolclass=QueuePool,
            pool_size=1,
            max_overflow=0,
            connect_args={"check_same_thread": False},
        )
    if sqlite:
        where = where.set(query={"timeout": str(_BUSY), **where.query})
    return sa.create_engine(where, hide_parameters=True, poolclass=NullPool)


def _version(db: sa.Connection) -> int | None:
    """The version that the tables are of; `None` if they are not all there."""
    if not sa.inspect(db).has_table(_SCHEMA.name):
        return None
    return db.execute(sa.select(sa.func.max(_SCHEMA.c.version))).scalar()


def _reason(error: Exception) -> str:
    """What the database said, without the statement."""
    return str(getattr(error, "orig", None) or error).rstrip(".")


def _row(found: Sequence[Any]) -> Row:
    return Row(Session(*found[:4]), *found[4:])


def _columns(row: Row) -> dict[str, Any]:
    columns = asdict(row)
    return columns.pop("session") | columns  # type: ignore[no-any-return]


def _key_of(session: Session) -> tuple[sa.ColumnElement[bool], ...]:
    return (_SESSIONS.c.namespace == session.namespace, _SESSIONS.c.key == session.key)


def _all_of(session: Session) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        *_key_of(session),
        _SESSIONS.c.base_url == session.base_url,
        _SESSIONS.c.account == session.account,
    )


def _of_conversation(base_url: str, conversation_id: str) -> tuple[sa.ColumnElement[bool], ...]:
    return (_OVERLAYS.c.base_url == base_url, _OVERLAYS.c.conversation_id == conversation_id)


def _of_items(
    base_url: str, conversation_id: str, item_ids: Collection[str]
) -> Iterator[tuple[sa.ColumnElement[bool], ...]]:
    """Conditions that are met by the items, as many at a time as a statement takes."""
    ids = sorted(item_ids)
    for at in range(0, len(ids), _CHUNK):
        some = _OVERLAYS.c.item_id.in_(ids[at : at + _CHUNK])
        yield (*_of_conversation(base_url, conversation_id), some)


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
