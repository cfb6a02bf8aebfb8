"""What every history and store of every framework keeps to, whatever it is called there.

One contract, for LangChain's history and LlamaIndex's stores, for threads and tasks.
"""

import asyncio

import pytest
from conftest import another_process, asked, said
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from llama_index.core.base.llms.types import ChatMessage, ToolCallBlock
from lossy import relayed

from langchain_qwen_conv import QwenConvChatMessageHistory
from llamaindex_qwen_conv import QwenConvAsyncChatStore, QwenConvChatStore
from qwen_conv import QwenConversations, flows
from qwen_conv.errors import ConversationNotFoundError, NoReplyError, UsageError
from qwen_conv.registry import MemoryRegistry


class LangChain:
    """A chat message history."""

    def __init__(self, hub, key, run):
        self._history, self._run = QwenConvChatMessageHistory(key, conversations=hub), run

    def add(self, *told):
        self._run(self._history, "add_messages", [*map(self._message, told)])

    def read(self):
        if self._run is awaited:
            return [*map(self._told, asyncio.run(self._history.aget_messages()))]
        return [*map(self._told, self._history.messages)]

    def clear(self):
        self._run(self._history, "clear")

    @staticmethod
    def _message(told):
        match told:
            case ("call", call_id):
                call = {"name": "weather", "args": {"city": "Rome"}, "id": call_id}
                return AIMessage("One moment.", tool_calls=[call])
            case ("tool", call_id):
                return ToolMessage("It is sunny.", tool_call_id=call_id)
            case (role, text):
                kinds = {"user": HumanMessage, "assistant": AIMessage, "system": SystemMessage}
                return kinds[role](text)

    @staticmethod
    def _told(message):
        if isinstance(message, ToolMessage):
            return "tool", message.tool_call_id
        if getattr(message, "tool_calls", None):
            return "call", message.tool_calls[0]["id"]
        return {"human": "user", "ai": "assistant"}.get(message.type, message.type), message.text


class LlamaIndex:
    """A chat store of either kind, and a key."""

    def __init__(self, store, key, run, names):
        self._store, self._key, self._run, self._names = store, key, run, names

    def add(self, *told):
        messages = [*map(self._message, told)]
        if "add" in self._names:
            self._run(self._store, self._names["add"], self._key, messages)
        else:
            self._run(self._store, "set_messages", self._key, [*self._messages(), *messages])

    def read(self):
        return [*map(self._told, self._messages())]

    def clear(self):
        self._run(self._store, "delete_messages", self._key)

    def _messages(self):
        return self._run(self._store, "get_messages", self._key)

    @staticmethod
    def _message(told):
        match told:
            case ("call", call_id):
                call = ToolCallBlock(
                    tool_call_id=call_id, tool_name="weather", tool_kwargs={"city": "Rome"}
                )
                message = ChatMessage(role="assistant", content="One moment.")
                message.blocks.append(call)
                return message
            case ("tool", call_id):
                extra = {"tool_call_id": call_id}
                return ChatMessage(role="tool", content="It is sunny.", additional_kwargs=extra)
            case (role, text):
                return ChatMessage(role=role, content=text)

    @staticmethod
    def _told(message):
        calls = [one for one in message.blocks if isinstance(one, ToolCallBlock)]
        if calls:
            return "call", calls[0].tool_call_id
        if message.role.value == "tool":
            return "tool", message.additional_kwargs["tool_call_id"]
        return message.role.value, message.content


def called(target, name, *args):
    """Calls a method in this thread."""
    return getattr(target, name)(*args)


def awaited(target, name, *args):
    """Awaits a method's twin, in an event loop of its own."""
    return asyncio.run(getattr(target, f"a{name}")(*args))


def awaited_as_it_is(target, name, *args):
    """Awaits a method that has no twin, in an event loop of its own."""
    return asyncio.run(getattr(target, name)(*args))


HISTORIES = {
    "LangChain": lambda hub, key: LangChain(hub, key, called),
    "LangChain, awaited": lambda hub, key: LangChain(hub, key, awaited),
    "LlamaIndex": lambda hub, key: LlamaIndex(
        QwenConvChatStore(conversations=hub), key, called, {}
    ),
    "LlamaIndex, awaited": lambda hub, key: LlamaIndex(
        QwenConvChatStore(conversations=hub), key, awaited, {}
    ),
    "LlamaIndex's Memory": lambda hub, key: LlamaIndex(
        QwenConvAsyncChatStore(conversations=hub), key, awaited_as_it_is, {"add": "add_messages"}
    ),
}

ALICE = [("user", "Hello."), ("assistant", "Hello, Alice."), ("user", "Hello.")]


@pytest.fixture(params=HISTORIES)
def opened(request):
    """Opens a history of one kind: given the hub and a key."""
    return HISTORIES[request.param]


def conversation(hub, key="alice"):
    return hub.registry.get(hub.session(key)).conversation_id


def test_a_new_one_is_empty_and_nothing_is_sent_for_that(opened, hub, server):
    assert opened(hub, "alice").read() == []
    assert server.requests == []


def test_what_is_added_is_read_in_order_also_what_was_said_before(opened, hub, server):
    history = opened(hub, "alice")
    history.add(*ALICE[:2])
    history.add(ALICE[2])
    assert history.read() == ALICE
    assert said(server, conversation(hub)) == [f"{role}: {text}" for role, text in ALICE]


def test_another_process_reads_it_and_goes_on(opened, hub, server):
    opened(hub, "alice").add(*ALICE)
    other = another_process(server, registry=hub.registry)
    assert opened(other, "alice").read() == ALICE
    opened(other, "alice").add(("assistant", "Again?"))
    assert said(server, conversation(hub))[-1] == "assistant: Again?"
    assert len(said(server, conversation(hub))) == 4


def test_two_sessions_never_mix(opened, hub):
    opened(hub, "alice").add(*ALICE)
    opened(hub, "Alice").add(("user", "I am another."))
    assert opened(hub, "alice").read() == ALICE
    assert opened(hub, "Alice").read() == [("user", "I am another.")]


def test_many_are_written_twenty_a_request_and_read_a_hundred_a_page(opened, hub, server):
    many = [("assistant" if number % 2 else "user", f"Number {number}") for number in range(106)]
    opened(hub, "alice").add(*many)
    writes = [one for one in asked(server) if one.startswith("POST")]
    assert len(writes) == 6
    del server.requests[:]
    assert opened(another_process(server, registry=hub.registry), "alice").read() == many
    pages = [one for one in asked(server) if one == "GET /conversations/*/items"]
    assert len(pages) == 2


@pytest.mark.parametrize("text", ["Grüße 🐼 \u200d", "  white \n space ", "{context_str}", "null"])
def test_any_text_comes_back_as_it_was(opened, hub, server, text):
    opened(hub, "alice").add(("user", text))
    assert opened(another_process(server, registry=hub.registry), "alice").read() == [
        ("user", text)
    ]


def test_calls_of_tools_and_their_results_come_back_in_another_process(opened, hub, server):
    told = [("user", "How is it?"), ("call", "call_1"), ("tool", "call_1"), ("assistant", "Sunny.")]
    opened(hub, "alice").add(*told)
    assert opened(another_process(server, registry=hub.registry), "alice").read() == told


@pytest.mark.parametrize("text", ["\ud800", ""])
def test_what_cannot_be_stored_is_refused_before_anything_is_sent(opened, hub, server, text):
    with pytest.raises(UsageError):
        opened(hub, "alice").add(("user", "Fine."), ("user", text))
    assert server.requests == []


def test_what_is_cleared_is_gone_and_it_goes_on(opened, hub, server):
    history = opened(hub, "alice")
    history.add(*ALICE)
    first = conversation(hub)
    history.clear()
    assert server.items(first) == []
    assert history.read() == []
    history.add(("user", "Anew."))
    assert history.read() == [("user", "Anew.")]
    assert said(server, conversation(hub)) == ["user: Anew."]


def test_an_adding_whose_answer_was_lost_is_not_made_twice(opened, server):
    with relayed(server.base_url) as relay:
        hub = QwenConversations(api_key="any", base_url=relay.base_url, registry=MemoryRegistry())
        history = opened(hub, "alice")
        history.add(*ALICE)
        relay.loses = lambda method, path: method == "POST" and path.endswith("/items")
        with pytest.raises(NoReplyError):
            history.add(("assistant", "Again?"))
        relay.loses = lambda _method, _path: False
        history.add(("assistant", "Again?"))
        assert history.read() == [*ALICE, ("assistant", "Again?")]
        assert len(said(server, conversation(hub))) == 4


def test_a_conversation_that_is_gone_is_told(opened, hub, server):
    opened(hub, "alice").add(*ALICE)
    hub.run(flows.delete, conversation(hub))
    other = another_process(server, registry=hub.registry)
    with pytest.raises(ConversationNotFoundError):
        opened(other, "alice").read()
