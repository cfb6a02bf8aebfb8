"""A database, opened, and the steps that are taken in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.pool import NullPool, QueuePool

from qwen_conv.errors import RegistryError, UsageError
from qwen_conv.sql.tables import prepare

_BUSY = 30
"""Seconds to wait for another process that writes to the same SQLite file."""


class Database:
    """An open database. What it keeps, the classes say that are built on this one."""

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
            prepare(self._engine, self._name)
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

    def close(self) -> None:
        """Closes the connections; what is in memory is gone then."""
        self._engine.dispose()

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


def _reason(error: Exception) -> str:
    """What the database said, without the statement."""
    return str(getattr(error, "orig", None) or error).rstrip(".")
