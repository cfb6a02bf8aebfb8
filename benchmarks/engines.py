"""LlamaIndex's chat engines and agents, each made and asked in the same way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.chat_engine import (
    CondensePlusContextChatEngine,
    CondenseQuestionChatEngine,
    ContextChatEngine,
    SimpleChatEngine,
)
from llama_index.core.chat_engine.multi_modal_condense_plus_context import (
    MultiModalCondensePlusContextChatEngine,
)
from llama_index.core.chat_engine.multi_modal_context import MultiModalContextChatEngine
from llama_index.core.llms import LLM
from llama_index.core.memory import BaseMemory
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

FACT = "The ferry leaves every hour from the old harbour."
"""What the retriever finds, whatever it is asked for."""


class OneNode(BaseRetriever):
    """A retriever that always finds the same."""

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        _ = query_bundle
        return [NodeWithScore(node=TextNode(text=FACT), score=1.0)]


Engine = Any
"""A chat engine: LlamaIndex's have no type that all of them are of."""

Make = Callable[[LLM, BaseMemory], Engine]


def _simple(llm: LLM, memory: BaseMemory) -> Engine:
    return SimpleChatEngine.from_defaults(llm=llm, memory=memory, system_prompt="Answer briefly.")


def _context(llm: LLM, memory: BaseMemory) -> Engine:
    return ContextChatEngine.from_defaults(
        retriever=OneNode(), llm=llm, memory=memory, system_prompt="Answer briefly."
    )


def _condense_plus_context(llm: LLM, memory: BaseMemory) -> Engine:
    return CondensePlusContextChatEngine.from_defaults(
        retriever=OneNode(), llm=llm, memory=memory, system_prompt="Answer briefly."
    )


def _condense_question(llm: LLM, memory: BaseMemory) -> Engine:
    asked = RetrieverQueryEngine.from_args(OneNode(), llm=llm)
    return CondenseQuestionChatEngine.from_defaults(query_engine=asked, llm=llm, memory=memory)


def _condense_question_streaming(llm: LLM, memory: BaseMemory) -> Engine:
    asked = RetrieverQueryEngine.from_args(OneNode(), llm=llm, streaming=True)
    return CondenseQuestionChatEngine.from_defaults(query_engine=asked, llm=llm, memory=memory)


def _multi_modal_context(llm: LLM, memory: BaseMemory) -> Engine:
    return MultiModalContextChatEngine.from_defaults(
        retriever=OneNode(), multi_modal_llm=llm, memory=memory
    )


def _multi_modal_condense_plus_context(llm: LLM, memory: BaseMemory) -> Engine:
    return MultiModalCondensePlusContextChatEngine.from_defaults(
        retriever=OneNode(), multi_modal_llm=llm, memory=memory
    )


ENGINES: Mapping[str, Make] = {
    "SimpleChatEngine": _simple,
    "ContextChatEngine": _context,
    "CondensePlusContextChatEngine": _condense_plus_context,
    "CondenseQuestionChatEngine": _condense_question,
    "MultiModalContextChatEngine": _multi_modal_context,
    "MultiModalCondensePlusContextChatEngine": _multi_modal_condense_plus_context,
}
"""The chat engines, by name."""


def made(name: str, way: str, llm: LLM, memory: BaseMemory) -> Engine:
    """An engine; where it answers from a query engine, that has to stream as well."""
    if name == "CondenseQuestionChatEngine" and "stream" in way:
        return _condense_question_streaming(llm, memory)
    return ENGINES[name](llm, memory)


def _chat(engine: Engine, question: str) -> str:
    return str(engine.chat(question).response)


def _stream_chat(engine: Engine, question: str) -> str:
    return "".join(engine.stream_chat(question).response_gen)


async def _achat(engine: Engine, question: str) -> str:
    return str((await engine.achat(question)).response)


async def _astream_chat(engine: Engine, question: str) -> str:
    streamed = await engine.astream_chat(question)
    text = "".join([piece async for piece in streamed.async_response_gen()])
    if streamed.awrite_response_to_history_task is not None:
        await streamed.awrite_response_to_history_task
    return text


_BLOCKING: Mapping[str, Callable[[Engine, str], str]] = {
    "chat": _chat,
    "stream_chat": _stream_chat,
}
_AWAITED: Mapping[str, Callable[[Engine, str], Awaitable[str]]] = {
    "achat": _achat,
    "astream_chat": _astream_chat,
}
WAYS = ("chat", "stream_chat", "achat", "astream_chat")
"""The ways of asking a chat engine."""


def ask(engine: Engine, way: str, question: str) -> str:
    """What the engine answers; an awaited way has an event loop of its own."""
    if way in _BLOCKING:
        return _BLOCKING[way](engine, question)
    return asyncio.run(_whole(_AWAITED[way](engine, question)))


async def _whole(answer: Awaitable[str]) -> str:
    return await answer


def weather(city: str) -> str:
    """The weather in a city."""
    return f"It is sunny in {city}."


def function_agent(llm: LLM, *, streaming: bool) -> FunctionAgent:
    """An agent that calls a tool by the model's function calls."""
    return FunctionAgent(
        tools=[weather], llm=llm, system_prompt="Answer briefly.", streaming=streaming
    )


def react_agent(llm: LLM, *, streaming: bool) -> ReActAgent:
    """An agent that reads its tool calls out of the model's text."""
    return ReActAgent(tools=[weather], llm=llm, streaming=streaming)


def hand_off(llm: LLM, *, streaming: bool) -> AgentWorkflow:
    """Two agents, of which the first can hand on to the second."""
    asked = FunctionAgent(
        name="asked",
        description="Hands on.",
        llm=llm,
        tools=[],
        system_prompt="Hand on what is about the weather.",
        can_handoff_to=["knowing"],
        streaming=streaming,
    )
    knowing = FunctionAgent(
        name="knowing",
        description="Knows the weather.",
        llm=llm,
        tools=[weather],
        system_prompt="Tell the weather.",
        streaming=streaming,
    )
    return AgentWorkflow(agents=[asked, knowing], root_agent="asked")


AGENTS: Mapping[str, Callable[..., Any]] = {
    "FunctionAgent": function_agent,
    "ReActAgent": react_agent,
    "AgentWorkflow": hand_off,
}
"""The agents, by name."""


async def run(agent: Any, question: str, memory: BaseMemory) -> str:
    """What an agent answers."""
    return str(await agent.run(user_msg=question, memory=memory))
