"""The two ways of calling what the project offers, so that a scenario is said once for both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, cast

import openai
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableConfig
from llama_index.core.llms import ChatResponse

from langchain_qwen_conv import ChatQwenConv, QwenConvChatMessageHistory
from llamaindex_qwen_conv import QwenConv
from qwen_conv import QwenConversations, flows
from qwen_conv.api import finish
from qwen_conv.calls import DeleteResponse
from qwen_conv.errors import NotFoundError
from qwen_conv.ledger import Ledger
from qwen_conv.locks import TurnLocks
from qwen_conv.registry import MemoryRegistry


class Way:
    """Calls things in one of the two ways, and remembers what is to be deleted.

    Args:
        api_key: The key.
        base_url: The service.
        model: The model's name.
        asynchronous: Whether everything is awaited, in one event loop.
    """

    def __init__(self, api_key: str, base_url: str, model: str, *, asynchronous: bool) -> None:
        self.model = model
        self._asynchronous = asynchronous
        self._service: dict[str, Any] = {"api_key": api_key, "base_url": base_url}
        self._conversations: dict[str, None] = {}
        self._responses: list[str] = []

    def play(self, scenario: Callable[[Way], Coroutine[Any, Any, None]]) -> None:
        """Plays a scenario, and deletes what it made also where it fails."""

        async def whole() -> None:
            try:
                await scenario(self)
            finally:
                await self._clean_up()

        if self._asynchronous:
            asyncio.run(whole())
        else:
            finish(whole())

    def process(self, registry: MemoryRegistry | None = None) -> QwenConversations:
        """A hub that knows nothing yet, as a process that begins has it."""
        hub = QwenConversations(**self._service, registry=registry or MemoryRegistry())
        hub.ledger, hub.locks = Ledger(), TurnLocks()
        return hub

    def chat(self, hub: QwenConversations, **fields: Any) -> ChatQwenConv:
        """A model on a hub."""
        return ChatQwenConv(model=self.model, conversations=hub, **fields)

    async def answer(
        self, runnable: Any, given: Any, config: RunnableConfig | None = None
    ) -> AIMessage:
        """What a model, or a chain that ends with one, answers."""
        if self._asynchronous:
            answer = await runnable.ainvoke(given, config)
        else:
            answer = runnable.invoke(given, config)
        return self.noted(answer)

    async def streamed(self, runnable: Any, given: Any) -> AIMessage:
        """What the chunks of its answer add up to."""
        if self._asynchronous:
            chunks = [chunk async for chunk in runnable.astream(given)]
        else:
            chunks = [*runnable.stream(given)]
        first, *others = chunks
        return self.noted(first + others)

    def llm(self, hub: QwenConversations) -> QwenConv:
        """An LLM on a hub."""
        return QwenConv(model=self.model, conversations=hub)

    async def replied(self, llm: QwenConv, name: str, *args: Any, **kwargs: Any) -> ChatResponse:
        """What a method of an LLM responds; the last piece of a stream, which has all of it."""
        response = await self.call(llm, name, *args, **kwargs)
        if "stream" in name:
            pieces = [one async for one in response] if self._asynchronous else [*response]
            response = pieces[-1]
        self._responses.append(response.additional_kwargs["response_id"])
        return cast("ChatResponse", response)

    async def run(self, hub: QwenConversations, flow: Callable[..., Any], *args: Any) -> Any:
        """What a flow comes to."""
        return await hub.arun(flow, *args) if self._asynchronous else hub.run(flow, *args)

    async def call(self, thing: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        """What a method returns, or its asynchronous twin, however that is called."""
        if self._asynchronous:
            twin = getattr(thing, f"a{name}", None) or getattr(thing, f"async_{name}")
            return await twin(*args, **kwargs)
        return getattr(thing, name)(*args, **kwargs)

    async def read(self, history: QwenConvChatMessageHistory) -> list[BaseMessage]:
        """The messages of a history."""
        return await history.aget_messages() if self._asynchronous else history.messages

    async def ask(self, question: Callable[[Any], Any]) -> Any:
        """What the bare SDK answers to `question`, a function of its client."""
        if self._asynchronous:
            async with openai.AsyncOpenAI(**self._service) as client:
                return await question(client)
        with openai.OpenAI(**self._service) as client:
            return question(client)

    def delete_at_end(self, conversation_id: str) -> None:
        """Has a conversation deleted when the scenario is over."""
        self._conversations[conversation_id] = None

    def noted(self, answer: AIMessage) -> AIMessage:
        """The answer, whose response is deleted when the scenario is over."""
        self._responses.append(answer.response_metadata["response_id"])
        return answer

    async def _clean_up(self) -> None:
        hub = self.process()
        for conversation_id in self._conversations:
            with suppress(NotFoundError):
                await self.run(hub, flows.delete, conversation_id)
        for response_id in self._responses:
            with suppress(NotFoundError):
                await self.run(hub, flows.send, DeleteResponse(response_id))
