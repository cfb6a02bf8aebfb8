"""LangChain: the chat model on the caller's list, behind a history, and in an agent."""

from __future__ import annotations

import json
import warnings
from threading import Lock
from typing import Any

from langchain.agents import create_agent
from langchain_core._api import LangChainDeprecationWarning
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable
from langchain_core.runnables.history import RunnableWithMessageHistory
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver

from chaos.drivers import MODEL, Driver, LeftError
from chaos.marks import Mark, call_line, line, note, result
from langchain_qwen_conv import ChatQwenConv, QwenConvChatMessageHistory, QwenConvMiddleware
from qwen_conv.items import FunctionCall, Message


@tool
def look_up(about: str) -> str:
    """Looks something up."""
    return result(about)


_ROLES = {"human": "user", "ai": "assistant", "AIMessageChunk": "assistant", "tool": "tool"}


def lines_of(message: BaseMessage) -> list[str]:
    """What a message says, as `chaos.marks.said` has it."""
    calls = message.tool_calls if isinstance(message, AIMessage) else []
    text = [line(_ROLES[message.type], message.text)] if message.text else []
    return [*text, *(call_line(call["args"]["about"]) for call in calls)]


class _OfChatModel(Driver):
    """A driver whose turns are those of a chat model."""

    async def open(self) -> None:
        """Makes the model."""
        await super().open()
        self._chat = ChatQwenConv(model=MODEL, conversations=self.hub)

    def wait_for(self, seconds: float | None) -> None:
        """How long the next turns wait for an answer."""
        self._chat.timeout = seconds

    async def _answer(
        self, runnable: Runnable[Any, Any], given: Any, config: Any = None, **kwargs: Any
    ) -> AIMessage:
        """What a model or a chain answers, in the story's way."""
        answer: AIMessage
        match self.story.call:
            case "invoke":
                answer = runnable.invoke(given, config, **kwargs)
            case "ainvoke":
                answer = await runnable.ainvoke(given, config, **kwargs)
            case "stream":
                answer = _added(await self.pieces(runnable.stream(given, config, **kwargs)))
            case "astream":
                answer = _added(await self.pieces(runnable.astream(given, config, **kwargs)))
        return answer


def _added(chunks: list[Any]) -> Any:
    first, *others = chunks
    return first + others if others else first


class ModelDriver(_OfChatModel):
    """`ChatQwenConv`, given the caller's whole list or what is new; he calls the tools himself."""

    async def open(self) -> None:
        """Makes the model, and the list."""
        await super().open()
        self._asked: Runnable[Any, Any] = self._chat
        if self.story.has_tools:
            self._asked = self._chat.bind_tools([look_up])
        self._messages: list[AnyMessage] = []
        self._sent = 0

    async def begin(self, text: str) -> None:
        """Puts the question behind the list."""
        self._messages.append(HumanMessage(text))
        self.lines = [line("user", text)]

    async def proceed(self) -> None:
        """Asks, with the results of the tool until there is an answer."""
        going = True
        while going:
            given = self._messages if self.story.whole else self._messages[self._sent :]
            going = self._took(await self._answer(self._asked, given, **self.selects))

    def _took(self, answer: AIMessage) -> bool:
        """Puts the answer behind the list, and the results that it asks for; whether it does."""
        self.lines += lines_of(answer)
        self._messages.append(answer)
        self._sent = len(self._messages)
        for call in answer.tool_calls:
            told = ToolMessage(result(call["args"]["about"]), tool_call_id=call["id"])
            self._messages.append(told)
            self.lines += lines_of(told)
        return bool(answer.tool_calls)

    async def take_up(self) -> bool:
        """Puts what the conversation ends with behind the list."""
        items = await self.answer_items()
        text = "".join(item.text for item in items if isinstance(item, Message))
        calls = [
            {"name": item.name, "args": {"about": _about(item)}, "id": item.call_id}
            for item in items
            if isinstance(item, FunctionCall)
        ]
        return not self._took(AIMessage(text, tool_calls=calls))


def _about(call: FunctionCall) -> str:
    return str(json.loads(call.arguments)["about"])


_BUILDING = Lock()
"""A warning is silenced while chains are built, which must be done by one at a time."""


class HistoryDriver(_OfChatModel):
    """`RunnableWithMessageHistory` with our history.

    The caller holds no list. After an error he runs the chain again; if he left a stream, he looks
    at the history first, for what became of his turn.
    """

    async def open(self) -> None:
        """Builds the chain."""
        await super().open()
        prompt = ChatPromptTemplate([("placeholder", "{history}"), ("human", "{question}")])
        with _BUILDING, warnings.catch_warnings():
            # LangChain will drop the class in 2.0.
            warnings.simplefilter("ignore", LangChainDeprecationWarning)
            self._chain: Runnable[Any, Any] = RunnableWithMessageHistory(
                prompt | self._chat,
                self._history,
                input_messages_key="question",
                history_messages_key="history",
            )
        self._left = False

    def _history(self, key: str) -> QwenConvChatMessageHistory:
        return QwenConvChatMessageHistory(key, conversations=self.hub)

    @property
    def settles_by_hand(self) -> bool | None:
        """Who left a stream, and runs the chain again, asks anew behind what he left."""
        return self._left or None

    async def begin(self, text: str) -> None:
        """Notes the question."""
        self._text, self._left = text, False
        self.lines = [line("user", text)]

    async def proceed(self) -> None:
        """Runs the chain, unless the history has the answer."""
        if self._left and await self.take_up():
            return
        config = {"configurable": {"session_id": self.key}}
        try:
            answer = await self._answer(self._chain, {"question": self._text}, config)
        except LeftError:
            self._left = True
            raise
        self.lines += lines_of(answer)

    async def take_up(self) -> bool:
        """Looks at the history; a question that stands there alone is deleted."""
        history = self._history(self.key)
        *_, asked, last = [None, None, *await self._all(history)]
        if last is None:
            return False
        if last.text == self._text and last.id:
            await self.either((history.delete_message, history.adelete_message), last.id)
        if asked is None or asked.text != self._text:
            return False
        self.lines += lines_of(last)
        return True

    async def _all(self, history: QwenConvChatMessageHistory) -> list[BaseMessage]:
        if self.story.in_tasks:
            return await history.aget_messages()
        return history.messages

    async def begin_writing(self, mark: Mark, count: int) -> None:
        """Makes the messages."""
        kinds = (HumanMessage, AIMessage)
        self._notes = [kinds[number % 2](note(mark, number)) for number in range(count)]
        self.lines = [one for message in self._notes for one in lines_of(message)]
        self._writing = self._history(self.key)

    async def write(self) -> None:
        """Adds them."""
        await self.either((self._writing.add_messages, self._writing.aadd_messages), self._notes)

    async def read(self) -> list[str]:
        """What a new history shows."""
        return [
            one for message in await self._all(self._history(self.key)) for one in lines_of(message)
        ]


class AgentDriver(_OfChatModel):
    """`create_agent` with our middleware; after an error, the graph is resumed."""

    async def open(self) -> None:
        """Makes the agent."""
        self._chat = ChatQwenConv(model=MODEL, conversations=self.hub)
        self._agent: Any = create_agent(
            self._chat,
            tools=[look_up],
            middleware=[QwenConvMiddleware()],
            checkpointer=InMemorySaver(),
        )
        self._config = {"configurable": {"thread_id": self.key}}

    @property
    def conversation_id(self) -> str | None:
        """The conversation that the thread's state names."""
        found: str | None = self._state.get("qwen_conversation_id")
        return found

    @property
    def _state(self) -> dict[str, Any]:
        values: dict[str, Any] = self._agent.get_state(self._config).values
        return values

    @property
    def settles_by_hand(self) -> bool:
        """Resuming the graph takes the turn again with the same list."""
        return False

    async def begin(self, text: str) -> None:
        """Notes the question, and where the thread ends."""
        self._given: Any = {"messages": [HumanMessage(text)]}
        self._before = len(self._state.get("messages", ()))

    async def proceed(self) -> None:
        """Runs the agent, or goes on where it failed."""
        given, self._given = self._given, None
        agent, config = self._agent, self._config
        match self.story.call:
            case "invoke":
                agent.invoke(given, config)
            case "ainvoke":
                await agent.ainvoke(given, config)
            case "stream":
                await self.pieces(agent.stream(given, config, stream_mode="messages"))
            case "astream":
                await self.pieces(agent.astream(given, config, stream_mode="messages"))
        messages = self._state["messages"][self._before :]
        self.lines = [one for message in messages for one in lines_of(message)]
