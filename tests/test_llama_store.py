"""The chat stores do what LlamaIndex's own do, as LlamaIndex's tests of them say it."""

import asyncio

import pytest
from conftest import another_process, asked, said
from llama_index.core.storage.chat_store import BaseChatStore
from llama_index.core.storage.chat_store.base_db import AsyncDBChatStore
from llama_store import (
    ACTIVE,
    ARCHIVED,
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

from llamaindex_qwen_conv import QwenConvAsyncChatStore, QwenConvChatStore


@pytest.fixture(params=WAYS[:2])
def chat_store(request, hub):
    """A `BaseChatStore`."""
    return Driven(request.param, conversations=hub)


@pytest.fixture
def memory_store(hub):
    """An `AsyncDBChatStore`."""
    return Driven(WAYS[2], conversations=hub)


def test_the_stores_are_stores_of_llama_index():
    assert "BaseChatStore" in [each.__name__ for each in QwenConvChatStore.__mro__]
    assert "AsyncDBChatStore" in [each.__name__ for each in QwenConvAsyncChatStore.__mro__]
    assert issubclass(QwenConvChatStore, BaseChatStore)
    assert issubclass(QwenConvAsyncChatStore, AsyncDBChatStore)
    assert QwenConvChatStore.class_name() == "QwenConvChatStore"
    assert QwenConvAsyncChatStore.class_name() == "QwenConvAsyncChatStore"


@pytest.mark.parametrize("way", WAYS)
def test_a_store_alone_writes_every_message_when_it_is_added(server, way):
    store = Driven(way, api_key="any", base_url=server.base_url)
    store.add_message("alice", user("How is it?"))
    assert said(server, place(store.hub)) == ["user: How is it?"]
    store.add_message("alice", assistant("It is sunny."))
    assert said(server, place(store.hub)) == ["user: How is it?", "assistant: It is sunny."]
    assert store.get_messages("alice") == [user("How is it?"), assistant("It is sunny.")]
    assert asked(server) == ["POST /conversations", "POST /conversations/*/items"]


@pytest.mark.parametrize("way", WAYS)
def test_a_store_beside_a_model_leaves_to_a_turn_what_a_turn_can_take(server, way):
    hub = hub_of("beside a model", server)
    store = Driven(way, conversations=hub)
    store.add_message("alice", user("How is it?"))
    store.add_message("alice", result())
    assert store.get_messages("alice") == [user("How is it?"), result()]
    assert store.get_keys() == ["alice"]
    assert asked(server) == []
    store.add_message("alice", assistant("It is sunny."))
    assert len(said(server, place(hub))) == 3
    store.add_message("alice", user("And tomorrow?"))
    assert len(said(server, place(hub))) == 3
    store.flush()
    assert said(server, place(hub))[3:] == ["user: And tomorrow?"]
    assert texts(store.get_messages("alice"))[3:] == ["And tomorrow?"]


@pytest.mark.parametrize("way", WAYS)
def test_what_waits_is_written_when_the_store_is_closed(server, way):
    hub = hub_of("beside a model", server)
    store = Driven(way, conversations=hub)
    store.add_message("alice", user("How is it?"))
    store.add_message("bob", user("Who is there?"))
    store.store.close()
    assert said(server, place(hub)) == ["user: How is it?"]
    assert said(server, place(hub, "bob")) == ["user: Who is there?"]


# --- LlamaIndex's tests of its stores, restated ------------------------------------------------


def test_messages_come_back_under_their_key_in_the_order_they_were_added(server, hub, store):
    store.add_message("user1", user("First message"))
    store.add_message("user2", user("Hi"))
    store.add_message("user1", assistant("Second message"))
    assert store.get_messages("user1") == [user("First message"), assistant("Second message")]
    assert store.get_messages("user2") == [user("Hi")]
    store.flush()
    assert said(server, place(hub, "user1")) == [
        "user: First message",
        "assistant: Second message",
    ]
    assert said(server, place(hub, "user2")) == ["user: Hi"]


def test_a_key_that_was_never_used_has_no_messages_and_is_no_key_by_being_asked_for(server, store):
    assert store.get_messages("alice") == []
    assert store.delete_message("alice", 0) is None
    assert store.delete_messages("alice") is None
    assert store.get_keys() == []
    assert asked(server) == []


def test_keys_are_told_in_the_order_in_which_they_came(store):
    store.add_message("user1", user("one"))
    store.add_message("user2", user("two"))
    store.add_message("user1", assistant("three"))
    assert store.get_keys() == ["user1", "user2"]


def test_a_key_comes_when_it_is_written_to_and_not_when_it_is_asked_for(store):
    store.get_messages("user2")
    store.add_message("user1", user("one"))
    store.add_message("user2", user("two"))
    assert store.get_keys() == ["user1", "user2"]


def test_a_key_that_was_deleted_comes_again_as_a_new_one(store):
    for key in ("user1", "user2"):
        store.add_message(key, user("one"))
    store.delete_messages("user1")
    assert store.get_keys() == ["user2"]
    store.add_message("user1", user("one"))
    assert store.get_keys() == ["user2", "user1"]


def test_set_messages_replaces_what_was_there(server, hub, store):
    store.add_message("alice", user("First message"))
    store.add_message("alice", assistant("Second message"))
    store.set_messages("alice", [user("Replaced"), assistant("Done")])
    assert store.get_messages("alice") == [user("Replaced"), assistant("Done")]
    store.flush()
    assert said(server, place(hub)) == ["user: Replaced", "assistant: Done"]


@pytest.mark.parametrize("index", [-9, -1, 0, 1, 2, 9])
def test_a_message_can_be_added_at_any_place(server, hub, chat_store, index):
    chat_store.set_messages("alice", [user("one"), assistant("two")])
    chat_store.add_message("alice", user("inserted"), index)
    expected = ["one", "two"]
    expected.insert(index, "inserted")
    assert texts(chat_store.get_messages("alice")) == expected
    chat_store.flush()
    assert [line.split(": ")[1] for line in said(server, place(hub))] == expected


def test_a_message_is_added_at_a_place_of_a_key_that_is_new(chat_store):
    chat_store.add_message("alice", user("first"), idx=0)
    assert chat_store.get_messages("alice") == [user("first")]


def test_delete_messages_returns_them_and_leaves_none(server, hub, chat_store):
    given = [user("one"), assistant("two"), user("three")]
    chat_store.set_messages("alice", given)
    chat_store.flush()
    conversation = place(hub)
    assert chat_store.delete_messages("alice") == given
    assert chat_store.get_messages("alice") == []
    assert chat_store.delete_messages("alice") is None
    assert chat_store.get_keys() == []
    assert said(server, conversation) == []
    assert hub.registry.get(hub.session("alice")) is None


def test_delete_messages_of_one_key_leaves_the_others(server, hub, store):
    store.add_message("alice", user("one"))
    store.add_message("bob", user("two"))
    store.delete_messages("alice")
    assert store.get_messages("alice") == []
    assert store.get_messages("bob") == [user("two")]
    store.flush()
    assert said(server, place(hub, "bob")) == ["user: two"]


def test_delete_last_message_returns_it(server, hub, chat_store):
    chat_store.set_messages("alice", [user("one"), assistant("two")])
    assert chat_store.delete_last_message("alice") == assistant("two")
    assert chat_store.get_messages("alice") == [user("one")]
    chat_store.flush()
    assert said(server, place(hub)) == ["user: one"]


def test_there_is_no_last_message_of_a_key_that_was_emptied(chat_store):
    assert chat_store.delete_last_message("alice") is None
    chat_store.add_message("alice", user("one"))
    assert chat_store.delete_last_message("alice") == user("one")
    assert chat_store.delete_last_message("alice") is None
    assert chat_store.get_messages("alice") == []
    assert chat_store.get_keys() == ["alice"]
    assert chat_store.delete_messages("alice") == []


REPEATED = ("yes", "no", "yes", "yes")


@pytest.mark.parametrize("index", [0, 1, 2, 3, -1, -2, -3, -4])
@pytest.mark.parametrize("flushed", [True, False])
def test_of_equal_messages_the_one_at_that_place_is_deleted(server, hub, store, index, flushed):
    store.set_messages("alice", [user(text, place=n) for n, text in enumerate(REPEATED)])
    if flushed:
        store.flush()
    assert store.delete_message("alice", index) == user(REPEATED[index], place=index % 4)
    expected = [user(text, place=n) for n, text in enumerate(REPEATED) if n != index % 4]
    assert store.get_messages("alice") == expected
    store.flush()
    assert said(server, place(hub)) == [f"user: {message.content}" for message in expected]


@pytest.mark.parametrize("index", [2, 9, -3, -9])
def test_nothing_is_deleted_where_there_is_nothing(server, hub, store, index):
    given = [user("one"), assistant("two")]
    store.set_messages("alice", given)
    assert store.delete_message("alice", index) is None
    assert store.get_messages("alice") == given
    assert len(said(server, place(hub))) == 2


def test_the_only_message_can_be_deleted(store):
    store.add_message("alice", user("one"))
    assert store.delete_message("alice", 0) == user("one")
    assert store.get_messages("alice") == []
    assert store.delete_message("alice", 0) is None


@pytest.mark.parametrize("text", ["Grüße, 你好, 👋🏽, é e\u0301", "two\nlines", " blanks ", "\0"])
def test_any_text_comes_back_as_it_went_in(server, hub, store, text):
    store.add_message("alice", user(text))
    store.add_message("alice", assistant(text))
    store.flush()
    there = Driven(store.way, conversations=another_process(server, registry=hub.registry))
    for one in (store, there):
        assert one.get_messages("alice") == [user(text), assistant(text)]


def test_keyword_arguments_of_a_memory_are_passed_over(server):
    store = QwenConvChatStore(conversations=hub_of("alone", server))
    store.add_message("alice", user("one"))
    assert store.get_messages("alice", initial_token_count=3) == [user("one")]
    assert asyncio.run(store.aget_messages("alice", initial_token_count=3)) == [user("one")]


# --- The same of its store for a Memory --------------------------------------------------------


def test_messages_are_added_in_a_batch_and_counted(server, hub, memory_store):
    memory_store.add_messages("alice", [user("one"), assistant("two"), user("three")])
    memory_store.flush()
    assert memory_store.count_messages("alice") == 3
    assert memory_store.count_messages("alice", None) == 3
    assert memory_store.count_messages("alice", ARCHIVED) == 0
    assert memory_store.count_messages("bob") == 0
    assert said(server, place(hub)) == ["user: one", "assistant: two", "user: three"]


def test_to_add_no_messages_does_nothing(server, memory_store):
    memory_store.add_messages("alice", [])
    memory_store.add_messages("alice", [], ARCHIVED)
    assert memory_store.get_messages("alice", None) == []
    assert memory_store.get_keys() == []
    assert asked(server) == []


def test_the_oldest_messages_are_deleted_and_returned(server, hub, memory_store):
    memory_store.add_messages("alice", numbered(5))
    assert memory_store.delete_oldest_messages("alice", 2) == numbered(5)[:2]
    assert memory_store.get_messages("alice") == numbered(5)[2:]
    assert memory_store.delete_oldest_messages("alice", 0) == []
    assert memory_store.delete_oldest_messages("alice", 9) == numbered(5)[2:]
    assert memory_store.delete_oldest_messages("alice", 1) == []
    assert memory_store.delete_oldest_messages("bob", 1) == []
    memory_store.add_message("alice", assistant("anew"))
    assert said(server, place(hub)) == ["assistant: anew"]


def test_the_oldest_messages_are_archived_and_stay(server, hub, memory_store):
    memory_store.add_messages("alice", numbered(5))
    assert memory_store.archive_oldest_messages("alice", 2) == numbered(5)[:2]
    assert memory_store.get_messages("alice") == numbered(5)[2:]
    assert memory_store.get_messages("alice", ACTIVE) == numbered(5)[2:]
    assert memory_store.get_messages("alice", ARCHIVED) == numbered(5)[:2]
    assert memory_store.get_messages("alice", None) == numbered(5)
    assert [memory_store.count_messages("alice", one) for one in (ACTIVE, ARCHIVED, None)] == [
        3,
        2,
        5,
    ]
    assert memory_store.archive_oldest_messages("alice", 1) == numbered(5)[2:3]
    memory_store.flush()
    assert len(said(server, place(hub))) == 5


def test_only_active_messages_are_deleted_as_the_oldest(memory_store):
    memory_store.add_messages("alice", numbered(5))
    memory_store.archive_oldest_messages("alice", 2)
    assert memory_store.delete_oldest_messages("alice", 1) == numbered(5)[2:3]
    assert memory_store.get_messages("alice", ARCHIVED) == numbered(5)[:2]


@pytest.mark.parametrize(
    ("limit", "offset", "expected"),
    [
        (2, None, [0, 1]),
        (None, 2, [2, 3, 4]),
        (2, 1, [1, 2]),
        (9, None, [0, 1, 2, 3, 4]),
        (0, None, []),
        (2, 9, []),
        (2, 4, [4]),
    ],
)
def test_some_of_the_messages_can_be_asked_for(memory_store, limit, offset, expected):
    memory_store.add_messages("alice", numbered(5))
    found = memory_store.get_messages("alice", limit=limit, offset=offset)
    assert found == [numbered(5)[n] for n in expected]


def test_limits_count_messages_of_that_status(memory_store):
    memory_store.add_messages("alice", numbered(5))
    memory_store.archive_oldest_messages("alice", 2)
    assert memory_store.get_messages("alice", ACTIVE, 2, 1) == numbered(5)[3:5]
    assert memory_store.get_messages("alice", ARCHIVED, 1, 1) == numbered(5)[1:2]
    assert memory_store.get_messages("alice", None, 2, 1) == numbered(5)[1:3]


@pytest.mark.parametrize("status", [ACTIVE, ARCHIVED])
def test_messages_of_one_status_are_deleted(server, hub, memory_store, status):
    memory_store.add_messages("alice", numbered(5))
    memory_store.archive_oldest_messages("alice", 2)
    memory_store.delete_messages("alice", status)
    left = numbered(5)[:2] if status == ACTIVE else numbered(5)[2:]
    assert memory_store.get_messages("alice", None) == left
    assert memory_store.get_messages("alice", status) == []
    memory_store.flush()
    assert said(server, place(hub)) == [f"user: {text}" for text in texts(left)]


@pytest.mark.parametrize("status", [ACTIVE, ARCHIVED])
def test_set_messages_replaces_those_of_either_status(memory_store, status):
    """As LlamaIndex's SQL store does it."""
    memory_store.add_messages("alice", numbered(5))
    memory_store.archive_oldest_messages("alice", 2)
    memory_store.set_messages("alice", [user("anew")], status)
    assert memory_store.get_messages("alice", status) == [user("anew")]
    assert memory_store.get_messages("alice", None) == [user("anew")]


def test_messages_can_be_archived_as_they_are_added(server, hub, memory_store):
    memory_store.add_message("alice", user("one"), ARCHIVED)
    memory_store.add_message("alice", user("three"))
    memory_store.add_messages("alice", [assistant("two")], ARCHIVED)
    assert memory_store.get_messages("alice") == [user("three")]
    assert memory_store.get_messages("alice", ARCHIVED) == [user("one"), assistant("two")]
    memory_store.flush()
    assert said(server, place(hub)) == ["user: one", "assistant: two", "user: three"]


def test_a_message_put_among_what_is_archived_leaves_it_archived(hub, memory_store):
    memory_store.add_messages("alice", numbered(4))
    memory_store.archive_oldest_messages("alice", 2)
    of_the_same = QwenConvChatStore(conversations=hub)
    of_the_same.add_message("alice", user("archived"), 1)
    of_the_same.add_message("alice", user("active"), -1)
    assert texts(memory_store.get_messages("alice", ARCHIVED)) == [
        "message 0",
        "archived",
        "message 1",
    ]
    assert texts(memory_store.get_messages("alice")) == ["message 2", "active", "message 3"]


def test_a_message_is_deleted_by_its_place_among_all(memory_store):
    memory_store.add_messages("alice", numbered(5))
    memory_store.archive_oldest_messages("alice", 2)
    assert memory_store.delete_message("alice", 1) == numbered(5)[1]
    assert memory_store.delete_message("alice", -1) == numbered(5)[4]
    assert memory_store.get_messages("alice", ARCHIVED) == numbered(5)[:1]
    assert memory_store.get_messages("alice") == numbered(5)[2:4]


def _archive_some(store):
    store.add_messages("alice", numbered(5))
    store.archive_oldest_messages("alice", 2)


def _archive_and_delete_the_last_of_them(store):
    _archive_some(store)
    store.flush()
    store.delete_message("alice", 1)


def _archive_and_delete_the_first_of_them(store):
    _archive_some(store)
    store.flush()
    store.delete_message("alice", 0)


def _archive_and_forget_them(store):
    _archive_some(store)
    store.flush()
    store.delete_messages("alice", ARCHIVED)


def _archive_all_and_add_more(store):
    store.add_messages("alice", numbered(2))
    store.archive_oldest_messages("alice", 2)
    store.add_messages("alice", [calling(), result()])


def _add_archived(store):
    store.add_messages("alice", numbered(2), ARCHIVED)
    store.add_messages("alice", [assistant("active")])


def _set_archived(store):
    store.set_messages("alice", numbered(2), ARCHIVED)


def _set_anew(store):
    _archive_some(store)
    store.flush()
    store.set_messages("alice", [*numbered(2), assistant("anew")])


@pytest.mark.parametrize(
    "act",
    [
        _archive_some,
        _archive_and_delete_the_last_of_them,
        _archive_and_delete_the_first_of_them,
        _archive_and_forget_them,
        _archive_all_and_add_more,
        _add_archived,
        _set_archived,
        _set_anew,
    ],
)
def test_another_process_finds_the_same_archived_and_the_same_active(
    server, hub, memory_store, act
):
    act(memory_store)
    memory_store.flush()
    there = Driven(WAYS[2], conversations=another_process(server, registry=hub.registry))
    for status in (ARCHIVED, ACTIVE, None):
        found = there.get_messages("alice", status)
        assert texts(found) == texts(memory_store.get_messages("alice", status))
    assert len(server.items(place(hub))) == memory_store.count_messages("alice", None)
