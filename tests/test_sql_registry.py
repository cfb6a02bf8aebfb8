"""The SQL registry: sessions that outlast the process, several processes, and overlays."""

import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import KEY, MODEL, another_process, said
from langchain_core.exceptions import ModelInvalidRequestError

from langchain_qwen_conv import ChatQwenConv
from langchain_qwen_conv import errors as model_errors
from qwen_conv import QwenConversations, errors
from qwen_conv.registry import MemoryRegistry, Overlays, Registry, Session, SqlRegistry

HERE = "https://example.com/v1"
ALICE = Session("app", "alice", HERE, "a1")
ELSEWHERE = [
    pytest.param(Session("app", "alice", "https://other.example.com", "a1"), id="base URL"),
    pytest.param(Session("app", "alice", HERE, "a2"), id="account"),
]


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'sessions.db'}"


@pytest.fixture(params=["in memory", "in a file"])
def registry(request, url):
    with SqlRegistry("sqlite://" if request.param == "in memory" else url) as registry:
        yield registry


@pytest.fixture(params=["in the process", "in memory", "in a file"])
def any_registry(request, url):
    if request.param == "in the process":
        yield MemoryRegistry()
    else:
        with SqlRegistry("sqlite://" if request.param == "in memory" else url) as registry:
            yield registry


def in_threads(count, work):
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def at_once(script, *arguments):
    """What processes print that run the script at once, each with one of the arguments."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", f"import sys; print(flush=True); input()\n{script}", argument],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
        )
        for argument in arguments
    ]
    for process in processes:
        process.stdout.readline()  # it is there
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    return [process.communicate()[0].strip() for process in processes]


def test_it_is_a_registry_and_keeps_overlays_and_the_one_in_memory_does_not(registry):
    assert isinstance(registry, Registry)
    assert isinstance(registry, Overlays)
    assert isinstance(MemoryRegistry(), Registry)
    assert not isinstance(MemoryRegistry(), Overlays)


def test_a_session_is_bound_once_and_rebound_only_as_it_was_seen(registry):
    row = registry.bind(ALICE, "conv_1")
    assert (row.conversation_id, row.state, row.revision) == ("conv_1", "open", 1)
    assert registry.bind(ALICE, "conv_2") == registry.get(ALICE) == row
    newer = registry.rebind(row, "conv_3")
    assert (newer.conversation_id, newer.revision) == ("conv_3", 2)
    assert newer.created == row.created <= newer.updated
    assert registry.rebind(row, "conv_4") == registry.get(ALICE) == newer


def test_a_session_forgotten_has_no_row_and_can_begin_anew(registry):
    registry.bind(ALICE, "conv_1")
    registry.unbind(ALICE)
    registry.unbind(ALICE)
    assert registry.get(ALICE) is None
    assert registry.bind(ALICE, "conv_2").conversation_id == "conv_2"


def test_a_session_forgotten_during_a_turn_is_bound_by_the_end_of_that_turn(registry):
    row = registry.bind(ALICE, "conv_1")
    registry.unbind(ALICE)
    assert registry.rebind(row, "conv_2") == registry.get(ALICE)
    assert registry.get(ALICE).conversation_id == "conv_2"


def test_a_session_begun_anew_is_not_mistaken_for_the_one_that_was_forgotten(any_registry):
    old = any_registry.bind(ALICE, "conv_1")
    any_registry.unbind(ALICE)
    new = any_registry.bind(ALICE, "conv_2")
    assert old.revision == new.revision
    assert any_registry.rebind(old, "conv_3") == new
    assert any_registry.former(ALICE) == []


@pytest.mark.parametrize(
    "other",
    [
        "Alice",
        "alice ",
        " alice",
        "alice\n",
        "ali",
        "alice%",
        "alic_",
        "alice\0",
        "ali\u0301ce",
        "alíce",
        "älice",
        "\uff41lice",
        "",
        "1",
        "1.0",
    ],
)
def test_a_session_is_found_by_its_key_to_the_letter(registry, other):
    registry.bind(ALICE, "conv_1")
    session = Session("app", other, HERE, "a1")
    assert registry.get(session) is None
    row = registry.bind(session, "conv_2")
    assert row.session.key == other
    registry.unbind(session)
    assert registry.get(ALICE).conversation_id == "conv_1"


def test_one_word_in_two_normalization_forms_is_two_keys(registry):
    composed, decomposed = (Session("app", key, HERE, "a1") for key in ("é", "e\u0301"))
    registry.bind(composed, "conv_1")
    assert registry.bind(decomposed, "conv_2").conversation_id == "conv_2"
    assert registry.get(composed).conversation_id == "conv_1"


def test_a_key_that_no_database_can_store_is_refused(registry):
    with pytest.raises(errors.UsageError, match="half of a character"):
        registry.bind(Session("app", "\ud83d", HERE, "a1"), "conv_1")


def test_the_same_key_is_another_session_in_another_namespace(any_registry):
    other = Session("another app", "alice", HERE, "a1")
    any_registry.bind(ALICE, "conv_1")
    assert any_registry.bind(other, "conv_2").conversation_id == "conv_2"
    assert [row.session for row in any_registry.sessions("app")] == [ALICE]


def test_the_sessions_of_a_namespace_are_told_the_oldest_first(any_registry):
    rows = [any_registry.bind(Session("app", key, HERE, "a1"), f"conv_{key}") for key in "cab"]
    newest = any_registry.rebind(rows[0], "conv_d")
    assert any_registry.sessions("app") == [newest, *rows[1:]]
    assert any_registry.sessions("nobody's") == []


def test_a_session_forgotten_and_bound_by_the_end_of_its_turn_is_as_old_as_before(any_registry):
    old, young = (
        any_registry.bind(Session("app", key, HERE, "a1"), f"conv_{key}")
        for key in ("old", "young")
    )
    any_registry.unbind(old.session)
    assert any_registry.sessions("app") == [young]
    bound = any_registry.rebind(old, "conv_3")
    assert any_registry.sessions("app") == [bound, young]
    assert any_registry.former(old.session) == ["conv_old"]


@pytest.mark.parametrize("other", ELSEWHERE)
def test_a_key_of_another_base_url_or_account_is_refused_with_the_ways_out(registry, other):
    row = registry.bind(ALICE, "conv_1")
    for use in (lambda: registry.get(other), lambda: registry.bind(other, "conv_2")):
        with pytest.raises(errors.SessionElsewhereError) as raised:
            use()
        told = str(raised.value)
        assert ("another base URL" in told) == (other.base_url != HERE)
        assert ("another account" in told) == (other.account != "a1")
        assert "namespace=" in told
        assert "registry.adopt(hub.session('alice'))" in told
    assert registry.get(ALICE) == row


@pytest.mark.parametrize("other", ELSEWHERE)
def test_the_sessions_of_a_namespace_are_told_whatever_their_base_url_and_account(
    any_registry, other
):
    rows = [
        any_registry.bind(ALICE, "conv_1"),
        any_registry.bind(replace(other, key="bob"), "conv_2"),
    ]
    assert any_registry.sessions("app") == rows


@pytest.mark.parametrize("other", ELSEWHERE)
def test_a_session_adopted_during_a_turn_is_not_rebound_by_the_end_of_that_turn(registry, other):
    row = registry.bind(ALICE, "conv_1")
    adopted = registry.adopt(other)
    with pytest.raises(errors.SessionElsewhereError):
        registry.rebind(row, "conv_2")
    assert registry.get(other) == adopted


@pytest.mark.parametrize("other", ELSEWHERE)
def test_a_session_of_another_base_url_or_account_is_not_forgotten(registry, other):
    row = registry.bind(ALICE, "conv_1")
    registry.unbind(other)
    assert registry.get(ALICE) == row


@pytest.mark.parametrize("other", ELSEWHERE)
def test_an_adopted_session_goes_on_with_its_conversation(registry, other):
    row = registry.bind(ALICE, "conv_1")
    adopted = registry.adopt(other)
    assert (adopted.session, adopted.conversation_id) == (other, "conv_1")
    assert (adopted.revision, adopted.created) == (2, row.created)
    assert registry.adopt(other) == registry.get(other) == adopted


def test_there_must_be_a_session_to_adopt(registry):
    with pytest.raises(errors.UsageError, match="'alice' in namespace 'app'"):
        registry.adopt(ALICE)


def test_every_change_counts_once_however_many_threads_make_them(registry):
    threads, changes = 16, 5
    registry.bind(ALICE, "conv")
    failed = []

    def rebind(number):
        try:
            for change in range(changes):
                row, wanted = registry.get(ALICE), f"conv_{number}_{change}"
                while row.conversation_id != wanted:
                    row = registry.rebind(row, wanted)
        except Exception as error:
            failed.append(error)
            raise

    in_threads(threads, rebind)
    assert failed == []
    assert registry.get(ALICE).revision == 1 + threads * changes


def test_of_threads_that_bind_at_once_one_wins_and_all_see_it(registry):
    rows = []
    in_threads(16, lambda number: rows.append(registry.bind(ALICE, f"conv_{number}")))
    assert len(rows) == 16
    assert set(rows) == {registry.get(ALICE)}


def test_of_processes_that_bind_at_once_one_wins_and_the_others_get_its_row(url):
    script = f"""
from qwen_conv.registry import Session, SqlRegistry
print(SqlRegistry({url!r}).bind({ALICE!r}, sys.argv[1]))
"""
    told = at_once(script, "conv_1", "conv_2", "conv_3")
    with SqlRegistry(url) as registry:
        row = registry.get(ALICE)
    assert row.conversation_id in {"conv_1", "conv_2", "conv_3"}
    assert told == [str(row)] * 3


def test_every_change_counts_once_however_many_processes_make_them(url):
    script = f"""
from qwen_conv.registry import Session, SqlRegistry
registry = SqlRegistry({url!r})
row = registry.bind({ALICE!r}, "conv")
for change in range(10):
    wanted = f"conv_{{sys.argv[1]}}_{{change}}"
    while row.conversation_id != wanted:
        row = registry.rebind(row, wanted)
"""
    at_once(script, "1", "2", "3")
    with SqlRegistry(url) as registry:
        assert registry.get(ALICE).revision == 31


def test_a_file_opened_again_has_its_sessions_and_overlays(url):
    with SqlRegistry(url) as registry:
        row = registry.rebind(registry.bind(ALICE, "conv_1"), "conv_2")
        registry.overlay(HERE, "conv_2", {"msg_1": {"name": "Alice"}})
    with SqlRegistry(url) as registry:
        assert registry.get(ALICE) == row
        assert registry.overlays(HERE, "conv_2", ["msg_1"]) == {"msg_1": {"name": "Alice"}}


def test_a_closed_registry_of_a_file_opens_again_when_it_is_needed(url):
    registry = SqlRegistry(url)
    row = registry.bind(ALICE, "conv_1")
    registry.close()
    assert registry.get(ALICE) == row


def test_a_database_in_memory_is_not_shared():
    with SqlRegistry("sqlite://") as one, SqlRegistry("sqlite://") as other:
        one.bind(ALICE, "conv_1")
        assert other.get(ALICE) is None


def test_a_file_of_a_newer_qwen_conv_is_left_alone(url, tmp_path):
    SqlRegistry(url).bind(ALICE, "conv_1")
    with sqlite3.connect(tmp_path / "sessions.db") as file:
        file.execute("update qwen_conv_schema set version = 7")
    file.close()
    with pytest.raises(errors.RegistryError, match=r"version 7.* version 1: upgrade qwen-conv"):
        SqlRegistry(url)


def test_a_database_that_holds_other_tables_keeps_them(url, tmp_path):
    with sqlite3.connect(tmp_path / "sessions.db") as file:
        file.execute("create table users (name text)")
        file.execute("insert into users values ('Alice')")
    file.close()
    SqlRegistry(url).bind(ALICE, "conv_1")
    with sqlite3.connect(tmp_path / "sessions.db") as file:
        assert file.execute("select * from users").fetchall() == [("Alice",)]
    file.close()


@pytest.mark.parametrize("kind", ["a folder", "no database", "in a folder that is not there"])
def test_a_file_that_cannot_be_opened_is_named_with_what_to_do(tmp_path, kind):
    path = {"a folder": tmp_path, "no database": tmp_path / "notes.txt"}.get(
        kind, tmp_path / "missing" / "sessions.db"
    )
    (tmp_path / "notes.txt").write_text("These are notes, and no database. " * 100, "utf-8")
    with pytest.raises(
        errors.RegistryError, match="folder must exist, both must be writ"
    ) as raised:
        SqlRegistry(f"sqlite:///{path}")
    assert str(path) in str(raised.value)
    assert raised.value.__cause__ is not None


def test_a_new_file_where_nothing_may_be_written_cannot_be_opened(tmp_path):
    sqlite3.connect(tmp_path / "empty.db").close()
    with pytest.raises(errors.RegistryError, match="must be writable"):
        SqlRegistry(f"sqlite:///file:{tmp_path}/empty.db?mode=ro&uri=true")


@pytest.mark.parametrize(
    "url",
    [
        "sessions.db",
        "postgresql://alice:s3cret@host:port/sessions",
        "nosuchdatabase://alice:s3cret@host/sessions",
        "nosuchdatabase://host/sessions?user=alice&password=s3cret",
        "sqlite+nosuchdriver://alice:s3cret@host/sessions",
    ],
)
def test_a_url_that_leads_nowhere_is_refused_without_its_password(url):
    with pytest.raises(errors.RegistryError, match=r"URL") as raised:
        SqlRegistry(url)
    error = raised.value
    assert "s3cret" not in f"{error}{error.__cause__!r}{error.__context__!r}"


def test_a_database_that_fails_later_is_an_error_with_its_cause(url, tmp_path):
    registry = SqlRegistry(f"{url}?timeout=0.01")
    other = sqlite3.connect(tmp_path / "sessions.db")
    other.execute("begin immediate")
    with pytest.raises(
        errors.RegistryError, match=r"sessions.db failed: database is locked"
    ) as raised:
        registry.bind(ALICE, "conv_1")
    other.rollback()
    other.close()
    error = raised.value
    assert error.__cause__ is not None
    assert "alice" not in f"{error}{error.__cause__}"  # a key may be somebody's name
    assert registry.bind(ALICE, "conv_1").conversation_id == "conv_1"


def test_a_database_that_is_gone_is_an_error(tmp_path):
    (tmp_path / "data").mkdir()
    registry = SqlRegistry(f"sqlite:///{tmp_path}/data/sessions.db")
    (tmp_path / "data").rename(tmp_path / "moved")
    for use in (
        lambda: registry.get(ALICE),
        lambda: registry.bind(ALICE, "conv_1"),
        lambda: registry.unbind(ALICE),
        lambda: registry.adopt(ALICE),
        lambda: registry.sessions("app"),
        lambda: registry.overlays(HERE, "conv_1", ["msg_1"]),
        lambda: registry.overlay(HERE, "conv_1", {"msg_1": {}}),
        lambda: registry.forget_overlays(HERE, "conv_1"),
    ):
        with pytest.raises(errors.RegistryError, match="still there and writable"):
            use()


def test_its_repr_names_the_database(url):
    assert repr(SqlRegistry(url)) == f"SqlRegistry({url!r})"


def test_overlays_come_back_as_they_were_by_item_id(registry):
    data = {
        "msg_1": {"name": "Alice", "additional_kwargs": {"deep": [1, 2.5, None, True]}},
        "msg_2": {"text": "half \ud83d, zero \0, é e\u0301 " + "long " * 50_000},
        "msg_3": {},
    }
    registry.overlay(HERE, "conv_1", data)
    assert registry.overlays(HERE, "conv_1", data.keys()) == data
    assert registry.overlays(HERE, "conv_1", ["msg_2", "msg_9"]) == {"msg_2": data["msg_2"]}
    assert registry.overlays(HERE, "conv_1", []) == {}


def test_an_overlay_takes_the_place_of_the_one_before(registry):
    registry.overlay(HERE, "conv_1", {"msg_1": {"a": 1}, "msg_2": {"a": 2}})
    registry.overlay(HERE, "conv_1", {"msg_2": {"b": 3}, "msg_3": {"b": 4}})
    registry.overlay(HERE, "conv_1", {})
    assert registry.overlays(HERE, "conv_1", ["msg_1", "msg_2", "msg_3"]) == {
        "msg_1": {"a": 1},
        "msg_2": {"b": 3},
        "msg_3": {"b": 4},
    }


def test_overlays_are_of_one_conversation_at_one_base_url(registry):
    registry.overlay(HERE, "conv_1", {"msg_1": {"a": 1}})
    assert registry.overlays(HERE, "conv_2", ["msg_1"]) == {}
    assert registry.overlays("https://other.example.com", "conv_1", ["msg_1"]) == {}
    registry.forget_overlays(HERE, "conv_2")
    registry.forget_overlays("https://other.example.com", "conv_1")
    assert registry.overlays(HERE, "conv_1", ["msg_1"]) == {"msg_1": {"a": 1}}


def test_overlays_are_forgotten_by_item_or_with_their_conversation(registry):
    data = {f"msg_{number}": {"n": number} for number in range(4)}
    registry.overlay(HERE, "conv_1", data)
    registry.forget_overlays(HERE, "conv_1", [])
    assert registry.overlays(HERE, "conv_1", data) == data
    registry.forget_overlays(HERE, "conv_1", ["msg_0", "msg_9"])
    assert registry.overlays(HERE, "conv_1", data).keys() == {"msg_1", "msg_2", "msg_3"}
    registry.forget_overlays(HERE, "conv_1")
    assert registry.overlays(HERE, "conv_1", data) == {}


def test_ten_thousand_overlays_are_kept_read_and_forgotten(registry):
    data = {f"msg_{number}": {"n": number} for number in range(10_000)}
    registry.overlay(HERE, "conv_1", data)
    assert registry.overlays(HERE, "conv_1", data.keys()) == data
    registry.forget_overlays(HERE, "conv_1", list(data)[1:])
    assert registry.overlays(HERE, "conv_1", data.keys()) == {"msg_0": {"n": 0}}


def test_overlays_that_are_no_json_leave_those_before_alone(registry):
    registry.overlay(HERE, "conv_1", {"msg_1": {"a": 1}})
    with pytest.raises(TypeError):
        registry.overlay(HERE, "conv_1", {"msg_1": {"a": 2}, "msg_2": {"a": object()}})
    assert registry.overlays(HERE, "conv_1", ["msg_1", "msg_2"]) == {"msg_1": {"a": 1}}


def test_threads_that_write_the_same_overlays_do_not_fail(registry):
    failed = []

    def write(number):
        try:
            registry.overlay(HERE, "conv_1", {f"msg_{n}": {"by": number} for n in range(10)})
        except Exception as error:
            failed.append(error)
            raise

    in_threads(16, write)
    assert failed == []
    kept = registry.overlays(HERE, "conv_1", [f"msg_{n}" for n in range(10)])
    assert len({overlay["by"] for overlay in kept.values()}) == 1  # all of one, not some of each


def test_a_session_goes_on_in_another_process(take, server, url):
    for text in ("I am Alice.", "Who am I?"):
        with SqlRegistry(url) as registry:
            hub = another_process(server, registry=registry)
            chat = ChatQwenConv(model=MODEL, conversations=hub, session_id="alice")
            answer = take(chat, text)
    (conversation,) = {row.conversation_id for row in SqlRegistry(url).sessions("default")}
    texts = said(server, conversation)
    assert [text for text in texts if text.startswith("user")] == [
        "user: I am Alice.",
        "user: Who am I?",
    ]
    assert len(texts) == 4
    assert answer.text


def test_every_way_of_taking_a_turn_works_with_a_database_in_memory(take, server):
    with SqlRegistry("sqlite://") as registry:
        hub = another_process(server, registry=registry)
        chat = ChatQwenConv(model=MODEL, conversations=hub, session_id="alice")
        take(chat, "one")
        take(chat, "two")
        assert len(said(server, registry.get(hub.session("alice")).conversation_id)) == 4


def test_a_rotated_key_is_refused_until_the_session_is_adopted(server, url):
    registry = SqlRegistry(url)
    old, new = (
        QwenConversations(api_key=f"{KEY}{n}", base_url=server.base_url, registry=registry)
        for n in (1, 2)
    )
    ChatQwenConv(model=MODEL, conversations=old, session_id="alice").invoke("one")
    requests = len(server.requests)
    chat = ChatQwenConv(model=MODEL, conversations=new, session_id="alice")
    with pytest.raises(model_errors.SessionElsewhereError, match="another account") as raised:
        chat.invoke("two")
    assert isinstance(raised.value, ModelInvalidRequestError)
    assert KEY not in str(raised.value)
    assert len(server.requests) == requests
    row = registry.adopt(new.session("alice"))
    chat.invoke("two")
    assert len(said(server, row.conversation_id)) == 4


def test_a_registry_that_fails_fails_the_turn_as_a_registry(server, tmp_path):
    (tmp_path / "data").mkdir()
    hub = another_process(server, registry=SqlRegistry(f"sqlite:///{tmp_path}/data/sessions.db"))
    (tmp_path / "data").rename(tmp_path / "moved")
    with pytest.raises(model_errors.RegistryError):
        ChatQwenConv(model=MODEL, conversations=hub, session_id="alice").invoke("one")
    assert server.requests == []


def test_the_api_key_is_nowhere_in_the_database(server, url, tmp_path):
    registry = SqlRegistry(url)
    hub = QwenConversations(api_key=KEY, base_url=server.base_url, registry=registry)
    ChatQwenConv(model=MODEL, conversations=hub, session_id="alice").invoke("one")
    session = hub.session("alice")
    registry.overlay(hub.base_url, registry.get(session).conversation_id, {"msg_1": {"a": 1}})
    registry.adopt(session)
    file = sqlite3.connect(tmp_path / "sessions.db")
    tables = "\n".join(file.iterdump())
    file.close()
    assert "alice" in tables
    assert KEY not in tables
    assert all(KEY.encode() not in path.read_bytes() for path in tmp_path.iterdir())


def test_sqlalchemy_is_loaded_only_when_it_is_asked_for():
    script = """
import qwen_conv.registry
print("sqlalchemy" in sys.modules)
from qwen_conv.registry import SqlRegistry
print("sqlalchemy" in sys.modules)
"""
    assert at_once(script, "") == ["False\nTrue"]


def test_without_sqlalchemy_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    for name in [name for name in sys.modules if f"{name}.".startswith("qwen_conv.sql.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match=r"pip install 'qwen-conv\[sql\]'"):
        from qwen_conv.registry import SqlRegistry  # noqa: F401
