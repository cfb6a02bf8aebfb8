"""The hub: what models, histories and stores of one application share.

It has the key, the clients, the registry of sessions, the locks, and the ledger: what this
process saw each conversation take.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, suppress
from hashlib import blake2b
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Literal,
    Never,
    ParamSpec,
    Self,
    TypeVar,
    get_args,
)

from pydantic import SecretStr

from qwen_conv.api import Api, AsyncApi, SyncApi, ThreadedApi, finish
from qwen_conv.errors import MissingKeyError, UsageError
from qwen_conv.guards import OwnLocks
from qwen_conv.leases import Heartbeat, Tenure
from qwen_conv.ledger import PROCESS_LEDGERS
from qwen_conv.limits import (
    checked_base_url,
    checked_conversation_id,
    checked_seconds,
    is_conversation_id,
)
from qwen_conv.locks import PROCESS_LOCKS, Guard
from qwen_conv.registry import (
    PROCESS_REGISTRY,
    Leases,
    MemoryRegistry,
    Registry,
    Session,
    Traces,
)

if TYPE_CHECKING:
    import openai

    from qwen_conv.erasing import Erased
    from qwen_conv.mirrors import Mirrors
    from qwen_conv.settling import State

P = ParamSpec("P")
T = TypeVar("T")

OnDoubt = Literal["raise", "resend"]
"""What to do about a turn whose outcome cannot be found out."""

REGIONS: Mapping[str, str] = {
    "ap-southeast-1": "https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
    "cn-beijing": "https://dashscope.aliyuncs.com/compatible-mode/v1",
}
"""The regions whose Conversations API is documented (help.aliyun.com, "OpenAI compatible -
Conversations"; read 2026-11-20), and their base URLs. docs.qwencloud.com, "Conversations", still
names `https://dashscope-intl.aliyuncs.com/api/v2/apps/protocols/compatible-mode/v1`."""

DEFAULT_REGION = "ap-southeast-1"


class QwenConversations:
    """The hub of one account at one base URL. Safe to share between threads and event loops.

    A conversation takes one turn at a time. Threads and tasks of a process wait for each other in
    the order in which they asked. So do processes that share a `SqlRegistry`: it knows whose turn
    it is, by a lease that is renewed for as long as the turn takes, and that runs out if the
    process is killed. Instead of that, a lock of your own can keep others out:

    ```python
    client = redis.Redis()  # or redis.asyncio.Redis(), for async_lock


    def lock(conversation_id):
        return client.lock(conversation_id, timeout=900, thread_local=False)


    hub = QwenConversations(lock=lock)
    ```

    Its timeout must be longer than a turn takes. What the lock raises when it is entered, the turn
    raises, and nothing was sent.

    Args:
        api_key: The key; by default the one in DASHSCOPE_API_KEY.
        base_url: The service; by default DASHSCOPE_BASE_URL, or the region's.
        region: "ap-southeast-1" (Singapore, the default) or "cn-beijing".
        registry: Which conversation a session is; by default one that lasts as long as the
            process.
        namespace: Keeps applications apart that share a registry.
        timeout: Seconds to wait for an answer; by default the SDK's 600.
        max_retries: How often a request is sent again that may be sent twice, and a turn that
            certainly is not in its conversation; by default the SDK's 2.
        default_headers: Sent with every request.
        client: A ready `openai.OpenAI` to use instead of one of our own.
        async_client: A ready `openai.AsyncOpenAI`; it serves the event loop it was made for.
        settle_timeout: Seconds to look again and again for a turn whose reply did not come:
            services store turns late. SMG 1.13.0 stores one whose client has left its stream when
            the model has ended (measured 2026-11-25).
        on_doubt: What to do about a turn that is not found by then: raise `UndecidedError`
            ("raise"), or send it again, which may store it twice ("resend").
        allow_plain_http: Allows a base URL that is neither https nor on this machine.
        clock: Seconds since 1970.
        lock: Makes of a conversation's id a context manager that keeps others out of the
            conversation; it is entered before each turn and each change of items, by whoever has
            this process's own turn, and left afterwards, maybe by another thread, and without an
            error even if there was one. Then the registry's leases are not used.
        async_lock: The same with asynchronous context managers, for tasks; each is left in the
            event loop it was entered in. Stores write from threads too: they need both.
        lease_seconds: How long a process may stand still before others take its conversations
            over; also how long they wait for one that was killed.

    Raises:
        MissingKeyError: There is no key.
        UsageError: The region is unknown, the base URL cannot be used, or a setting is out of its
            range.
    """

    def __init__(
        self,
        *,
        api_key: SecretStr | str | None = None,
        base_url: str | None = None,
        region: str | None = None,
        registry: Registry | None = None,
        namespace: str = "default",
        timeout: float | None = None,
        max_retries: int | None = None,
        default_headers: Mapping[str, str] | None = None,
        client: openai.OpenAI | None = None,
        async_client: openai.AsyncOpenAI | None = None,
        settle_timeout: float = 5.0,
        on_doubt: OnDoubt = "raise",
        allow_plain_http: bool = False,
        clock: Callable[[], float] = time.time,
        lock: Callable[[str], AbstractContextManager[Any]] | None = None,
        async_lock: Callable[[str], AbstractAsyncContextManager[Any]] | None = None,
        lease_seconds: float = 30.0,
    ) -> None:
        ready = client or async_client
        if ready is not None and base_url is None and region is None:
            base_url = str(ready.base_url)
        self.base_url = checked_base_url(
            _base_url(base_url, region).strip(), allow_plain_http=allow_plain_http
        )
        self.api_key = _key(api_key, ready)
        self.registry = registry if registry is not None else PROCESS_REGISTRY
        self.namespace = namespace
        self.timeout = timeout
        self.max_retries = max_retries
        self.settle_timeout = checked_seconds(settle_timeout, "settle_timeout")
        if on_doubt not in get_args(OnDoubt):
            raise UsageError(f"on_doubt is {on_doubt!r}; it is 'raise' or 'resend'.")
        self.on_doubt = on_doubt
        self.default_headers = dict(default_headers or {})
        self.clock = clock
        self.locks = PROCESS_LOCKS
        self.ledger = PROCESS_LEDGERS.of(self.base_url, self.account)
        if not checked_seconds(lease_seconds, "lease_seconds"):
            raise UsageError("lease_seconds is 0; it must be more.")
        self._heartbeat = Heartbeat(lease_seconds)
        self._own_locks = OwnLocks(lock, async_lock) if lock or async_lock else None
        self.shared = True
        """Whether somebody asked for this hub; a model that makes its own says no."""
        self._mutex = threading.Lock()
        self._client = self._ready_client = client
        self._async_client = async_client
        self._of_loops: dict[asyncio.AbstractEventLoop, _OfLoop] = {}
        self._mirrors: Mirrors | None = None

    @classmethod
    def of(cls, conversations: QwenConversations | None, **settings: Any) -> QwenConversations:
        """The hub that was passed, or one made from the settings that were passed instead.

        Raises:
            UsageError: The settings cannot work, or the hub says otherwise.
        """
        if conversations is not None:
            conversations.check_agrees(**settings)
            return conversations
        made = cls(**settings)
        made.shared = "registry" in settings
        return made

    def check_agrees(
        self,
        *,
        api_key: SecretStr | None = None,
        base_url: str | None = None,
        region: str | None = None,
        registry: Registry | None = None,
        namespace: str | None = None,
        default_headers: Mapping[str, str] | None = None,
        client: openai.OpenAI | None = None,
        async_client: openai.AsyncOpenAI | None = None,
    ) -> None:
        """Checks settings that were given beside the hub.

        Raises:
            UsageError: The hub says otherwise.
        """
        disagree = {
            "api_key": api_key is not None and api_key != self.api_key,
            "base_url": base_url is not None and base_url.rstrip("/") != self.base_url,
            "region": region is not None and REGIONS.get(region) != self.base_url,
            "registry": registry is not None and registry is not self.registry,
            "namespace": namespace is not None and namespace != self.namespace,
            "default_headers": (
                default_headers is not None and dict(default_headers) != self.default_headers
            ),
            "client": client is not None and client is not self._ready_client,
            "async_client": async_client is not None and async_client is not self._async_client,
        }
        if wrong := [name for name, differs in disagree.items() if differs]:
            raise UsageError(
                f"{' and '.join(wrong)}: the hub that was passed as conversations says otherwise. "
                "Pass the setting to the hub."
            )

    def __copy__(self) -> Self:
        return self  # what is shared stays shared

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> Never:
        raise TypeError(
            "A QwenConversations, and a model or a history that has one, cannot be pickled: it "
            "holds a key and open connections. Make one in the process that uses it; a SqlRegistry "
            "lets both find the same sessions."
        )

    def __repr__(self) -> str:
        return f"QwenConversations(base_url={self.base_url!r}, namespace={self.namespace!r})"

    @property
    def secret(self) -> str:
        """The key in clear; for the Authorization header only."""
        secret: str = self.api_key.get_secret_value()
        return secret

    @property
    def account(self) -> str:
        """A fingerprint of the key, to tell accounts apart; the key cannot be told from it."""
        return blake2b(self.secret.encode(), digest_size=8, person=b"qwen-conv").hexdigest()

    @property
    def registry_blocks(self) -> bool:
        """Whether asking the registry may take long enough to hold up an event loop."""
        return not isinstance(self.registry, MemoryRegistry)

    def guard(self, name: str, *, tasks: bool) -> Guard | None:
        """What keeps other processes out of a conversation, if anything does.

        Args:
            name: The conversation's id; nothing else is guarded.
            tasks: Whether a task is to have the conversation, and not a thread.

        Raises:
            UsageError: The hub was given a lock of the user's for the other way of calling only.
        """
        registry = self.registry
        if self._own_locks is None and isinstance(registry, MemoryRegistry):
            return None
        if self._own_locks is not None:
            own_lock = self._own_locks.of(tasks=tasks)
            return own_lock(name) if is_conversation_id(name) else None
        if isinstance(registry, Leases) and is_conversation_id(name):
            return Tenure(self, registry, self.locks.tenant, self._heartbeat, name)
        return None

    @property
    def traces(self) -> Traces:
        """Where is noted what has to be erased with a session: in the registry, if it does that."""
        registry = self.registry
        if isinstance(registry, MemoryRegistry):  # asked first: that is quicker, and most are one
            return registry
        return registry if isinstance(registry, Traces) else PROCESS_REGISTRY

    def session(self, key: str) -> Session:
        """What names the session of that key here."""
        return Session(self.namespace, key, self.base_url, self.account)

    def forget_session(self, key: str) -> None:
        """Unbinds a session from its conversation, which stays where it is.

        The next turn of the session begins a new conversation. `erase_session` does not find the
        old one any more.
        """
        self.registry.unbind(self.session(key))
        if self._mirrors is not None:
            self._mirrors.forget(key)

    def settle(self, conversation_id: str) -> State | None:
        """Looks what became of the turn whose outcome is not known, for up to `settle_timeout`.

        Returns:
            `None`: there is no such turn. "nothing": the conversation does not hold it; it is
            forgotten, and may be taken again. "answered": it is there with its answer, which
            whoever takes the same turn again is given. "unanswered": only what it sent is there;
            the same turn taken again has it be answered. In the last two cases a list of messages
            that goes on without the turn has it be taken out of the conversation, and nothing but
            new messages go on behind it.

        Raises:
            ConversationNotFoundError: The conversation is not there.
            ServiceError: The service cannot be asked.
            NoReplyError: The service cannot be asked.
        """
        from qwen_conv import settling

        return self.run(settling.settle, checked_conversation_id(conversation_id))

    async def asettle(self, conversation_id: str) -> State | None:
        """Does what `settle` does, in a task."""
        from qwen_conv import settling

        return await self.arun(settling.settle, checked_conversation_id(conversation_id))

    def erase_session(self, key: str) -> Erased:
        """Deletes all that is known of a session, and says what could not be deleted.

        See `qwen_conv.erasing.erase`, which also takes a conversation by its id.

        ```python
        erased = hub.erase_session("alice")
        for left in erased.left:
            print(left.kind, left.id, left.error)
        ```
        """
        from qwen_conv.erasing import erase

        return self.run(erase, session=key)

    async def aerase_session(self, key: str) -> Erased:
        """`erase_session`, leaving the event loop free."""
        from qwen_conv.erasing import erase

        return await self.arun(erase, session=key)

    @property
    def mirrors(self) -> Mirrors:
        """What stores hold of the conversations behind their keys."""
        if self._mirrors is None:
            from qwen_conv.mirrors import Mirrors

            with self._mutex:
                self._mirrors = self._mirrors or Mirrors(self)
        return self._mirrors

    def sync(self, timeout: float | None = None, max_retries: int | None = None) -> SyncApi:
        """The api for threads; `timeout` and `max_retries` differ from the hub's if given."""
        with self._mutex:
            if self._client is None:
                self._client = self._made("connect")
        return SyncApi(self, self._client, *self._limits(timeout, max_retries))

    def tasks(self, timeout: float | None = None, max_retries: int | None = None) -> AsyncApi:
        """The api for tasks of the running event loop.

        A client belongs to one loop, so each loop has its own, closed when the loop is wound up.
        """
        client = self._async_client or self._client_of(asyncio.get_running_loop())
        return AsyncApi(self, client, *self._limits(timeout, max_retries))

    def threaded(self) -> ThreadedApi:
        """The api for tasks of any event loop, with the connections of threads."""
        return ThreadedApi(self)

    def run(
        self,
        flow: Callable[Concatenate[Api, P], Coroutine[Any, Any, T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Runs a flow (see `qwen_conv.flows`) in this thread: `hub.run(flows.read, id)`."""
        return finish(flow(self.sync(), *args, **kwargs))

    async def arun(
        self,
        flow: Callable[Concatenate[Api, P], Coroutine[Any, Any, T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Runs a flow in this task: `await hub.arun(flows.read, id)`."""
        return await flow(self.tasks(), *args, **kwargs)

    def close(self) -> None:
        """Writes what waits in stores, and closes the connections of threads.

        A client that was passed in stays open.

        Raises:
            QwenConvError: Something could not be written; nothing is closed then.
        """
        if self._mirrors is not None:
            self._mirrors.flush()
        with self._mutex:
            client, self._client = self._client, self._ready_client
        if client is not None and client is not self._ready_client:
            client.close()

    async def aclose(self) -> None:
        """Does what `close` does, and closes the connections of the running event loop."""
        await asyncio.to_thread(self.close)
        with self._mutex:
            mine = self._of_loops.pop(asyncio.get_running_loop(), None)
        if mine is not None:
            await mine.closing.aclose()

    def _limits(
        self, timeout: float | None, max_retries: int | None
    ) -> tuple[float | None, int | None]:
        return (
            self.timeout if timeout is None else timeout,
            self.max_retries if max_retries is None else max_retries,
        )

    def _client_of(self, loop: asyncio.AbstractEventLoop) -> Any:
        with self._mutex:
            found = self._of_loops.get(loop)
            if found is None:
                for other in [one for one in self._of_loops if one.is_closed()]:
                    del self._of_loops[other]
                found = self._of_loops[loop] = _OfLoop(self._made("connect_async"))
        return found.client

    def _made(self, how: str) -> Any:
        """A client of our own."""
        if self._ready_client or self._async_client:
            missing = "client" if how == "connect" else "async_client"
            raise UsageError(
                f"The hub was given a ready client for the other way of calling: pass {missing} "
                "too, so that both go the way you chose."
            )
        from qwen_conv import client

        return getattr(client, how)(self.secret, self.base_url, self.default_headers)


class _OfLoop:
    """A client for the tasks of one event loop, which is closed when the loop comes to its end.

    A loop that is wound up, as `asyncio.run` does it, closes the asynchronous generators that were
    begun in it. So the client is closed by one that is begun here and waits.
    """

    def __init__(self, client: openai.AsyncOpenAI) -> None:
        self.client = client
        self.closing = _closed_at_the_end(client)
        with suppress(StopIteration):
            self.closing.__anext__().send(None)


async def _closed_at_the_end(client: openai.AsyncOpenAI) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await client.close()


def _base_url(base_url: str | None, region: str | None) -> str:
    if region is None:
        return base_url or os.environ.get("DASHSCOPE_BASE_URL") or REGIONS[DEFAULT_REGION]
    if region not in REGIONS:
        raise UsageError(
            f"{region!r} is no region of the Conversations API; there are "
            f"{' and '.join(map(repr, REGIONS))}. Another address goes in base_url."
        )
    if base_url is not None and base_url.rstrip("/") != REGIONS[region]:
        raise UsageError(f"base_url is not the address of region {region!r}: pass one of the two.")
    return REGIONS[region]


def _key(
    given: SecretStr | str | None, ready: openai.OpenAI | openai.AsyncOpenAI | None
) -> SecretStr:
    if isinstance(given, SecretStr):
        given = given.get_secret_value()
    if given is None:
        given = ready.api_key if ready else os.environ.get("DASHSCOPE_API_KEY", "")
    key = given.strip()  # a line break that came along with the key is no part of it
    if not key:
        raise MissingKeyError(
            "No API key: set DASHSCOPE_API_KEY, or pass api_key. Keys are made in the Model "
            "Studio console, in the region they are used in."
        )
    if not re.fullmatch(r"[!-~]+", key):
        raise UsageError(
            "The API key holds a character that no key has (a blank, a line break, or anything "
            "but ASCII): copy it anew, in full."
        )
    return SecretStr(key)
