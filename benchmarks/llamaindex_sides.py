"""The sides of LlamaIndex: each an LLM, and the memories of its dialogs."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from typing import Any, Protocol

import openai
from llama_index.core.llms import LLM
from llama_index.core.memory import BaseMemory, ChatMemoryBuffer, Memory

from benchmarks.names import FRAMEWORK, OURS, STOCK
from benchmarks.starts import First
from benchmarks.workload import KEY, MODEL
from llamaindex_qwen_conv import QwenConv, QwenConvAsyncChatStore, QwenConvChatStore
from qwen_conv import QwenConversations, flows

MEMORIES = ("Memory", "ChatMemoryBuffer")
"""The kinds of memory."""

ROOM = 200_000
"""Tokens that a memory has room for: none of these dialogs is so long that one is left out."""

STOCK_DISTRIBUTION = "llama-index-llms-openai"


def stock_is_installed() -> bool:
    """Whether there is a stock class: its distribution does without openai 3."""
    try:
        version(STOCK_DISTRIBUTION)
    except PackageNotFoundError:
        return False
    return True


class Side(Protocol):
    """An LLM, made once, and a memory for each dialog with it."""

    llm: LLM

    def begin(self, kind: str) -> BaseMemory:
        """The memory of a new dialog."""

    async def aclose(self) -> None:
        """Closes the connections of the running event loop."""


def remembering(kind: str, key: str, store: Any = None) -> BaseMemory:
    """A memory of that kind; by default on the store that LlamaIndex brings for it."""
    if kind == "Memory":
        return Memory.from_defaults(session_id=key, chat_store=store, token_limit=ROOM)
    return ChatMemoryBuffer.from_defaults(chat_store_key=key, chat_store=store, token_limit=ROOM)


class Ours:
    """`QwenConv`, and our stores on the same hub.

    Args:
        base_url: The server.
        is_created: Whether a dialog begins on a conversation that is there, or in a session whose
            first turn creates it.
    """

    def __init__(self, base_url: str, *, is_created: bool) -> None:
        self.hub = QwenConversations(api_key=KEY, base_url=base_url)
        self.llm: LLM = QwenConv(model=MODEL, conversations=self.hub, max_retries=0)
        self._is_created = is_created
        self._sessions = (f"session {number}" for number in count())
        self._key = ""

    def begin(self, kind: str) -> BaseMemory:
        """The memory of a new dialog."""
        self._key = self.hub.run(flows.create).id if self._is_created else next(self._sessions)
        store_of = QwenConvAsyncChatStore if kind == "Memory" else QwenConvChatStore
        return remembering(kind, self._key, store_of(conversations=self.hub))

    def items(self) -> int:
        """How many items the conversation of the last session holds."""
        row = self.hub.registry.get(self.hub.session(self._key))
        return len(self.hub.run(flows.read, row.conversation_id)) if row else 0

    async def aclose(self) -> None:
        """Closes the connections of the running event loop."""
        await self.hub.aclose()


class OnStockStores:
    """An LLM that is sent everything, and the memories as LlamaIndex brings them.

    Args:
        llm: The LLM.
        async_client: What its awaited methods go through.
    """

    def __init__(self, llm: LLM, async_client: openai.AsyncOpenAI | None = None) -> None:
        self.llm = llm
        self._async_client = async_client

    def begin(self, kind: str) -> BaseMemory:
        """The memory of a new dialog."""
        return remembering(kind, "session")

    async def aclose(self) -> None:
        """Closes the connections of the running event loop."""
        if self._async_client is not None:
            await self._async_client.close()


def llamaindex_sides(ours: Ours) -> Mapping[str, Side]:
    """Ours, and what it is compared with, if that is installed. None sends anything again."""
    sides: dict[str, Side] = {OURS: ours}
    if stock_is_installed():
        from llama_index.llms.openai import OpenAIResponses

        base_url = ours.hub.base_url
        async_client = openai.AsyncOpenAI(api_key=KEY, base_url=base_url, max_retries=0)
        llm = OpenAIResponses(
            model=MODEL,
            context_window=ROOM,
            api_key=KEY,
            api_base=base_url,
            max_retries=0,
            async_openai_client=async_client,
        )
        sides[STOCK] = OnStockStores(llm, async_client)
    return sides


_MESSAGE = "from llama_index.core.llms import ChatMessage\n"

FIRSTS: Mapping[str, First] = {
    OURS: First(
        "from llamaindex_qwen_conv import QwenConv",
        _MESSAGE
        + 'QwenConv(model=MODEL, session_id="first", **service).chat([ChatMessage(QUESTION)])',
    ),
    STOCK: First(
        "from llama_index.llms.openai import OpenAIResponses",
        _MESSAGE
        + 'service["api_base"] = service.pop("base_url")\n'
        + f"llm = OpenAIResponses(model=MODEL, context_window={ROOM}, **service)\n"
        + "llm.chat([ChatMessage(QUESTION)])",
    ),
    FRAMEWORK: First("import llama_index.core"),
}
"""By side: what it imports, and how it takes a turn."""

LEGEND: Mapping[str, str] = {
    OURS: "`QwenConv`, and `QwenConvAsyncChatStore` (in a `Memory`) or `QwenConvChatStore` (in a "
    "`ChatMemoryBuffer`), on one hub.",
    STOCK: "`OpenAIResponses`, which sends the whole list each time and has the service store "
    "nothing, and the same memory on the store that LlamaIndex brings for it: "
    "`SQLAlchemyChatStore`, which keeps all in memory here, or `SimpleChatStore`. The class knows "
    "no model of Qwen, but is told a `context_window`, and then takes the name as it is.",
    FRAMEWORK: "`llama_index.core`.",
}
"""What each side does."""
