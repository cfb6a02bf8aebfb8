"""The sides of LangChain: each holds the same dialogs, as its users would write it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Protocol

import openai
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_openai import ChatOpenAI

from benchmarks.names import BY_HAND, DICTS, FRAMEWORK, OURS, SDK, WHOLE_LIST
from benchmarks.starts import First
from benchmarks.workload import KEY, MODEL, QUESTION
from langchain_qwen_conv import ChatQwenConv
from qwen_conv import QwenConversations, flows


class Dialog(Protocol):
    """A dialog that has begun; each call is one turn more."""

    def take(self) -> None:
        """Asks `QUESTION`."""

    async def atake(self) -> None:
        """Asks `QUESTION`, in a task."""

    def stream(self, question: str) -> Iterator[str]:
        """Asks the question; the deltas of the answer."""


Begin = Callable[[], Dialog]
"""Begins a dialog. Creating its conversation is no part of what is measured."""


def langchain_sides(base_url: str, timeout: float | None = None) -> Mapping[str, Begin]:
    """`ChatQwenConv`, and what it is compared with. Every client and model is made once.

    None of them sends anything again: a retry would be counted as if it were a turn.

    Args:
        base_url: The server.
        timeout: Seconds to wait, for a connection too; by default each client's own.
    """
    service: Any = {"base_url": base_url, "api_key": KEY}
    patience: Any = {"max_retries": 0} | ({"timeout": timeout} if timeout else {})
    hub = QwenConversations(**service)
    ours = ChatQwenConv(model=MODEL, conversations=hub, **patience)
    stock = ChatOpenAI(model=MODEL, use_responses_api=True, **service, **patience)
    client = openai.OpenAI(**service, **patience)
    async_client = openai.AsyncOpenAI(**service, **patience)

    def begin_ours() -> Dialog:
        return _LangChain(ours.with_conversation(hub.run(flows.create).id), whole_list=True)

    def begin_by_hand() -> Dialog:
        bound = stock.bind(conversation=client.conversations.create().id)
        return _LangChain(bound, whole_list=False)

    def begin_sdk(dialog: Callable[..., Dialog]) -> Dialog:
        return dialog(client, async_client, client.conversations.create().id)

    return {
        OURS: begin_ours,
        SDK: partial(begin_sdk, _Typed),
        DICTS: partial(begin_sdk, _Dicts),
        BY_HAND: begin_by_hand,
        WHOLE_LIST: lambda: _LangChain(stock, whole_list=True),
    }


class _LangChain:
    """A dialog through a chat model of LangChain.

    Args:
        chat: The model, which knows its conversation if it has one.
        whole_list: Whether the caller passes all messages in every turn, or the new one only.
    """

    def __init__(self, chat: Any, *, whole_list: bool) -> None:
        self._chat = chat
        self._whole_list = whole_list
        self._messages: list[BaseMessage] = []

    def _asked(self, question: str) -> list[BaseMessage]:
        self._messages.append(HumanMessage(question))
        return self._messages if self._whole_list else self._messages[-1:]

    def take(self) -> None:
        self._messages.append(self._chat.invoke(self._asked(QUESTION)))

    async def atake(self) -> None:
        self._messages.append(await self._chat.ainvoke(self._asked(QUESTION)))

    def stream(self, question: str) -> Iterator[str]:
        for chunk in self._chat.stream(self._asked(question)):
            if text := chunk.text:
                yield text


class _Typed:
    """A loop over the SDK's typed models: the conversation and the new text."""

    def __init__(
        self, client: openai.OpenAI, async_client: openai.AsyncOpenAI, conversation: str
    ) -> None:
        self._client = client
        self._async_client = async_client
        self._turn: Any = {"model": MODEL, "conversation": conversation}

    def take(self) -> None:
        self._client.responses.create(**self._turn, input=QUESTION)

    async def atake(self) -> None:
        await self._async_client.responses.create(**self._turn, input=QUESTION)

    def stream(self, question: str) -> Iterator[str]:
        for event in self._client.responses.create(**self._turn, input=question, stream=True):
            if event.type == "response.output_text.delta":
                yield event.delta


class _Dicts:
    """The same loop without the models: the least that a client of the SDK can do."""

    def __init__(
        self, client: openai.OpenAI, async_client: openai.AsyncOpenAI, conversation: str
    ) -> None:
        self._post = partial(client.post, "/responses", cast_to=object)
        self._async_post = partial(async_client.post, "/responses", cast_to=object)
        self._turn = {"model": MODEL, "conversation": conversation}

    def take(self) -> None:
        self._post(body={**self._turn, "input": QUESTION})

    async def atake(self) -> None:
        await self._async_post(body={**self._turn, "input": QUESTION})

    def stream(self, question: str) -> Iterator[str]:
        body = {**self._turn, "input": question, "stream": True}
        events: Any = self._post(body=body, stream=True, stream_cls=openai.Stream[object])
        for event in events:
            if event["type"] == "response.output_text.delta":
                yield event["delta"]


FIRSTS: Mapping[str, First] = {
    OURS: First(
        "from langchain_qwen_conv import ChatQwenConv",
        'ChatQwenConv(model=MODEL, session_id="first", **service).invoke(QUESTION)',
    ),
    SDK: First(
        "from openai import OpenAI",
        (
            "client = OpenAI(**service)\n"
            "conversation = client.conversations.create().id\n"
            "client.responses.create(model=MODEL, conversation=conversation, input=QUESTION)"
        ),
    ),
    BY_HAND: First(
        "from langchain_openai import ChatOpenAI",
        (
            "chat = ChatOpenAI(model=MODEL, use_responses_api=True, **service)\n"
            "conversation = chat.root_client.conversations.create().id\n"
            "chat.invoke(QUESTION, conversation=conversation)"
        ),
    ),
    FRAMEWORK: First("from langchain_core.language_models.chat_models import BaseChatModel"),
}
"""By side: what it imports, and how it creates a conversation and takes a turn."""

LEGEND: Mapping[str, str] = {
    OURS: "`ChatQwenConv.with_conversation(id)`; the caller passes the whole list of messages in "
    "every turn. Items are read by `hub.run(flows.read, id)`, and as messages by "
    "`QwenConvChatMessageHistory(...).messages`.",
    SDK: "a loop over `client.responses.create(conversation=id, input=text)`, which makes typed "
    "models of the answers, and over `client.conversations.items.list(id)`.",
    DICTS: "the same through `client.post` and `client.get` with `cast_to=object`: the least that "
    "a client of the SDK can do.",
    BY_HAND: "`ChatOpenAI(use_responses_api=True).bind(conversation=id)`; the caller keeps count, "
    "and passes the new message only.",
    WHOLE_LIST: "`ChatOpenAI(use_responses_api=True)` without a conversation; the caller passes "
    "the whole list of messages in every turn.",
    FRAMEWORK: "`langchain_core.language_models.chat_models`, which every chat model imports.",
}
"""What each side does."""
