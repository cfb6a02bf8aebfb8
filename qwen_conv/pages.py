"""How a conversation is read: page by page, complete and in order, or not at all.

The documents let a list be asked for by `order`, `limit` and `after` (help.aliyun.com, "OpenAI
compatible - Conversations", list items); docs.qwencloud.com names none of the three; both read
2026-11-20. So nothing here rests on a server heeding them: what it does instead is noticed, and
remembered in the ledger for its base URL.
"""

from __future__ import annotations

from collections.abc import Sequence

from qwen_conv.api import Api
from qwen_conv.calls import ListItems, Order, RetrieveItem
from qwen_conv.conversations import Page
from qwen_conv.errors import (
    Failure,
    ItemNotFoundError,
    NotFoundError,
    RequestRefusedError,
    ServiceFailedError,
    UsageError,
)
from qwen_conv.items import FunctionCall, FunctionOutput, Item, Message, Reasoning, fingerprints
from qwen_conv.ledger import Written
from qwen_conv.limits import PAGE_SIZE, checked_id

SHORTEST_PAGE = 20
"""Items of the shortest page that a server may have cut by a limit of its own: the documented
default. Some servers say of such a page that nothing follows, always."""

LOST_CURSORS = 5
"""How often the item to go on behind may be gone in one reading; more is no coincidence."""


class Listing:
    """A conversation's items page by page, in the order in which the server lists them.

    Each item comes once, also where pages overlap. To go on, the last item's own id is named,
    whatever `last_id` says. If that item is gone by then, an earlier one is named.

    Args:
        conversation_id: The conversation.
        after: The id of the item to begin behind.
        order: The order to ask for.
        limit: How many items to ask for at once.

    Attributes:
        ended: Whether the last page was read.
        is_whole: Whether the list began with the conversation's first item, in its order.
    """

    def __init__(
        self,
        conversation_id: str,
        after: str | None = None,
        order: Order = "asc",
        limit: int = PAGE_SIZE,
    ) -> None:
        self.conversation_id = conversation_id
        self.order: Order = order
        self.ended = False
        self.is_whole = after is None
        self._limit = limit
        self._begins_behind = self._cursor = after
        self._lost = 0
        self._told_more = self._was_empty = False
        self._first_page: tuple[Item, ...] | None = None
        self._ids: list[str] = []
        self._places: dict[str, int] = {}

    async def next(self, api: Api) -> tuple[Item, ...] | None:
        """The items of the next page that were not on one before; `None` behind the last.

        Raises:
            ItemNotFoundError: `after` is not there.
            ConversationNotFoundError: The conversation is not there.
            ServiceFailedError: The rest cannot be read.
        """
        if self.ended:
            return None
        page = await self._page(api)
        fresh = self._fresh(page)
        if self._first_page is None:
            self._first_page = page.items
        elif fresh and page.items == self._first_page:  # whatever ids they have
            await self._check_ids(api)
            self._first_page = ()
        if page.has_more:
            self._told_more = True
            api.hub.ledger.note_listing(api.hub.base_url, tells_more=True)
        if not await self._is_last(api, page, is_new=bool(fresh)) and page.items:
            self._go_on(page)
        return fresh

    async def _check_ids(self, api: Api) -> None:
        """Makes sure that an item has the same id each time: else nothing would ever end."""
        begin = ListItems(self.conversation_id, self._begins_behind, self.order, 1)
        ids = {item.id for item in (await api.send(begin)).items}
        if ids.isdisjoint(self._places):
            raise self._unreadable("its items have other ids each time")

    async def _page(self, api: Api) -> Page:
        step = 1
        while True:
            try:
                return await api.send(
                    ListItems(self.conversation_id, self._cursor, self.order, self._limit)
                )
            except (NotFoundError, RequestRefusedError):
                if self._cursor is None or self._cursor == self._begins_behind:
                    raise
                place = self._places[self._cursor] - step
                if step == 1:
                    self._lose_cursor()
                self._cursor = self._ids[place] if place >= 0 else self._begins_behind
                step *= 2

    def _lose_cursor(self) -> None:
        self._lost += 1
        if self._lost > LOST_CURSORS:
            raise self._unreadable("it does not go on behind an item that it has listed")

    def _fresh(self, page: Page) -> tuple[Item, ...]:
        """The page's items that were not listed yet, which have to stand behind all others."""
        fresh: list[Item] = []
        here: set[str] = set()
        reached, nameless = -1, False
        for item in page.items:
            if not item.id:
                fresh.append(item)
                nameless = True
                continue
            place = self._places.get(item.id)
            if place is None:
                here.add(item.id)
                self._places[item.id] = len(self._ids)
                self._ids.append(item.id)
                fresh.append(item)
            elif item.id not in here:
                if fresh or place <= reached:
                    raise self._unreadable("its order changes between two pages")
                reached = place
        if nameless and reached >= 0:
            raise self._unreadable("items without ids came again, or others like them")
        return tuple(fresh)

    async def _is_last(self, api: Api, page: Page, *, is_new: bool) -> bool:
        ids = [item.id for item in page.items]
        if not ids:
            self.ended = await self._is_emptied(api)
        elif page.has_more is False and await self._is_believed(api, len(ids), is_new=is_new):
            self.ended = True
        elif self._cursor is not None and ids[-1] == self._cursor:
            # Either nothing stands behind it, or the server does not go on behind it.
            self.ended = self._is_end(api, await self.compare(api))
        return self.ended

    async def _is_emptied(self, api: Api) -> bool:
        """Whether nothing follows, if a page is empty, whatever it says of more.

        Raises:
            ServiceFailedError: The server lists something else at the end, and not there.
        """
        if not self._ids:
            return True
        end = await self.compare(api)
        heeds = api.hub.ledger.listing(api.hub.base_url).heeds_order
        if not heeds or end in {None, self._ids[-1]}:
            return True
        if self._was_empty:
            raise self._unreadable("it does not list what stands behind an item")
        self._was_empty = True  # somebody may have added that just now
        return False

    async def _is_believed(self, api: Api, count: int, *, is_new: bool) -> bool:
        """Whether nothing follows a page of that length, if the server says so."""
        told = api.hub.ledger.listing(api.hub.base_url).tells_more
        is_open = told is None and bool(self._ids) and count > SHORTEST_PAGE
        is_full = is_open or count in {SHORTEST_PAGE, self._limit}
        if is_new and (self._told_more or not is_full):
            return told is not False
        return self._is_end(api, await self.compare(api))

    def _is_end(self, api: Api, end: str | None) -> bool:
        """Whether the list ends with what was listed last, by what `compare` has found."""
        heeds = api.hub.ledger.listing(api.hub.base_url).heeds_order
        return bool(heeds) and end == self._ids[-1]

    def _go_on(self, page: Page) -> None:
        """Names the item to go on behind."""
        cursor = page.items[-1].id or page.last_id
        try:
            cursor = checked_id(cursor, "an item")
        except UsageError as error:
            raise self._unreadable("a page does not tell what to go on behind") from error
        place = self._places.get(cursor, len(self._ids))
        if place <= self._places.get(self._cursor or "", -1):
            if self._cursor in {item.id for item in page.items}:
                raise self._unreadable("a page came twice")
            self._lose_cursor()  # the server began anew, because the item is gone
        self._cursor = cursor

    async def compare(self, api: Api) -> str | None:
        """Asks for one item in the opposite order, and notes what that tells of the server.

        It lists the opposite end if it heeds `order`, and says that more follow if it ever does.

        Returns:
            The id of the item that it lists first; `None` if it lists none.
        """
        opposite: Order = "desc" if self.order == "asc" else "asc"
        page = await api.send(ListItems(self.conversation_id, None, opposite, 1))
        if not page.items or not self._ids:
            return page.items[0].id if page.items else None
        end, heeds = page.items[0].id, None
        if (self.is_whole and end not in self._places) or self._ids[0] != self._ids[-1] == end:
            heeds = True
        elif self.is_whole and self._ids[0] == end != self._ids[-1]:
            heeds = False
        tells = page.has_more is True if len(page.items) < len(self._ids) else None
        api.hub.ledger.note_listing(api.hub.base_url, tells_more=tells, heeds_order=heeds)
        return end

    def _unreadable(self, why: str) -> ServiceFailedError:
        return _unreadable(self.conversation_id, why)


class Pages:
    """A conversation's items page by page, oldest first; holds no page itself.

    Where the server turns out to list the newest first, there is one page, which holds all.

    Args:
        conversation_id: The conversation.
    """

    def __init__(self, conversation_id: str) -> None:
        self._listing = Listing(conversation_id)
        self._ends: tuple[Item, ...] = ()
        """The first item, and those of the last page that had any."""

    async def next(self, api: Api) -> tuple[Item, ...] | None:
        """The items of the next page; `None` if there is none.

        Raises:
            ConversationNotFoundError: The conversation is not there.
            ServiceFailedError: The rest cannot be read, or its order cannot be told.
        """
        listing = self._listing
        page = await listing.next(api)
        if page is None:
            return None
        is_first = not self._ends
        if page:
            self._ends = (*self._ends[:1], *page)
        if is_first:
            if not await is_as_asked(api, listing, page):
                return (*reversed((*page, *await _all(api, listing))),)
        elif listing.ended and not await is_as_asked(api, listing, self._ends):
            raise _unreadable(listing.conversation_id, "it lists the newest items first; again")
        return page


async def read(api: Api, conversation_id: str, after: str | None = None) -> tuple[Item, ...]:
    """Every item of a conversation, oldest first, or every one behind the item `after`.

    Raises:
        ItemNotFoundError: `after` is not there.
        ConversationNotFoundError: The conversation is not there.
        ServiceFailedError: It cannot be read to its end, or its order cannot be told.
    """
    if after is not None and _told(api, "asc") is False:  # behind would mean older there
        return _behind(await read(api, conversation_id), after)
    listing = Listing(conversation_id, after)
    items = await _all(api, listing)
    if after is not None and after in {item.id for item in items[1:]}:
        listing.is_whole = True  # the server took no notice of where to begin
    if await is_as_asked(api, listing, items):
        is_there = after is not None and after in {item.id for item in items}
        return _behind(items, after) if is_there else items
    if after is None:
        return items[::-1]
    return _behind(await read(api, conversation_id), after)


async def _all(api: Api, listing: Listing) -> tuple[Item, ...]:
    found: list[Item] = []
    while (page := await listing.next(api)) is not None:
        found += page
    return tuple(found)


async def is_there(api: Api, conversation_id: str, item_id: str) -> bool:
    """Whether a conversation has an item of that id: to list what is behind it need not tell.

    Some services take no notice of an id that they do not know, and list all items.
    """
    try:
        await api.send(RetrieveItem(conversation_id, item_id))
    except (NotFoundError, RequestRefusedError):
        return False
    return True


def _behind(items: tuple[Item, ...], after: str | None) -> tuple[Item, ...]:
    place = next((n for n, item in enumerate(items) if item.id == after), None)
    if place is None:
        raise ItemNotFoundError(Failure(f"The conversation holds no item {after!r}"))
    return items[place + 1 :]


# --- In which order a server lists ------------------------------------------------------------


async def is_as_asked(api: Api, listing: Listing, items: Sequence[Item]) -> bool:
    """Whether the items stand in the order that was asked for: no if in the opposite one.

    Most lists show it: somebody asks, and somebody answers. Where one does not, and nothing is
    known of the server, that is asked, once.

    Args:
        api: What is awaited.
        listing: Where the items are from.
        items: The first of its items, and the last if it has ended; those between may be left out.

    Raises:
        ServiceFailedError: The server takes no notice of `order`, and nothing tells which it keeps.
    """
    told = _told(api, listing.order)
    ledger, base_url, asc = api.hub.ledger, api.hub.base_url, listing.order == "asc"
    is_one = len(items) < 2 and (listing.ended or asc)  # noqa: PLR2004 - it has no order
    if told is not None or is_one:
        return told is not False
    oldest_first = _proved(items, listing, ledger.written(listing.conversation_id))
    if oldest_first is None:
        if _is_regular(items if asc else items[::-1], listing):
            return True
        if ledger.listing(base_url).heeds_order is None:
            await listing.compare(api)
        if (told := _told(api, listing.order)) is not None:
            return told
        if not listing.is_whole:
            return False
        is_deaf = ledger.listing(base_url).heeds_order is False
        oldest_first = _shown(items, ended=listing.ended) if is_deaf else None
        if oldest_first is None:
            raise _unreadable(
                listing.conversation_id,
                "the server takes no notice of `order`, and nothing shows whether it lists the "
                "oldest or the newest items first; what this process writes will show it",
            )
    if oldest_first != asc:
        ledger.note_listing(base_url, heeds_order=False, oldest_first=oldest_first)
    elif asc:
        ledger.note_listing(base_url, oldest_first=True)
    return oldest_first == asc


def _told(api: Api, order: Order) -> bool | None:
    """Whether the server is known to list in that order, if it is asked for it."""
    habits = api.hub.ledger.listing(api.hub.base_url)
    if habits.heeds_order:
        return True
    if order == "asc":
        return habits.oldest_first
    if habits.heeds_order is None or habits.oldest_first is None:
        return None
    return not habits.oldest_first


def _proved(items: Sequence[Item], listing: Listing, written: Written) -> bool | None:
    """Whether the oldest item comes first, if that is certain.

    What this process has written tells, and that a call stands before its result.
    """
    places = {item.id: place for place, item in enumerate(items)}
    known = [places[one] for one in written.ids if one in places]
    if len(known) == 2:  # noqa: PLR2004 - the ends of what was written
        return known[0] < known[1]
    if listing.is_whole and listing.ended and written.first:
        ends = [fingerprints(items[:1]) == written.first, fingerprints(items[-1:]) == written.first]
        if ends[0] != ends[1]:
            return ends[0]
    seen: set[str] = set()
    for item in items:
        if isinstance(item, FunctionOutput) and item.call_id in seen:
            return True
        if isinstance(item, FunctionCall):
            seen.add(item.call_id)
    return None


def _is_regular(items: Sequence[Item], listing: Listing) -> bool:
    """Whether the items begin with what one asks and end with an answer, as far as is known.

    That they do is no proof, but the newest item of a conversation is an answer as a rule.
    """
    begins = listing.is_whole and (listing.ended or listing.order == "asc")
    ends = listing.ended or listing.order == "desc"
    return not (begins and _is_answer(items[0])) and not (ends and not _is_answer(items[-1]))


def _shown(items: Sequence[Item], *, ended: bool) -> bool | None:
    """Whether the oldest item comes first, as far as the two ends show it, or the first alone."""
    first, last = map(_is_answer, (items[0], items[-1]))
    if not ended:
        return False if first else None
    return None if first == last else last


def _is_answer(item: Item) -> bool:
    if isinstance(item, Message):
        return item.role == "assistant"
    return isinstance(item, FunctionCall | Reasoning)


def _unreadable(conversation_id: str, why: str) -> ServiceFailedError:
    return ServiceFailedError(Failure(f"{conversation_id} cannot be read to its end: {why}"))
