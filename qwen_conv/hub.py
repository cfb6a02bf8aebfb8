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
from contextlib import suppress
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Concatenate, Never, ParamSpec, Self, TypeVar

from pydantic import SecretStr

from qwen_conv.api import Api, AsyncApi, SyncApi, ThreadedApi, finish
from qwen_conv.errors import MissingKeyError, UsageError
from qwen_conv.ledger import PROCESS_LEDGER
from qwen_conv.limits import checked_base_url
from qwen_conv.locks import PROCESS_LOCKS
from qwen_conv.registry import PROCESS_REGISTRY, MemoryRegistry, Registry, Session

if TYPE_CHECKING:
    import openai

    from qwen_conv.mirrors import Mirrors

P = ParamSpec("P")
T = TypeVar("T")

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

    Args:
        api_key: The key; by default the one in DASHSCOPE_API_KEY.
        base_url: The service; by default DASHSCOPE_BASE_URL, or the region's.
        region: "ap-southeast-1" (Singapore, the default) or "cn-beijing".
        registry: Which conversation a session is; by default one that lasts as long as the
            process.
        namespace: Keeps applications apart that share a registry.
        timeout: Seconds to wait for an answer; by default the SDK's 600.
        max_retries: How often a request is sent again that may be sent twice, which a turn of a
            conversation may not; by default the SDK's 2.
        settle_timeout: Seconds in which the service may store what it was sent, though its reply
            was lost.
        default_headers: Sent with every request.
        client: A ready `openai.OpenAI` to use instead of one of our own.
        async_client: A ready `openai.AsyncOpenAI`; it serves the event loop it was made for.
        allow_plain_http: Allows a base URL that is neither https nor on this machine.
        clock: Seconds since 1970.

    Raises:
        MissingKeyError: There is no key.
        UsageError: The region is unknown, or the base URL cannot be used.
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
        settle_timeout: float = 5.0,
        default_headers: Mapping[str, str] | None = None,
        client: openai.OpenAI | None = None,
        async_client: openai.AsyncOpenAI | None = None,
        allow_plain_http: bool = False,
        clock: Callable[[], float] = time.time,
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
        self.settle_timeout = settle_timeout
        self.default_headers = dict(default_headers or {})
        self.clock = clock
        self.locks = PROCESS_LOCKS
        self.ledger = PROCESS_LEDGER
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

    def session(self, key: str) -> Session:
        """What names the session of that key here."""
        return Session(self.namespace, key, self.base_url, self.account)

    def forget_session(self, key: str) -> None:
        """Unbinds a session from its conversation, which stays where it is.

        The next turn of the session begins a new conversation.
        """
        self.registry.unbind(self.session(key))
        if self._mirrors is not None:
            self._mirrors.forget(key)

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
