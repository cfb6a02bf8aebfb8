"""The tables, and how a database gets them."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from qwen_conv.errors import RegistryError
from qwen_conv.registry import SCHEMA_VERSION

# Lengths are for databases that index no text without one; SQLite takes no notice of them.
_NAME = sa.String(255)

_TABLES = sa.MetaData()

_SCHEMA = sa.Table(
    "qwen_conv_schema",
    _TABLES,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
)

SESSIONS = sa.Table(  # the columns in the order of the fields of Session, then of Row
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

OVERLAYS = sa.Table(
    "qwen_conv_overlays",
    _TABLES,
    sa.Column("base_url", _NAME, primary_key=True),
    sa.Column("conversation_id", _NAME, primary_key=True),
    sa.Column("item_id", _NAME, primary_key=True),
    sa.Column("data", sa.Text, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
)

RESPONSES = sa.Table(
    "qwen_conv_responses",
    _TABLES,
    sa.Column("base_url", _NAME, primary_key=True),
    sa.Column("conversation_id", _NAME, primary_key=True),
    sa.Column("response_id", _NAME, primary_key=True),
    sa.Column("created", sa.Double, nullable=False, index=True),
)

FORMER = sa.Table(
    "qwen_conv_former",
    _TABLES,
    sa.Column("namespace", _NAME, primary_key=True),
    sa.Column("key", _NAME, primary_key=True),
    sa.Column("conversation_id", _NAME, primary_key=True),
    sa.Column("base_url", _NAME, nullable=False),
    sa.Column("account", _NAME, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
)

OUTBOX = sa.Table(
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

LEASES = sa.Table(  # no row is ever deleted: its token must not begin anew
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

TRIES = 10
"""How often a step is taken that others came in between; each time, one of them got on."""


def prepare(engine: sa.Engine, name: str) -> None:
    """Creates the tables that are missing; several processes may be at it at once.

    Raises:
        RegistryError: They are of a newer version; then nothing is created.
    """
    for left in reversed(range(TRIES)):
        with engine.begin() as db:
            version, complete = _version(db), _complete(db)
        if version is not None and version > SCHEMA_VERSION:
            raise RegistryError(
                f"The registry {name} is of schema version {version}, and this qwen-conv "
                f"knows version {SCHEMA_VERSION}: upgrade qwen-conv (pip install -U qwen-conv)."
            )
        if version is not None and complete:
            return
        try:
            with engine.begin() as db:
                if version is None and db.dialect.name == "sqlite":
                    db.exec_driver_sql("PRAGMA journal_mode=WAL")  # stays with the file
                _TABLES.create_all(db)
                if version is None:
                    db.execute(_SCHEMA.insert().values(version=SCHEMA_VERSION))
        except DBAPIError:  # somebody else created it in between, or it is in vain
            if not left:
                raise


def _version(db: sa.Connection) -> int | None:
    """The version that the tables are of; `None` if there is none yet."""
    if not sa.inspect(db).has_table(_SCHEMA.name):
        return None
    return db.execute(sa.select(sa.func.max(_SCHEMA.c.version))).scalar()


def _complete(db: sa.Connection) -> bool:
    """Whether every table is there: an earlier version of this package had fewer."""
    there = sa.inspect(db)
    return all(there.has_table(name) for name in _TABLES.tables)
