"""What the tests of the LlamaIndex stores share: messages, ways of calling, and fixtures.

A module that imports `standing`, `server`, `hub` and `store` has one server for all its tests.
"""

import asyncio

import pytest
from conftest import MODEL, another_process
from llama_index.core.base.llms.types import TextBlock, ToolCallBlock
from llama_index.core.llms import ChatMessage
from llama_index.core.storage.chat_store.base_db import MessageStatus

from llamaindex_qwen_conv import QwenConv, QwenConvAsyncChatStore, QwenConvChatStore
from qwen_conv.offline import OfflineServer
from qwen_conv.registry import MemoryRegistry

WAYS = ("in threads", "in tasks", "for a Memory")
KINDS = ("alone", "beside a model")
ACTIVE, ARCHIVED = MessageStatus.ACTIVE, MessageStatus.ARCHIVED
ODD_NAMES = {"add_message": "async_add_message"}


class Driven:
    """A store, each of whose methods is called in one way: in a thread, or in a task of its own."""

    def __init__(self, way, **settings):
        self.way = way
        self.store = (QwenConvAsyncChatStore if way == WAYS[2] else QwenConvChatStore)(**settings)

    @property
    def hub(self):
        return self.store.conversations

    def flush(self):
        self.store.flush()

    def __getattr__(self, name):
        if self.way == "in threads":
            return getattr(self.store, name)
        twin = name if self.way == WAYS[2] else ODD_NAMES.get(name, f"a{name}")

        def in_a_task(*args, **kwargs):
            return asyncio.run(getattr(self.store, twin)(*args, **kwargs))

        return in_a_task


def user(text, **extra):
    return ChatMessage(text, additional_kwargs=extra)


def assistant(text, **extra):
    return ChatMessage(text, role="assistant", additional_kwargs=extra)


def system(text):
    return ChatMessage(text, role="system")


def calling(number=1):
    """An answer that says something and calls a tool."""
    call = ToolCallBlock(
        tool_call_id=f"call_{number}", tool_name="weather", tool_kwargs={"day": number}
    )
    return ChatMessage([TextBlock(text="Let me see."), call], role="assistant")


def result(number=1, text="It is sunny."):
    return ChatMessage(text, role="tool", additional_kwargs={"tool_call_id": f"call_{number}"})


def numbered(count):
    return [user(f"message {number}") for number in range(count)]


def texts(messages):
    return [message.content for message in messages]


def place(hub, key="alice"):
    """The conversation of a session."""
    return hub.registry.get(hub.session(key)).conversation_id


def hub_of(kind, server, **settings):
    """A hub that a store has alone, or that it shares with a model; no process knows it yet."""
    hub = another_process(server, **{"registry": MemoryRegistry(), **settings})
    if kind != "alone":
        QwenConv(model=MODEL, conversations=hub)
    return hub


@pytest.fixture(scope="module")
def standing():
    """One server for many tests, each of which has sessions of its own."""
    with OfflineServer() as server:
        yield server


@pytest.fixture
def server(standing):
    standing.requests.clear()
    return standing


@pytest.fixture(params=KINDS)
def hub(request, server):
    hub = hub_of(request.param, server)
    yield hub
    hub.close()


@pytest.fixture(params=WAYS)
def store(request, hub):
    return Driven(request.param, conversations=hub)
