"""Which conversation a session is: a user's own key -> a conversation's id.

The service has no list of conversations and no names for them, so the application keeps this. A
key means nothing on its own: the same one under another namespace, at another base URL or with
another account never leads to the same conversation.

`SqlRegistry` is here too, but SQLAlchemy is loaded only when it is asked for.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from qwen_conv.limits import ITEM_LIFETIME

if TYPE_CHECKING:
    from qwen_conv.sql import SqlRegistry as SqlRegistry  # noqa: PLC0414 - a name of this module

SCHEMA_VERSION = 1

PLACE = 1.0
"""Seconds that the place of whoever is next to have a lease is kept, counted from when it last
asked."""


@dataclass(frozen=True, slots=True)
class Session:
    """What names a session, compared to the letter.

    Attributes:
        namespace: Keeps applications apart that share a registry.
        key: The user's own name.
        base_url: The service that holds the conversation.
        account: A fingerprint of the API key; never the key.
    """

    namespace: str
    key: str
    base_url: str
    account: str


@dataclass(frozen=True, slots=True)
class Row:
    """A session and its conversation.

    Attributes:
        session: What names it.
        conversation_id: The conversation that it is now.
        state: "open"; others may come.
        revision: 1, and 1 more with every change.
        created: Seconds since 1970.
        updated: Seconds since 1970.
        schema_version: The form of this row.
    """

    session: Session
    conversation_id: str
    state: str
    revision: int
    created: float
    updated: float
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message that waits to be sent.

    Attributes:
        number: Names it, and is never given again.
        owner: Who is to send it.
        data: The message, as it was posted.
        updated: Seconds since 1970, as `time.time()` tells them where it was last posted, renewed
            or taken over.
    """

    number: int
    owner: str
    data: dict[str, Any]
    updated: float


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to change a conversation, for a while.

    Attributes:
        base_url: The service that holds the conversation.
        conversation_id: The conversation.
        owner: Who has the right.
        token: 1, and 1 more each time the lease is taken; so it is told from every other.
        expires: Seconds since 1970, as `time.time()` tells them where it was taken or renewed.
        note: What the last owner that ended its lease left for the next one.
    """

    base_url: str
    conversation_id: str
    owner: str
    token: int
    expires: float
    note: str | None = None


@runtime_checkable
class Registry(Protocol):
    """Where sessions are kept. Every method is one atomic step, safe from any thread."""

    def get(self, session: Session) -> Row | None:
        """The session's row, or `None` if it has none."""
        ...

    def bind(self, session: Session, conversation_id: str) -> Row:
        """Binds a session that has no conversation; returns the row that is there afterwards.

        If somebody else was first, theirs is returned: then the given conversation is not used.
        """
        ...

    def rebind(self, row: Row, conversation_id: str) -> Row:
        """Binds the session to another conversation, if the row is as given.

        Returns the row that is there afterwards: somebody else's if they were first.
        """
        ...

    def unbind(self, session: Session) -> None:
        """Forgets the session; the conversation stays where it is."""
        ...

    def sessions(self, namespace: str) -> list[Row]:
        """The sessions of a namespace, whatever their base URL and account, the oldest first."""
        ...


@runtime_checkable
class Overlays(Protocol):
    """Where is kept what the wire cannot hold of a message: JSON, by the id of its item."""

    def overlays(
        self, base_url: str, conversation_id: str, item_ids: Collection[str]
    ) -> dict[str, dict[str, Any]]:
        """What is kept of these items, by item id; those of which nothing is kept are left out."""
        ...

    def overlay(
        self, base_url: str, conversation_id: str, data: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Keeps data of items, by item id, in the place of what was kept of them; all or none."""
        ...

    def forget_overlays(
        self, base_url: str, conversation_id: str, item_ids: Collection[str] | None = None
    ) -> None:
        """Forgets what is kept of these items, or of all items of the conversation."""
        ...


@runtime_checkable
class Outbox(Protocol):
    """Where messages wait to be sent to a session's conversation, so that none dies with a process.

    An owner is whoever sends; a name of its own tells it from all others, in any process. It posts
    its messages, renews them for as long as it is at it, and withdraws what is sent. One that is
    late with that is taken for dead, and its messages are taken over: so it renews them before it
    sends them, and leaves them alone if that is `False`.

    Every method is one atomic step, safe from any thread and process.
    """

    def post(self, session: Session, owner: str, data: Sequence[Mapping[str, Any]]) -> list[int]:
        """Adds messages, all or none; returns their numbers, which ascend.

        The numbers of others that post to the session meanwhile may lie between them.
        """
        ...

    def waiting(self, session: Session) -> list[Waiting]:
        """The messages of the session, whoever owns them, in the order of their numbers."""
        ...

    def take_over(self, session: Session, owner: str, before: float) -> list[Waiting]:
        """Takes over from other owners the messages not updated since a time, and renews them.

        Each message goes to one of those that try at once. Their clocks must agree, to well within
        the time that an owner is given.

        Args:
            session: Whose messages.
            owner: Who is to have them.
            before: Seconds since 1970; no later than now, or what was taken over just now could be
                taken over again.

        Returns:
            What this very call took over, in the order of the numbers.
        """
        ...

    def renew(self, session: Session, owner: str, numbers: Collection[int]) -> bool:
        """Whether all of these are still there and the owner's; if so, they are renewed.

        If not, none is.
        """
        ...

    def withdraw(self, session: Session, numbers: Collection[int]) -> None:
        """Removes messages, whoever owns them; one that is gone already is as it should be."""
        ...


@runtime_checkable
class Leases(Protocol):
    """Where processes agree whose turn it is on a conversation.

    An owner has a lease for as long as it renews it, and then ends it. One that is late with that
    loses it to whoever asks next. The clocks of the processes must agree, to well within the time
    that a lease is given.

    Every method is one atomic step, safe from any thread and process. Between two steps nothing is
    held in the database.
    """

    def lease(
        self, base_url: str, conversation_id: str, owner: str, seconds: float
    ) -> Lease | None:
        """Takes the lease of a conversation; `None` if it is not the owner's turn.

        That is so while somebody else has it and it has not run out, or is to have it next: the
        first that is refused is the next, if it asks again within `PLACE` seconds. So a process
        with many turns to take does not keep the others out. The owner that has it already is
        given it anew.
        """
        ...

    def renew_lease(self, lease: Lease, seconds: float) -> bool:
        """Has the lease run out so many seconds from now; `False` if somebody took it since."""
        ...

    def end_lease(self, lease: Lease, note: str | None) -> bool:
        """Frees the conversation, and leaves a note for its next owner.

        `False` if somebody has taken the lease since; then nothing is changed.
        """
        ...


@runtime_checkable
class Traces(Protocol):
    """Where is noted what has to be erased with a session, and the service does not list.

    The service keeps the response of every turn for seven days, and tells nobody which responses a
    conversation has. A session that was bound to a new conversation has left its former ones
    behind: `Registry.rebind` notes them.

    Every method is one atomic step, safe from any thread and process.
    """

    def note_response(self, base_url: str, conversation_id: str, response_id: str) -> None:
        """Notes that the service has stored a response of the conversation."""
        ...

    def responses(self, base_url: str, conversation_id: str) -> list[str]:
        """The responses of the conversation that were noted in the last seven days, in order."""
        ...

    def forget_responses(
        self, base_url: str, conversation_id: str, response_ids: Collection[str]
    ) -> None:
        """Forgets these responses of the conversation."""
        ...

    def former(self, session: Session) -> list[str]:
        """The conversations that the session was bound to before, the first of them first."""
        ...

    def forget_former(self, session: Session, conversation_id: str) -> None:
        """Forgets that the session was once bound to the conversation."""
        ...


MOST_RESPONSES = 100_000
"""Responses that a `MemoryRegistry` has noted at most, the latest; some 30 MB."""


class MemoryRegistry:
    """A registry that lasts as long as the process. It keeps traces, and no overlays or outbox.

    The same key at another base URL or with another account is simply another session here: hubs
    of several accounts share `PROCESS_REGISTRY`, and what an API key leaves behind when it is
    rotated would not have outlasted the process anyway. A registry that lasts refuses it instead,
    see `SqlRegistry`.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._rows: dict[Session, Row] = {}
        self._responses: OrderedDict[tuple[str, str, str], float] = OrderedDict()
        self._former: dict[Session, dict[str, None]] = {}

    def get(self, session: Session) -> Row | None:
        """The session's row, or `None` if it has none."""
        return self._rows.get(session)

    def bind(self, session: Session, conversation_id: str) -> Row:
        """Binds a session that has no conversation; returns the row that is there afterwards."""
        now = time.time()
        fresh = Row(session, conversation_id, "open", 1, now, now)
        with self._mutex:
            return self._rows.setdefault(session, fresh)

    def rebind(self, row: Row, conversation_id: str) -> Row:
        """Binds the session to another conversation, if the row is as given."""
        fresh = replace(
            row, conversation_id=conversation_id, revision=row.revision + 1, updated=time.time()
        )
        with self._mutex:
            found = self._rows.get(row.session)
            place = row.conversation_id, row.revision
            if found is None or (found.conversation_id, found.revision) == place:
                self._rows[row.session] = found = fresh
                if row.conversation_id != conversation_id:
                    self._former.setdefault(row.session, {})[row.conversation_id] = None
            return found

    def unbind(self, session: Session) -> None:
        """Forgets the session; the conversation stays where it is."""
        with self._mutex:
            self._rows.pop(session, None)

    def sessions(self, namespace: str) -> list[Row]:
        """The sessions of a namespace, whatever their base URL and account, the oldest first."""
        with self._mutex:
            rows = [row for row in self._rows.values() if row.session.namespace == namespace]
        return sorted(rows, key=lambda row: row.created)

    def note_response(self, base_url: str, conversation_id: str, response_id: str) -> None:
        """Notes that the service has stored a response of the conversation."""
        with self._mutex:
            noted = self._responses
            noted[base_url, conversation_id, response_id] = now = time.time()
            while len(noted) > MOST_RESPONSES or next(iter(noted.values())) < now - ITEM_LIFETIME:
                noted.popitem(last=False)

    def responses(self, base_url: str, conversation_id: str) -> list[str]:
        """The responses of the conversation that were noted in the last seven days, in order."""
        oldest = time.time() - ITEM_LIFETIME
        with self._mutex:
            return [
                response_id
                for (*place, response_id), noted in self._responses.items()
                if place == [base_url, conversation_id] and noted >= oldest
            ]

    def forget_responses(
        self, base_url: str, conversation_id: str, response_ids: Collection[str]
    ) -> None:
        """Forgets these responses of the conversation."""
        with self._mutex:
            for response_id in response_ids:
                self._responses.pop((base_url, conversation_id, response_id), None)

    def former(self, session: Session) -> list[str]:
        """The conversations that the session was bound to before, the first of them first."""
        with self._mutex:
            return [*self._former.get(session, ())]

    def forget_former(self, session: Session, conversation_id: str) -> None:
        """Forgets that the session was once bound to the conversation."""
        with self._mutex:
            former = self._former.get(session, {})
            former.pop(conversation_id, None)
            if not former:
                self._former.pop(session, None)


PROCESS_REGISTRY = MemoryRegistry()
"""What hubs share that were given no registry: sessions are then known throughout the process."""


def __getattr__(name: str) -> Any:
    if name != "SqlRegistry":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from qwen_conv.sql import SqlRegistry
    except ModuleNotFoundError as missing:
        if missing.name != "sqlalchemy":
            raise
        raise ImportError(
            "SqlRegistry needs SQLAlchemy: pip install 'qwen-conv[sql]'", name="sqlalchemy"
        ) from None
    return SqlRegistry
