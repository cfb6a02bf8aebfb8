"""A key leads to one conversation, in every process that is to find it and to nobody else's."""

import asyncio
import json
import pickle
import threading
from copy import deepcopy

import pytest
from conftest import KEY, MODEL, another_process, asked, said
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.storage.chat_store import SimpleChatStore
from llama_index.core.storage.chat_store.loading import load_chat_store
from llama_index.core.workflow import Context, JsonSerializer
from llama_store import (
    ARCHIVED,
    KINDS,
    WAYS,
    Driven,
    assistant,
    calling,
    hub,
    hub_of,
    numbered,
    place,
    result,
    server,
    standing,
    store,
    texts,
    user,
)

from llamaindex_qwen_conv import QwenConv, QwenConvAsyncChatStore, QwenConvChatStore
from qwen_conv import QwenConversations, errors, flows
from qwen_conv.items import Message
from qwen_conv.registry import MemoryRegistry, SqlRegistry


@pytest.fixture(params=["in memory", "in a database"])
def registry(request, tmp_path):
    if request.param == "in memory":
        yield MemoryRegistry()
        return
    with SqlRegistry(f"sqlite:///{tmp_path / 'registry.db'}") as registry:
        yield registry


# --- Sessions ----------------------------------------------------------------------------------


def test_a_key_is_a_session_of_the_registry(server, hub, store):
    conversation = hub.run(flows.create, [Message.of("user", "hi"), Message.of("assistant", "ho")])
    hub.registry.bind(hub.session("alice"), conversation.id)
    assert store.get_keys() == ["alice"]
    assert store.get_messages("alice") == [user("hi"), assistant("ho")]
    store.add_message("alice", assistant("bye"))
    assert said(server, conversation.id) == ["user: hi", "assistant: ho", "assistant: bye"]


@pytest.mark.parametrize("key", ["Grüße, 你好", "a/b?c#d", " ", "x" * 2000, "conversation_1"])
def test_any_text_is_a_key(server, hub, store, key):
    store.add_message(key, user("hi"))
    store.flush()
    there = Driven(store.way, conversations=another_process(server, registry=hub.registry))
    for one in (store, there):
        assert one.get_keys() == [key]
        assert one.get_messages(key) == [user("hi")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_keys_and_messages_are_found_by_another_process(server, registry, kind, way):
    given = [user("How is it?"), calling(), result(), assistant("It is sunny.")]
    first = Driven(way, conversations=hub_of(kind, server, registry=registry))
    for key in ("bob", "alice"):
        first.set_messages(key, given)
        first.flush()
    second = Driven(way, conversations=hub_of(kind, server, registry=registry))
    assert second.get_keys() == ["bob", "alice"]
    assert second.get_messages("alice") == given
    assert second.delete_message("alice", 0) == given[0]
    second.delete_messages("bob")
    third = Driven(way, conversations=hub_of(kind, server, registry=registry))
    assert third.get_keys() == ["alice"]
    assert third.get_messages("alice") == given[1:]
    assert third.get_messages("bob") == []


@pytest.mark.parametrize("way", WAYS)
def test_namespaces_are_kept_apart(server, registry, way):
    one, other = (
        Driven(way, conversations=hub_of("alone", server, registry=registry, namespace=namespace))
        for namespace in ("one", "other")
    )
    one.add_message("alice", user("hi"))
    assert other.get_messages("alice") == []
    assert other.get_keys() == []
    other.add_message("alice", user("ho"))
    assert one.get_messages("alice") == [user("hi")]
    other.delete_messages("alice")
    assert one.get_keys() == ["alice"]


@pytest.mark.parametrize("way", WAYS)
def test_accounts_are_kept_apart(server, way):
    settings = {"base_url": server.base_url, "registry": MemoryRegistry()}
    one, other = (Driven(way, api_key=key, **settings) for key in ("one", "other"))
    one.add_message("alice", user("hi"))
    assert other.get_messages("alice") == []
    assert other.get_keys() == []


def test_messages_that_many_threads_add_under_many_keys_do_not_mix(server, hub):
    store = QwenConvChatStore(conversations=hub)
    together = threading.Barrier(6)

    def work(number):
        together.wait()
        for turn in range(4):
            store.add_message(f"user {number % 3}", user(f"{number} asks {turn}"))
            store.add_message(f"user {number % 3}", assistant(f"{number} says {turn}"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.flush()
    for number in range(3):
        found = texts(store.get_messages(f"user {number}"))
        stored = [line.split(": ")[1] for line in said(server, place(hub, f"user {number}"))]
        assert found == stored
        for one in (number, number + 3):
            assert [text for text in found if text.startswith(f"{one} ")] == [
                f"{one} {verb} {turn}" for turn in range(4) for verb in ("asks", "says")
            ]
        assert len(found) == 16


def test_messages_that_many_tasks_add_are_all_there_and_in_order(server, hub):
    store = QwenConvAsyncChatStore(conversations=hub)

    async def work():
        await asyncio.gather(
            *(store.add_message("alice", message) for message in numbered(10)),
            *(store.add_messages("bob", numbered(10)) for _ in range(3)),
        )
        return await store.get_messages("alice"), await store.get_messages("bob")

    alice, bob = asyncio.run(work())
    assert alice == numbered(10)
    assert sorted(texts(bob)) == sorted(texts(numbered(10) * 3))
    store.flush()
    assert said(server, place(hub)) == [f"user: {text}" for text in texts(alice)]
    assert said(server, place(hub, "bob")) == [f"user: {text}" for text in texts(bob)]


@pytest.mark.parametrize("most", [1, 3])
def test_a_store_of_more_keys_than_a_hub_remembers_loses_nothing(
    server, hub, store, monkeypatch, most
):
    monkeypatch.setattr("qwen_conv.mirrors.MOST", most)
    keys = [f"user {number}" for number in range(5)]
    for text in ("one", "two"):
        for key in keys:
            store.add_message(key, user(text))
            store.add_message(key, assistant(f"{text} it is"))
    for key in keys:
        assert store.delete_message(key, 0) == user("one")
        store.add_message(key, user("three"))
    assert store.get_keys() == keys
    for key in keys:
        assert texts(store.get_messages(key)) == ["one it is", "two", "two it is", "three"]
    store.flush()
    for key in keys:
        assert said(server, place(hub, key)) == [
            "assistant: one it is",
            "user: two",
            "assistant: two it is",
            "user: three",
        ]


def test_two_stores_of_one_hub_see_each_other(hub):
    one = QwenConvChatStore(conversations=hub)
    other = Driven(WAYS[2], conversations=hub)
    one.add_message("alice", user("one"))
    assert other.get_messages("alice") == [user("one")]
    other.add_message("alice", assistant("two"))
    assert one.get_messages("alice") == [user("one"), assistant("two")]
    one.delete_messages("alice")
    assert other.get_messages("alice") == []


# --- Conversations that are named by their id --------------------------------------------------


@pytest.fixture
def conversation(hub, server):
    made = hub.run(flows.create, [Message.of("user", "hi"), Message.of("assistant", "ho")])
    server.requests.clear()
    return made.id


def test_a_conversation_is_read_and_written_by_its_id(server, hub, store, conversation):
    assert store.get_messages(conversation) == [user("hi"), assistant("ho")]
    assert store.get_keys() == []
    store.add_message(conversation, assistant("bye"))
    assert store.get_keys() == [conversation]
    assert store.get_messages(conversation) == [user("hi"), assistant("ho"), assistant("bye")]
    assert store.delete_message(conversation, 1) == assistant("ho")
    store.set_messages(conversation, [user("hi"), assistant("anew")])
    store.flush()
    assert said(server, conversation) == ["user: hi", "assistant: anew"]
    assert hub.registry.sessions(hub.namespace) == []


def test_it_is_emptied_and_stays_when_its_messages_are_deleted(server, hub, store, conversation):
    store.add_message(conversation, user("more"))
    store.delete_messages(conversation)
    assert store.get_messages(conversation) == []
    assert store.get_keys() == []
    assert said(server, conversation) == []
    store.add_message(conversation, assistant("again"))
    assert said(server, conversation) == ["assistant: again"]
    assert store.get_keys() == [conversation]


def test_what_is_deleted_of_it_is_returned(hub, conversation):
    store = QwenConvChatStore(conversations=hub)
    assert store.delete_messages(conversation) == [user("hi"), assistant("ho")]


def test_one_that_is_not_there_is_told_and_is_no_key(store):
    for act in (
        lambda: store.get_messages("conv_unknown"),
        lambda: store.add_message("conv_unknown", assistant("hi")),
        lambda: store.set_messages("conv_unknown", [assistant("hi")]),
        lambda: store.delete_message("conv_unknown", 0),
        lambda: store.delete_messages("conv_unknown"),
    ):
        with pytest.raises(errors.ConversationNotFoundError, match="conv_unknown"):
            act()
    assert store.get_keys() == []


# --- Dumps -------------------------------------------------------------------------------------


@pytest.fixture
def afterwards(monkeypatch, server):
    """Another process that knows nothing, with the key in its environment as users have it."""

    def begin(key=KEY):
        monkeypatch.setattr("qwen_conv.hub.PROCESS_REGISTRY", MemoryRegistry())
        if key is None:
            monkeypatch.delenv("DASHSCOPE_API_KEY", raising=False)
        else:
            monkeypatch.setenv("DASHSCOPE_API_KEY", key)

    return begin


@pytest.fixture(params=KINDS)
def keyed(request, server):
    """A hub with a key that must not be told."""
    hub = QwenConversations(api_key=KEY, base_url=server.base_url, registry=MemoryRegistry())
    if request.param != "alone":
        QwenConv(model=MODEL, conversations=hub)
    yield hub
    hub.close()


def filled(hub, kind=QwenConvChatStore, **settings):
    """A store whose messages are written or wait, as it is beside a model."""
    store = kind(conversations=hub, **settings)
    asyncio.run(_fill(store))
    return store


async def _fill(store):
    if isinstance(store, QwenConvChatStore):
        await store.aset_messages("alice", [user("one"), assistant("two"), user("three")])
    else:
        await store.add_messages("alice", [user("one"), assistant("two"), user("three")])


GIVEN = [user("one"), assistant("two"), user("three")]


def restored_by_dict(store):
    return type(store).from_dict(json.loads(json.dumps(store.to_dict())))


def restored_by_json(store):
    return type(store).from_json(store.to_json())


def restored_by_name(store):
    return load_chat_store(json.loads(store.json()))


def restored_by_model(store):
    return type(store).model_validate(store.model_dump(mode="json"))


def restored_by_model_json(store):
    return type(store).model_validate_json(store.model_dump_json())


def restored_by_pickle(store):
    return pickle.loads(pickle.dumps(store))


RESTORED = [
    restored_by_dict,
    restored_by_json,
    restored_by_name,
    restored_by_model,
    restored_by_model_json,
    restored_by_pickle,
]


@pytest.mark.parametrize("restored", RESTORED)
def test_a_restored_store_finds_its_conversations(keyed, afterwards, restored):
    store = filled(keyed, freshness="turn", stage_timeout=7)
    afterwards()
    again = restored(store)
    assert isinstance(again, QwenConvChatStore)
    assert again.get_keys() == ["alice"]
    assert again.get_messages("alice") == GIVEN
    assert (again.freshness, again.stage_timeout) == ("turn", 7)
    assert (again.base_url, again.namespace) == (store.base_url, store.namespace)
    again.add_message("alice", assistant("four"))
    assert restored(again).get_messages("alice") == [*GIVEN, assistant("four")]
    assert store.get_messages("alice") == GIVEN  # it was not touched by being dumped


@pytest.mark.parametrize(
    "restored", [restored_by_model, restored_by_model_json, restored_by_pickle]
)
def test_so_does_a_store_of_a_memory(keyed, afterwards, restored):
    store = filled(keyed, QwenConvAsyncChatStore)
    afterwards()
    assert asyncio.run(restored(store).get_messages("alice")) == GIVEN
    assert asyncio.run(store.get_messages("alice")) == GIVEN


@pytest.mark.parametrize(
    "restored", [restored_by_model, restored_by_model_json, restored_by_pickle]
)
def test_what_was_archived_is_found_archived_by_a_restored_store(keyed, afterwards, restored):
    store = filled(keyed, QwenConvAsyncChatStore)
    asyncio.run(store.archive_oldest_messages("alice", 2))
    afterwards()
    again = restored(store)
    assert asyncio.run(again.get_messages("alice", ARCHIVED)) == GIVEN[:2]
    assert asyncio.run(again.get_messages("alice")) == GIVEN[2:]


@pytest.mark.parametrize("restored", RESTORED)
def test_what_waits_is_written_before_the_store_is_dumped(server, afterwards, restored):
    store = QwenConvChatStore(conversations=hub_of("beside a model", server))
    store.add_message("alice", user("How is it?"))
    assert asked(server) == []
    afterwards("any")
    assert restored(store).get_messages("alice") == [user("How is it?")]
    assert store.get_messages("alice") == [user("How is it?")]
    assert asked(server).count("POST /conversations") == 1


def test_a_dump_that_cannot_write_what_waits_says_so_and_loses_nothing(server):
    hub = hub_of("beside a model", server)
    store = QwenConvChatStore(conversations=hub)
    store.add_message("alice", user("one"))
    store.flush()
    store.add_message("alice", user("two"))
    another_process(server).run(flows.delete, place(hub))
    with pytest.raises(ValueError, match=r"ConversationNotFoundError.*forget_session"):
        store.to_dict()
    hub.forget_session("alice")
    assert store.to_dict()["sessions"] == {"alice": place(hub)}
    assert store.get_messages("alice") == [user("two")]


@pytest.mark.parametrize("restored", RESTORED)
def test_a_store_cannot_be_restored_without_a_key(keyed, afterwards, restored):
    store = filled(keyed)
    afterwards(None)
    with pytest.raises(ValueError, match="DASHSCOPE_API_KEY") as raised:
        restored(store)
    if "model" not in restored.__name__:  # pydantic makes its own error of what a validator raises
        assert isinstance(raised.value, errors.MissingKeyError)


@pytest.mark.parametrize("kind", [QwenConvChatStore, QwenConvAsyncChatStore])
def test_the_key_is_told_to_nobody(server, kind):
    headers = {"X-Token": "header-that-is-secret"}
    store = kind(
        api_key=KEY, base_url=server.base_url, registry=MemoryRegistry(), default_headers=headers
    )
    asyncio.run(_fill(store))
    model = QwenConv(model=MODEL, conversations=store.conversations)
    assert store.api_key is None
    told = [
        repr(store),
        str(store),
        store.model_dump(),
        store.model_dump_json(),
        pickle.dumps(store),
    ]
    told += [repr(model), str(model), model.model_dump(), pickle.dumps(model)]
    if kind is QwenConvChatStore:
        told += [store.to_dict(), store.to_json()]
    assert KEY not in str(told)
    assert "header-that-is-secret" not in str(told)
    with pytest.raises(ValueError, match="no_such_setting") as raised:
        kind(api_key=KEY, no_such_setting=KEY)
    assert KEY not in str(raised.value)


def test_a_model_is_restored_with_the_key_of_its_new_process(server, keyed, afterwards):
    model = QwenConv(model=MODEL, conversations=keyed, temperature=0.5)
    pickled = pickle.dumps(model)
    assert model.conversations is keyed
    afterwards(None)
    with pytest.raises(errors.MissingKeyError):
        pickle.loads(pickled)
    afterwards()
    again = pickle.loads(pickled)
    assert (again.model, again.temperature, again.base_url) == (MODEL, 0.5, server.base_url)
    assert again.chat([user("How is it?")]).message.content


def test_a_dump_tells_only_of_the_keys_that_the_store_was_used_for(keyed, afterwards):
    other = QwenConvChatStore(conversations=keyed)
    other.add_message("bob", assistant("hi"))
    store = filled(keyed)
    assert other.get_keys() == store.get_keys() == ["bob", "alice"]
    assert store.to_dict()["sessions"] == {"alice": place(keyed)}
    afterwards()
    again = restored_by_dict(store)
    assert again.get_keys() == ["alice"]
    again.add_message("carol", assistant("hi"))
    assert [*again.to_dict()["sessions"]] == ["alice", "carol"]


def test_a_key_that_was_deleted_or_forgotten_is_in_no_dump(keyed):
    store = filled(keyed)
    store.delete_messages("alice")
    assert store.to_dict()["sessions"] == {}
    store.add_message("alice", assistant("anew"))
    keyed.forget_session("alice")
    assert store.to_dict()["sessions"] == {}


def test_a_registry_that_knows_the_session_knows_better_than_a_dump(server, keyed):
    store = filled(keyed)
    dump = store.to_dict()
    store.delete_messages("alice")
    store.add_message("alice", assistant("anew"))
    again = QwenConvChatStore.from_dict(dump, conversations=keyed)
    assert again.get_messages("alice") == [assistant("anew")]


@pytest.mark.parametrize(
    ("sessions", "says"),
    [
        ({"alice": "bob"}, "not a conversation id"),
        ({"": "conv_1"}, "key is ''"),
        ({"conv_1": "conv_2"}, "'conv_1' is a conversation"),
    ],
)
def test_sessions_that_cannot_be_are_refused(server, sessions, says):
    with pytest.raises(errors.UsageError, match=says):
        QwenConvChatStore(api_key="any", base_url=server.base_url, sessions=sessions)


# --- Memories and agents -----------------------------------------------------------------------


def test_a_memory_is_restored_with_its_store(keyed, afterwards):
    buffer = ChatMemoryBuffer.from_defaults(
        chat_store=filled(keyed), chat_store_key="alice", token_limit=1000
    )
    dumps = json.loads(json.dumps(buffer.to_dict())), buffer.to_string()
    assert KEY not in str(dumps)
    afterwards()
    for again in (ChatMemoryBuffer.from_dict(dumps[0]), ChatMemoryBuffer.from_string(dumps[1])):
        assert again.get() == GIVEN
        assert (again.token_limit, again.chat_store_key) == (1000, "alice")
    again.put(assistant("four"))
    assert again.get() == [*GIVEN, assistant("four")]
    afterwards(None)
    with pytest.raises(errors.MissingKeyError):
        ChatMemoryBuffer.from_string(dumps[1])


def test_llama_indexs_own_stores_are_restored_as_before():
    store = load_chat_store({"class_name": "SimpleChatStore", "store": {"alice": [user("hi")]}})
    assert isinstance(store, SimpleChatStore)
    assert store.get_messages("alice") == [user("hi")]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # LlamaIndex looks at all of an agent
@pytest.mark.parametrize("streaming", [True, False])
def test_an_agents_context_is_restored_with_its_memory(server, keyed, afterwards, streaming):
    llm = QwenConv(model=MODEL, conversations=keyed)
    agent = FunctionAgent(tools=[], llm=llm, streaming=streaming)
    buffer = ChatMemoryBuffer.from_defaults(
        chat_store=QwenConvChatStore(conversations=keyed), chat_store_key="alice"
    )

    async def first():
        context = Context(agent)
        await agent.run("How is it?", ctx=context, memory=buffer)
        return json.dumps(context.to_dict(serializer=JsonSerializer()))

    dumped = asyncio.run(first())
    assert KEY not in dumped
    before = buffer.get()
    afterwards()

    async def second():
        context = Context.from_dict(agent, json.loads(dumped), serializer=JsonSerializer())
        memory = await context.store.get("memory")
        assert memory.get() == before
        await agent.run("And tomorrow?", ctx=context)
        return await (await context.store.get("memory")).aget()

    after = asyncio.run(second())
    assert texts(after)[:2] == texts(before)
    assert [message.role.value for message in after] == ["user", "assistant"] * 2
    assert said(server, place(keyed)) == [
        f"{message.role.value}: {message.content}" for message in after
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_context_can_be_dumped_while_a_turn_is_open(server, keyed):
    """As an application does that keeps a run's state with every event."""
    llm = QwenConv(model=MODEL, conversations=keyed)
    agent = FunctionAgent(tools=[], llm=llm, streaming=True)
    buffer = ChatMemoryBuffer.from_defaults(
        chat_store=QwenConvChatStore(conversations=keyed), chat_store_key="alice"
    )

    async def run():
        context = Context(agent)
        handler = agent.run("How is it?", ctx=context, memory=buffer)
        dumps = [
            context.to_dict(serializer=JsonSerializer()) async for _ in handler.stream_events()
        ]
        await handler
        return dumps

    assert asyncio.run(run())
    assert [message.role.value for message in buffer.get()] == ["user", "assistant"]
    assert len(said(server, place(keyed))) == 2


def test_a_store_can_be_copied_and_shares_its_hub(hub):
    store = QwenConvChatStore(conversations=hub)
    store.add_message("alice", user("hi"))
    for copy in (deepcopy(store), store.model_copy()):
        assert copy.conversations is hub
        assert copy.get_messages("alice") == [user("hi")]
