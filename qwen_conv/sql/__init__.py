"""A registry in an SQL database: sessions outlast the process, and several processes share them.

Imported only for `qwen_conv.registry.SqlRegistry`; it needs SQLAlchemy.

No step reads before it writes: a primary key decides who was first, and a conditional UPDATE
whether a row is still as it was seen. Only what every database of SQLAlchemy has is used for that.
"""

from qwen_conv.sql.leases import SqlLeases
from qwen_conv.sql.outbox import SqlOutbox
from qwen_conv.sql.overlays import SqlOverlays
from qwen_conv.sql.sessions import SqlSessions
from qwen_conv.sql.traces import SqlTraces


class SqlRegistry(SqlSessions, SqlOverlays, SqlTraces, SqlOutbox, SqlLeases):
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

    def __repr__(self) -> str:
        return f"SqlRegistry({self._name!r})"
