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
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.pool import NullPool, QueuePool

from qwen_conv.errors import RegistryError, SessionElsewhereError, UsageError
from qwen_conv.limits import ITEM_LIFETIME
from qwen_conv.registry import PLACE, SCHEMA_VERSION, Lease, Row, Session, Waiting

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

_RESPONSES = sa.Table(
    "qwen_conv_responses",
    _TABLES,
    sa.Column("base_url", _NAME, primary_key=True),
    sa.Column("conversation_id", _NAME, primary_key=True),
    sa.Column("response_id", _NAME, primary_key=True),
    sa.Column("created", sa.Double, nullable=False, index=True),
)

_FORMER = sa.Table(
    "qwen_conv_former",
    _TABLES,
    sa.Column("namespace", _NAME, primary_key=True),
    sa.Column("key", _NAME, primary_key=True),
    sa.Column("conversation_id", _NAME, primary_key=True),
    sa.Column("base_url", _NAME, nullable=False),
    sa.Column("account", _NAME, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
)

_OUTBOX = sa.Table(
    "qwen_conv_outbox",
    _TABLES,
    # SQLite counts only what it calls INTEGER, and gives a number again unless it is told not to.
    sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("namespace", _NAME, nullable=False),
    sa.Column("key", _NAME, nullable=False),
    sa.Column("base_url", _NAME, nullable=False),
    sa.Column("account", _NAME, nullable=False),
    sa.Column("owner", _NAME, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    sa.Column("updated", sa.Double, nullable=False),
    sa.Index("qwen_conv_outbox_key", "namespace", "key"),
    sqlite_autoincrement=True,
)

_LEASES = sa.Table(  # no row is ever deleted: its token must not begin anew
    "qwen_conv_leases",
    _TABLES,
    sa.Column("base_url", _NAME, primary_key=True),
    sa.Column("conversation_id", _NAME, primary_key=True),
    sa.Column("owner", _NAME),
    sa.Column("token", sa.Integer, nullable=False),
    sa.Column("expires", sa.Double, nullable=False),
    sa.Column("note", sa.Text),
    sa.Column("next_owner", _NAME),
    sa.Column("next_until", sa.Double),
)

_TRIES = 10
"""How often a step is taken that others came in between; each time, one of them got on."""

_BUSY = 30
"""Seconds to wait for another process that writes to the same SQLite file."""

_SWEEP = 3600.0
"""Seconds between the looks for responses that the service has forgotten by now."""

_CHUNK = 500
"""Ids or numbers in a statement; SQLite before 3.32 takes 999 values (sqlite.org, "Limits")."""


class SqlRegistry:
    """A registry in a database, with overlays, traces, an outbox and leases.

    Safe from any thread and process.

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
        self._sweep_at = 0.0
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
            found = db.execute(_SESSIONS.select().where(*_key_of(_SESSIONS, session))).one_or_none()
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
            *_all_of(_SESSIONS, row.session),
            _SESSIONS.c.conversation_id == row.conversation_id,
            _SESSIONS.c.revision == row.revision,
        )
        with self._step() as db:
            changed = db.execute(_SESSIONS.update().where(*as_given).values(_columns(fresh)))
            if changed.rowcount and row.conversation_id != conversation_id:
                _note_former(db, row)
        return fresh if changed.rowcount else self._put(fresh)

    def unbind(self, session: Session) -> None:
        """Forgets the session, if it is of that base URL and account."""
        with self._step() as db:
            db.execute(_SESSIONS.delete().where(*_all_of(_SESSIONS, session)))

    def adopt(self, session: Session) -> Row:
        """Moves the row of the session's key to the session's base URL and account.

        For a rotated API key, or a service that moved: the new key must see the same
        conversations. What waits to be sent goes along. Overlays and traces of responses stay with
        the base URL they were written for.

        Raises:
            UsageError: The key has no row.
        """
        differs = sa.or_(
            _SESSIONS.c.base_url != session.base_url, _SESSIONS.c.account != session.account
        )
        here = {"base_url": session.base_url, "account": session.account}
        with self._step() as db:
            db.execute(
                _SESSIONS.update()
                .where(*_key_of(_SESSIONS, session), differs)
                .values(here | {"revision": _SESSIONS.c.revision + 1, "updated": time.time()})
            )
            found = db.execute(_SESSIONS.select().where(*_key_of(_SESSIONS, session))).one_or_none()
            if found is not None:
                db.execute(_FORMER.update().where(*_key_of(_FORMER, session)).values(here))
                _changed(db, _OUTBOX.update().values(here), *_key_of(_OUTBOX, session))
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
            conditions = iter([_of_conversation(_OVERLAYS, base_url, conversation_id)])
        else:
            conditions = _of_items(base_url, conversation_id, item_ids)
        with self._step() as db:
            for some in conditions:
                db.execute(_OVERLAYS.delete().where(*some))

    def note_response(self, base_url: str, conversation_id: str, response_id: str) -> None:
        """Notes that the service has stored a response of the conversation."""
        now = time.time()
        noted = {"base_url": base_url, "conversation_id": conversation_id}
        with suppress(IntegrityError), self._step() as db:  # it is noted already
            db.execute(
                _RESPONSES.insert().values(noted | {"response_id": response_id, "created": now})
            )
        if now >= self._sweep_at:
            self._sweep_at = now + _SWEEP
            with self._step() as db:
                db.execute(_RESPONSES.delete().where(_RESPONSES.c.created < now - ITEM_LIFETIME))

    def responses(self, base_url: str, conversation_id: str) -> list[str]:
        """The responses of the conversation that were noted in the last seven days, in order."""
        columns = _RESPONSES.c
        asked = (
            sa.select(columns.response_id)
            .where(*_of_conversation(_RESPONSES, base_url, conversation_id))
            .where(columns.created >= time.time() - ITEM_LIFETIME)
            .order_by(columns.created)
        )
        with self._step() as db:
            return [*db.scalars(asked)]

    def forget_responses(
        self, base_url: str, conversation_id: str, response_ids: Collection[str]
    ) -> None:
        """Forgets these responses of the conversation."""
        place = _of_conversation(_RESPONSES, base_url, conversation_id)
        with self._step() as db:
            for some in _among(_RESPONSES.c.response_id, response_ids):
                db.execute(_RESPONSES.delete().where(*place, some))

    def former(self, session: Session) -> list[str]:
        """The conversations that the session was bound to before, the first of them first."""
        asked = sa.select(_FORMER.c.conversation_id).where(*_all_of(_FORMER, session))
        with self._step() as db:
            return [*db.scalars(asked.order_by(_FORMER.c.created))]

    def forget_former(self, session: Session, conversation_id: str) -> None:
        """Forgets that the session was once bound to the conversation."""
        one = _FORMER.c.conversation_id == conversation_id
        with self._step() as db:
            db.execute(_FORMER.delete().where(*_all_of(_FORMER, session), one))

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
                db.execute(_OUTBOX.insert().values(each)).inserted_primary_key for each in messages
            ]
            return [number for (number,) in keys]

    def waiting(self, session: Session) -> list[Waiting]:
        """The messages of the session, whoever owns them, in the order of their numbers."""
        with self._step() as db:
            return _waiting(db, *_all_of(_OUTBOX, session))

    def take_over(self, session: Session, owner: str, before: float) -> list[Waiting]:
        """Takes over from other owners the messages not updated since a time, and renews them.

        Returns what this very call took over, in the order of the numbers.
        """
        columns, ours = _OUTBOX.c, _all_of(_OUTBOX, session)
        # Within the step they are of an owner that nobody is: so they are told from those that the
        # owner has already, or is given by another thread at this moment.
        nobody = uuid4().hex
        late = (*ours, columns.owner != owner, columns.updated < before)
        taken = (*ours, columns.owner == nobody)
        with self._step() as db:
            if not _changed(db, _OUTBOX.update().values(owner=nobody, updated=time.time()), *late):
                return []
            found = _waiting(db, *taken)
            db.execute(_OUTBOX.update().where(*taken).values(owner=owner))
        return [replace(each, owner=owner) for each in found]

    def renew(self, session: Session, owner: str, numbers: Collection[int]) -> bool:
        """Whether all of these are still there and the owner's; if so, they are renewed."""
        theirs = (*_all_of(_OUTBOX, session), _OUTBOX.c.owner == owner)
        touch = _OUTBOX.update().values(updated=time.time())
        with self._step() as db:
            renewed = sum(
                _changed(db, touch, *theirs, some) for some in _among(_OUTBOX.c.number, numbers)
            )
            all_there = renewed == len(set(numbers))
            if not all_there:
                db.rollback()
        return all_there

    def withdraw(self, session: Session, numbers: Collection[int]) -> None:
        """Removes messages, whoever owns them; one that is gone already is as it should be.

        That the session was adopted meanwhile keeps none: what was sent is not to be sent again.
        """
        theirs = _key_of(_OUTBOX, session)
        with self._step() as db:
            for some in _among(_OUTBOX.c.number, numbers):
                _changed(db, _OUTBOX.delete(), *theirs, some)

    def lease(
        self, base_url: str, conversation_id: str, owner: str, seconds: float
    ) -> Lease | None:
        """Takes the lease of a conversation; `None` if it is not the owner's turn."""
        now = time.time()
        columns, row = _LEASES.c, _of_conversation(_LEASES, base_url, conversation_id)
        fresh = Lease(base_url, conversation_id, owner, 1, now + seconds)
        is_free = sa.or_(columns.owner.is_(None), columns.expires < now)
        is_next = columns.next_owner == owner
        nobody_is_next = sa.or_(columns.next_owner.is_(None), columns.next_until < now)
        may_take = sa.or_(columns.owner == owner, is_free & sa.or_(is_next, nobody_is_next))
        keeps_place = is_next & (columns.next_until < now + PLACE / 2)  # each poll need not write
        take = _LEASES.update().values(
            owner=owner,
            token=columns.token + 1,
            expires=fresh.expires,
            next_owner=None,
            next_until=None,
        )
        queue_up = _LEASES.update().values(next_owner=owner, next_until=now + PLACE)
        with suppress(IntegrityError), self._step() as db:
            if db.execute(take.where(*row, may_take)).rowcount:
                token, note = db.execute(sa.select(columns.token, columns.note).where(*row)).one()
                return replace(fresh, token=token, note=note)
            if db.execute(queue_up.where(*row, sa.or_(nobody_is_next, keeps_place))).rowcount:
                return None
            if db.execute(sa.select(columns.token).where(*row)).one_or_none() is None:
                db.execute(_LEASES.insert().values(asdict(fresh)))
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
        is_ours = (_LEASES.c.owner == lease.owner, _LEASES.c.token == lease.token)
        row = _of_conversation(_LEASES, lease.base_url, lease.conversation_id)
        with self._step() as db:
            changed = db.execute(_LEASES.update().where(*row, *is_ours).values(values))
        return bool(changed.rowcount)

    def _prepare(self) -> None:
        """Creates the tables that are missing; several processes may be at it at once.

        Raises:
            RegistryError: They are of a newer version; then nothing is created.
        """
        for left in reversed(range(_TRIES)):
            with self._engine.begin() as db:
                version, complete = _version(db), _complete(db)
            if version is not None and version > SCHEMA_VERSION:
                raise RegistryError(
                    f"The registry {self._name} is of schema version {version}, and this qwen-conv "
                    f"knows version {SCHEMA_VERSION}: upgrade qwen-conv (pip install -U qwen-conv)."
                )
            if version is not None and complete:
                return
            try:
                with self._engine.begin() as db:
                    if version is None and db.dialect.name == "sqlite":
                        db.exec_driver_sql("PRAGMA journal_mode=WAL")  # stays with the file
                    _TABLES.create_all(db)
                    if version is None:
                        db.execute(_SCHEMA.insert().values(version=SCHEMA_VERSION))
            except DBAPIError:  # somebody else created it in between, or it is in vain
                if not left:
                    raise

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
                f"A text holds {error.object[error.start]!a}, half of a character, which no "
                "database stores: decode its source with errors='replace'."
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
    """The version that the tables are of; `None` if there is none yet."""
    if not sa.inspect(db).has_table(_SCHEMA.name):
        return None
    return db.execute(sa.select(sa.func.max(_SCHEMA.c.version))).scalar()


def _complete(db: sa.Connection) -> bool:
    """Whether every table is there: an earlier version of this package had fewer."""
    there = sa.inspect(db)
    return all(there.has_table(name) for name in _TABLES.tables)


def _reason(error: Exception) -> str:
    """What the database said, without the statement."""
    return str(getattr(error, "orig", None) or error).rstrip(".")


def _row(found: Sequence[Any]) -> Row:
    return Row(Session(*found[:4]), *found[4:])


def _columns(row: Row) -> dict[str, Any]:
    columns = asdict(row)
    return columns.pop("session") | columns  # type: ignore[no-any-return]


def _note_former(db: sa.Connection, row: Row) -> None:
    """Notes the conversation that the row's session is bound to no more; once."""
    one = (_FORMER.c.conversation_id == row.conversation_id,)
    db.execute(_FORMER.delete().where(*_key_of(_FORMER, row.session), *one))
    noted = asdict(row.session) | {"conversation_id": row.conversation_id, "created": time.time()}
    db.execute(_FORMER.insert().values(noted))


def _sendable(data: Mapping[str, Any]) -> str:
    """The message as JSON, in ASCII for databases that have no more.

    Raises:
        UnicodeEncodeError: A text holds half of a character.
    """
    json.dumps(message := dict(data), ensure_ascii=False).encode()
    return json.dumps(message)


def _waiting(db: sa.Connection, *conditions: sa.ColumnElement[bool]) -> list[Waiting]:
    columns = _OUTBOX.c
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
    number = _OUTBOX.c.number
    rows = sa.select(number).where(*conditions).order_by(number).with_for_update()
    locked = db.scalars(rows).all()
    return sum(
        db.execute(change.where(*conditions, some)).rowcount for some in _among(number, locked)
    )


def _key_of(table: sa.Table, session: Session) -> tuple[sa.ColumnElement[bool], ...]:
    return (table.c.namespace == session.namespace, table.c.key == session.key)


def _all_of(table: sa.Table, session: Session) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        *_key_of(table, session),
        table.c.base_url == session.base_url,
        table.c.account == session.account,
    )


def _of_conversation(
    table: sa.Table, base_url: str, conversation_id: str
) -> tuple[sa.ColumnElement[bool], ...]:
    return (table.c.base_url == base_url, table.c.conversation_id == conversation_id)


def _of_items(
    base_url: str, conversation_id: str, item_ids: Collection[str]
) -> Iterator[tuple[sa.ColumnElement[bool], ...]]:
    """Conditions that are met by the items."""
    for some in _among(_OVERLAYS.c.item_id, item_ids):
        yield (*_of_conversation(_OVERLAYS, base_url, conversation_id), some)


def _among(column: sa.Column[Any], values: Collection[Any]) -> Iterator[sa.ColumnElement[bool]]:
    """Conditions that the column has one of the values, as many as a statement takes at a time."""
    each_once = sorted(set(values))
    for at in range(0, len(each_once), _CHUNK):
        yield column.in_(each_once[at : at + _CHUNK])


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
