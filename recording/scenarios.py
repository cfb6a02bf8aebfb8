"""What is recorded: short sessions with the service whose course any model's answers will do for.

Each checks what it can of what it sees, so that it fails while it is recorded as well as when it is
replayed.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core._api import LangChainDeprecationWarning
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.history import RunnableWithMessageHistory
from langchain_core.tools import StructuredTool
from langgraph.checkpoint.memory import InMemorySaver
from llama_index.core.llms import ChatMessage, ChatResponse
from llama_index.core.memory import Memory
from llama_index.core.tools import FunctionTool

from langchain_qwen_conv import QwenConvChatMessageHistory, QwenConvMiddleware
from llamaindex_qwen_conv import QwenConvAsyncChatStore, QwenConvChatStore
from qwen_conv import QwenConversations, flows
from qwen_conv.calls import (
    CreateConversation,
    CreateItems,
    CreateResponse,
    DeleteConversation,
    DeleteItem,
    DeleteResponse,
    ListInputItems,
    ListItems,
    RetrieveConversation,
    RetrieveItem,
    RetrieveResponse,
    UpdateConversation,
)
from qwen_conv.errors import NotFoundError
from qwen_conv.items import Message
from qwen_conv.offline import CallTool
from qwen_conv.offline.responder import Answer, quote
from qwen_conv.registry import MemoryRegistry
from recording.ways import Way

FACT = "Alice is 20 years old, and her hobbies are music and chess."
UNKNOWN = "conv_00000000000000000000000000000000"


async def two_processes(way: Way) -> None:
    """A session is held by two processes; each turn carries what is new."""
    registry = MemoryRegistry()
    messages: list[BaseMessage] = [HumanMessage(FACT)]
    messages.append(await way.answer(_alice(way, registry), messages))
    way.delete_at_end(_place(messages[-1]))
    messages.append(HumanMessage("How old is she?"))
    messages.append(await way.answer(_alice(way, registry), messages))
    messages.append(HumanMessage("What are her hobbies?"))
    messages.append(await way.streamed(_alice(way, registry), messages))
    assert {one.response_metadata["decision"] for one in messages[1::2]} == {"attached"}
    await _holds(way, _place(messages[-1]), messages)


async def streamed_turn(way: Way) -> None:
    """A turn comes in pieces, with usage at its end."""
    hub = way.process()
    conversation = await way.run(hub, flows.create, [Message.of("user", FACT)])
    way.delete_at_end(conversation.id)
    question = HumanMessage("What are her hobbies?")
    chat = way.chat(hub, conversation_id=conversation.id)
    answer = await way.streamed(chat, [question])
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] > 0
    await _holds(way, conversation.id, [HumanMessage(FACT), question, answer])


async def tool_round(way: Way) -> None:
    """A model calls a tool, is sent the result, and answers."""
    chat = way.chat(way.process(), session_id="weather")
    messages: list[BaseMessage] = [HumanMessage("How is the weather in Singapore?")]
    calling = await way.answer(chat.bind_tools([weather], tool_choice="weather"), messages)
    way.delete_at_end(_place(calling))
    assert len(calling.tool_calls) == 1, "the model did not call the tool once"
    call = calling.tool_calls[0]
    result = ToolMessage(weather(**call["args"]), tool_call_id=str(call["id"]))
    answer = await way.answer(chat.bind_tools([weather]), [*messages, calling, result])
    assert answer.text
    assert _place(answer) == _place(calling)


async def changed_list(way: Way) -> None:
    """A list that was changed begins a new conversation of its session; the old one is kept."""
    chat = way.chat(way.process(), session_id="alice")
    question = HumanMessage("What are her hobbies?")
    first = await way.answer(chat, [HumanMessage(FACT)])
    way.delete_at_end(_place(first))
    changed = [HumanMessage(FACT.replace("chess", "tennis")), first, question]
    second = await way.answer(chat, changed)
    way.delete_at_end(_place(second))
    assert second.response_metadata["decision"] == "rebased"
    await _holds(way, _place(second), [*changed, second])
    await _holds(way, _place(first), [HumanMessage(FACT), first])


async def chain_with_history(way: Way) -> None:
    """A chain with a history reads and takes a turn in each run, and nothing is stored twice."""
    hub = way.process()
    messages: list[BaseMessage] = []
    for question in (FACT, "How old is she?"):
        answer = await way.answer(
            _chain(way, hub), {"question": question}, {"configurable": {"session_id": "alice"}}
        )
        messages += [HumanMessage(question), answer]
    way.delete_at_end(_place(messages[-1]))
    await _holds(way, _place(messages[-1]), messages)


async def history_by_hand(way: Way) -> None:
    """A history is written and read; parts of it are read, and deleted."""
    conversation = await way.run(way.process(), flows.create)
    way.delete_at_end(conversation.id)
    history = QwenConvChatMessageHistory(
        conversation_id=conversation.id, conversations=way.process()
    )
    written = [
        message for n in range(12) for message in (HumanMessage(f"{n}?"), AIMessage(f"{n}."))
    ]
    await way.call(history, "add_messages", written)
    await _holds(way, conversation.id, written)
    read = await way.read(history)
    await way.call(history, "add_messages", read)  # holds them already
    last = await way.call(history, "last_messages", 2)
    assert [one.text for one in last] == ["11?", "11."]
    await way.call(history, "delete_message", last[0].id)
    await way.call(history, "set_metadata", {"topic": "numbers"})
    assert await way.call(history, "get_metadata") == {"topic": "numbers"}
    assert [one.text for one in await way.read(history)][-2:] == ["10.", "11."]
    await way.call(history, "clear")
    assert await way.read(history) == []


async def eight_endpoints(way: Way) -> None:
    """Each endpoint of the Conversations API is called once or twice."""
    hub = way.process()

    async def send(call: Any) -> Any:
        return await way.run(hub, flows.send, call)

    texts = ["one", "two", "three"]
    created = await send(CreateConversation((Message.of("user", "zero"),), {"topic": "numbers"}))
    assert created.metadata == {"topic": "numbers"}
    stored = await send(CreateItems(created.id, tuple(Message.of("user", text) for text in texts)))
    assert [item.text for item in stored] == texts
    page = await send(ListItems(created.id, limit=2))
    rest = await send(ListItems(created.id, after=page.last_id, limit=2))
    assert [item.text for item in (*page.items, *rest.items)] == ["zero", *texts]
    assert [page.has_more, rest.has_more] == [True, False]
    assert (await send(RetrieveItem(created.id, stored[0].id))).text == "one"
    await send(UpdateConversation(created.id, {"topic": "more numbers"}))
    found = await send(RetrieveConversation(created.id))
    assert found.metadata == {"topic": "more numbers"}
    for item in (*page.items, *rest.items):
        await send(DeleteItem(created.id, item.id))
    assert (await send(ListItems(created.id))).items == ()
    await send(DeleteConversation(created.id))


async def chained_responses(way: Way) -> None:
    """A response follows an earlier one; both are read, and deleted."""
    hub = way.process()

    async def send(call: Any) -> Any:
        return await way.run(hub, flows.send, call)

    first = await send(CreateResponse(way.model, (Message.of("user", FACT),)))
    second = await send(
        CreateResponse(
            way.model,
            (Message.of("user", "How old is she?"),),
            previous_response_id=first.id,
            instructions="Answer with a number.",
        )
    )
    assert (await send(RetrieveResponse(second.id))).output == second.output
    shown = await send(ListInputItems(second.id))
    assert "How old is she?" in [item.text for item in shown.items if isinstance(item, Message)]
    for response in (first, second):
        await send(DeleteResponse(response.id))


async def followed_responses(way: Way) -> None:
    """Each turn follows the last one's response; a list goes back, and one response is deleted."""
    chat = way.chat(way.process(), state="response")
    messages: list[BaseMessage] = []
    for question in (FACT, "How old is she?"):
        messages.append(HumanMessage(question))
        messages.append(await way.answer(chat, messages))
    branch = [*messages[:2], HumanMessage("What are her hobbies?")]
    branched = await way.streamed(way.chat(way.process(), state="response"), branch)
    last = messages[-1].response_metadata["response_id"]
    await way.run(way.process(), flows.send, DeleteResponse(last))
    recovered = await way.answer(chat, [*messages, HumanMessage("Say that again.")])
    decisions = [
        one.response_metadata["decision"] for one in (*messages[1::2], branched, recovered)
    ]
    assert decisions == ["chained", "chained", "chained", "recovered"]


async def agent_thread(way: Way) -> None:
    """An agent calls a tool; another process goes on with its thread, and a third branches it."""
    saver = InMemorySaver()
    thread = RunnableConfig(configurable={"thread_id": "traveller"})

    async def asked(question: str, config: RunnableConfig) -> tuple[Any, list[BaseMessage]]:
        agent = create_agent(
            way.chat(way.process()),
            [StructuredTool.from_function(weather)],
            middleware=[_CallFirst(), QwenConvMiddleware()],
            checkpointer=saver,
        )
        messages = HumanMessage(question)
        state = await way.call(agent, "invoke", {"messages": messages}, config)
        for message in state["messages"]:
            if isinstance(message, AIMessage):
                way.noted(message)
        return agent.get_state(thread), state["messages"]

    first, said = await asked("How is the weather in Singapore?", thread)
    place = first.values["qwen_conversation_id"]
    way.delete_at_end(place)
    assert [one.type for one in said] == ["human", "ai", "tool", "ai"]
    assert {_place(one) for one in said[1::2]} == {place}
    second, _ = await asked("Say that again.", thread)
    assert second.values["qwen_conversation_id"] == place
    branch, said = await asked("Is that hot?", first.config)
    way.delete_at_end(branch.values["qwen_conversation_id"])
    assert branch.values["qwen_conversation_id"] != place
    assert [one.type for one in said] == ["human", "ai", "tool", "ai", "human", "ai"]
    assert said[-1].response_metadata["decision"] == "rebased"


class _CallFirst(AgentMiddleware):
    """Has the model call the tool for the first question."""

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        return handler(self._chosen(request))

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        return await handler(self._chosen(request))

    @staticmethod
    def _chosen(request: Any) -> Any:
        return request.override(tool_choice="weather") if len(request.messages) == 1 else request


async def llamaindex_chat(way: Way) -> None:
    """A memory is a conversation: a turn takes what it was told, and another process reads it."""
    registry = MemoryRegistry()
    hub = way.process(registry)
    llm, store = way.llm(hub), QwenConvAsyncChatStore(conversations=hub)
    memory = Memory.from_defaults(session_id="alice", chat_store=store)
    for method, question in (
        ("chat", FACT),
        ("chat", "How old is she?"),
        ("stream_chat", "What are her hobbies?"),
    ):
        await way.call(memory, "put", ChatMessage(question))
        answer = await way.replied(llm, method, await way.call(memory, "get"))
        way.delete_at_end(answer.additional_kwargs["conversation_id"])
        assert answer.additional_kwargs["decision"] == "attached"
        await way.call(memory, "put", answer.message)
    held = await way.call(memory, "get_all")
    assert [one.content for one in held][::2] == [FACT, "How old is she?", "What are her hobbies?"]
    later = QwenConvChatStore(conversations=way.process(registry))
    assert _told(await way.call(later, "get_messages", "alice")) == _told(held)


async def llamaindex_store(way: Way) -> None:
    """A chat store alone writes what it is handed, rewrites what differs, and deletes."""
    registry = MemoryRegistry()
    hub = way.process(registry)
    store = QwenConvChatStore(conversations=hub)
    written = [
        ChatMessage(role=role, content=f"{n}{mark}")
        for n in range(2)
        for role, mark in (("user", "?"), ("assistant", "."))
    ]
    for message in written:
        await way.call(store, "add_message", "numbers", message)
        row = registry.get(hub.session("numbers"))
        assert row is not None
        way.delete_at_end(row.conversation_id)
    read = await way.call(store, "get_messages", "numbers")
    assert _told(read) == _told(written)
    changed = [*read[:-1], ChatMessage(role="assistant", content="One.")]
    await way.call(store, "set_messages", "numbers", changed)
    deleted = await way.call(store, "delete_message", "numbers", 0)
    assert deleted.content == "0?"
    later = QwenConvChatStore(conversations=way.process(registry))
    assert _told(await way.call(later, "get_messages", "numbers")) == _told(changed[1:])
    assert _told(await way.call(store, "delete_messages", "numbers")) == _told(changed[1:])
    assert await way.call(store, "get_messages", "numbers") == []


async def llamaindex_tools(way: Way) -> None:
    """An LLM on a store calls a tool, is sent the result, and answers piece by piece."""
    hub = way.process()
    llm, store = way.llm(hub), QwenConvChatStore(conversations=hub)
    tool = FunctionTool.from_defaults(weather)

    async def taken(method: str, **how: Any) -> ChatResponse:
        history = await way.call(store, "get_messages", "weather")
        response = await way.replied(llm, method, [tool], chat_history=history, **how)
        way.delete_at_end(response.additional_kwargs["conversation_id"])
        await way.call(store, "add_message", "weather", response.message)
        return response

    question = ChatMessage("How is the weather in Singapore?")
    await way.call(store, "add_message", "weather", question)
    calling = await taken("chat_with_tools", tool_required=True)
    calls = llm.get_tool_calls_from_response(calling, error_on_no_tool_call=False)
    assert len(calls) == 1, "the model did not call the tool once"
    result = ChatMessage(
        role="tool",
        content=weather(**calls[0].tool_kwargs),
        additional_kwargs={"tool_call_id": calls[0].tool_id},
    )
    await way.call(store, "add_message", "weather", result)
    answer = await taken("stream_chat_with_tools")
    assert answer.message.content
    assert dict(answer.raw or {})["usage"]["output_tokens"] > 0
    held = await way.call(store, "get_messages", "weather")
    assert _told(held) == _told([question, calling.message, result, answer.message])
    place = calling.additional_kwargs["conversation_id"]
    assert answer.additional_kwargs["conversation_id"] == place


async def what_is_not_there(way: Way) -> None:
    """A conversation and an item that are not there are told as such."""
    hub = way.process()
    conversation = await way.run(hub, flows.create)
    way.delete_at_end(conversation.id)
    for call in (RetrieveConversation(UNKNOWN), RetrieveItem(conversation.id, "msg_unknown")):
        try:
            await way.run(hub, flows.send, call)
        except NotFoundError:
            continue
        raise AssertionError(f"{call} was found")


SCENARIOS = (
    two_processes,
    streamed_turn,
    tool_round,
    changed_list,
    chain_with_history,
    history_by_hand,
    eight_endpoints,
    chained_responses,
    followed_responses,
    agent_thread,
    llamaindex_chat,
    llamaindex_store,
    llamaindex_tools,
    what_is_not_there,
)


def weather(city: str) -> str:
    """The weather in a city."""
    return f"It is sunny in {city}, 31 degrees."


def script(context: Sequence[Any], request: Any) -> Answer:
    """What the offline server says: it calls the tool that it is told to, or quotes."""
    if request.get("tool_choice", "auto") != "auto":
        return CallTool(request["tools"][0]["name"], {"city": "Singapore"})
    if context[-1].get("type") == "function_call_output":
        return str(context[-1]["output"])
    return quote(context, request)


def _alice(way: Way, registry: MemoryRegistry) -> Any:
    """A model on the session "alice", in a process that begins."""
    return way.chat(way.process(registry), session_id="alice")


def _chain(way: Way, hub: QwenConversations) -> Any:
    prompt = ChatPromptTemplate([("placeholder", "{history}"), ("human", "{question}")])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LangChainDeprecationWarning)  # it goes with LangChain 2.0
        return RunnableWithMessageHistory(
            prompt | way.chat(hub),
            lambda key: QwenConvChatMessageHistory(key, conversations=hub),
            input_messages_key="question",
            history_messages_key="history",
        )


async def _holds(way: Way, conversation_id: str, messages: Sequence[BaseMessage]) -> None:
    """Checks that a conversation holds each of the messages, once and in order."""
    items = await way.run(way.process(), flows.read, conversation_id)
    held = [item.text for item in items if isinstance(item, Message)]
    assert held == [message.text for message in messages]


def _told(messages: Sequence[ChatMessage]) -> list[tuple[str, str | None]]:
    """What LlamaIndex's messages say, and as whose."""
    return [(message.role.value, message.content) for message in messages]


def _place(answer: BaseMessage) -> str:
    """The conversation that an answer was given in."""
    return str(answer.response_metadata["conversation_id"])
