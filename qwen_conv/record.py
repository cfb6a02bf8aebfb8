"""A conversation as a record of messages: read in order, added to, each message once.

What histories and stores of the frameworks have in common. A `Record` knows what it read last, so
that it reads only what came behind, and encodes what the Conversations API cannot create.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from qwen_conv.api import Api
from qwen_conv.calls import (
    RetrieveConversation,
    UpdateConversation,
)
from qwen_conv.decision import UNDATED_TRUST
from qwen_conv.encodings import RESERVED, Seal, encode, is_sealed, new_secret
from qwen_conv.erasing import Erased, erase_stored
from qwen_conv.errors import (
    NotFoundError,
    RequestRefusedError,
    ServiceFailedError,
    UsageError,
)
from qwen_conv.flows import changing, clear, create, delete, read, remove
from qwen_conv.hub import QwenConversations
from qwen_conv.items import (
    FunctionCall,
    FunctionOutput,
    Item,
    Json,
    Message,
    fingerprints,
)
from qwen_conv.kept import Kept, Reader
from qwen_conv.limits import (
    ITEM_LIFETIME,
    ITEMS_PER_REQUEST,
    PAGE_SIZE,
    checked_conversation_id,
    checked_metadata,
    checked_session_id,
)
from qwen_conv.pages import Listing, Pages, is_as_asked
from qwen_conv.seals import keep_seal, void
from qwen_conv.writing import (
    Behind,
    Said,
    Unfinished,
    finish_writing,
    last_known,
    settle_writing,
    take_up,
)

ToolItems = Literal["encoded", "native"]
ARCHIVED = "qwen_conv_archived"
"""The pair of a conversation's metadata that tells up to which item its messages are archived."""

OWN = frozenset({RESERVED, ARCHIVED})
"""The pairs of a conversation's metadata that users neither see nor set."""


class Draft(NamedTuple):
    """A message to add: its items, and what is to be kept with them if they are encoded."""

    items: tuple[Item, ...]
    extra: Json | None = None


class _View(NamedTuple):
    """What a reading found, complete and never changed: threads and tasks read at once."""

    reader: Reader
    kept: tuple[Kept, ...]
    deletions: int


class Record:
    """The messages of one conversation, or of a session's.

    Args:
        hub: What clients, sessions and conversations share.
        session: The session's key.
        conversation_id: The conversation, if it is named by its id.
        tool_items: Whether tool calls and results are added "encoded" as messages, or as "native"
            items, which only some servers create.

    Raises:
        UsageError: Neither was given, or both, or one that cannot be.
    """

    def __init__(
        self,
        hub: QwenConversations,
        *,
        session: str | None = None,
        conversation_id: str | None = None,
        tool_items: ToolItems = "encoded",
    ) -> None:
        if (session is None) == (conversation_id is None):
            raise UsageError("Pass session_id or conversation_id: one of the two.")
        if session is not None:
            checked_session_id(session)
        if conversation_id is not None:
            checked_conversation_id(conversation_id)
        if tool_items not in {"encoded", "native"}:
            raise UsageError(f"tool_items is {tool_items!r}; it is 'encoded' or 'native'.")
        self.hub = hub
        self.session = session
        self._conversation_id = conversation_id
        self._tool_items = tool_items
        self._view: _View | None = None

    @property
    def named(self) -> str | None:
        """The conversation, if the record was made for one by its id."""
        return self._conversation_id

    @property
    def target(self) -> str:
        """What names the record: no other session or conversation has the same."""
        if self.session is not None:
            return str(self.hub.session(self.session))
        return f"{self.hub.base_url} {self._conversation_id}"

    async def conversation_id(self, api: Api) -> str | None:
        """The conversation; `None` if the session has none yet. Nothing is sent for that."""
        if self.session is None:
            return self._conversation_id
        row = await api.ask(self.hub.registry.get, self.hub.session(self.session))
        return row.conversation_id if row else None

    # --- Reading ------------------------------------------------------------------------------

    async def read(self, api: Api) -> list[Kept]:
        """Every message, oldest first; only what came since the last reading is asked for.

        The last item that was read is asked for again: if it does not come first, it was deleted,
        or the server took no notice of where to begin, and all is read anew.

        Raises:
            ConversationNotFoundError: The conversation is not there.
        """
        conversation_id = await self.conversation_id(api)
        if conversation_id is None:
            return []
        deletions = self.hub.ledger.deletions(conversation_id)
        view = self._current(conversation_id)
        if view is not None:
            try:
                items = await read(api, conversation_id, after=view.reader.before)
            except (NotFoundError, RequestRefusedError):
                view = None  # an item is gone, or all of it: the whole reading will tell
            else:
                if [item.id for item in items[:1]] == [view.reader.after]:
                    items = items[1:]
                else:
                    view = None
        if view is None:
            items = await read(api, conversation_id)
            view = _View(self._new_reader(conversation_id), (), deletions)
        reader = view.reader.copy()
        seal = await self.seal_of(api, conversation_id, items)
        kept = (*view.kept, *reader.feed(items, seal, ended=True))
        self._view = _View(reader, kept, view.deletions)
        return [*kept]

    async def with_items(self, api: Api, ids: set[str]) -> list[Kept]:
        """Every message; nothing is asked for if the last reading has found all of these items."""
        conversation_id = await self.conversation_id(api)
        view = None if conversation_id is None else self._current(conversation_id)
        if view is not None and ids and view.reader.ids.issuperset(ids):
            return [*view.kept]
        return await self.read(api)

    @property
    def last_id(self) -> str | None:
        """The id of the last item that was read; `None` if nothing was."""
        return (self._view and self._view.reader.after) or None

    async def pages(self, api: Api) -> PagesKept | None:
        """Reads anew, page by page; `None` if there is no conversation yet."""
        conversation_id = await self.conversation_id(api)
        if conversation_id is None:
            return None
        return PagesKept(self, self._new_reader(conversation_id), Pages(conversation_id))

    async def last(self, api: Api, count: int) -> list[Kept]:
        """The last messages, oldest first. The rest is read only where an encoding is among them.

        An encoding counts once, where it stands first: that cannot be seen from the end.
        """
        conversation_id = await self.conversation_id(api)
        if conversation_id is None:
            return []
        listing = Listing(conversation_id, order="desc", limit=min(PAGE_SIZE, count + 1))
        items: list[Item] = []
        kept: list[Kept] = []
        try:
            while len(kept) <= count and (page := await listing.next(api)) is not None:
                if page and not items and not await is_as_asked(api, listing, page):
                    return (await self.read(api))[-count:]
                items[:0] = reversed(page)
                if any(isinstance(item, Message) and is_sealed(item) for item in items):
                    return (await self.read(api))[-count:]
                kept = self._new_reader(conversation_id).feed(items, None, ended=True)
        except ServiceFailedError:
            return (await self.read(api))[-count:]  # some servers cannot go on in this order
        return kept[-count:]

    async def seal_of(self, api: Api, conversation_id: str, items: Sequence[Item]) -> Seal | None:
        """The seal that is needed to understand the items, if it is."""
        sealed = [item for item in items if isinstance(item, Message) and is_sealed(item)]
        if not sealed:
            return None
        # Asked for each time: another process may have voided one of them, or all, since.
        return Seal.of((await api.send(RetrieveConversation(conversation_id))).metadata)

    def _current(self, conversation_id: str) -> _View | None:
        """The last reading, if it found something and nothing known has made it stale."""
        view = self._view
        if (
            view is not None
            and view.reader.after
            and view.reader.conversation_id == conversation_id
            and view.reader.at > self.hub.clock() - ITEM_LIFETIME
            and view.deletions == self.hub.ledger.deletions(conversation_id)
        ):
            return view
        return None

    def _new_reader(self, conversation_id: str) -> Reader:
        now = self.hub.clock()
        # Listed items have no date, so some may be about to expire.
        at = now - ITEM_LIFETIME + UNDATED_TRUST
        return Reader(self.hub.base_url, conversation_id, now, at)

    # --- Writing ------------------------------------------------------------------------------

    async def append(
        self, api: Api, drafts: Sequence[Draft], *, ids: bool = False, held: str | None = None
    ) -> list[Item]:
        """Adds messages, in order, 20 items a request; creates the session's conversation.

        Where an earlier adding of the same messages failed, it is finished: what was written by
        then, or is found to have been, is not written again.

        Args:
            api: What is awaited.
            drafts: The messages.
            ids: Whether the stored items are needed, with their ids.
            held: The last item that the caller knows to be there, if that is not known here.

        Returns:
            The items as they are stored; none where some were written with the conversation
            itself, for then the service does not tell.

        Raises:
            PartlyWrittenError: A later request failed; those before it are written.
            ServiceFailedError: The service stored something else than it was sent.
        """
        conversation_id = await self.conversation_id(api)
        said = tuple(fingerprints(draft.items) for draft in drafts)
        if conversation_id is None:
            conversation_id, begun, wired = await self._begin(api, drafts, ids=ids)
            if begun == len(drafts):
                return []
            drafts = drafts[begun:]
        else:
            begun = wired = 0
        async with changing(api, conversation_id):
            todo = take_up(api, conversation_id, said)
            if todo is None:
                wires = await self._wires(api, conversation_id, drafts)
                place = self._last_known(conversation_id)
                if place is None and held:
                    place = Behind(held)
                todo = Unfinished(said, wires, place, wired)
            native = self._tool_items == "native"
            await finish_writing(api, conversation_id, todo, native=native)
        return [] if todo.begun else todo.stored

    def _last_known(self, conversation_id: str) -> Behind | None:
        """The last that the conversation is known to hold."""
        view = self._current(conversation_id)
        if view is None:
            return last_known(self.hub.ledger, conversation_id)
        return last_known(self.hub.ledger, conversation_id, view.reader.after, view.reader.ids)

    async def settle(self, api: Api, said: Said) -> None:
        """Waits until it is known how far an adding of these messages came, if it failed."""
        conversation_id = await self.conversation_id(api)
        if conversation_id is None:
            return
        todo = self.hub.ledger.unfinished.get(conversation_id, {}).get(said)
        # Where no place is known to look behind, what the caller held before tells more.
        if todo is not None and todo.lost_at is not None and todo.behind is not None:
            async with changing(api, conversation_id):
                await settle_writing(api, conversation_id, todo)

    async def _begin(self, api: Api, drafts: Sequence[Draft], *, ids: bool) -> tuple[str, int, int]:
        """Creates the session's conversation, with the first messages in it if that will do.

        Returns:
            The conversation, how many of the messages it holds, and as how many items.
        """
        assert self.session is not None  # noqa: S101 - a conversation's id needs no beginning
        seal = Seal(new_secret())
        first = [] if ids else drafts[:ITEMS_PER_REQUEST]
        wires = [wire for draft in first for wire in self._wire(draft, seal)]
        if not all(isinstance(wire, Message) for wire in wires):
            first, wires = [], []
        made = await create(api, wires, {RESERVED: seal.secret})
        bind = self.hub.registry.bind
        row = await api.ask(bind, self.hub.session(self.session), made.id)
        if row.conversation_id == made.id:
            return made.id, len(first), len(wires)
        await delete(api, made.id)  # another process was first
        return row.conversation_id, 0, 0

    async def _wires(
        self, api: Api, conversation_id: str, drafts: Sequence[Draft]
    ) -> tuple[Item, ...]:
        seal: Seal | None = None
        if self._tool_items == "encoded" and any(map(_needs_encoding, drafts)):
            seal = await self._seal(api, conversation_id)
        return tuple(wire for draft in drafts for wire in self._wire(draft, seal))

    def _wire(self, draft: Draft, seal: Seal | None) -> tuple[Item, ...]:
        if self._tool_items == "native" or seal is None or not _needs_encoding(draft):
            return draft.items
        return (encode(draft.items, seal.secret, self.hub.clock(), draft.extra),)

    def firsts(self, stored: Sequence[Item], drafts: Sequence[Draft]) -> list[Item]:
        """The first item that each draft was stored as."""
        found: list[Item] = []
        at = 0
        for draft in drafts:
            found.append(stored[at])
            encoded = self._tool_items == "encoded" and _needs_encoding(draft)
            at += 1 if encoded else len(draft.items)
        return found

    # --- The rest -----------------------------------------------------------------------------

    async def clear(self, api: Api) -> None:
        """Deletes every item; the conversation stays, with a new secret for its encodings."""
        conversation_id = await self.conversation_id(api)
        if conversation_id is None:
            return
        await clear(api, conversation_id)
        told = (await api.send(RetrieveConversation(conversation_id))).metadata
        if RESERVED in told:
            await keep_seal(api, conversation_id, told, Seal(new_secret()))

    async def delete(self, api: Api) -> None:
        """Erases the conversation, or the session; see `qwen_conv.erasing`.

        Raises:
            QwenConvError: Something could not be deleted. What could is; delete it again.
        """
        (await self.erase(api)).check()

    async def erase(self, api: Api) -> Erased:
        """Deletes all that is known of the conversation, or of the session; says what is left."""
        named = self._conversation_id
        return await erase_stored(api, session=self.session, conversation_id=named)

    async def remove(self, api: Api, item_ids: Sequence[str]) -> None:
        """Deletes some items; an encoding among them is void from then on.

        Raises:
            ItemNotFoundError: One is not there.
        """
        conversation_id = await self.conversation_id(api)
        assert conversation_id is not None  # noqa: S101 - what was found is in a conversation
        gone = [kept for kept in await self.read(api) if set(kept.stamp.item_ids) & set(item_ids)]
        if once := {kept.once for kept in gone if kept.once}:
            await void(api, conversation_id, once)
        ids = {one for kept in gone for one in kept.stamp.item_ids}
        async with changing(api, conversation_id):
            items = [item for item in await read(api, conversation_id) if item.id in ids]
            await remove(api, conversation_id, items)

    async def metadata(self, api: Api) -> dict[str, str]:
        """The conversation's metadata, without the record's own pairs."""
        told = await self._told(api)
        return {key: value for key, value in told.items() if key not in OWN}

    async def archived(self, api: Api) -> str | None:
        """The id of the last item that a store has archived; `None` if there is none."""
        return (await self._told(api)).get(ARCHIVED)

    async def set_archived(self, api: Api, item_id: str | None) -> None:
        """Keeps the id of the last item that is archived."""
        conversation_id = await self.conversation_id(api)
        assert conversation_id is not None  # noqa: S101 - its items were listed
        told = {key: value for key, value in (await self._told(api)).items() if key != ARCHIVED}
        pair = {} if item_id is None else {ARCHIVED: item_id}
        await api.send(UpdateConversation(conversation_id, {**told, **pair}))

    async def _told(self, api: Api) -> Mapping[str, str]:
        conversation_id = await self.conversation_id(api)
        if conversation_id is None:
            return {}
        return (await api.send(RetrieveConversation(conversation_id))).metadata

    async def set_metadata(self, api: Api, metadata: Mapping[str, str]) -> None:
        """Replaces the conversation's metadata; creates the session's conversation."""
        if taken := sorted(OWN & metadata.keys()):
            raise UsageError(f"The pair {taken[0]!r} is the history's own: use another key.")
        checked_metadata({**metadata, RESERVED: ""})
        conversation_id = await self.conversation_id(api)
        if conversation_id is None:
            conversation_id, *_ = await self._begin(api, (), ids=False)
        told = (await api.send(RetrieveConversation(conversation_id))).metadata
        own = {key: told[key] for key in OWN & told.keys()}
        await api.send(UpdateConversation(conversation_id, {**metadata, **own}))

    async def _seal(self, api: Api, conversation_id: str) -> Seal:
        """The seal to encode with, made if there is none."""
        told = (await api.send(RetrieveConversation(conversation_id))).metadata
        seal = Seal.of(told)
        if seal is None:
            seal = Seal(new_secret())
            await keep_seal(api, conversation_id, told, seal)
        return seal


class PagesKept:
    """The messages of a record page by page; holds one page at a time."""

    def __init__(self, record: Record, reader: Reader, pages: Pages) -> None:
        self._record = record
        self._reader = reader
        self._pages = pages

    async def next(self, api: Api) -> list[Kept] | None:
        """The messages of the next page, which may be none; `None` behind the last."""
        items = await self._pages.next(api)
        if items is None:
            return self._reader.feed((), None, ended=True) or None
        seal = await self._record.seal_of(api, self._reader.conversation_id, items)
        return self._reader.feed(items, seal)


def _needs_encoding(draft: Draft) -> bool:
    return any(isinstance(item, FunctionCall | FunctionOutput) for item in draft.items)
