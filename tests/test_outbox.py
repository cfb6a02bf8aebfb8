"""The outbox: messages that wait to be sent outlast the process, and one owner at a time has each.

QWEN_CONV_TEST_DATABASE may be the URL of a database server, such as
"postgresql+psycopg://postgres@127.0.0.1/postgres": then these tests run there too, each in a
database that it creates and drops. It says nothing of the driver, which has to be installed.
"""

import os
import sqlite3
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from types import SimpleNamespace
from uuid import uuid4

import pytest
import sqlalchemy as sa
from test_sql_registry import ALICE, ELSEWHERE, HERE, at_once, in_threads

from qwen_conv import errors
from qwen_conv.registry import MemoryRegistry, Outbox, SqlRegistry, Waiting

SERVER = os.environ.get("QWEN_CONV_TEST_DATABASE")
LASTING = ["in a file", *(["on a server"] if SERVER else [])]
OTHERS = [
    *ELSEWHERE,
    pytest.param(replace(ALICE, namespace="another app"), id="namespace"),
    pytest.param(replace(ALICE, key="bob"), id="key"),
]
HI, YES = {"role": "user", "content": "Hi"}, {"role": "user", "content": "yes"}


@contextmanager
def database(kind, folder):
    """The URL of a new and empty database."""
    if kind != "on a server":
        yield "sqlite://" if kind == "in memory" else f"sqlite:///{folder / 'sessions.db'}"
        return
    name = f"qwen_conv_test_{uuid4().hex}"
    engine = sa.create_engine(SERVER, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as db:
        db.exec_driver_sql(f"create database {name}")
    try:
        yield engine.url.set(database=name).render_as_string(hide_password=False)
    finally:
        with engine.connect() as db:
            db.exec_driver_sql(f"drop database {name}")


@pytest.fixture(params=LASTING)
def url(request, tmp_path):
    with database(request.param, tmp_path) as url:
        yield url


@pytest.fixture(params=["in memory", *LASTING])
def outbox(request, tmp_path):
    with database(request.param, tmp_path) as url, SqlRegistry(url) as registry:
        yield registry


@pytest.fixture
def clock(monkeypatch):
    """The time for outbox and leases: 1000 seconds since 1970, until the test says otherwise."""
    clock = SimpleNamespace(now=1000.0)
    told = SimpleNamespace(time=lambda: clock.now)
    monkeypatch.setattr("qwen_conv.sql.outbox.time", told)
    monkeypatch.setattr("qwen_conv.sql.leases.time", told)
    return clock


def told(waiting):
    return [(each.number, each.owner) for each in waiting]


def test_a_sql_registry_is_an_outbox_and_the_one_in_memory_is_not(outbox):
    assert isinstance(outbox, Outbox)
    assert not isinstance(MemoryRegistry(), Outbox)


def test_messages_wait_in_the_order_in_which_they_were_posted(outbox, clock):
    first, second, third = outbox.post(ALICE, "one", [HI, YES, YES])
    clock.now = 1001.5
    (fourth,) = outbox.post(ALICE, "another", [HI])
    assert first < second < third < fourth
    assert outbox.waiting(ALICE) == [
        Waiting(first, "one", HI, 1000.0),
        Waiting(second, "one", YES, 1000.0),
        Waiting(third, "one", YES, 1000.0),
        Waiting(fourth, "another", HI, 1001.5),
    ]


def test_a_session_to_which_nothing_was_posted_has_nothing_waiting(outbox):
    assert outbox.post(ALICE, "one", []) == []
    assert outbox.waiting(ALICE) == []
    assert outbox.take_over(ALICE, "another", 0.0) == []


def test_a_message_comes_back_as_it_was_posted(outbox):
    data = [
        {"text": "Grüße, 你好, 👋🏽, é e\u0301, zero \0, " + "long " * 50_000},
        {"deep": [{"a": [1, 2.5, None, True, ""]}], "schlüssel": {}},
        {},
    ]
    outbox.post(ALICE, "one", data)
    assert [each.data for each in outbox.waiting(ALICE)] == data


@pytest.mark.parametrize("other", OTHERS)
def test_messages_of_another_session_are_not_seen(outbox, clock, other):
    theirs = outbox.post(other, "one", [HI])
    (ours,) = outbox.post(ALICE, "one", [YES])
    assert told(outbox.waiting(ALICE)) == [(ours, "one")]
    assert not outbox.renew(ALICE, "one", theirs)
    clock.now = 1060.0
    assert told(outbox.take_over(ALICE, "another", 1050.0)) == [(ours, "another")]
    assert outbox.waiting(other) == [Waiting(*theirs, "one", HI, 1000.0)]


@pytest.mark.parametrize("differs", ["namespace", "key"])
def test_messages_of_another_session_are_not_withdrawn(outbox, differs):
    numbers = outbox.post(ALICE, "one", [HI])
    outbox.withdraw(replace(ALICE, **{differs: "another"}), numbers)
    assert told(outbox.waiting(ALICE)) == [(*numbers, "one")]


def test_messages_that_are_withdrawn_are_gone_and_the_others_wait(outbox):
    first, second, third = outbox.post(ALICE, "one", [HI, YES, HI])
    outbox.withdraw(ALICE, [])
    outbox.withdraw(ALICE, [third, first])
    assert told(outbox.waiting(ALICE)) == [(second, "one")]
    outbox.withdraw(ALICE, [first, second, second])
    assert outbox.waiting(ALICE) == []


def test_a_number_is_never_given_again(outbox):
    first = outbox.post(ALICE, "one", [HI, YES])
    outbox.withdraw(ALICE, first)
    second = outbox.post(ALICE, "one", [HI])
    assert second > first[-1:]
    assert not outbox.renew(ALICE, "one", first)


def test_what_another_owner_was_late_with_is_taken_over(outbox, clock):
    late = outbox.post(ALICE, "one", [HI, YES])
    clock.now = 1050.0
    (in_time,) = outbox.post(ALICE, "two", [HI])
    (own,) = outbox.post(ALICE, "three", [YES])
    clock.now = 1060.0
    taken = [
        Waiting(late[0], "three", HI, 1060.0),
        Waiting(late[1], "three", YES, 1060.0),
    ]
    assert outbox.take_over(ALICE, "three", 1050.0) == taken
    assert outbox.take_over(ALICE, "three", 1050.0) == []
    assert outbox.waiting(ALICE) == [
        *taken,
        Waiting(in_time, "two", HI, 1050.0),
        Waiting(own, "three", YES, 1050.0),
    ]


def test_an_owner_is_told_of_what_it_takes_over_and_not_of_what_it_had(outbox, clock):
    outbox.post(ALICE, "one", [HI])
    (late,) = outbox.post(ALICE, "another", [YES])
    clock.now = 1060.0
    outbox.post(ALICE, "one", [HI])
    assert told(outbox.take_over(ALICE, "one", 1050.0)) == [(late, "one")]


def test_what_is_renewed_is_not_taken_over(outbox, clock):
    first, second, third = outbox.post(ALICE, "one", [HI, YES, HI])
    clock.now = 1060.0
    assert outbox.renew(ALICE, "one", [third, first, first])
    assert told(outbox.take_over(ALICE, "another", 1050.0)) == [(second, "another")]
    assert [each.updated for each in outbox.waiting(ALICE)] == [1060.0] * 3


def test_there_is_nothing_against_renewing_nothing(outbox):
    assert outbox.renew(ALICE, "one", [])


@pytest.mark.parametrize("by", ["a take-over", "a withdrawal"])
def test_an_owner_that_lost_a_message_renews_none_of_them(outbox, clock, by):
    numbers = outbox.post(ALICE, "one", [HI, YES])
    clock.now = 1060.0
    if by == "a withdrawal":
        outbox.withdraw(ALICE, numbers[:1])
    else:
        outbox.take_over(ALICE, "another", 1050.0)
        numbers += outbox.post(ALICE, "one", [HI])
    before = outbox.waiting(ALICE)
    clock.now = 1070.0
    assert not outbox.renew(ALICE, "one", numbers)
    assert outbox.waiting(ALICE) == before


def test_five_thousand_messages_are_posted_renewed_taken_over_and_withdrawn(outbox, clock):
    numbers = outbox.post(ALICE, "one", [{"n": n} for n in range(5_000)])
    assert [each.data["n"] for each in outbox.waiting(ALICE)] == list(range(5_000))
    clock.now = 1060.0
    assert outbox.renew(ALICE, "one", numbers)
    assert not outbox.renew(ALICE, "one", [*numbers, numbers[-1] + 1])
    clock.now = 1120.0
    assert told(outbox.take_over(ALICE, "another", 1110.0)) == [(n, "another") for n in numbers]
    outbox.withdraw(ALICE, numbers[1:])
    assert told(outbox.waiting(ALICE)) == [(numbers[0], "another")]


@pytest.mark.parametrize(
    "unsendable",
    [pytest.param({"text": "Alice \ud83d"}, id="text"), pytest.param({"\udc80": 1}, id="name")],
)
def test_a_message_with_half_of_a_character_is_refused_and_none_of_its_post_waits(
    outbox, unsendable
):
    with pytest.raises(errors.UsageError, match="half of a character") as raised:
        outbox.post(ALICE, "one", [HI, unsendable])
    assert "Alice" not in str(raised.value)
    assert outbox.waiting(ALICE) == []


def test_a_session_or_an_owner_that_no_database_can_store_is_refused(outbox):
    for session, owner in ((replace(ALICE, key="\ud83d"), "one"), (ALICE, "\ud83d")):
        with pytest.raises(errors.UsageError, match="half of a character"):
            outbox.post(session, owner, [HI])
    assert outbox.waiting(ALICE) == []


def test_of_messages_that_are_not_all_json_none_waits(outbox):
    with pytest.raises(TypeError):
        outbox.post(ALICE, "one", [HI, {"a": object()}])
    assert outbox.waiting(ALICE) == []


@pytest.mark.parametrize("other", ELSEWHERE)
def test_what_waits_goes_along_when_its_session_is_adopted(outbox, clock, other):
    numbers = outbox.post(ALICE, "one", [HI, YES])
    bob = replace(ALICE, key="bob")
    bobs = outbox.post(bob, "one", [HI])
    outbox.bind(ALICE, "conv_1")
    outbox.adopt(other)
    assert outbox.waiting(ALICE) == []
    assert not outbox.renew(ALICE, "one", numbers)
    assert outbox.waiting(other) == [
        Waiting(numbers[0], "one", HI, 1000.0),
        Waiting(numbers[1], "one", YES, 1000.0),
    ]
    assert told(outbox.waiting(bob)) == [(*bobs, "one")]


@pytest.mark.parametrize("other", ELSEWHERE)
def test_what_was_sent_while_its_session_was_adopted_is_still_withdrawn(outbox, other):
    numbers = outbox.post(ALICE, "one", [HI])
    outbox.bind(ALICE, "conv_1")
    outbox.adopt(other)
    outbox.withdraw(ALICE, numbers)
    assert outbox.waiting(other) == []


def test_what_waits_stays_where_it_is_if_there_is_no_session_to_adopt(outbox):
    numbers = outbox.post(ALICE, "one", [HI])
    with pytest.raises(errors.UsageError):
        outbox.adopt(replace(ALICE, account="a2"))
    assert told(outbox.waiting(ALICE)) == [(*numbers, "one")]


def test_threads_that_post_at_once_lose_nothing_and_each_keeps_its_order(outbox):
    numbers = {}

    def post(thread):
        numbers[thread] = [
            number
            for message in range(5)
            for number in outbox.post(
                ALICE, f"{thread}", [{"n": 2 * message}, {"n": 2 * message + 1}]
            )
        ]

    in_threads(8, post)
    waiting = outbox.waiting(ALICE)
    assert [each.number for each in waiting] == sorted(chain(*numbers.values()))
    for thread in range(8):
        own = [each for each in waiting if each.owner == f"{thread}"]
        assert [each.number for each in own] == numbers[thread]
        assert [each.data["n"] for each in own] == list(range(10))


def test_of_threads_that_take_over_at_once_each_message_goes_to_one(outbox, clock):
    sessions = [replace(ALICE, key=f"{number}") for number in range(12)]
    posted = [outbox.post(session, "dead", [HI, YES, HI]) for session in sessions]
    clock.now = 1060.0
    together, taken = threading.Barrier(8, timeout=60), {}

    def take_over(thread):
        for session in sessions:
            together.wait()
            taken[session, f"{thread}"] = outbox.take_over(session, f"{thread}", 1050.0)

    in_threads(8, take_over)
    assert len(taken) == 12 * 8
    assert sorted(each.number for each in chain(*taken.values())) == list(chain(*posted))
    for session in sessions:
        found = [some for (of, _), some in taken.items() if of == session and some]
        assert found == [outbox.waiting(session)]


def test_threads_of_one_owner_do_not_both_take_a_message_over(outbox, clock):
    numbers = outbox.post(ALICE, "dead", [HI] * 20)
    clock.now = 1060.0
    taken = []
    in_threads(8, lambda _: taken.extend(outbox.take_over(ALICE, "one", 1050.0)))
    assert told(taken) == [(number, "one") for number in numbers]


def test_a_message_is_renewed_or_taken_over_and_never_both(outbox, clock):
    together, kept, taken = threading.Barrier(2, timeout=60), [], []
    sessions = [replace(ALICE, key=f"{number}") for number in range(30)]
    numbers = [outbox.post(session, "one", [HI, YES]) for session in sessions]
    clock.now = 1060.0

    def settle(thread):
        for session, own in zip(sessions, numbers, strict=True):
            together.wait()
            if thread:
                taken.append(outbox.take_over(session, "another", 1050.0))
            else:
                kept.append(outbox.renew(session, "one", own))

    in_threads(2, settle)
    assert [[each.number for each in some] for some in taken] == [
        [] if renewed else own for renewed, own in zip(kept, numbers, strict=True)
    ]


def test_threads_that_do_everything_at_once_do_not_fail(outbox):
    together = threading.Barrier(8, timeout=60)

    def work(thread):
        owner = f"{thread}"
        for _ in range(10):
            together.wait()
            own = outbox.post(ALICE, owner, [HI, YES, HI, YES, HI])
            outbox.take_over(ALICE, owner, time.time())
            outbox.renew(ALICE, owner, own)
            outbox.withdraw(ALICE, own)

    in_threads(8, work)
    assert outbox.waiting(ALICE) == []


def test_of_processes_that_take_over_at_once_each_message_goes_to_one(url):
    with SqlRegistry(url) as outbox:
        numbers = outbox.post(ALICE, "dead", [HI] * 50)
        before = outbox.waiting(ALICE)[-1].updated + 1e-3
    script = f"""
import time
from qwen_conv.registry import Session, SqlRegistry
outbox = SqlRegistry({url!r})
while time.time() < {before!r}:
    pass
print(*(each.number for each in outbox.take_over({ALICE!r}, sys.argv[1], {before!r})))
"""
    taken = at_once(script, "1", "2", "3")
    assert sorted(int(number) for some in taken for number in some.split()) == numbers
    with SqlRegistry(url) as outbox:
        for owner, some in zip("123", taken, strict=True):
            own = [each.number for each in outbox.waiting(ALICE) if each.owner == owner]
            assert own == [int(number) for number in some.split()]


def test_what_a_killed_process_had_posted_waits_for_another(url):
    script = f"""
import os, signal
from qwen_conv.registry import Session, SqlRegistry
print(SqlRegistry({url!r}).post({ALICE!r}, "killed", [{HI!r}, {YES!r}]), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    (posted,) = at_once(script, "")
    with SqlRegistry(url) as outbox:
        late = outbox.waiting(ALICE)[-1].updated + 1e-3
        taken = outbox.take_over(ALICE, "another", late)
    assert str([each.number for each in taken]) == posted
    assert [each.data for each in taken] == [HI, YES]


def test_messages_wait_while_the_registry_is_closed(url):
    with SqlRegistry(url) as outbox:
        outbox.post(ALICE, "one", [HI, YES])
        waiting = outbox.waiting(ALICE)
    with SqlRegistry(url) as outbox:
        assert outbox.waiting(ALICE) == waiting
        assert outbox.renew(ALICE, "one", [each.number for each in waiting])


@pytest.fixture
def older(url):
    """The URL of a database that was written before there was an outbox."""
    with SqlRegistry(url) as registry:
        registry.bind(ALICE, "conv_1")
        registry.overlay(HERE, "conv_1", {"msg_1": {"a": 1}})
    changed(url, "drop table qwen_conv_outbox")
    return url


def changed(url, statement):
    """Runs a statement in a database; returns the tables that are there afterwards."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as db:
        db.exec_driver_sql(statement)
    return sa.inspect(engine).get_table_names()


def test_a_database_written_before_there_was_an_outbox_gets_one(older):
    with SqlRegistry(older) as registry:
        (number,) = registry.post(ALICE, "one", [HI])
        assert told(registry.waiting(ALICE)) == [(number, "one")]
        assert registry.get(ALICE).conversation_id == "conv_1"
        assert registry.overlays(HERE, "conv_1", ["msg_1"]) == {"msg_1": {"a": 1}}
    with SqlRegistry(older) as registry:
        assert told(registry.waiting(ALICE)) == [(number, "one")]


def test_an_older_database_may_be_opened_by_many_at_once(older):
    def open_and_post(thread):
        with SqlRegistry(older) as registry:
            registry.post(ALICE, f"thread {thread}", [HI])

    in_threads(8, open_and_post)
    with SqlRegistry(older) as registry:
        assert {each.owner for each in registry.waiting(ALICE)} == {
            f"thread {number}" for number in range(8)
        }


@pytest.mark.parametrize("there", ["an older database", "none"])
def test_processes_that_open_a_database_at_once_all_post(request, url, there):
    if there == "an older database":
        request.getfixturevalue("older")
    script = f"""
from qwen_conv.registry import Session, SqlRegistry
print(*SqlRegistry({url!r}).post({ALICE!r}, sys.argv[1], [{HI!r}]))
"""
    numbers = at_once(script, "1", "2", "3", "4")
    with SqlRegistry(url) as registry:
        assert sorted(told(registry.waiting(ALICE))) == sorted(
            (int(number), owner) for number, owner in zip(numbers, "1234", strict=True)
        )


def test_a_newer_database_is_refused_before_anything_is_created_in_it(older):
    tables = changed(older, "update qwen_conv_schema set version = 7")
    with pytest.raises(errors.RegistryError, match=r"version 7.* version 1: upgrade qwen-conv"):
        SqlRegistry(older)
    assert changed(older, "select 1") == tables


def test_an_older_file_keeps_the_journal_that_it_was_given(tmp_path):
    path = tmp_path / "sessions.db"
    SqlRegistry(f"sqlite:///{path}").close()
    with sqlite3.connect(path) as file:
        file.execute("drop table qwen_conv_outbox")
        file.execute("pragma journal_mode=delete")
    file.close()
    SqlRegistry(f"sqlite:///{path}").close()
    file = sqlite3.connect(path)
    assert file.execute("pragma journal_mode").fetchone() == ("delete",)
    file.close()


def test_an_outbox_whose_database_is_gone_is_an_error(tmp_path):
    (tmp_path / "data").mkdir()
    outbox = SqlRegistry(f"sqlite:///{tmp_path}/data/sessions.db")
    (tmp_path / "data").rename(tmp_path / "moved")
    for use in (
        lambda: outbox.post(ALICE, "one", [HI]),
        lambda: outbox.waiting(ALICE),
        lambda: outbox.take_over(ALICE, "one", 0.0),
        lambda: outbox.renew(ALICE, "one", [1]),
        lambda: outbox.withdraw(ALICE, [1]),
    ):
        with pytest.raises(errors.RegistryError, match="still there and writable"):
            use()


def test_an_error_shows_nothing_of_a_message(tmp_path):
    outbox = SqlRegistry(f"sqlite:///{tmp_path / 'sessions.db'}?timeout=0.01")
    other = sqlite3.connect(tmp_path / "sessions.db")
    other.execute("begin immediate")
    with pytest.raises(errors.RegistryError, match="database is locked") as raised:
        outbox.post(ALICE, "one", [{"text": "s3cret"}])
    other.rollback()
    other.close()
    error = raised.value
    assert "s3cret" not in f"{error}{error.__cause__}"
    assert "alice" not in f"{error}{error.__cause__}"
