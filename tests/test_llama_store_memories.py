"""LlamaIndex's memories work on the stores as on its own, from wherever they are called."""

import asyncio
import threading
import warnings

import pytest
from conftest import MODEL, another_process, asked, said
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.llms import ChatMessage
from llama_index.core.llms.mock import MockLLM
from llama_index.core.memory import (
    BaseMemoryBlock,
    ChatMemoryBuffer,
    ChatSummaryMemoryBuffer,
    Memory,
    SimpleComposableMemory,
)
from llama_index.core.storage.chat_store import SimpleChatStore
from llama_index.core.storage.chat_store.sql import SQLAlchemyChatStore
from llama_store import (
    ACTIVE,
    ARCHIVED,
    assistant,
    calling,
    hub,
    hub_of,
    numbered,
    place,
    result,
    server,
    standing,
    texts,
    user,
)

from llamaindex_qwen_conv import QwenConv, QwenConvAsyncChatStore, QwenConvChatStore


def memory_on(hub, **settings):
    store = QwenConvAsyncChatStore(conversations=hub)
    return Memory.from_defaults(session_id="alice", chat_store=store, **settings)


def words(text):
    """A tokenizer that nobody has to download."""
    return text.split()


# --- Memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["sql_store", "from_defaults"])
def test_a_memory_takes_the_store(server, hub, how):
    store = QwenConvAsyncChatStore(conversations=hub)
    if how == "sql_store":
        memory = Memory(sql_store=store, session_id="alice", token_limit=1000)
    else:
        memory = Memory.from_defaults(session_id="alice", chat_store=store)
    assert memory.sql_store is store
    memory.put(user("one"))
    memory.put_messages([assistant("two"), user("three")])
    assert memory.get() == memory.get_all() == [user("one"), assistant("two"), user("three")]
    memory.set([user("anew"), assistant("and more")])
    assert memory.get() == [user("anew"), assistant("and more")]
    assert said(server, place(hub)) == ["user: anew", "assistant: and more"]
    memory.reset()
    assert memory.get() == []
    assert hub.registry.get(hub.session("alice")) is None


def test_a_memory_can_begin_with_a_history(server, hub):
    memory = memory_on(hub, chat_history=[user("one"), assistant("two")])
    assert memory.get() == [user("one"), assistant("two")]
    assert said(server, place(hub)) == ["user: one", "assistant: two"]


class Kept(BaseMemoryBlock[str]):
    """A memory block that keeps what falls out of the memory, and marks it as blocks do."""

    name: str = "kept"
    got: list[ChatMessage] = []

    async def _aget(self, *_, **__):
        return ""

    async def _aput(self, messages):
        self.got += messages


TALK = [
    message
    for number in range(8)
    for message in (user(f"a question of some words {number}"), assistant(f"its answer {number}"))
]
TALK[5:5] = [calling(), result()]


def of_both_stores(hub, **settings):
    """The same memory on our store and on LlamaIndex's."""
    for store in (QwenConvAsyncChatStore(conversations=hub), SQLAlchemyChatStore(table_name="m")):
        yield Memory.from_defaults(
            session_id="alice",
            chat_store=store,
            tokenizer_fn=words,
            memory_blocks=[Kept()],
            **settings,
        )


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("limit", [30, 60])
def test_what_a_memory_has_no_room_for_is_archived_as_in_the_sql_store(
    server, hub, limit, together
):
    settings = {"token_limit": limit, "token_flush_size": 10}

    async def fill(memory):
        if together:
            await memory.aput_messages(TALK)
        else:
            for message in TALK:
                await memory.aput(message)
        found = [await memory.aget_all(status) for status in (ACTIVE, ARCHIVED, None)]
        (block,) = memory.memory_blocks
        return [*found, await memory.aget(), block.got]

    async def both():
        ours, sql = [(memory, await fill(memory)) for memory in of_both_stores(hub, **settings)]
        await sql[0].sql_store._async_engine.dispose()
        return ours[1], sql[1]

    ours, sql = asyncio.run(both())
    assert ours == sql
    assert ours[1]  # something was archived
    hub.mirrors.flush()
    assert len(server.items(place(hub))) == len(TALK)


def test_another_process_goes_on_where_the_memory_was(server, hub):
    settings = {"token_limit": 40, "token_flush_size": 10, "tokenizer_fn": words}
    memory = memory_on(hub, **settings)
    memory.put_messages(TALK)
    memory.sql_store.flush()
    there = memory_on(another_process(server, registry=hub.registry), **settings)
    assert texts(there.get()) == texts(memory.get())
    there.put(user("one more"))
    assert texts(there.get_all(ARCHIVED))[: len(memory.get_all(ARCHIVED))] == texts(
        memory.get_all(ARCHIVED)
    )


def test_messages_that_are_put_at_once_are_all_there(server, hub):
    memory = memory_on(hub, token_limit=30, token_flush_size=10, tokenizer_fn=words)

    async def put():
        await asyncio.gather(*(memory.aput(message) for message in numbered(12)))

    asyncio.run(put())
    assert sorted(texts(memory.get_all())) == sorted(texts(numbered(12)))
    assert memory.get_all() == [*memory.get_all(ARCHIVED), *memory.get_all(ACTIVE)]
    memory.sql_store.flush()
    assert said(server, place(hub)) == [f"user: {text}" for text in texts(memory.get_all())]


def in_the_main_thread(put):
    for message in TALK:
        put(message)


def in_one_loop_after_the_other(put):
    for message in TALK:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(_calling(put, message))
        loop.close()


def in_a_notebook(put):
    async def cell():
        for message in TALK:
            put(message)

    asyncio.run(cell())


def in_a_thread_for_each(put):
    for message in TALK:
        thread = threading.Thread(target=put, args=(message,))
        thread.start()
        thread.join()


async def _calling(put, message):
    put(message)


@pytest.mark.parametrize(
    "somewhere",
    [in_the_main_thread, in_one_loop_after_the_other, in_a_notebook, in_a_thread_for_each],
)
@pytest.mark.parametrize("kind", ["Memory", "ChatMemoryBuffer"])
def test_a_memory_is_filled_from_wherever_it_is_called(server, hub, kind, somewhere):
    if kind == "Memory":
        memory = memory_on(hub)
    else:
        memory = ChatMemoryBuffer.from_defaults(
            chat_store=QwenConvChatStore(conversations=hub), chat_store_key="alice"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # loops that LlamaIndex leaves open
        somewhere(memory.put)
        assert memory.get_all() == TALK
    hub.mirrors.flush()
    assert len(server.items(place(hub))) == len(TALK)


def test_a_memory_is_filled_by_tasks_of_several_loops(server, hub):
    memory = memory_on(hub)
    for message in TALK:
        asyncio.run(memory.aput(message))
    assert asyncio.run(memory.aget()) == TALK
    hub.mirrors.flush()
    assert len(server.items(place(hub))) == len(TALK)


# --- The older ones ----------------------------------------------------------------------------


def test_a_buffer_shows_what_it_has_room_for_and_keeps_the_rest(server, hub):
    buffer = ChatMemoryBuffer.from_defaults(
        chat_store=QwenConvChatStore(conversations=hub),
        chat_store_key="alice",
        token_limit=12,
        tokenizer_fn=words,
    )
    stock = ChatMemoryBuffer.from_defaults(token_limit=12, tokenizer_fn=words)
    for message in TALK:
        buffer.put(message)
        stock.put(message)
        assert buffer.get() == stock.get()
    assert buffer.get_all() == TALK
    hub.mirrors.flush()
    assert len(server.items(place(hub))) == len(TALK)


def test_a_buffer_is_used_by_tasks(server, hub):
    buffer = ChatMemoryBuffer.from_defaults(
        chat_store=QwenConvChatStore(conversations=hub), chat_store_key="alice"
    )

    async def used():
        await buffer.aput(user("one"))
        await buffer.aput_messages([assistant("two"), user("three")])
        found = await buffer.aget(), await buffer.aget_all()
        await buffer.aset([user("anew")])
        left = await buffer.aget()
        await buffer.areset()
        return *found, left, await buffer.aget_all()

    three = [user("one"), assistant("two"), user("three")]
    assert asyncio.run(used()) == (three, three, [user("anew")], [])


def summary(store, llm):
    return ChatSummaryMemoryBuffer.from_defaults(
        chat_store=store, chat_store_key="alice", llm=llm, token_limit=16, tokenizer_fn=words
    )


def test_a_buffer_of_summaries_is_right_whatever_it_costs(server, hub):
    ours = summary(QwenConvChatStore(conversations=hub), MockLLM(max_tokens=5))
    stock = summary(SimpleChatStore(), MockLLM(max_tokens=5))
    for message in TALK:
        ours.put(message.model_copy(deep=True))
        stock.put(message.model_copy(deep=True))
        assert ours.get() == stock.get()
        assert ours.get_all() == stock.get_all()
    assert ours.get_all()[0].role.value == "system"
    hub.mirrors.flush()
    there = QwenConvChatStore(conversations=another_process(server, registry=hub.registry))
    assert texts(there.get_messages("alice")) == texts(ours.get_all())
    assert len(server.items(place(hub))) == len(ours.get_all())


def test_so_it_is_under_an_engine_whose_turns_run_on_conversations(server):
    hub = hub_of("beside a model", server)
    store = QwenConvChatStore(conversations=hub)
    memory = summary(store, MockLLM(max_tokens=5))
    llm = QwenConv(model=MODEL, conversations=hub)
    engine = SimpleChatEngine.from_defaults(llm=llm, memory=memory)
    for number in range(5):
        engine.chat(f"a question of some words {number}")
    held = store.get_messages("alice")
    store.flush()
    assert said(server, place(hub)) == [f"{each.role.value}: {each.content}" for each in held]
    assert held[-2] == user("a question of some words 4")
    hub.close()


def test_a_composable_memory_finds_messages_equal(hub):
    primary = ChatMemoryBuffer.from_defaults(
        chat_store=QwenConvChatStore(conversations=hub), chat_store_key="alice"
    )
    other = ChatMemoryBuffer.from_defaults(
        chat_store=QwenConvChatStore(conversations=hub), chat_store_key="bob"
    )
    memory = SimpleComposableMemory(primary_memory=primary, secondary_memory_sources=[other])
    memory.put(user("one"))
    memory.put(assistant("two"))
    assert memory.get() == [user("one"), assistant("two")]
    other.put(user("of before"))
    assert "of before" in str(memory.get()[0])


def test_a_read_of_a_memory_costs_nothing(server, hub):
    memory = memory_on(hub)
    memory.put(user("one"))
    memory.put(assistant("two"))
    server.requests.clear()
    for _ in range(3):
        memory.get()
        memory.get_all()
    assert asked(server) == []
