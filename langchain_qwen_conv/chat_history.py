"""`QwenConvChatMessageHistory`: a conversation as a LangChain chat message history."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from threading import Lock
from typing import Any, Literal, TypeVar
from weakref import ReferenceType, ref

from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import BaseMessage, ToolMessage
from langchain_core.runnables import ensure_config

from langchain_qwen_conv import messages as mapping
from langchain_qwen_conv.answers import as_held
from langchain_qwen_conv.errors import as_model_errors
from langchain_qwen_conv.held import fit, is_system, unheld
from langchain_qwen_conv.losses import loss, missed, restored
from langchain_qwen_conv.messages import STAMP, from_stored, to_core, to_entry
from langchain_qwen_conv.reports import MESSAGE_HISTORY, Reports
from qwen_conv.api import Api, finish
from qwen_conv.decision import Known
from qwen_conv.errors import (
    ConversationBusyError,
    Failure,
    ItemNotFoundError,
    NotRepresentableError,
    UsageError,
)
from qwen_conv.hub import QwenConversations
from qwen_conv.items import Item, Message, fingerprints
from qwen_conv.kept import Kept
from qwen_conv.local import Entry, LocalList
from qwen_conv.record import Draft, Record, ToolItems
from qwen_conv.registry import Overlays
from qwen_conv.stamps import Stamp
from qwen_conv.turn import TurnRequest

logger = logging.getLogger("qwen_conv")

T = TypeVar("T")
OnLoss = Literal["log", "refuse"]


class _BrokenOffError(ConversationBusyError):
    """A run has ended while the stream of its turn, in the conversation, is still open."""


class QwenConvChatMessageHistory(BaseChatMessageHistory):
    """The messages of a server-side conversation, each of them once.

    What the conversation holds already is not written again: an answer of `ChatQwenConv` that was
    given there, what was sent with it, messages that were read from there. Share a hub between
    model and history, and nothing is asked twice:

    ```python
    hub = QwenConversations()
    chat = ChatQwenConv(model="qwen3.6-plus", conversations=hub)
    chain = RunnableWithMessageHistory(
        chat, lambda key: QwenConvChatMessageHistory(key, conversations=hub)
    )
    chain.invoke("My name is Bob.", {"configurable": {"session_id": "bob"}})
    ```

    Args:
        session_id: A name of your own. Its conversation is created with the first message.
        conversation_id: The id of an existing conversation, instead.
        conversations: The hub to share; without one, the history makes its own from `settings`.
        on_loss: What to do about what the wire cannot hold (names, ids, `additional_kwargs`, a
            tool's artifact, roles that the service rewrites) where no `SqlRegistry` keeps it:
            "log" once what is lost, or "refuse" the message.
        tool_items: Whether tool calls and results are written "encoded" as messages, which Qwen
            takes, or as "native" items.
        **settings: Those of `qwen_conv.QwenConversations`.

    Attributes:
        last_error: What the last writing failed with, if it did: `RunnableWithMessageHistory`
            does not pass errors of a history on.

    Raises:
        UsageError: Not exactly one of session_id and conversation_id was given, or a wrong one.
    """

    def __init__(
        self,
        session_id: str | None = None,
        conversation_id: str | None = None,
        *,
        conversations: QwenConversations | None = None,
        on_loss: OnLoss = "log",
        tool_items: ToolItems = "encoded",
        **settings: Any,
    ) -> None:
        super().__init__()
        with as_model_errors(in_conversation=False):
            if on_loss not in {"log", "refuse"}:
                raise UsageError(f"on_loss is {on_loss!r}; it is 'log' or 'refuse'.")
            if conversations is None:
                conversations = QwenConversations(**settings)
            elif settings:
                conversations.check_agrees(**settings)
            self.hub = conversations
            self._record = Record(
                conversations,
                session=session_id,
                conversation_id=conversation_id,
                tool_items=tool_items,
            )
        self.reports = Reports(self._record)
        self._mutex = Lock()
        self.last_error: Exception | None = None
        self._on_loss = on_loss
        self._told_lost: set[str] = set()
        self._beginnings: list[ReferenceType[Beginning]] = []
        """Of the runs that go on. A run may begin and end in different threads."""

    def __repr__(self) -> str:
        place = self._record.session or self._record.named
        return f"QwenConvChatMessageHistory({place!r})"

    def is_target(self, hub: QwenConversations, request: TurnRequest) -> bool:
        """Whether a turn is one of this history's conversation."""
        record = self._record
        if request.session is not None and record.session is not None:
            return hub.registry is self.hub.registry and hub.session(
                request.session
            ) == self.hub.session(record.session)
        return (
            request.conversation_id is not None
            and request.conversation_id == record.named
            and hub.base_url == self.hub.base_url
        )

    @property
    def selects(self) -> dict[str, str]:
        """What selects this history's conversation, as an argument of a model's call."""
        if self._record.session is not None:
            return {"session_id": self._record.session}
        return {"conversation_id": str(self._record.named)}

    # --- Reading ------------------------------------------------------------------------------

    @property
    def messages(self) -> list[BaseMessage]:  # type: ignore[override]  # LangChain's is an attribute
        """Every message, oldest first. A second reading asks only for what came since.

        Inside a run of `RunnableWithMessageHistory` every reading finds what the first one found.
        """
        return self._run(self._read)

    async def aget_messages(self) -> list[BaseMessage]:
        """`messages`, leaving the event loop free."""
        return await self._arun(self._read)

    def iter_messages(self) -> Iterator[BaseMessage]:
        """The messages one after the other, oldest first; one page is held at a time."""
        api = self.hub.sync()
        with as_model_errors(in_conversation=True):
            pages = finish(self._record.pages(api))
            while pages and (page := finish(pages.next(api))) is not None:
                yield from finish(self._messages(api, page))

    async def aiter_messages(self) -> AsyncIterator[BaseMessage]:
        """`iter_messages`, leaving the event loop free."""
        api = self.hub.tasks()
        with as_model_errors(in_conversation=True):
            pages = await self._record.pages(api)
            while pages and (page := await pages.next(api)) is not None:
                for message in await self._messages(api, page):
                    yield message

    def last_messages(self, count: int) -> list[BaseMessage]:
        """The last `count` messages, oldest first, without reading the others.

        Where a tool call or result is among them that was encoded as a message, the others are
        read all the same: nothing else shows that it is genuine.

        Raises:
            UsageError: `count` is not a positive whole number.
        """
        return self._run(self._last, count)

    async def alast_messages(self, count: int) -> list[BaseMessage]:
        """`last_messages`, leaving the event loop free."""
        return await self._arun(self._last, count)

    def get_message(self, item_id: str) -> BaseMessage:
        """The message that has the item of that id.

        Raises:
            ItemNotFoundError: There is none.
        """
        return self._run(self._get, item_id)

    async def aget_message(self, item_id: str) -> BaseMessage:
        """`get_message`, leaving the event loop free."""
        return await self._arun(self._get, item_id)

    # --- Writing ------------------------------------------------------------------------------

    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Adds those of the messages that the conversation does not hold yet, in order.

        Raises:
            NotRepresentableError: A message cannot be stored; nothing was written.
            PartlyWrittenError: Some are written. Add the same messages again to write the rest.
            ServiceError: The service refused.
        """
        self._run(self._add, messages)

    async def aadd_messages(self, messages: Sequence[BaseMessage]) -> None:
        """`add_messages`, leaving the event loop free."""
        await self._arun(self._add, messages)

    def clear(self) -> None:
        """Deletes every message; the conversation stays."""
        self._run(self._clear)

    async def aclear(self) -> None:
        """`clear`, leaving the event loop free."""
        await self._arun(self._clear)

    def delete(self) -> None:
        """Deletes the conversation and all that it has; of a session, the former ones as well.

        Raises:
            QwenConvError: Something could not be deleted. What could is; delete it again.
                `hub.erase_session(key)` tells all that is left.
        """
        self._run(self._record.delete)

    async def adelete(self) -> None:
        """`delete`, leaving the event loop free."""
        await self._arun(self._record.delete)

    def delete_message(self, item_id: str) -> None:
        """Deletes the message that has the item of that id.

        Raises:
            ItemNotFoundError: There is none.
        """
        self._run(self._delete_message, item_id)

    async def adelete_message(self, item_id: str) -> None:
        """`delete_message`, leaving the event loop free."""
        await self._arun(self._delete_message, item_id)

    def get_metadata(self) -> dict[str, str]:
        """The conversation's metadata; none if there is no conversation yet."""
        return self._run(self._record.metadata)

    async def aget_metadata(self) -> dict[str, str]:
        """`get_metadata`, leaving the event loop free."""
        return await self._arun(self._record.metadata)

    def set_metadata(self, metadata: Mapping[str, str]) -> None:
        """Replaces the conversation's metadata: at most 15 pairs, for one is the history's own.

        Raises:
            UsageError: It is over the API's limits.
        """
        self._run(self._record.set_metadata, metadata)

    async def aset_metadata(self, metadata: Mapping[str, str]) -> None:
        """`set_metadata`, leaving the event loop free."""
        await self._arun(self._record.set_metadata, metadata)

    # --- Each said once -----------------------------------------------------------------------

    def _run(self, flow: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        with as_model_errors(in_conversation=True):
            return self.hub.run(flow, *args)

    async def _arun(self, flow: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        with as_model_errors(in_conversation=True):
            return await self.hub.arun(flow, *args)

    async def _read(self, api: Api) -> list[BaseMessage]:
        if ensure_config().get("configurable", {}).get(MESSAGE_HISTORY) is not self:
            return await self._read_anew(api)
        # Nothing tells which of several runs this is. One that is shown too little adds what it was
        # not shown, too, which is held already; shown too much, it would take its input for old.
        found = min((one.found for one in self._open_beginnings()), key=len, default=None)
        if found is not None and self.reports.is_open():
            return ReadInRun(self, found, found)
        fresh = await self._read_anew(api)
        return ReadInRun(self, fresh if found is None else found, fresh)

    def begin_run(self, found: Sequence[BaseMessage]) -> Beginning:
        """Has the later readings of a run find what its first one found."""
        beginning = Beginning(found)
        with self._mutex:
            self._beginnings = [*map(ref, self._open_beginnings()), ref(beginning)]
        return beginning

    def _open_beginnings(self) -> list[Beginning]:
        return [one for each in self._beginnings if (one := each()) is not None]

    async def _read_anew(self, api: Api) -> list[BaseMessage]:
        conversation_id = await self._record.conversation_id(api)
        if conversation_id is None:
            return []
        before = self.hub.ledger.of(conversation_id)
        kept = await self._record.read(api)
        found = await self._messages(api, kept)
        if before.doubt is not None:  # it is for the next turn to say what became of that one
            known = before._replace(unclaimed=())
            self.hub.ledger.note_unless_changed(conversation_id, before, known)
            return found
        known = Known(exists=before.exists, empty=before.exists)
        if kept:
            proof = None
            with suppress(NotRepresentableError):  # what others wrote need not be what we can send
                proof = LocalList(found, to_entry, mapping.keys(found)).proof(kept[-1].stamp.at)
            known = Known(exists=True, head=kept[-1].stamp.item_ids[-1:], proof=proof)
        self.hub.ledger.note_unless_changed(conversation_id, before, known)
        return found

    async def _last(self, api: Api, count: int) -> list[BaseMessage]:
        if type(count) is not int or count < 1:
            raise UsageError(f"count is {count!r}; pass how many messages, 1 or more.")
        return await self._messages(api, await self._record.last(api, count))

    async def _get(self, api: Api, item_id: str) -> BaseMessage:
        return (await self._messages(api, [await self._found(api, item_id)]))[0]

    async def _found(self, api: Api, item_id: str) -> Kept:
        for kept in await self._record.read(api):
            if item_id in kept.stamp.item_ids:
                return kept
        raise ItemNotFoundError(Failure(f"The conversation holds no item {item_id!r}"))

    async def _delete_message(self, api: Api, item_id: str) -> None:
        found = await self._found(api, item_id)
        await self._record.remove(api, found.stamp.item_ids)
        await self._forget_overlays(api, found.stamp.item_ids)

    async def _clear(self, api: Api) -> None:
        await self._record.clear(api)  # first: who may not see the conversation forgets nothing
        await self._forget_overlays(api, None)

    async def _messages(self, api: Api, kept: Sequence[Kept]) -> list[BaseMessage]:
        """The messages that are kept, with what the overlay has of them."""
        overlays: dict[str, dict[str, Any]] = {}
        registry = self.hub.registry
        if isinstance(registry, Overlays) and kept:
            place = kept[0].stamp
            ids = [one.stamp.item_ids[0] for one in kept if one.stamp.item_ids]
            overlays = await api.ask(registry.overlays, place.base_url, place.conversation_id, ids)
        return [_message(one, overlays.get((one.stamp.item_ids or ("",))[0])) for one in kept]

    async def _forget_overlays(self, api: Api, item_ids: Sequence[str] | None) -> None:
        registry, conversation_id = self.hub.registry, await self._record.conversation_id(api)
        if isinstance(registry, Overlays) and conversation_id is not None:
            await api.ask(registry.forget_overlays, self.hub.base_url, conversation_id, item_ids)

    async def _add(self, api: Api, messages: Sequence[BaseMessage]) -> None:
        with self._mutex:
            if not self._open_beginnings()[1:]:  # of several, nobody can tell which has ended
                self._beginnings = []
        try:
            await self._write(api, [*messages])
        except _BrokenOffError as broken_off:
            # LangChain tells of the end of the run before it closes the model's stream, which holds
            # the conversation: to wait, or to raise, would keep that from being closed.
            self.last_error = broken_off.with_traceback(None)
            logger.warning("history %r: %s", self, broken_off)
            return
        except Exception as error:
            self.last_error = error
            logger.exception("history %r: writing failed", self)
            raise
        self.last_error = None

    async def _write(self, api: Api, messages: list[BaseMessage]) -> None:
        drafts = [self._draft(message) for message in messages]  # refuses before anything is sent
        entries = [to_entry(message) for message in messages]
        reports = self.reports.take_ended(lambda report: fit(report, entries))
        if any(report.is_open for report in reports):
            raise _BrokenOffError(
                "The run was broken off while its answer was streamed: nothing of it was added. "
                "What the service stores of it is in the history when that is next read."
            )
        new = [*range(len(messages))]
        conversation_id = await self._record.conversation_id(api)
        if conversation_id is not None:
            new = await unheld(api, self._record, conversation_id, entries, reports)
        lost = [_loss(message, draft) for message, draft in zip(messages, drafts, strict=True)]
        overlays = isinstance(self.hub.registry, Overlays)
        self._declare([lost[index] for index in new], is_kept=overlays)
        data = {}
        if new:
            written = [drafts[index] for index in new]
            # A conversation can be created with messages in it, but then nothing is told of them.
            ids = overlays or self._on_loss == "refuse" or any(is_system(entries[n]) for n in new)
            stored = await self._record.append(api, written, ids=ids)
            if stored:
                heads = self._record.firsts(stored, written)
                await self._compare_roles(api, heads, [messages[index] for index in new], lost, new)
                data = {head.id: lost[index] for head, index in zip(heads, new, strict=True)}
        if overlays:
            held = [index for index in range(len(messages)) if index not in new]
            data |= await self._held_ids(api, entries, lost, held)
            await self._keep(
                api, {item_id: one for item_id, one in data.items() if one and item_id}
            )

    async def _compare_roles(
        self,
        api: Api,
        heads: Sequence[Item],
        messages: Sequence[BaseMessage],
        lost: list[dict[str, Any]],
        places: Sequence[int],
    ) -> None:
        """Has what the service stored under another role counted as lost, or taken back."""
        changed = [
            (head, message, place)
            for head, message, place in zip(heads, messages, places, strict=True)
            if isinstance(head, Message)
            and (items := to_core(message))
            and isinstance(items[0], Message)
            and items[0].role != head.role
            and len(items) == 1
        ]
        for head, message, place in changed:
            back = Kept((replace(head, id=None),), _NOWHERE, {})
            lost[place] = {**loss(message, _message(back, None))}
        if not changed or isinstance(self.hub.registry, Overlays):
            return
        if self._on_loss == "refuse":
            await self._record.remove(api, [head.id for head in heads if head.id])
        self._declare([lost[place] for *_, place in changed], is_kept=False)

    async def _held_ids(
        self,
        api: Api,
        entries: Sequence[Entry],
        lost: Sequence[dict[str, Any]],
        held: Sequence[int],
    ) -> dict[str | None, dict[str, Any]]:
        """What is lost of messages that a turn has stored, by the ids of their items."""
        data: dict[str | None, dict[str, Any]] = {}
        unknown = []
        for index in held:
            stamp = entries[index].stamp
            if stamp and stamp.item_ids and stamp.said == entries[index].said:
                data[stamp.item_ids[0]] = lost[index]
            elif missed(lost[index]):
                unknown.append(index)
        if unknown:
            kept = [*reversed(await self._record.read(api))]
            for index in reversed(unknown):
                said = entries[index].said
                found = next((one for one in kept if one.stamp.said == said), None)
                if found is not None and found.stamp.item_ids:
                    data[found.stamp.item_ids[0]] = lost[index]
                    kept = kept[kept.index(found) + 1 :]
        return data

    def _draft(self, message: BaseMessage) -> Draft:
        items = to_core(message)
        if not items:
            raise NotRepresentableError(
                "An AIMessage says nothing, and no conversation takes an empty message: leave it "
                "out, or say something in it."
            )
        extra: dict[str, Any] = {}
        if isinstance(message, ToolMessage):
            extra = {"name": message.name} if message.name else {}
            extra |= {"status": message.status} if message.status != "success" else {}
        return Draft(items, extra)

    def _declare(self, lost: Any, *, is_kept: bool) -> None:
        """Says what will not come back, once; or refuses it."""
        fields = {name for one in lost for name in missed(one, is_kept=is_kept)}
        if fields and self._on_loss == "refuse":
            raise NotRepresentableError(
                f"The conversation cannot hold {', '.join(sorted(fields))} of a message: leave it "
                "out, or use a SqlRegistry, which keeps it, or on_loss='log'."
            )
        if new := sorted(fields - self._told_lost):
            self._told_lost.update(new)
            logger.warning("history %r: not kept of messages: %s", self, ", ".join(new))

    async def _keep(self, api: Api, data: Mapping[str, Mapping[str, Any]]) -> None:
        """Keeps in the overlay what would come back otherwise, by item id."""
        registry, conversation_id = self.hub.registry, await self._record.conversation_id(api)
        if isinstance(registry, Overlays) and data and conversation_id:
            await api.ask(registry.overlay, self.hub.base_url, conversation_id, data)


class ReadInRun(list[BaseMessage]):
    """What a run of `RunnableWithMessageHistory` reads: what its first reading found.

    LangChain reads at the beginning of a run and, in list mode, at its end, to tell the new
    messages by the number of the old ones. It copies only what it reads at the beginning.
    """

    def __init__(
        self,
        history: QwenConvChatMessageHistory,
        found: Sequence[BaseMessage],
        fresh: Sequence[BaseMessage],
    ) -> None:
        super().__init__(found)
        self._history = history
        self._fresh = fresh

    def copy(self) -> list[BaseMessage]:
        """What is there now, as the first reading of a new run."""
        return self._history.begin_run(self._fresh)


class Beginning(list[BaseMessage]):
    """What a run begins with. LangChain adds the input to it, and holds it as long as it runs."""

    def __init__(self, found: Sequence[BaseMessage]) -> None:
        super().__init__(found)
        self.found = tuple(found)


_NOWHERE = Stamp("", "", None, (), 0.0)


def _message(kept: Kept, overlay: Mapping[str, Any] | None) -> BaseMessage:
    message = from_stored(kept.items)
    if isinstance(message, ToolMessage):
        message.name = kept.extra.get("name")
        message.status = kept.extra.get("status", "success")
    stamp = kept.stamp
    if len(kept.items) > 1:
        stamp = stamp._replace(said=fingerprints(as_held(kept.items)))
    message.id = message.id or next(iter(stamp.item_ids), None)
    message.response_metadata = {STAMP: stamp.to_dict()}
    return restored(message, overlay) if overlay else message


def _loss(message: BaseMessage, draft: Draft) -> dict[str, Any]:
    return loss(message, _message(Kept(draft.items, _NOWHERE, draft.extra or {}), None))
