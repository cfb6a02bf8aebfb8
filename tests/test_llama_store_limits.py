"""What a store costs, when it looks for what others wrote, what it refuses, and what it survives."""

import asyncio
import math
import threading

import pytest
from conftest import MODEL, another_process, asked, eventually, said
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
from openai import APIConnectionError, OpenAI

from llamaindex_qwen_conv import QwenConv, QwenConvAsyncChatStore, QwenConvChatStore
from qwen_conv import errors, flows
from qwen_conv.offline import OfflineServer
from qwen_conv.registry import MemoryRegistry, SqlRegistry

LIST, APPEND = "GET /conversations/*/items", "POST /conversations/*/items"
DELETE, BEGIN = "DELETE /conversations/*/items/*", "POST /conversations"
METADATA = "GET /conversations/*"


@pytest.fixture
def costs(server):
    """The requests that something takes."""

    def count(act, *args):
        server.requests.clear()
        act(*args)
        return asked(server)

    return count


def answers(count, start=0):
    return [assistant(f"answer {number}") for number in range(start, start + count)]


# --- Figures -----------------------------------------------------------------------------------


def test_a_read_costs_one_request_and_the_next_ones_nothing(server, hub, store, costs):
    store.set_messages("alice", [user("hi"), *answers(3)])
    there = Driven(store.way, conversations=another_process(server, registry=hub.registry))
    assert costs(there.get_messages, "alice") == [LIST, METADATA]  # which tells what is archived
    assert costs(there.get_messages, "alice") == []
    assert costs(there.get_keys) == []


def test_messages_are_written_twenty_a_request(hub, store, costs):
    assert costs(store.set_messages, "alice", answers(45)) == [BEGIN, APPEND, APPEND]
    assert costs(store.set_messages, "alice", answers(90)) == [APPEND] * 3
    assert store.get_messages("alice") == answers(90)


def test_a_message_that_is_added_costs_one_request(store, costs):
    assert costs(store.add_message, "alice", assistant("one")) == [BEGIN]
    assert costs(store.add_message, "alice", assistant("two")) == [APPEND]


def test_to_set_what_is_there_costs_nothing(hub, store, costs):
    given = [user("one"), calling(), result(), assistant("two"), user("three")]
    store.set_messages("alice", given)
    store.flush()
    assert costs(store.set_messages, "alice", given) == []
    assert costs(store.set_messages, "alice", store.get_messages("alice")) == []
    again = Driven(store.way, conversations=hub)
    assert costs(again.set_messages, "alice", given) == []


def test_it_costs_another_process_no_more_than_to_read(server, hub, store, costs):
    given = [user("one"), calling(), result(), assistant("two")]
    store.set_messages("alice", given)
    there = Driven(store.way, conversations=another_process(server, registry=hub.registry))
    assert DELETE not in costs(there.set_messages, "alice", given)
    assert costs(there.set_messages, "alice", given) == []


def test_of_what_is_set_only_what_is_new_is_written(store, costs):
    store.set_messages("alice", answers(3))
    assert costs(store.set_messages, "alice", answers(5)) == [APPEND]
    assert costs(store.set_messages, "alice", [*answers(5), calling()]) == [METADATA, APPEND]


def test_of_what_is_set_otherwise_only_the_end_is_deleted(server, hub, store, costs):
    store.add_message("alice", assistant("first"))
    store.set_messages("alice", [assistant("first"), *answers(4)])  # whose ids the service told
    changed = [assistant("first"), *answers(2), *answers(2, start=7)]
    assert costs(store.set_messages, "alice", changed) == [DELETE, DELETE, APPEND]
    assert costs(store.set_messages, "alice", changed[:3]) == [DELETE] * 2
    assert costs(store.set_messages, "alice", []) == [LIST, *[DELETE] * 3]
    assert said(server, place(hub)) == []


def test_what_waits_is_set_otherwise_for_nothing(server, costs):
    hub = hub_of("beside a model", server)
    store = QwenConvChatStore(conversations=hub)
    assert costs(store.set_messages, "alice", numbered(5)) == []
    assert costs(store.set_messages, "alice", [*numbered(3), user("else")]) == []
    assert costs(store.delete_message, "alice", 0) == []
    assert costs(store.delete_messages, "alice") == []
    assert store.get_messages("alice") == []
    hub.close()
    assert asked(server) == []


def test_a_message_is_deleted_by_one_request(store, costs):
    store.add_message("alice", assistant("first"))
    store.set_messages("alice", [assistant("first"), *answers(4)])
    assert costs(store.delete_message, "alice", 2) == [DELETE]
    assert costs(store.delete_message, "alice", 9) == []


def test_to_archive_costs_nothing_until_it_is_written_down(server, costs):
    store = Driven(WAYS[2], conversations=hub_of("alone", server))
    store.add_messages("alice", answers(5))
    assert costs(store.archive_oldest_messages, "alice", 2) == []
    assert costs(store.get_messages, "alice") == []
    told = costs(store.flush)
    assert told.count("POST /conversations/*") == 1
    assert costs(store.flush) == []


# --- Freshness ---------------------------------------------------------------------------------


@pytest.fixture(params=WAYS)
def two(request, server, hub):
    """Makes the same store in two processes, of which both have read the same two messages."""

    def make(freshness):
        other = another_process(server, registry=hub.registry)
        stores = [
            Driven(request.param, conversations=each, freshness=freshness) for each in (hub, other)
        ]
        stores[0].set_messages("alice", [user("one"), assistant("two")])
        for each in stores:
            assert texts(each.get_messages("alice")) == ["one", "two"]
        server.requests.clear()
        return stores

    return make


def test_a_session_that_is_owned_is_never_read_again(server, two, costs):
    here, there = two("owned")
    there.add_message("alice", assistant("three"))
    assert costs(here.get_messages, "alice") == []
    server.clock.advance(days=1)
    assert texts(here.get_messages("alice")) == ["one", "two"]
    here.add_message("alice", assistant("four"))
    assert texts(here.get_messages("alice")) == ["one", "two", "four"]
    assert [line.split(": ")[1] for line in said(server, place(here.hub))] == [
        "one",
        "two",
        "three",
        "four",
    ]


def test_by_the_turn_a_session_is_read_once_after_every_message_that_was_added(server, two, costs):
    here, there = two("turn")
    there.add_message("alice", assistant("three"))
    here.add_message("alice", assistant("four"))
    assert costs(here.get_messages, "alice") == [LIST]
    assert texts(here.get_messages("alice")) == ["one", "two", "three", "four"]
    assert costs(here.get_messages, "alice") == []
    here.add_message("alice", user("five"))
    assert costs(here.get_messages, "alice") == [LIST]
    assert costs(here.get_messages, "alice") == []
    here.flush()
    there.add_message("alice", assistant("six"))
    for each in (here, there):
        each.add_message("alice", assistant("."))
        assert texts(each.get_messages("alice"))[:6] == [
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
        ]
    assert len(said(server, place(here.hub))) == 8


def test_after_a_number_of_seconds_a_session_is_read_again(server, two, costs):
    here, there = two(10)
    there.add_message("alice", assistant("three"))
    server.clock.advance(seconds=9)
    assert costs(here.get_messages, "alice") == []
    here.add_message("alice", assistant("four"))
    assert texts(here.get_messages("alice")) == ["one", "two", "four"]
    server.clock.advance(seconds=2)
    assert costs(here.get_messages, "alice") == [LIST]
    assert texts(here.get_messages("alice")) == ["one", "two", "three", "four"]
    server.clock.advance(seconds=9)
    assert costs(here.get_messages, "alice") == []


def test_with_no_seconds_a_session_is_read_every_time(two, costs):
    here, there = two(0)
    for number in range(3):
        there.add_message("alice", assistant(f"{number}"))
        assert costs(here.get_messages, "alice") == [LIST]
    assert texts(here.get_messages("alice")) == ["one", "two", "0", "1", "2"]


@pytest.mark.parametrize("freshness", ["turn", 0])
def test_what_another_process_deleted_is_not_shown_any_more(server, two, freshness):
    here, there = two(freshness)
    there.delete_message("alice", 0)
    here.add_message("alice", user("three"))
    assert texts(here.get_messages("alice")) == ["two", "three"]
    here.flush()
    assert said(server, place(here.hub)) == ["assistant: two", "user: three"]


@pytest.mark.parametrize("way", WAYS[:2])
def test_a_place_is_counted_among_what_others_wrote_too(server, hub, way):
    here = Driven(way, conversations=hub, freshness=0)
    here.set_messages("alice", [user("one"), assistant("two")])
    there = QwenConvChatStore(conversations=another_process(server, registry=hub.registry))
    there.add_message("alice", assistant("three"))
    here.add_message("alice", user("inserted"), -1)
    there.add_message("alice", assistant("four"))
    assert here.delete_message("alice", -1) == assistant("four")
    assert here.delete_message("alice", 0) == user("one")
    assert texts(here.get_messages("alice")) == ["two", "inserted", "three"]
    here.flush()
    assert [line.split(": ")[1] for line in said(server, place(hub))] == [
        "two",
        "inserted",
        "three",
    ]


def test_what_waits_is_shown_behind_what_others_wrote_since(server):
    hub = hub_of("beside a model", server)
    here = QwenConvChatStore(conversations=hub, freshness=0)
    here.set_messages("alice", [user("one"), assistant("two")])
    here.add_message("alice", user("four"))
    there = QwenConvChatStore(conversations=another_process(server, registry=hub.registry))
    there.add_message("alice", user("three"))
    assert texts(here.get_messages("alice")) == ["one", "two", "three", "four"]
    here.flush()
    assert texts(here.get_messages("alice")) == ["one", "two", "three", "four"]
    assert len(said(server, place(hub))) == 4


@pytest.mark.parametrize("freshness", ["owned", "turn", 10, 0])
def test_two_processes_that_take_turns_lose_nothing_and_double_nothing(server, two, freshness):
    here, there = two(freshness)
    expected = ["user: one", "assistant: two"]
    for number in range(4):
        for each, name in ((here, "here"), (there, "there")):
            each.add_message("alice", user(f"{name} asks {number}"))
            each.add_message("alice", assistant(f"{name} says {number}"))
            expected += [f"user: {name} asks {number}", f"assistant: {name} says {number}"]
    assert said(server, place(here.hub)) == expected
    fresh = Driven(here.way, conversations=another_process(server, registry=here.hub.registry))
    assert len(fresh.get_messages("alice")) == 18


@pytest.mark.parametrize(
    "setting",
    [
        {"freshness": "never"},
        {"freshness": -1},
        {"freshness": math.nan},
        {"freshness": math.inf},
        {"stage_timeout": -1},
        {"stage_timeout": math.nan},
        {"stage_timeout": math.inf},
        {"stage_timeout": "soon"},
        {"no_such_setting": 1},
    ],
)
@pytest.mark.parametrize("kind", [QwenConvChatStore, QwenConvAsyncChatStore])
def test_settings_that_cannot_be_are_refused(hub, kind, setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        kind(conversations=hub, **setting)


def test_settings_beside_a_hub_have_to_agree_with_it(hub):
    with pytest.raises(errors.UsageError, match="base_url"):
        QwenConvChatStore(conversations=hub, base_url="https://example.com/v1")
    assert QwenConvChatStore(conversations=hub, base_url=hub.base_url).conversations is hub


@pytest.mark.parametrize("way", WAYS)
def test_a_ready_client_serves_threads_and_tasks_of_any_loop(server, way):
    with OpenAI(api_key="any", base_url=server.base_url) as client:
        store = Driven(way, client=client, registry=MemoryRegistry())
        for number in range(3):
            store.add_message("alice", answers(3)[number])
        assert store.get_messages("alice") == answers(3)


# --- What waits --------------------------------------------------------------------------------


def test_what_waits_is_written_after_a_while(server, hub):
    QwenConv(model=MODEL, conversations=hub)
    store = QwenConvChatStore(conversations=hub, stage_timeout=0)
    store.add_message("alice", user("How is it?"))
    eventually(lambda: hub.registry.get(hub.session("alice")) is not None)
    eventually(lambda: said(server, place(hub)) == ["user: How is it?"])
    assert store.get_messages("alice") == [user("How is it?")]


def test_what_waits_when_a_process_dies_is_found_by_another(server, tmp_path):
    with SqlRegistry(f"sqlite:///{tmp_path / 'registry.db'}") as registry:
        dead = hub_of("beside a model", server, registry=registry)
        QwenConvChatStore(conversations=dead).add_message("alice", user("How is it?"))
        (row,) = registry.waiting(dead.session("alice"))
        host, _, name = row.owner.rsplit(":", 2)
        gone = f"{host}:999999999:{name}"  # no process has that number
        registry.withdraw(dead.session("alice"), [row.number])
        registry.post(dead.session("alice"), gone, [row.data])
        store = QwenConvChatStore(conversations=hub_of("alone", server, registry=registry))
        assert store.get_messages("alice") == [user("How is it?")]
        store.add_message("alice", assistant("It is sunny."))
        assert said(server, place(dead)) == ["user: How is it?", "assistant: It is sunny."]
        dead.mirrors.find("alice").forget()


# --- Failures ----------------------------------------------------------------------------------


@pytest.fixture
def failing(monkeypatch, hub):
    """Has the n-th request of a kind fail, before or after the service carried it out."""

    def prepare(count, *, committed, method="post", ends="/items"):
        hub.settle_timeout = 0.0
        client = hub.sync()._client
        send, calls = getattr(client, method), []

        def sent(path, **arguments):
            if ends in path:
                calls.append(path)
                if len(calls) == count:
                    if committed:
                        send(path, **arguments)
                    raise APIConnectionError(request=None)
            return send(path, **arguments)

        monkeypatch.setattr(client, method, sent)

    return prepare


@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_messages_whose_writing_failed_are_added_by_adding_them_again(
    server, hub, failing, fails_at, committed
):
    store = Driven(WAYS[2], conversations=hub)
    store.add_message("alice", assistant("before"))
    failing(fails_at, committed=committed)
    with pytest.raises((errors.PartlyWrittenError, errors.UnreachableError)):
        store.add_messages("alice", answers(45))
    assert store.get_messages("alice") == [assistant("before")]
    store.add_messages("alice", answers(45))
    assert store.get_messages("alice") == [assistant("before"), *answers(45)]
    assert texts(answers(45)) == [line.split(": ")[1] for line in said(server, place(hub))[1:]]


@pytest.mark.parametrize("committed", [False, True])
def test_a_key_whose_first_writing_failed_is_begun_by_the_next(
    server, hub, store, failing, committed
):
    failing(1, committed=committed, ends="/conversations")
    with pytest.raises(errors.UnreachableError):
        store.add_message("alice", assistant("one"))
    assert store.get_messages("alice") == []
    store.add_message("alice", assistant("one"))
    assert store.get_messages("alice") == [assistant("one")]
    assert said(server, place(hub)) == ["assistant: one"]


@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize(("method", "ends"), [("delete", "/items/"), ("post", "/items")])
def test_a_setting_that_failed_is_finished_by_setting_the_same_again(
    server, hub, store, failing, method, ends, committed
):
    store.set_messages("alice", [user("one"), assistant("two"), user("three"), assistant("four")])
    failing(1, committed=committed, method=method, ends=ends)
    wanted = [user("one"), assistant("else"), user("and"), assistant("more")]
    with pytest.raises(errors.UnreachableError):
        store.set_messages("alice", wanted)
    store.set_messages("alice", wanted)
    assert store.get_messages("alice") == wanted
    assert texts(wanted) == [line.split(": ")[1] for line in said(server, place(hub))]


@pytest.mark.parametrize("committed", [False, True])
def test_a_deletion_that_failed_can_be_done_again(server, hub, store, failing, committed):
    store.add_message("alice", assistant("zero"))
    store.set_messages("alice", [assistant("zero"), *answers(3)])
    failing(1, committed=committed, method="delete", ends="/items/")
    with pytest.raises(errors.UnreachableError):
        store.delete_message("alice", 2)
    assert store.delete_message("alice", 2) == assistant("answer 1")
    expected = ["zero", "answer 0", "answer 2"]
    assert texts(store.get_messages("alice")) == expected
    assert [line.split(": ")[1] for line in said(server, place(hub))] == expected


@pytest.mark.parametrize("committed", [False, True])
def test_what_waits_still_waits_when_it_could_not_be_written(server, failing, hub, committed):
    QwenConv(model=MODEL, conversations=hub)
    store = QwenConvChatStore(conversations=hub)
    store.set_messages("alice", [user("one"), assistant("two")])
    store.add_message("alice", user("three"))
    failing(1, committed=committed)
    with pytest.raises(errors.UnreachableError):
        store.flush()
    assert texts(store.get_messages("alice")) == ["one", "two", "three"]
    store.close()
    assert texts(store.get_messages("alice")) == ["one", "two", "three"]
    assert said(server, place(hub)) == ["user: one", "assistant: two", "user: three"]


@pytest.fixture
def held_up(monkeypatch, hub):
    """Holds up the next request of a kind; returns when it came, and what lets it go."""
    came, go = threading.Event(), threading.Event()

    def prepare(method, ends):
        hub.settle_timeout = 0.0
        client = hub.sync()._client
        send = getattr(client, method)

        def sent(path, **arguments):
            if ends in path and not came.is_set():
                came.set()
                assert go.wait(10)
            return send(path, **arguments)

        monkeypatch.setattr(client, method, sent)
        return came, go

    yield prepare
    go.set()


def begun(threads, came, lock):
    """Begins threads, of which the first is held up while the others wait for it, one by one."""
    for number, thread in enumerate(threads):
        thread.start()
        assert came.wait(10)
        eventually(lambda number=number: len(lock._waiting) == number)


@pytest.mark.parametrize("way", WAYS[1:])
def test_a_message_whose_writer_was_cancelled_is_there_once_in_the_end(server, hub, held_up, way):
    """As a web server does to the task of a client that went away."""
    driven = Driven(way, conversations=hub)
    driven.add_message("alice", assistant("one"))
    came, go = held_up("post", "/items")
    add = driven.store.add_message if way == WAYS[2] else driven.store.async_add_message

    async def cancelled():
        task = asyncio.create_task(add("alice", assistant("two")))
        await asyncio.to_thread(came.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go.set()

    asyncio.run(cancelled())  # which waits for the thread that had begun to write
    assert said(server, place(hub)) == ["assistant: one", "assistant: two"]
    driven.add_message("alice", assistant("two"))
    assert texts(driven.get_messages("alice")) == ["one", "two"]
    assert said(server, place(hub)) == ["assistant: one", "assistant: two"]


def test_each_of_two_threads_deletes_another_last_message(server, hub, held_up):
    store = QwenConvChatStore(conversations=hub)
    store.add_message("alice", assistant("zero"))
    store.set_messages("alice", [assistant("zero"), *answers(3)])
    came, go = held_up("delete", "/items/")
    got = []
    threads = [
        threading.Thread(target=lambda: got.append(store.delete_last_message("alice")))
        for _ in range(2)
    ]
    begun(threads, came, hub.locks.of(hub.mirrors.find("alice").name))
    go.set()
    for thread in threads:
        thread.join()
    assert texts(got) == ["answer 2", "answer 1"]
    assert texts(store.get_messages("alice")) == ["zero", "answer 0"]
    assert said(server, place(hub)) == ["assistant: zero", "assistant: answer 0"]


def test_a_message_that_is_added_while_another_is_inserted_is_not_lost(server, hub, held_up):
    store = QwenConvChatStore(conversations=hub)
    store.add_message("alice", assistant("one"))
    came, go = held_up("post", "/items")
    adding = [("two", None), ("zero", 0), ("three", None)]
    threads = [
        threading.Thread(target=store.add_message, args=("alice", assistant(text), index))
        for text, index in adding
    ]
    begun(threads, came, hub.locks.of(hub.mirrors.find("alice").name))
    go.set()
    for thread in threads:
        thread.join()
    expected = ["zero", "one", "two", "three"]
    assert texts(store.get_messages("alice")) == expected
    assert [line.split(": ")[1] for line in said(server, place(hub))] == expected


def test_a_message_that_is_added_while_another_is_archived_is_not_lost(server, hub, held_up):
    store = Driven(WAYS[2], conversations=hub)
    store.add_messages("alice", [assistant("old"), assistant("new")])
    store.archive_oldest_messages("alice", 1)
    came, go = held_up("post", "/items")
    adding = [("newer", ACTIVE), ("older", ARCHIVED), ("newest", ACTIVE)]
    threads = [
        threading.Thread(target=store.add_message, args=("alice", assistant(text), status))
        for text, status in adding
    ]
    begun(threads, came, hub.locks.of(hub.mirrors.find("alice").name))
    go.set()
    for thread in threads:
        thread.join()
    assert texts(store.get_messages("alice", ARCHIVED)) == ["old", "older"]
    assert texts(store.get_messages("alice")) == ["new", "newer", "newest"]
    assert [line.split(": ")[1] for line in said(server, place(hub))] == [
        "old",
        "older",
        "new",
        "newer",
        "newest",
    ]


# --- Bad input ---------------------------------------------------------------------------------

FOR_ALL = {
    "get_messages": (),
    "add_message": (user("hi"),),
    "set_messages": ([user("hi")],),
    "delete_message": (0,),
    "delete_messages": (),
}


@pytest.mark.parametrize("key", ["", None, 7, ["alice"], b"alice", "half \ud83d"])
@pytest.mark.parametrize("name", FOR_ALL)
def test_a_key_is_a_text_that_is_not_empty(server, store, name, key):
    with pytest.raises(errors.UsageError, match="key"):
        getattr(store, name)(key, *FOR_ALL[name])
    assert asked(server) == []


@pytest.mark.parametrize("wrong", ["hi", None, {"role": "user", "content": "hi"}, 7])
def test_a_message_is_a_message(server, store, wrong):
    with pytest.raises(errors.UsageError, match="ChatMessage"):
        store.add_message("alice", wrong)
    with pytest.raises(errors.UsageError, match="ChatMessage"):
        store.set_messages("alice", [user("hi"), wrong])
    with pytest.raises(errors.UsageError, match="ChatMessage"):
        store.set_messages("alice", user("hi"))
    with pytest.raises(errors.UsageError, match="ChatMessage"):
        store.set_messages("alice", 7)
    assert store.get_messages("alice") == []
    assert asked(server) == []


def test_messages_may_come_from_anything_that_can_be_gone_through(store):
    store.set_messages("alice", (message for message in answers(3)))
    assert store.get_messages("alice") == answers(3)
    store.set_messages("alice", tuple(answers(2)))
    assert store.get_messages("alice") == answers(2)


@pytest.mark.parametrize("index", ["0", 1.0, None, True, [0]])
def test_a_place_is_a_number(server, store, index):
    store.set_messages("alice", answers(2))
    server.requests.clear()
    with pytest.raises(errors.UsageError, match="idx"):
        store.delete_message("alice", index)
    if store.way != WAYS[2] and index is not None:
        with pytest.raises(errors.UsageError, match="idx"):
            store.add_message("alice", user("hi"), index)
    assert asked(server) == []
    assert store.get_messages("alice") == answers(2)


@pytest.mark.parametrize("count", [-1, "1", 1.0, None, True])
def test_how_many_is_a_number_from_zero(server, hub, count):
    store = Driven(WAYS[2], conversations=hub)
    store.add_messages("alice", answers(3))
    for name in ("delete_oldest_messages", "archive_oldest_messages"):
        with pytest.raises(errors.UsageError, match="n is"):
            getattr(store, name)("alice", count)
    for name in ("limit", "offset"):
        if count is not None:
            with pytest.raises(errors.UsageError, match=name):
                store.get_messages("alice", **{name: count})
    assert store.get_messages("alice") == answers(3)


@pytest.mark.parametrize("status", ["done", 1, ["active"]])
def test_a_status_is_active_or_archived(hub, status):
    store = Driven(WAYS[2], conversations=hub)
    store.add_messages("alice", answers(2))
    for act in (
        lambda: store.add_message("alice", user("hi"), status),
        lambda: store.add_messages("alice", [user("hi")], status),
        lambda: store.set_messages("alice", [user("hi")], status),
        lambda: store.get_messages("alice", status),
        lambda: store.count_messages("alice", status),
        lambda: store.delete_messages("alice", status),
    ):
        with pytest.raises(errors.UsageError, match="status"):
            act()
    with pytest.raises(errors.UsageError, match="status"):
        store.add_message("alice", user("hi"), None)
    assert store.get_messages("alice", None) == answers(2)


def test_a_status_may_be_given_as_a_text(hub):
    store = Driven(WAYS[2], conversations=hub)
    store.add_message("alice", assistant("one"), "archived")
    assert store.get_messages("alice", "archived") == [assistant("one")]
    assert store.get_messages("alice", "active") == []


@pytest.mark.parametrize("kind", [QwenConvChatStore, QwenConvAsyncChatStore])
def test_a_store_needs_a_key(monkeypatch, kind):
    monkeypatch.delenv("DASHSCOPE_API_KEY", raising=False)
    with pytest.raises(errors.MissingKeyError, match="DASHSCOPE_API_KEY"):
        kind()


@pytest.mark.parametrize("name", FOR_ALL)
@pytest.mark.parametrize("in_this_process", [True, False])
def test_a_conversation_that_was_deleted_behind_our_back_is_told_with_the_way_out(
    server, hub, store, name, in_this_process
):
    store.add_message("alice", assistant("one"))
    store.add_message("alice", assistant("two"))
    another_process(server).run(flows.delete, place(hub))
    if not in_this_process:
        store = Driven(store.way, conversations=another_process(server, registry=hub.registry))
    act = getattr(store, name)
    if name == "delete_messages":  # it is what was asked for
        act("alice")
    elif name == "get_messages" and in_this_process:  # the session is owned
        assert texts(act("alice")) == ["one", "two"]
    elif name == "add_message" and store.hub.mirrors.turns_expected:
        act("alice", *FOR_ALL[name])
        with pytest.raises(errors.ConversationNotFoundError, match="forget_session"):
            store.flush()
        store.hub.forget_session("alice")
        store.delete_messages("alice")
    else:
        with pytest.raises(errors.ConversationNotFoundError, match="forget_session"):
            act("alice", *FOR_ALL[name])
    if name != "delete_messages":
        store.hub.forget_session("alice")
    assert store.get_messages("alice") == []
    assert store.get_keys() == []
    store.add_message("alice", assistant("anew"))
    assert said(server, place(hub)) == ["assistant: anew"]


def test_what_waits_goes_into_the_new_conversation_of_a_key_that_was_forgotten(server):
    hub = hub_of("beside a model", server)
    store = QwenConvChatStore(conversations=hub)
    store.set_messages("alice", answers(2))
    store.add_message("alice", user("three"))
    before = place(hub)
    hub.forget_session("alice")
    assert store.get_messages("alice") == [user("three")]
    store.flush()
    assert said(server, place(hub)) == ["user: three"]
    assert len(said(server, before)) == 2


# --- Seven days --------------------------------------------------------------------------------


@pytest.mark.parametrize("freshness", ["turn", 10, 0])
def test_after_seven_days_what_is_left_is_shown_and_writing_goes_on(server, hub, freshness, caplog):
    store = QwenConvChatStore(conversations=hub, freshness=freshness)
    store.set_messages("alice", [user("one"), calling(), result(), assistant("two")])
    server.clock.advance(days=6)
    store.add_message("alice", assistant("three"))
    server.clock.advance(days=2)
    assert texts(store.get_messages("alice")) == ["three"]
    assert "4 messages are not there any more" in caplog.text
    store.add_message("alice", assistant("four"))
    assert texts(store.get_messages("alice")) == ["three", "four"]
    assert store.delete_message("alice", 0) == assistant("three")
    store.set_messages("alice", [assistant("four"), assistant("five")])
    there = QwenConvChatStore(conversations=another_process(server, registry=hub.registry))
    assert texts(there.get_messages("alice")) == ["four", "five"]


def test_so_it_is_in_another_process_and_when_nothing_is_left(server, hub, store):
    store.set_messages("alice", [user("one"), assistant("two")])
    server.clock.advance(days=8)
    there = Driven(store.way, conversations=another_process(server, registry=hub.registry))
    assert there.get_messages("alice") == []
    assert there.get_keys() == ["alice"]
    there.add_message("alice", assistant("three"))
    assert there.get_messages("alice") == [assistant("three")]


def test_what_was_archived_seven_days_ago_is_gone_and_the_rest_is_active(server):
    hub = hub_of("alone", server)
    store = Driven(WAYS[2], conversations=hub, freshness=10)
    store.add_messages("alice", answers(2))
    store.archive_oldest_messages("alice", 2)
    store.flush()
    server.clock.advance(days=6)
    store.add_messages("alice", answers(2, start=2))
    server.clock.advance(days=2)
    there = Driven(WAYS[2], conversations=another_process(server, registry=hub.registry))
    for one in (store, there):
        assert one.get_messages("alice", ARCHIVED) == []
        assert one.get_messages("alice", ACTIVE) == answers(2, start=2)


def test_a_server_that_lists_what_is_too_old_does_not_bring_it_back(hub):
    with OfflineServer(expired_items="listed") as server:
        own = hub_of("alone", server)
        store = QwenConvChatStore(conversations=own, freshness="turn")
        store.set_messages("alice", [user("one"), assistant("two")])
        server.clock.advance(days=8)
        store.add_message("alice", assistant("three"))
        assert texts(store.get_messages("alice")) == ["three"]
