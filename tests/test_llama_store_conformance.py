"""Whatever is done, the stores return and hold what LlamaIndex's own stores return and hold.

And in the end the conversation on the server holds that too, each message once. LlamaIndex's stores
are asked with copies, as they hand out what they hold; and where they raise an `IndexError`, or do
something else than their documents say, they are not asked:

* a message that is not there (out of the range, or the last one of an emptied key) is `None`;
* the SQL store's `delete_message` takes the number of a row;
* of a key with active messages, nothing is added that is archived already: its place among all
  messages is that of the time at which it was added, in SQL; ours is before what is active.
"""

import asyncio
from copy import deepcopy
from itertools import count

import pytest
from conftest import another_process
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_index.core.storage.chat_store import SimpleChatStore
from llama_index.core.storage.chat_store.sql import SQLAlchemyChatStore
from llama_store import (
    ACTIVE,
    ARCHIVED,
    KINDS,
    WAYS,
    Driven,
    assistant,
    calling,
    hub_of,
    result,
    standing,
    system,
    user,
)

from qwen_conv.registry import MemoryRegistry, SqlRegistry

REGISTRIES = {"memory": MemoryRegistry, "database": lambda: SqlRegistry("sqlite://")}
KEYS = ("alice", "bob")
RUNS = count()


@pytest.fixture(scope="module", params=[(kind, one) for kind in KINDS for one in REGISTRIES])
def hub(request, standing):
    kind, registry = request.param
    hub = hub_of(kind, standing, registry=REGISTRIES[registry]())
    yield hub
    hub.close()


keys = st.sampled_from(KEYS)
places = st.integers(-4, 4)
messages = st.sampled_from(
    [
        user("yes"),
        user("no", page=3),
        assistant("yes"),
        assistant("no"),
        system("Be brief."),
        calling(1),
        result(1),
        calling(2),
        result(2),
    ]
).map(deepcopy)
some = st.lists(messages, max_size=4)
chosen = st.lists(st.integers(0, 9), max_size=4)


def elsewhere(hub, standing, way):
    """The same store in a process that knows nothing yet."""
    return Driven(way, conversations=another_process(standing, registry=hub.registry))


def stored(message):
    """What the conversation has of a message, whoever reads it."""
    kept = message.model_copy(deep=True)
    kept.additional_kwargs = {
        name: value for name, value in message.additional_kwargs.items() if name == "tool_call_id"
    }
    return kept


def holds(standing, hub, key, expected):
    """Whether the conversation holds these messages and no others."""
    row = hub.registry.get(hub.session(key))
    if row is None:
        return expected == []
    found = elsewhere(hub, standing, "in threads").get_messages(key)
    return [*map(stored, found)] == [*map(stored, expected)] and len(
        standing.items(row.conversation_id)
    ) == len(expected)


# --- SimpleChatStore ---------------------------------------------------------------------------

operations = st.one_of(
    st.tuples(st.just("add_message"), keys, messages),
    st.tuples(st.just("add_message"), keys, messages),
    st.tuples(st.just("add_message"), keys, messages, places),
    st.tuples(st.just("set_messages"), keys, some),
    st.tuples(st.just("delete_message"), keys, places),
    st.tuples(st.just("delete_last_message"), keys),
    st.tuples(st.just("delete_messages"), keys),
    st.tuples(st.just("get_keys")),
    st.tuples(st.just("set some of what it has"), keys, chosen),
    st.tuples(st.just("delete it, and set some of what it had"), keys, chosen),
    st.tuples(st.just("flush")),
)


class Simple(SimpleChatStore):
    """LlamaIndex's store, with copies in and out, and `None` for what is not there."""

    def delete_message(self, key, idx):
        count = len(self.store.get(key, ()))
        return super().delete_message(key, idx) if -count <= idx < count else None

    def delete_last_message(self, key):
        return super().delete_last_message(key) if self.store.get(key) else None

    def flush(self):
        pass


def done(store, operation):
    """What a store returns for one of the operations."""
    name, *args = deepcopy(operation)
    if not name.endswith(("it has", "it had")):
        return deepcopy(getattr(store, name)(*args))
    key, numbers = args
    had = store.get_messages(key)
    again = [had[number % len(had)] for number in numbers] if had else []
    if name.startswith("delete"):
        store.delete_messages(key)
    return store.set_messages(key, again)


@pytest.mark.parametrize("way", WAYS[:2])
@given(st.lists(operations, max_size=12))
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_chat_store_does_what_the_simple_one_does(standing, hub, way, todo):
    run = next(RUNS)
    ours, simple = Driven(way, conversations=hub), Simple()

    def own_keys():
        return [key for key in ours.get_keys() if key.startswith(f"{run} ")]

    for name, *rest in todo:
        named = [f"{run} {rest[0]}", *rest[1:]] if rest else []
        operation = (name, *named)
        if name == "get_keys":
            assert own_keys() == simple.get_keys()
        else:
            assert done(ours, operation) == done(simple, operation)
        for key in KEYS:
            assert ours.get_messages(f"{run} {key}") == simple.get_messages(f"{run} {key}")
    ours.flush()
    assert own_keys() == simple.get_keys()
    for key in KEYS:
        expected = simple.get_messages(f"{run} {key}")
        assert ours.get_messages(f"{run} {key}") == expected
        assert holds(standing, hub, f"{run} {key}", expected)


# --- SQLAlchemyChatStore -----------------------------------------------------------------------

statuses = st.sampled_from([ACTIVE, ACTIVE, ARCHIVED])
filters = st.sampled_from([None, ACTIVE, ARCHIVED])
limits = st.none() | st.integers(0, 5)
of_a_memory = st.one_of(
    st.tuples(st.just("add_message"), keys, messages, statuses),
    st.tuples(st.just("add_messages"), keys, st.lists(messages, min_size=1, max_size=4), statuses),
    st.tuples(st.just("set_messages"), keys, some, statuses),
    st.tuples(st.just("get_messages"), keys, filters, limits, limits),
    st.tuples(st.just("count_messages"), keys, filters),
    st.tuples(st.just("delete_messages"), keys, filters),
    st.tuples(st.just("delete_oldest_messages"), keys, st.integers(0, 4)),
    st.tuples(st.just("archive_oldest_messages"), keys, st.integers(0, 4)),
    st.tuples(st.just("archive_oldest_messages"), keys, st.integers(0, 4)),
    st.tuples(st.just("flush")),
)


@given(st.lists(of_a_memory, max_size=12))
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_store_for_a_memory_does_what_the_sql_one_does(standing, hub, todo):
    run = next(RUNS)
    ours = Driven(WAYS[2], conversations=hub)
    names = [f"{run} {key}" for key in KEYS]

    async def compared():
        sql, store = SQLAlchemyChatStore(table_name="messages"), ours.store
        emptied = set()
        for name, *rest in todo:
            if name == "flush":
                store.flush()
                continue
            key, *args = (f"{run} {rest[0]}", *rest[1:])
            adds = name in {"add_message", "add_messages"}
            if adds and args[-1] == ARCHIVED and await sql.count_messages(key):
                continue
            expected = await getattr(sql, name)(key, *deepcopy(args))
            assert await getattr(store, name)(key, *deepcopy(args)) == expected
            emptied.add(key)
            for each in names:
                for status in (None, ACTIVE, ARCHIVED):
                    expected = await sql.get_messages(each, status)
                    assert await store.get_messages(each, status) == expected
        found = {key for key in await store.get_keys() if key in names}
        await asyncio.to_thread(store.flush)
        there = elsewhere(hub, standing, WAYS[2]).store
        kept = await sql.get_keys()
        assert {*kept} <= found <= {*kept} | emptied
        for each in names:
            for status in (None, ACTIVE, ARCHIVED):
                expected = await sql.get_messages(each, status)
                assert await store.get_messages(each, status) == expected
                assert [*map(stored, await there.get_messages(each, status))] == [
                    *map(stored, expected)
                ]
        last = [await sql.get_messages(each, None) for each in names]
        await sql._async_engine.dispose()
        return last

    for key, expected in zip(names, asyncio.run(compared()), strict=True):
        assert holds(standing, hub, key, expected)
