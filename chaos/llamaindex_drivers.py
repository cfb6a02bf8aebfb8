"""LlamaIndex: the LLM on the caller's list, and as a chat engine with a memory uses it."""

from __future__ import annotations

import asyncio
import json
from contextlib import closing
from typing import Any

from llama_index.core.base.llms.types import ToolCallBlock
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import ChatMemoryBuffer

from chaos.drivers import MODEL, Driver
from chaos.faults import SETTLE_TIMEOUT
from chaos.marks import TOOL_WIRE, Mark, call_line, line, note, result
from llamaindex_qwen_conv import QwenConv, QwenConvChatStore
from qwen_conv import QwenConversations
from qwen_conv.items import FunctionCall, Message


def lines_of(message: ChatMessage) -> list[str]:
    """What a message says, as `chaos.marks.said` has it."""
    text = [line(message.role.value, message.content)] if message.content else []
    return [*text, *(call_line(about) for _, about in _calls(message))]


def _calls(message: ChatMessage) -> list[tuple[str, str]]:
    """The calls of the tool: their ids, and what is to be looked up."""
    calls = []
    for block in message.blocks:
        if isinstance(block, ToolCallBlock):
            given = block.tool_kwargs
            told = json.loads(given) if isinstance(given, str) else given
            calls.append((str(block.tool_call_id), str(told["about"])))
    return calls


class _OfLLM(Driver):
    """A driver whose turns are those of an LLM."""

    _llm: QwenConv

    def wait_for(self, seconds: float | None) -> None:
        """How long the next turns wait for an answer."""
        self._llm.timeout = seconds

    async def _answer(self, messages: list[ChatMessage], **kwargs: Any) -> ChatMessage:
        """What the LLM answers, in the story's way."""
        llm = self._llm
        match self.story.call:
            case "invoke":
                return llm.chat(messages, **kwargs).message
            case "ainvoke":
                return (await llm.achat(messages, **kwargs)).message
            case "stream":
                pieces = await self.pieces(llm.stream_chat(messages, **kwargs))
            case "astream":
                pieces = await self.pieces(await llm.astream_chat(messages, **kwargs))
        answer: ChatMessage = pieces[-1].message
        return answer


class LLMDriver(_OfLLM):
    """`QwenConv`, given the caller's whole list or what is new; he calls the tools himself."""

    async def open(self) -> None:
        """Makes the LLM, and the list."""
        await super().open()
        self._llm = QwenConv(
            model=MODEL,
            conversations=self.hub,
            on_divergence="rebase" if self.story.in_session else "raise",
            **self.selects,
        )
        self._tools = {"tools": [TOOL_WIRE]} if self.story.has_tools else {}
        self._messages: list[ChatMessage] = []
        self._sent = 0

    async def begin(self, text: str) -> None:
        """Puts the question behind the list."""
        self._messages.append(ChatMessage(text))
        self.lines = [line("user", text)]

    async def proceed(self) -> None:
        """Asks, with the results of the tool until there is an answer."""
        going = True
        while going:
            given = self._messages[0 if self.story.whole else self._sent :]
            going = self._took(await self._answer(given, **self._tools))

    def _took(self, answer: ChatMessage) -> bool:
        """Puts the answer behind the list, and the results that it asks for; whether it does."""
        self.lines += lines_of(answer)
        self._messages.append(answer)
        self._sent = len(self._messages)
        for call_id, about in _calls(answer):
            told = ChatMessage(
                result(about), role="tool", additional_kwargs={"tool_call_id": call_id}
            )
            self._messages.append(told)
            self.lines += lines_of(told)
        return bool(_calls(answer))

    async def take_up(self) -> bool:
        """Puts what the conversation ends with behind the list."""
        blocks: list[Any] = []
        for item in await self.answer_items():
            if isinstance(item, FunctionCall):
                blocks.append(
                    ToolCallBlock(
                        tool_call_id=item.call_id,
                        tool_name=item.name,
                        tool_kwargs=json.loads(item.arguments),
                    )
                )
            elif isinstance(item, Message):
                blocks.append({"block_type": "text", "text": item.text})
        return not self._took(ChatMessage(role="assistant", blocks=blocks))


class EngineDriver(_OfLLM):
    """A memory on our store, and our LLM, as `SimpleChatEngine` uses them.

    Streams are not taken by the engine itself: it reads them in a thread of its own, in which every
    error is raised once more, for nobody. After an error, the LLM is asked again with what the
    memory says by then.
    """

    async def open(self) -> None:
        """Makes the engine."""
        self._llm = QwenConv(model=MODEL, conversations=self.hub)
        self._store = QwenConvChatStore(conversations=self.hub)
        self._memory = ChatMemoryBuffer.from_defaults(
            chat_store=self._store, chat_store_key=self.key, token_limit=1_000_000
        )
        self._engine = SimpleChatEngine.from_defaults(llm=self._llm, memory=self._memory)

    async def begin(self, text: str) -> None:
        """Notes the question."""
        self._text, self._again = text, False
        self.lines = [line("user", text)]

    async def proceed(self) -> None:
        """Asks the engine; after an error, the LLM."""
        again, self._again = self._again, True
        if not again and self.story.call == "invoke":
            self._took(self._engine.chat(self._text).response)
        elif not again and self.story.call == "ainvoke":
            self._took((await self._engine.achat(self._text)).response)
        else:
            await self._asked()

    async def _asked(self) -> None:
        if await self.take_up():
            return
        messages = await self._all()
        if not messages or messages[-1].content != self._text:
            await self._put(ChatMessage(self._text))
            messages = await self._all()
        answer = await self._answer(messages)
        await self._put(answer)
        self._took(answer.content or "")

    def _took(self, text: str) -> None:
        self.lines.append(line("assistant", text))

    async def take_up(self) -> bool:
        """Whether the memory has the answer already."""
        *_, asked, last = [None, None, *await self._all()]
        if asked is None or last is None or asked.content != self._text:
            return False
        self._took(last.content or "")
        return True

    async def _all(self) -> list[ChatMessage]:
        return await self.either((self._memory.get, self._memory.aget))

    async def _put(self, message: ChatMessage) -> None:
        await self.either((self._memory.put, self._memory.aput), message)

    async def begin_writing(self, mark: Mark, count: int) -> None:
        """Puts messages into the memory."""
        roles = ("user", "assistant")
        notes = [ChatMessage(note(mark, n), role=roles[n % 2]) for n in range(count)]
        self.lines = [one for message in notes for one in lines_of(message)]
        self._left = notes

    async def write(self) -> None:
        """Puts them into the memory, and has the store write what waits."""
        while self._left:
            await self._put(self._left[0])
            self._left.pop(0)
        if self.story.in_tasks:
            await asyncio.to_thread(self._store.flush)
        else:
            self._store.flush()

    async def read(self) -> list[str]:
        """What a store in another process shows."""
        if self.story.in_tasks:
            return await asyncio.to_thread(self._elsewhere)
        return self._elsewhere()

    def _elsewhere(self) -> list[str]:
        hub = QwenConversations(
            api_key=self.hub.api_key,
            base_url=self.hub.base_url,
            registry=self.hub.registry,
            settle_timeout=SETTLE_TIMEOUT,
        )
        with closing(hub):
            messages = QwenConvChatStore(conversations=hub).get_messages(self.key)
        return [one for message in messages for one in lines_of(message)]
