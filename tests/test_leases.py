"""One turn at a time per conversation across processes: leases in the registry, or the user's lock.

Hubs of `another_process` are to each other what processes are; where it matters, real ones run.
QWEN_CONV_TEST_DATABASE may be a database server, as in test_outbox.
"""

import asyncio
import gc
import json
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from conftest import MODEL, another_process, asked, eventually, said
from langchain_core.exceptions import ModelError
from langchain_core.messages import HumanMessage
from test_outbox import LASTING, clock, database, url
from test_sql_registry import HERE, in_threads

from langchain_qwen_conv import ChatQwenConv
from langchain_qwen_conv import errors as model_errors
from qwen_conv import QwenConversations, errors, flows
from qwen_conv.api import finish
from qwen_conv.doubt import Doubt
from qwen_conv.offline import Fail
from qwen_conv.registry import PLACE, Leases, MemoryRegistry, SqlRegistry


@pytest.fixture(params=["in memory", *LASTING])
def leases(request, tmp_path):
    with database(request.param, tmp_path) as url, SqlRegistry(url) as registry:
        yield registry


def lease(registry, owner, conversation="conv_1", seconds=30.0):
    return registry.lease(HERE, conversation, owner, seconds)


def processes(server, url, count, **settings):
    """Hubs that share nothing but the database."""
    return [another_process(server, registry=SqlRegistry(url), **settings) for _ in range(count)]


def session(hub, key="alice"):
    return ChatQwenConv(model=MODEL, conversations=hub, session_id=key)


def conversation_of(hub, key="alice"):
    return hub.registry.get(hub.session(key)).conversation_id


def is_free(hub, conversation):
    """Whether somebody new is given the lease; it runs out at once then."""
    return hub.registry.lease(hub.base_url, conversation, "somebody", 0.0) is not None


def row(url, conversation):
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as db:
        found = db.execute(
            sa.text("select * from qwen_conv_leases where conversation_id = :one"),
            {"one": conversation},
        )
        return found.mappings().one()


class Slow:
    """A script whose answers to some questions wait until they are let go."""

    def __init__(self, *questions):
        self.questions = questions
        self.asked = threading.Event()
        self.go_on = threading.Event()

    async def __call__(self, context, request):
        if context[-1]["content"][0]["text"] in self.questions:
            self.asked.set()
            while not self.go_on.is_set():  # noqa: ASYNC110 - it is set by a thread
                await asyncio.sleep(0.005)
        return "ok"


# --- The registry's steps ---------------------------------------------------------------------


def test_a_sql_registry_has_leases_and_the_one_in_memory_has_none(leases):
    assert isinstance(leases, Leases)
    assert not isinstance(MemoryRegistry(), Leases)


def test_a_lease_is_one_owners_until_it_is_ended(leases, clock):
    first = lease(leases, "one")
    assert (first.base_url, first.conversation_id, first.owner) == (HERE, "conv_1", "one")
    assert (first.token, first.expires, first.note) == (1, 1030.0, None)
    assert lease(leases, "another") is None
    assert leases.end_lease(first, None)
    assert lease(leases, "another").token == 2


def test_leases_are_of_one_conversation_at_one_base_url(leases):
    assert lease(leases, "one")
    assert lease(leases, "another", "conv_2").token == 1
    assert leases.lease("https://other.example.com", "conv_1", "another", 30.0).token == 1


def test_a_lease_runs_out_unless_it_is_renewed(leases, clock):
    first = lease(leases, "one", seconds=30.0)
    clock.now = 1020.0
    assert leases.renew_lease(first, 30.0)
    clock.now = 1049.0
    assert lease(leases, "another") is None
    clock.now = 1051.0
    assert lease(leases, "another").token == 2


def test_a_lease_that_ran_out_is_still_ones_own_as_long_as_nobody_takes_it(leases, clock):
    first = lease(leases, "one")
    clock.now = 1100.0
    assert leases.renew_lease(first, 30.0)
    assert lease(leases, "another") is None


@pytest.mark.parametrize("taker", ["another", "one"])
def test_a_lease_that_was_taken_since_is_neither_renewed_nor_ended(leases, clock, taker):
    first = lease(leases, "one")
    clock.now = 1100.0
    second = lease(leases, taker)
    assert not leases.renew_lease(first, 30.0)
    assert not leases.end_lease(first, "late")
    assert lease(leases, "a third") is None
    assert leases.end_lease(second, None)
    clock.now = 1100.0 + 2 * PLACE
    assert lease(leases, "a fourth").note is None


def test_the_owner_is_given_its_own_lease_anew(leases):
    tokens = [lease(leases, "one").token for _ in range(3)]
    assert tokens == [1, 2, 3]
    assert lease(leases, "another") is None


def test_a_note_stays_with_the_conversation_until_it_is_changed(leases, clock):
    leases.end_lease(lease(leases, "one"), "a turn's outcome: unknown, 你好")
    assert lease(leases, "another", seconds=5.0).note == "a turn's outcome: unknown, 你好"
    clock.now = 1010.0  # it was killed
    third = lease(leases, "a third")
    assert third.note == "a turn's outcome: unknown, 你好"
    leases.end_lease(third, None)
    assert lease(leases, "one").note is None


def test_who_was_refused_first_is_next(leases, clock):
    first = lease(leases, "one")
    assert lease(leases, "two") is None
    assert lease(leases, "three") is None
    leases.end_lease(first, None)
    assert lease(leases, "one") is None
    assert lease(leases, "three") is None
    assert lease(leases, "two").token == 2


def test_who_is_next_keeps_the_place_by_asking_and_loses_it_otherwise(leases, clock):
    first = lease(leases, "one")
    assert lease(leases, "two") is None
    for _ in range(3):
        clock.now += 0.9 * PLACE
        assert lease(leases, "two") is None
    leases.end_lease(first, None)
    assert lease(leases, "three") is None
    clock.now += 1.1 * PLACE
    assert lease(leases, "three").token == 2


def test_of_threads_that_ask_at_once_one_is_given_the_lease(leases):
    given = []
    for conversation in ("conv_1", "conv_2", "conv_3"):
        in_threads(8, lambda n, one=conversation: given.append(lease(leases, str(n), one)))
    assert len(given) == 24
    assert sorted(one.conversation_id for one in given if one) == ["conv_1", "conv_2", "conv_3"]


def test_a_database_of_before_there_were_leases_is_given_their_table(url):
    SqlRegistry(url)
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as db:
        db.execute(sa.text("drop table qwen_conv_leases"))
    assert lease(SqlRegistry(url), "one").token == 1


# --- Turns of several processes ---------------------------------------------------------------


def test_turns_of_threads_and_tasks_of_several_processes_never_meet(server, url):
    server.script = Slow()
    hubs = processes(server, url, 2)
    session(hubs[0]).invoke("begin")

    def in_thread(number):
        for turn in range(3):
            session(hubs[number]).invoke(f"thread {number} {turn}")

    async def in_tasks(number):
        async def turns(task):
            for turn in range(2):
                await session(hubs[number]).ainvoke(f"task {number} {task} {turn}")

        await asyncio.gather(*[turns(task) for task in range(2)])

    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(in_thread, number) for number in range(2)]
        done += [pool.submit(asyncio.run, in_tasks(number)) for number in range(2)]
        for one in done:
            one.result(timeout=60)  # the server refuses a turn that meets another
    texts = said(server, conversation_of(hubs[0]))
    asked_for = {f"user: thread {n} {turn}" for n in range(2) for turn in range(3)}
    asked_for |= {
        f"user: task {n} {t} {turn}" for n in range(2) for t in range(2) for turn in range(2)
    }
    assert sorted(texts[2::2]) == sorted(asked_for)
    assert set(texts[1::2]) == {"assistant: ok"}


BEGIN = """
import asyncio, json, sys, threading
from qwen_conv import QwenConversations
from qwen_conv.items import Message
from qwen_conv.local import Entry, LocalList
from qwen_conv.registry import SqlRegistry

told = json.loads(sys.argv[1])
hub = QwenConversations(
    api_key="any",
    base_url=told["base_url"],
    registry=SqlRegistry(told["url"]),
    lease_seconds=told["lease_seconds"],
)

def say(session, text):
    from qwen_conv.turn import TurnRequest
    from qwen_conv.turns import take
    local = LocalList([text], lambda one: Entry((Message.of("user", one),)), (text,))
    hub.run(take, TurnRequest(local, "qwen3.6-plus", session=session))

print("here", flush=True)
"""


@contextmanager
def real_processes(script, server, url, count=1, lease_seconds=30.0):
    """Processes that have a hub, have said so, and run a script."""
    told = {"base_url": server.base_url, "url": url, "lease_seconds": lease_seconds}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", BEGIN + script, json.dumps(told | {"number": number})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
        )
        for number in range(count)
    ]
    try:
        assert [one.stdout.readline() for one in running] == ["here\n"] * count
        yield running
    finally:
        for one in running:
            one.kill()
            one.communicate()


def go_on(process):
    process.stdin.write("\n")
    process.stdin.flush()


CROWD = """
def turns(key):
    for turn in range(2):
        say(key, f"{told['number']} {turn}")

input()
threads = [threading.Thread(target=turns, args=(key,)) for key in "abcd"]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_four_processes_share_four_sessions_and_every_conversation_alternates(server, tmp_path):
    server.script = Slow()
    url = f"sqlite:///{tmp_path / 'sessions.db'}"
    with real_processes(CROWD, server, url, count=4) as crowd:
        for each in crowd:
            go_on(each)
        assert [each.wait(120) for each in crowd] == [0] * 4
    (hub,) = processes(server, url, 1)
    for key in "abcd":
        texts = said(server, conversation_of(hub, key))
        questions, answers = texts[::2], texts[1::2]
        for n in range(4):  # each process's own turns are in the order in which it took them
            assert [one for one in questions if f" {n} " in one] == [f"user: {n} 0", f"user: {n} 1"]
        assert (len(questions), answers) == (8, ["assistant: ok"] * 8)


def test_a_process_with_many_turns_to_take_does_not_keep_another_out(server, url):
    server.script = slow = Slow("first")
    busy, other = processes(server, url, 2)
    session(busy).invoke("begin")
    conversation = conversation_of(busy)
    with ThreadPoolExecutor(6) as pool:
        done = [pool.submit(session(busy).invoke, "first")]
        assert slow.asked.wait(30)
        done += [pool.submit(session(busy).invoke, f"busy {n}") for n in range(4)]
        done += [pool.submit(session(other).invoke, "other")]
        eventually(lambda: row(url, conversation)["next_owner"] is not None)
        slow.go_on.set()
        for one in done:
            one.result(timeout=30)
    questions = said(server, conversation)[::2]
    assert len(questions) == 7
    assert questions[-1] != "user: other"


def test_an_open_turn_holds_up_no_other_conversation(server, tmp_path):
    server.script = slow = Slow("long")
    url = f"sqlite:///{tmp_path / 'sessions.db'}?timeout=0.5"  # who is held up longer fails
    one, other = processes(server, url, 2)
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(session(one).invoke, "long")
        assert slow.asked.wait(30)
        for hub in (one, other):
            session(hub, "bob").invoke("quick")
            asyncio.run(session(hub, "bob").ainvoke("quick"))
        assert not long.done()
        slow.go_on.set()
        long.result(timeout=10)
    assert len(said(server, conversation_of(one, "bob"))) == 8


def test_a_registry_with_leases_costs_no_request(take, server, url):
    (hub,) = processes(server, url, 1)
    messages = [HumanMessage("a")]
    for _ in range(3):
        messages += [take(session(hub), messages), HumanMessage("more")]
    assert asked(server) == ["POST /conversations", *["POST /responses"] * 3]


def test_what_another_process_did_since_is_looked_at(take, server, url):
    one, other = processes(server, url, 2)
    messages = [HumanMessage("a")]
    messages.append(take(session(one), messages))
    take(session(other), [*messages, HumanMessage("b")])
    old = conversation_of(one)
    server.requests.clear()
    answer = take(session(one), [*messages, HumanMessage("c")])
    assert answer.response_metadata["decision"] == "rebased"
    assert [text for text in said(server, old) if text.startswith("user")] == ["user: a", "user: b"]
    assert "GET /conversations/*/items" in asked(server)


# --- Processes that die, stand still, or take long --------------------------------------------


def test_the_lease_of_a_killed_process_runs_out(server, url):
    server.script = slow = Slow("from the dead")
    one, other = processes(server, url, 2)
    turn = "say('alice', 'from the dead')"
    with real_processes(turn, server, url, lease_seconds=1.5) as (doomed,):
        assert slow.asked.wait(30)
        conversation = conversation_of(one)
        assert not is_free(one, conversation)
        doomed.send_signal(signal.SIGKILL)
        doomed.wait()
    slow.go_on.set()
    eventually(lambda: len(server.items(conversation)) == 2)  # the server went on with it
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(session(one).invoke, "next")
        asyncio.run(session(other).ainvoke("next"))
        waiting.result(timeout=10)
    assert said(server, conversation)[::2] == ["user: from the dead", *["user: next"] * 2]


HOLD = """
async def hold(api):
    holder = await api.lock("conv_1")
    print("held", flush=True)
    input()
    try:
        holder.check()
        print("fine")
    except Exception as error:
        print(type(error).__name__, error)
    holder.release()

asyncio.run(hold(hub.threaded()))
"""


@pytest.mark.parametrize("taken", [True, False])
def test_a_process_that_stood_still_too_long_notices_before_it_sends(server, url, taken):
    (hub,) = processes(server, url, 1)
    with real_processes(HOLD, server, url, lease_seconds=0.6) as (still,):
        still.stdout.readline()  # it holds the lock
        still.send_signal(signal.SIGSTOP)
        expires = row(url, "conv_1")["expires"]
        if taken:
            eventually(lambda: is_free(hub, "conv_1"))
        else:
            eventually(lambda: time.time() > expires)
        go_on(still)
        still.send_signal(signal.SIGCONT)
        told = still.stdout.readline()
    if taken:
        assert told.startswith("LeaseLostError Nothing was sent")
        assert "lease_seconds" in told
    else:
        assert told == "fine\n"


def test_a_lost_lease_is_an_error_of_langchains_that_may_be_retried():
    with pytest.raises(model_errors.LeaseLostError) as raised:  # noqa: SIM117
        with model_errors.as_model_errors(in_conversation=True):
            raise errors.LeaseLostError("conv_1", 30.0)
    assert isinstance(raised.value, ModelError)
    assert raised.value.is_retryable
    assert raised.value.conversation_id == "conv_1"


def test_the_lease_of_a_turn_that_takes_long_is_renewed_until_the_turn_is_over(server, url):
    server.script = slow = Slow("long")
    one, other = processes(server, url, 2, lease_seconds=1.5)
    with ThreadPoolExecutor(2) as pool:
        long = pool.submit(session(one).invoke, "long")
        assert slow.asked.wait(30)
        conversation = conversation_of(one)
        first = row(url, conversation)
        next_turn = pool.submit(session(other).invoke, "next")
        eventually(lambda: row(url, conversation)["expires"] > first["expires"] + 1.5)
        now = row(url, conversation)
        assert (now["owner"], now["token"]) == (first["owner"], first["token"])
        assert not next_turn.done()
        slow.go_on.set()
        long.result(timeout=10)
        next_turn.result(timeout=10)
    assert said(server, conversation)[::2] == ["user: long", "user: next"]
    eventually(lambda: {one._heartbeat._beats_in, other._heartbeat._beats_in} == {None})


def test_a_stream_has_its_conversation_until_it_is_closed(server, url):
    one, other = processes(server, url, 2)
    stream = session(one).stream("first")
    next(stream)
    conversation = conversation_of(one)
    assert not is_free(other, conversation)
    stream.close()
    eventually(lambda: is_free(other, conversation))


def test_a_lease_that_nobody_holds_any_more_runs_out_though_it_was_never_ended(server, url):
    one, other = processes(server, url, 2, lease_seconds=0.3)
    forgetful = threading.Thread(target=lambda: finish(one.sync().lock("conv_1")) and None)
    forgetful.start()
    forgetful.join()
    gc.collect()
    eventually(lambda: is_free(other, "conv_1"))


def test_a_registry_that_fails_leaves_no_lock_behind(server, tmp_path):
    (tmp_path / "data").mkdir()
    (hub,) = processes(server, f"sqlite:///{tmp_path}/data/sessions.db", 1)
    conversation = hub.run(flows.create).id
    (tmp_path / "data").rename(tmp_path / "moved")
    for _ in range(2):
        with pytest.raises(errors.RegistryError):
            hub.run(flows.clear, conversation)
        with pytest.raises(errors.RegistryError):
            asyncio.run(hub.arun(flows.clear, conversation))
    (tmp_path / "moved").rename(tmp_path / "data")
    hub.run(flows.clear, conversation)


def test_a_turn_whose_lease_cannot_be_ended_is_taken_all_the_same(server, url, monkeypatch, caplog):
    (hub,) = processes(server, url, 1)

    def fail(*_):
        raise errors.RegistryError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(hub.registry, "end_lease", fail)
        assert session(hub).invoke("first").text
        assert "the disk is full" in caplog.text
    session(hub).invoke("second")  # its own lease keeps no process out
    assert len(said(server, conversation_of(hub))) == 4


# --- Cancelling -------------------------------------------------------------------------------


def test_cancelling_a_waiting_and_a_running_task_leaves_the_conversation_free(server, url):
    server.script = slow = Slow("running")
    one, other = processes(server, url, 2)
    session(one).invoke("begin")
    conversation = conversation_of(one)

    async def main():
        running = asyncio.create_task(session(one).ainvoke("running"))
        assert await asyncio.to_thread(slow.asked.wait, 30)
        waiting = asyncio.create_task(session(other).ainvoke("waiting"))
        await asyncio.to_thread(
            eventually, lambda: row(url, conversation)["next_owner"] is not None
        )
        for task in (waiting, running):
            task.cancel()
        told = await asyncio.gather(waiting, running, return_exceptions=True)
        assert [type(one) for one in told] == [asyncio.CancelledError] * 2

    asyncio.run(main())
    slow.go_on.set()
    eventually(lambda: is_free(one, conversation))
    eventually(lambda: len(server.items(conversation)) == 4)  # the server went on with it
    for hub in (one, other):
        session(hub).invoke("next")
        asyncio.run(session(hub).ainvoke("next"))
    assert "user: waiting" not in said(server, conversation)


def test_a_task_cancelled_in_the_moment_of_taking_the_lease_leaves_none(server, url):
    one, other = processes(server, url, 2)
    asking, go_on = threading.Event(), threading.Event()
    lease = one.registry.lease

    def slowly(*args):
        asking.set()
        go_on.wait(10)
        return lease(*args)

    one.registry.lease = slowly

    async def main():
        async def lock():
            (await one.tasks().lock("conv_1")).release()

        taking = asyncio.create_task(lock())
        assert await asyncio.to_thread(asking.wait, 10)
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
        assert taking.cancelled()
        again = asyncio.create_task(lock())  # in this process, it waits for what is under way
        go_on.set()
        await asyncio.wait_for(again, 10)

    asyncio.run(main())
    eventually(lambda: is_free(other, "conv_1"))


def test_a_guard_that_was_left_before_it_was_asked_takes_no_lease_any_more(server, url):
    one, other = processes(server, url, 2)
    guard = one.guard("conv_1", tasks=False)
    guard.leave(lambda: None)
    finish(guard.enter(one.sync()))
    assert is_free(other, "conv_1")


def test_a_turn_needs_no_thread_that_others_wait_for_it_in(server, url):
    (hub,) = processes(server, url, 1)
    session(hub).invoke("begin")
    conversation = conversation_of(hub)

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        holder = await hub.tasks().lock(conversation)
        waiting = loop.run_in_executor(None, session(hub).invoke, "waiting")
        while not (hub.locks.of(conversation)._waiting or waiting.done()):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        await hub.tasks().ask(hub.registry.get, hub.session("alice"))
        holder.release()
        await asyncio.wait_for(waiting, 10)

    asyncio.run(main())
    assert len(said(server, conversation)) == 4


# --- What goes along with a lease -------------------------------------------------------------


IN_DOUBT = Doubt(
    (("what it sent",),), ("what it sent",), "msg_1", ("what was before",), "resp_1", 5.0
)


def doubt_of(hub):
    return hub.ledger.of("conv_1").doubt


def leave(hub, doubt):
    hub.ledger.note("conv_1", hub.ledger.of("conv_1")._replace(doubt=doubt))


@pytest.mark.parametrize("way", ["threads", "tasks"])
def test_a_turn_in_doubt_is_told_to_the_next_owner_until_it_is_settled(server, url, way):
    one, other = processes(server, url, 2)

    def have(hub, *changes):
        async def flow(api):
            holder = await api.lock("conv_1")
            found = doubt_of(hub), holder.taken_over
            for doubt in changes:
                leave(hub, doubt)
            holder.release()
            return found

        return hub.run(flow) if way == "threads" else asyncio.run(hub.arun(flow))

    assert have(one) == (None, False)
    assert have(one, IN_DOUBT) == (None, False)
    assert have(other) == (IN_DOUBT, True)
    assert have(other) == (IN_DOUBT, False)
    assert have(other, None) == (IN_DOUBT, False)
    assert have(one) == (None, True)
    assert have(other) == (None, True)


def test_a_task_that_locks_again_at_once_waits_for_its_lease_to_be_ended(server, url, monkeypatch):
    (hub,) = processes(server, url, 1)
    monkeypatch.setattr("qwen_conv.locks.PATIENCE", 0.01)  # for a lock that it holds itself
    lease, end_lease = hub.registry.lease, hub.registry.end_lease
    asked_again = threading.Event()

    def ending(*args):
        asked_again.clear()
        too_early.append(asked_again.wait(0.2))
        return end_lease(*args)

    def asking(*args):
        asked_again.set()
        return lease(*args)

    too_early = []
    hub.registry.lease, hub.registry.end_lease = asking, ending

    async def main():
        for _ in range(2):
            (await hub.tasks().lock("conv_1")).release()

    asyncio.run(main())
    eventually(lambda: too_early == [False, False])


def test_a_cancelled_task_does_not_take_the_doubt_along(server, url):
    one, other = processes(server, url, 2)
    holder = finish(one.sync().lock("conv_1"))
    leave(one, IN_DOUBT)
    holder.release()
    lease, go_on, asking = other.registry.lease, threading.Event(), threading.Event()

    def slowly(*args):
        asking.set()
        go_on.wait(10)
        return lease(*args)

    other.registry.lease = slowly

    async def main():
        taking = asyncio.create_task(other.tasks().lock("conv_1"))
        assert await asyncio.to_thread(asking.wait, 10)
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
        go_on.set()

    asyncio.run(main())
    finish(one.sync().lock("conv_1")).release()
    assert doubt_of(one) == IN_DOUBT


def test_without_leases_there_is_nothing_to_check(hub):
    holder = finish(hub.sync().lock("conv_1"))
    holder.check()
    assert not holder.taken_over
    holder.release()


# --- The user's own lock ----------------------------------------------------------------------


class Own:
    """Locks of the user's, for threads and for tasks, and what became of them."""

    def __init__(self):
        self.told = []

    @contextmanager
    def lock(self, conversation_id):
        self.told.append(f"entered {conversation_id}")
        yield
        self.told.append(f"left {conversation_id}")

    @asynccontextmanager
    async def async_lock(self, conversation_id):
        await asyncio.sleep(0)
        self.told.append(f"entered {conversation_id} in a task")
        yield
        await asyncio.sleep(0.01)  # as a lock of another host does
        self.told.append(f"left {conversation_id} in a task")


def test_the_users_own_lock_is_entered_and_left_around_each_turn(take, server, url, request):
    own = Own()
    kind = " in a task" if request.node.callspec.params["take"].startswith("a") else ""
    hub = another_process(
        server, registry=SqlRegistry(url), lock=own.lock, async_lock=own.async_lock
    )
    server.script = lambda *_: own.told.append("asked") or "ok"
    for _ in range(2):
        take(session(hub), "hi")
    conversation = conversation_of(hub)
    turn = [f"entered {conversation}{kind}", "asked", f"left {conversation}{kind}"]
    assert own.told == 2 * turn
    assert is_free(hub, conversation)


def test_the_users_own_lock_is_left_when_the_turn_fails(take, server):
    own = Own()
    hub = another_process(server, lock=own.lock, async_lock=own.async_lock)
    server.script = lambda *_: Fail("no", "InvalidParameter", 400)
    with pytest.raises(errors.RequestRefusedError):
        take(session(hub), "hi")
    assert [one.split()[0] for one in own.told] == ["entered", "left"]


def test_tasks_that_share_a_lock_of_the_users_take_their_turns_in_order(server):
    async def main():
        lock = asyncio.Lock()
        hub = another_process(server, async_lock=lambda _: lock)
        chat = session(hub)
        await chat.ainvoke("begin")
        await asyncio.gather(*[chat.ainvoke(str(number)) for number in range(4)])
        return conversation_of(hub)

    assert said(server, asyncio.run(main()))[2::2] == [f"user: {number}" for number in range(4)]


def test_a_lock_of_the_users_that_cannot_be_entered_fails_the_turn_and_leaves_none(server):
    @contextmanager
    def lock(_):
        if refusing:
            raise TimeoutError("somebody else has it")
        yield

    hub, refusing = another_process(server, lock=lock), False
    session(hub).invoke("one")
    requests, refusing = len(server.requests), True
    with pytest.raises(TimeoutError):
        session(hub).invoke("two")
    assert len(server.requests) == requests
    refusing = False
    session(hub).invoke("three")


def test_a_lock_for_the_other_way_only_is_refused_with_what_to_pass(server):
    own = Own()
    for_threads = another_process(server, lock=own.lock)
    for_tasks = another_process(server, async_lock=own.async_lock)
    with pytest.raises(model_errors.UsageError, match="pass async_lock too"):
        asyncio.run(session(for_threads).ainvoke("hi"))
    with pytest.raises(model_errors.UsageError, match="pass lock too"):
        session(for_tasks).invoke("hi")
    assert server.requests == []
    session(for_threads).invoke("hi")
    asyncio.run(session(for_tasks).ainvoke("hi"))


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
def test_a_lease_must_last_some_time(seconds):
    with pytest.raises(errors.UsageError, match="lease_seconds"):
        QwenConversations(api_key="any", lease_seconds=seconds)
