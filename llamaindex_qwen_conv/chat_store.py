"""`QwenConvChatStore` and `QwenConvAsyncChatStore`: conversations as LlamaIndex's chat stores."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Self, TypeVar, cast

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.bridge.pydantic import (
    Field,
    PrivateAttr,
    field_serializer,
    model_validator,
)
from llama_index.core.storage.chat_store.base import BaseChatStore
from llama_index.core.storage.chat_store.base_db import AsyncDBChatStore, MessageStatus
from llama_index.core.storage.chat_store.loading import RECOGNIZED_CHAT_STORES

from llamaindex_qwen_conv.on_hub import OnHub
from llamaindex_qwen_conv.references import FORM, referring
from qwen_conv.api import Api
from qwen_conv.errors import ConversationBusyError, ConversationNotFoundError, UsageError
from qwen_conv.held import Held
from qwen_conv.limits import (
    ITEM_LIFETIME,
    checked_conversation_id,
    checked_text,
    is_conversation_id,
)
from qwen_conv.mirror import Mirror
from qwen_conv.mirrors import PATIENCE
from qwen_conv.reflection import Freshness

T = TypeVar("T")

Arranged = tuple[list[ChatMessage], list[ChatMessage]]
"""A key's messages in order: those that are archived, and those that are active."""

_ALL = slice(None)


class OnConversations(OnHub):
    """What both kinds of stores do, each said once, for threads and tasks."""

    freshness: Freshness = "owned"
    """When it is looked for what others wrote, in other processes or on other hubs: never, as this
    hub holds its sessions ("owned"); once a turn ("turn"); or when the last look is so many seconds
    old."""

    stage_timeout: float = PATIENCE
    """Seconds that a message waits for a turn of an LLM on the same hub to take it."""

    sessions: dict[str, str] = Field(default_factory=dict)
    """Conversations of sessions, by key. A dump tells those of the sessions that the store was used
    for, so that a store that is restored finds them where its registry does not know them."""

    _used: dict[str, None] = PrivateAttr(default_factory=dict)
    """The keys that the store was used for, the first one first."""

    @model_validator(mode="after")
    def _check_and_bind(self) -> Self:
        if isinstance(self.freshness, float) and not 0 <= self.freshness < math.inf:
            raise UsageError(
                f"freshness is {self.freshness!r}; it is 'owned', 'turn', or a number of seconds."
            )
        if not 0 <= self.stage_timeout <= ITEM_LIFETIME:
            raise UsageError(
                f"stage_timeout is {self.stage_timeout!r}; pass a number of seconds, from 0 to the "
                f"{ITEM_LIFETIME} that the service keeps a message."
            )
        for key, conversation_id in self.sessions.items():
            self._mirror(key)
            checked_conversation_id(conversation_id)
            if is_conversation_id(key):
                raise UsageError(f"sessions: {key!r} is a conversation, and no session of one.")
            self._hub.registry.bind(self._hub.session(key), conversation_id)
        return self

    @field_serializer("sessions")
    def _dump_sessions(self, _: Mapping[str, str]) -> dict[str, str]:
        return self._bound()

    def __getstate__(self) -> dict[Any, Any]:
        """What is pickled: what a dump has."""
        state = super().__getstate__()
        state["__dict__"]["sessions"] = self._bound()
        return state

    def _bound(self) -> dict[str, str]:
        """The conversations of the keys that the store was used for."""
        found: dict[str, str] = {}
        for key in [*self._used]:
            if (mirror := self._hub.mirrors.find(key)) is not None:
                # What waits is not in a dump, and has to be found; an open turn takes it along.
                with suppress(ConversationBusyError):
                    self._hub.run(mirror.flush)
                    self._hub.run(mirror.keep)
            row = self._hub.registry.get(self._hub.session(key))
            if row is not None:
                found[key] = row.conversation_id
        return found

    @classmethod
    def class_name(cls) -> str:
        """The name under which the store is dumped and restored."""
        return cls.__name__

    def flush(self) -> None:
        """Writes what waits for a turn.

        Raises:
            QwenConvError: Something could not be written; it still waits.
        """
        self._hub.mirrors.flush()

    def close(self) -> None:
        """Writes what waits for a turn, and closes the hub's connections.

        Raises:
            QwenConvError: Something could not be written; nothing is closed then.
        """
        self._hub.close()

    def _keys(self) -> list[str]:
        return self._hub.mirrors.keys()

    def _mirror(self, key: str) -> Mirror:
        if not isinstance(key, str) or not key:
            raise UsageError(f"The key is {key!r}: pass a text that is not empty.")
        mirror = self._hub.mirrors.of(checked_text(key, "the key"), FORM)
        self._used.setdefault(key)
        return mirror

    @property
    def _patience(self) -> float | None:
        return self.stage_timeout if self._hub.mirrors.turns_expected else None

    def _run(self, flow: Callable[..., Coroutine[Any, Any, T]], key: str, *args: Any) -> T:
        mirror = self._mirror(key)
        try:
            return self._hub.run(flow, mirror, *args)
        finally:
            self._hub.mirrors.watch(key)

    async def _arun(self, flow: Callable[..., Coroutine[Any, Any, T]], key: str, *args: Any) -> T:
        mirror = self._mirror(key)
        try:
            # LlamaIndex calls from one event loop after the other: no connection may belong to one.
            return await flow(self._hub.threaded(), mirror, *args)
        finally:
            self._hub.mirrors.watch(key)

    async def _held(
        self, api: Api, mirror: Mirror, status: MessageStatus | None = None
    ) -> list[Held]:
        return _of(await mirror.read(api, self.freshness), status)

    async def _get(
        self,
        api: Api,
        mirror: Mirror,
        status: MessageStatus | None = None,
        part: slice = _ALL,
    ) -> list[ChatMessage]:
        return _copies((await self._held(api, mirror, status))[part])

    async def _put(
        self,
        api: Api,
        mirror: Mirror,
        messages: Sequence[ChatMessage],
        status: MessageStatus = MessageStatus.ACTIVE,
    ) -> None:
        messages = _checked_messages(messages)
        archived = status == MessageStatus.ARCHIVED

        def before_active(held: Sequence[Held]) -> Arranged:
            there, active = _parted(held)
            return [*there, *messages], active

        if archived and await self._held(api, mirror, MessageStatus.ACTIVE):
            await mirror.set(api, messages, before_active, patience=self._patience)
        elif messages:
            await mirror.put(api, messages, patience=self._patience, archived=archived)

    async def _set(self, api: Api, mirror: Mirror, messages: Sequence[ChatMessage]) -> None:
        await self._replace(api, mirror, (), messages)

    async def _replace(
        self,
        api: Api,
        mirror: Mirror,
        archived: Sequence[ChatMessage],
        active: Sequence[ChatMessage],
    ) -> None:
        archived, active = _checked_messages(archived), _checked_messages(active)
        await mirror.set(
            api, [*archived, *active], lambda _: (archived, active), patience=self._patience
        )

    async def _insert(self, api: Api, mirror: Mirror, message: ChatMessage, index: int) -> None:
        index = _checked_index(index)
        (message,) = _checked_messages([message])

        def inserted(held: Sequence[Held]) -> Arranged:
            archived, active = _parted(held)
            place, _, _ = slice(index, None).indices(len(held))
            if place < len(archived):
                archived.insert(place, message)
            else:
                active.insert(place - len(archived), message)
            return archived, active

        await self._held(api, mirror)
        await mirror.set(api, [message], inserted, patience=self._patience)

    async def _delete_at(self, api: Api, mirror: Mirror, index: int) -> ChatMessage | None:
        index = _checked_index(index)

        def there(held: Sequence[Held]) -> Sequence[Held]:
            return [held[index]] if -len(held) <= index < len(held) else []

        await self._held(api, mirror)
        gone = await mirror.remove(api, there)
        return FORM.copied(gone[0].message) if gone else None

    async def _delete_all(self, api: Api, mirror: Mirror) -> list[ChatMessage] | None:
        try:
            held = await self._held(api, mirror)
        except ConversationNotFoundError:
            held = []  # what is left of a session is its key
        if not (held or await mirror.exists(api)):
            return None
        await mirror.clear(api)
        return [FORM.copied(each.message) for each in held]

    async def _delete_status(self, api: Api, mirror: Mirror, status: MessageStatus) -> None:
        await self._held(api, mirror)
        await mirror.remove(api, lambda held: _of(held, status))

    async def _delete_oldest(self, api: Api, mirror: Mirror, count: int) -> list[ChatMessage]:
        await self._held(api, mirror)
        gone = await mirror.remove(api, lambda held: _of(held, MessageStatus.ACTIVE)[:count])
        return [FORM.copied(each.message) for each in gone]

    async def _archive_oldest(self, api: Api, mirror: Mirror, count: int) -> list[ChatMessage]:
        held = (await self._held(api, mirror, MessageStatus.ACTIVE))[:count]
        mirror.archive(held)
        return _copies(held)


def _of(held: Sequence[Held], status: MessageStatus | None) -> list[Held]:
    """Those of that status; all of them if it is `None`."""
    archived = status == MessageStatus.ARCHIVED
    return [each for each in held if status is None or each.archived == archived]


def _parted(held: Sequence[Held]) -> Arranged:
    """Copies of those that are archived, and of those that are active."""
    return (
        _copies(_of(held, MessageStatus.ARCHIVED)),
        _copies(_of(held, MessageStatus.ACTIVE)),
    )


def _copies(held: Sequence[Held]) -> list[ChatMessage]:
    """Copies to hand out, which say what they were read from."""
    return [referring(FORM.copied(each.message), each) for each in held]


def _checked_messages(messages: Iterable[ChatMessage]) -> list[ChatMessage]:
    if isinstance(messages, ChatMessage) or not isinstance(messages, Iterable):
        raise UsageError(f"messages is a {type(messages).__name__}: pass a list of ChatMessages.")
    found = [*messages]
    for one in found:
        if not isinstance(one, ChatMessage):
            raise UsageError(f"A message is a {type(one).__name__}: pass a ChatMessage.")
    return found


def _checked_index(index: int) -> int:
    if type(index) is not int:
        raise UsageError(f"idx is {index!r}; pass a message's place, counted from 0.")
    return index


def _checked_count(count: int, name: str = "n") -> int:
    if type(count) is not int or count < 0:
        raise UsageError(f"{name} is {count!r}; pass a number of messages, 0 or more.")
    return count


def _checked_filter(status: MessageStatus | None) -> MessageStatus | None:
    return None if status is None else _checked_status(status)


def _checked_status(status: MessageStatus) -> MessageStatus:
    """The status, also where it is given as a text."""
    try:
        return MessageStatus(status)
    except ValueError:
        raise UsageError(
            f"status is {status!r}; it is MessageStatus.ACTIVE or MessageStatus.ARCHIVED."
        ) from None


class QwenConvChatStore(OnConversations, BaseChatStore):
    """Conversations as a LlamaIndex `BaseChatStore`: a key is a session, or a `conv_...`.

    Alone, it writes every message when it is added. On a hub that it shares with a `QwenConv`, a
    turn of that LLM writes what it sends, once:

    ```python
    hub = QwenConversations()
    llm = QwenConv(model="qwen3.6-plus", conversations=hub)
    buffer = ChatMemoryBuffer.from_defaults(
        chat_store=QwenConvChatStore(conversations=hub), chat_store_key="alice"
    )
    engine = SimpleChatEngine.from_defaults(llm=llm, memory=buffer)
    ```

    Messages are copied in and out, in the order in which they were added. A key is a session of the
    hub's registry, or the id of a conversation.

    Every method raises `UsageError` for what cannot be, and `ConversationNotFoundError` where it
    finds that the key's conversation is not there any more; for a session, `delete_messages`, or
    `hub.forget_session(key)`, lets the key begin anew. Every method that adds messages raises
    `NotRepresentableError` for one that no conversation can hold; nothing was sent then.
    """

    # --- For threads --------------------------------------------------------------------------

    def set_messages(self, key: str, messages: list[ChatMessage]) -> None:
        """Has the key hold these messages and no others; rewrites only what differs."""
        self._run(self._set, key, messages)

    def get_messages(self, key: str, **_: Any) -> list[ChatMessage]:
        """The key's messages, oldest first; none if there is no such key."""
        return self._run(self._get, key)

    def add_message(self, key: str, message: ChatMessage, idx: int | None = None) -> None:
        """Adds a message at the end; or at `idx`, for which all behind is written anew."""
        if idx is None:
            self._run(self._put, key, [message])
        else:
            self._run(self._insert, key, message, idx)

    def delete_messages(self, key: str) -> list[ChatMessage] | None:
        """Deletes the key, and its conversation with all that it holds.

        A conversation that is named by its id is emptied, and stays.

        Returns:
            The messages; `None` if there was no such key.
        """
        return self._run(self._delete_all, key)

    def delete_message(self, key: str, idx: int) -> ChatMessage | None:
        """Deletes the message at that place, counted from the end if negative.

        Returns:
            The message; `None` if there was none.
        """
        return self._run(self._delete_at, key, idx)

    def delete_last_message(self, key: str) -> ChatMessage | None:
        """Deletes the last message; returns it, or `None` if there was none."""
        return self._run(self._delete_at, key, -1)

    def get_keys(self) -> list[str]:
        """Every key, the first one first; one that was emptied is still there."""
        return self._keys()

    # --- For tasks ----------------------------------------------------------------------------

    async def aset_messages(self, key: str, messages: list[ChatMessage]) -> None:
        """`set_messages`, leaving the event loop free."""
        await self._arun(self._set, key, messages)

    async def aget_messages(self, key: str, **_: Any) -> list[ChatMessage]:
        """`get_messages`, leaving the event loop free."""
        return await self._arun(self._get, key)

    async def async_add_message(
        self, key: str, message: ChatMessage, idx: int | None = None
    ) -> None:
        """`add_message`, leaving the event loop free."""
        if idx is None:
            await self._arun(self._put, key, [message])
        else:
            await self._arun(self._insert, key, message, idx)

    async def adelete_messages(self, key: str) -> list[ChatMessage] | None:
        """`delete_messages`, leaving the event loop free."""
        return await self._arun(self._delete_all, key)

    async def adelete_message(self, key: str, idx: int) -> ChatMessage | None:
        """`delete_message`, leaving the event loop free."""
        return await self._arun(self._delete_at, key, idx)

    async def adelete_last_message(self, key: str) -> ChatMessage | None:
        """`delete_last_message`, leaving the event loop free."""
        return await self._arun(self._delete_at, key, -1)


class QwenConvAsyncChatStore(OnConversations, AsyncDBChatStore):
    """Conversations as a LlamaIndex `AsyncDBChatStore`, which is what `Memory` takes.

    ```python
    hub = QwenConversations()
    llm = QwenConv(model="qwen3.6-plus", conversations=hub)
    memory = Memory.from_defaults(
        session_id="alice", chat_store=QwenConvAsyncChatStore(conversations=hub)
    )
    engine = SimpleChatEngine.from_defaults(llm=llm, memory=memory)
    ```

    What is archived stands before what is active; it stays in the conversation, where the model is
    still shown it. See `QwenConvChatStore` for keys, copies, and what is raised.
    """

    async def get_messages(
        self,
        key: str,
        status: MessageStatus | None = MessageStatus.ACTIVE,
        limit: int | None = None,
        offset: int | None = None,
    ) -> list[ChatMessage]:
        """The key's messages of that status (`None`: all), oldest first.

        Args:
            key: The key.
            status: Which of them.
            limit: How many at most.
            offset: How many to pass over.
        """
        start = 0 if offset is None else _checked_count(offset, "offset")
        stop = None if limit is None else start + _checked_count(limit, "limit")
        return await self._arun(self._get, key, _checked_filter(status), slice(start, stop))

    async def count_messages(
        self, key: str, status: MessageStatus | None = MessageStatus.ACTIVE
    ) -> int:
        """How many messages of that status the key has (`None`: of either)."""
        return len(await self._arun(self._held, key, _checked_filter(status)))

    async def add_message(
        self, key: str, message: ChatMessage, status: MessageStatus = MessageStatus.ACTIVE
    ) -> None:
        """Adds a message at the end."""
        await self._arun(self._put, key, [message], _checked_status(status))

    async def add_messages(
        self,
        key: str,
        messages: list[ChatMessage],
        status: MessageStatus = MessageStatus.ACTIVE,
    ) -> None:
        """Adds messages at the end, in order."""
        await self._arun(self._put, key, messages, _checked_status(status))

    async def set_messages(
        self,
        key: str,
        messages: list[ChatMessage],
        status: MessageStatus = MessageStatus.ACTIVE,
    ) -> None:
        """Has the key hold these messages and no others; rewrites only what differs."""
        if _checked_status(status) == MessageStatus.ARCHIVED:
            await self._arun(self._replace, key, messages, ())
        else:
            await self._arun(self._replace, key, (), messages)

    async def delete_message(self, key: str, idx: int) -> ChatMessage | None:
        """Deletes the message at that place among all, counted from the end if negative.

        LlamaIndex's own stores do not agree on what `idx` is: its SQL store takes the number of a
        row in a table, which nobody is told.

        Returns:
            The message; `None` if there was none.
        """
        return await self._arun(self._delete_at, key, idx)

    async def delete_messages(self, key: str, status: MessageStatus | None = None) -> None:
        """Deletes the messages of that status; with `None` the key and its conversation.

        A conversation that is named by its id is emptied, and stays.
        """
        if status is None:
            await self._arun(self._delete_all, key)
        else:
            await self._arun(self._delete_status, key, _checked_status(status))

    async def delete_oldest_messages(self, key: str, n: int) -> list[ChatMessage]:
        """Deletes the oldest `n` active messages; returns them, oldest first."""
        return await self._arun(self._delete_oldest, key, _checked_count(n))

    async def archive_oldest_messages(self, key: str, n: int) -> list[ChatMessage]:
        """Archives the oldest `n` active messages; returns them, oldest first."""
        return await self._arun(self._archive_oldest, key, _checked_count(n))

    async def get_keys(self) -> list[str]:
        """Every key, the first one first; one that was emptied is still there."""
        return await self._hub.threaded().ask(self._keys)


# LlamaIndex restores memories and contexts with the stores of this table, and with no others. It is
# typed as if there were only LlamaIndex's own.
_RECOGNIZED = cast("dict[str, type[BaseChatStore]]", RECOGNIZED_CHAT_STORES)
_RECOGNIZED[QwenConvChatStore.class_name()] = QwenConvChatStore
