"""Erasing a session: all that it left is gone, and what could not be deleted is told."""

import asyncio
import json
import threading
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from conftest import MODEL, another_process, asked, invoke, said
from langchain_core.messages import AIMessage, HumanMessage
from llama_index.core.llms import ChatMessage
from llama_store import server, standing
from lossy import Answer, relayed
from test_other_servers import answering
from test_outbox import LASTING, database
from test_sql_registry import ALICE, HERE

from langchain_qwen_conv import ChatQwenConv, QwenConvChatMessageHistory
from llamaindex_qwen_conv import QwenConv, QwenConvChatStore
from qwen_conv import QwenConversations, calls, erasing, errors, flows
from qwen_conv.cli import main
from qwen_conv.items import Message
from qwen_conv.offline import OfflineServer
from qwen_conv.registry import MemoryRegistry, SqlRegistry, Traces

DAY = 24 * 60 * 60
CONVERSATION = "conv_1"


@pytest.fixture(params=["in the process", "in memory", *LASTING])
def traces(request, tmp_path):
    if request.param == "in the process":
        yield MemoryRegistry()
        return
    with database(request.param, tmp_path) as url, SqlRegistry(url) as registry:
        yield registry


@pytest.fixture
def clock(monkeypatch):
    """What time it is for registries: 1000 seconds since 1970, until the test says otherwise."""
    clock = SimpleNamespace(now=1000.0)
    told = SimpleNamespace(time=lambda: clock.now)
    monkeypatch.setattr("qwen_conv.sql.traces.time", told)
    monkeypatch.setattr("qwen_conv.registry.time", told)
    return clock


@pytest.fixture(params=["in threads", "in tasks and a database"])
def way(request):
    return request.param


@pytest.fixture
def hub(way, server, tmp_path):
    """A hub whose sessions last as long as the process, or longer."""
    if way == "in threads":
        yield another_process(server, registry=MemoryRegistry())
    else:
        with SqlRegistry(f"sqlite:///{tmp_path / 'sessions.db'}") as registry:
            yield another_process(server, registry=registry)


@pytest.fixture
def erased(way):
    """Erases a session, in a thread or in a task."""
    if way == "in threads":
        return QwenConversations.erase_session
    return lambda hub, key: asyncio.run(hub.aerase_session(key))


def place(hub, key="alice"):
    return hub.registry.get(hub.session(key)).conversation_id


def talked(hub, *texts, key="alice"):
    """The conversation in which a session said something, and the ids of its responses."""
    chat = ChatQwenConv(model=MODEL, conversations=hub, session_id=key)
    responses = [chat.invoke(text).response_metadata["response_id"] for text in texts]
    return place(hub, key), responses


def rebased(hub):
    """The former conversations of a session and the one it is now, and all its responses."""
    first, responses = talked(hub, "I am Alice.")
    chat = ChatQwenConv(model=MODEL, conversations=hub, session_id="alice")
    answers = []
    for other in ("I am Bob.", "I am Carol."):
        answers.append(chat.invoke([HumanMessage(other), AIMessage("Hello."), HumanMessage("Hi")]))
        assert answers[-1].response_metadata["decision"] == "rebased"
    second, third = (one.response_metadata["conversation_id"] for one in answers)
    assert place(hub) == third
    return [first, second, third], [
        *responses,
        *(a.response_metadata["response_id"] for a in answers),
    ]


def is_gone(server, conversation_id, item_ids=(), response_ids=()):
    """Whether the service shows nothing of it, and has none of its items either."""
    look = another_process(server)
    for call in (
        calls.RetrieveConversation(conversation_id),
        *(calls.RetrieveItem(conversation_id, one) for one in item_ids),
        *(calls.RetrieveResponse(one) for one in response_ids),
    ):
        with pytest.raises(errors.NotFoundError):
            look.run(flows.send, call)
    return server.items(conversation_id) == []


def ids(server, conversation_id):
    return [item["id"] for item in server.items(conversation_id)]


# --- What is erased -----------------------------------------------------------------------------


def test_nothing_is_left_of_a_session(server, hub, erased):
    conversation, responses = talked(hub, "I am Alice.", "Who am I?")
    items = ids(server, conversation)
    told = erased(hub, "alice")
    assert (told.conversations, told.items) == ((conversation,), tuple(items))
    assert (told.responses, told.left) == (tuple(responses), ())
    assert is_gone(server, conversation, items, responses)
    assert hub.registry.get(hub.session("alice")) is None
    assert hub.traces.responses(hub.base_url, conversation) == []


def test_items_are_gone_before_the_conversation_is(server, hub, erased):
    talked(hub, "I am Alice.")
    server.requests.clear()
    erased(hub, "alice")
    assert asked(server) == [
        "GET /conversations/*/items",
        "DELETE /conversations/*/items/*",
        "DELETE /conversations/*/items/*",
        "DELETE /responses/*",
        "DELETE /conversations/*",
    ]


def test_the_conversations_that_a_session_was_bound_to_before_are_erased_too(server, hub, erased):
    conversations, responses = rebased(hub)
    items = {one: ids(server, one) for one in conversations}
    told = erased(hub, "alice")
    assert list(told.conversations) == conversations
    assert sorted(told.responses) == sorted(responses)
    assert all(is_gone(server, one, items[one], responses) for one in conversations)
    assert hub.traces.former(hub.session("alice")) == []
    assert erased(hub, "alice") == erasing.Erased((), (), (), ())


def test_another_session_keeps_all_that_it_has(server, hub, erased):
    talked(hub, "I am Alice.")
    bobs, responses = talked(hub, "I am Bob.", key="bob")
    erased(hub, "alice")
    assert said(server, bobs)[0] == "user: I am Bob."
    assert hub.run(flows.send, calls.RetrieveResponse(*responses))
    assert place(hub, "bob") == bobs


def test_a_session_begins_anew_after_it_was_erased(server, hub, erased):
    before, _ = talked(hub, "I am Alice.")
    erased(hub, "alice")
    after, _ = talked(hub, "Who am I?")
    assert after != before
    assert said(server, after)[0] == "user: Who am I?"


def test_a_session_that_nobody_knows_costs_no_request(server, hub, erased):
    assert erased(hub, "nobody") == erasing.Erased((), (), (), ())
    assert server.requests == []


def test_what_another_process_took_over_a_shared_registry_is_erased(server, tmp_path, erased):
    with SqlRegistry(f"sqlite:///{tmp_path / 'sessions.db'}") as registry:
        conversations, responses = rebased(another_process(server, registry=registry))
    with SqlRegistry(f"sqlite:///{tmp_path / 'sessions.db'}") as registry:
        told = erased(another_process(server, registry=registry), "alice")
    assert list(told.conversations) == conversations
    assert sorted(told.responses) == sorted(responses)


def test_what_nobody_can_know_is_told(hub, erased):
    told = erased(hub, "alice")
    assert "without a SqlRegistry" in told.not_known
    assert "state='response'" in told.not_known
    assert "seven days" in told.not_known


def test_a_conversation_is_erased_by_its_id(server, hub):
    conversation = hub.run(flows.create, [Message.of("user", "I am Alice.")]).id
    chat = ChatQwenConv(model=MODEL, conversations=hub, conversation_id=conversation)
    response = invoke(chat, "Who am I?").response_metadata["response_id"]
    items = ids(server, conversation)
    told = hub.run(erasing.erase, conversation_id=conversation)
    assert (told.items, told.responses) == (tuple(items), (response,))
    assert is_gone(server, conversation, items, [response])


@pytest.mark.parametrize("both", [{}, {"session": "a", "conversation_id": "conv_1"}])
def test_one_thing_is_erased(hub, both):
    with pytest.raises(errors.UsageError, match="one of the two"):
        hub.run(erasing.erase, **both)


def test_more_items_than_a_page_has_are_erased(server, hub, erased):
    history = QwenConvChatMessageHistory("alice", conversations=hub)
    history.add_messages([HumanMessage(str(number)) for number in range(120)])
    conversation = place(hub)
    assert len(erased(hub, "alice").items) == 120
    assert server.items(conversation) == []


def test_an_answer_that_was_streamed_is_erased_too(server, hub, erased):
    chat = ChatQwenConv(model=MODEL, conversations=hub, session_id="alice")
    list(chat.stream("I am Alice."))
    assert len(erased(hub, "alice").responses) == 1


def test_a_session_of_llamaindex_is_erased_with_what_waits(server, hub, erased):
    llm = QwenConv(model=MODEL, conversations=hub, session_id="alice")
    llm.chat([ChatMessage("I am Alice.")])
    store = QwenConvChatStore(conversations=hub)
    store.add_message("alice", ChatMessage("This waits for a turn."))
    conversation = place(hub)
    told = erased(hub, "alice")
    assert (told.conversations, len(told.responses), told.left) == ((conversation,), 1, ())
    assert is_gone(server, conversation)
    assert store.get_keys() == []
    server.requests.clear()
    hub.close()  # which writes what waits
    assert server.requests == []
    assert store.get_messages("alice") == []


def test_a_store_that_holds_the_conversation_under_its_id_shows_it_no_more(hub, erased):
    conversation, _ = talked(hub, "I am Alice.")
    store = QwenConvChatStore(conversations=hub)
    assert len(store.get_messages(conversation)) == 2
    erased(hub, "alice")
    with pytest.raises(errors.ConversationNotFoundError):
        store.get_messages(conversation)


def test_what_waits_in_the_outbox_of_a_dead_process_is_erased(server, tmp_path, erased):
    with SqlRegistry(f"sqlite:///{tmp_path / 'sessions.db'}") as registry:
        hub = another_process(server, registry=registry)
        session = hub.session("alice")
        registry.post(session, "elsewhere:1:a", [{"message": {"content": "I am Alice."}}])
        erased(hub, "alice")
        assert registry.waiting(session) == []


def test_what_is_kept_beside_the_items_is_erased(server, tmp_path, erased):
    with SqlRegistry(f"sqlite:///{tmp_path / 'sessions.db'}") as registry:
        hub = another_process(server, registry=registry)
        history = QwenConvChatMessageHistory("alice", conversations=hub)
        history.add_messages([HumanMessage("hi", name="alice-in-wonderland")])
        conversation = place(hub)
        (item,) = ids(server, conversation)
        assert registry.overlays(hub.base_url, conversation, [item])
        erased(hub, "alice")
        assert registry.overlays(hub.base_url, conversation, [item]) == {}
    assert not any(b"wonderland" in file.read_bytes() for file in tmp_path.glob("*.db"))


def test_a_history_that_is_deleted_is_erased(server, hub):
    conversations, responses = rebased(hub)
    history = QwenConvChatMessageHistory("alice", conversations=hub)
    history.delete()
    assert all(is_gone(server, one, (), responses) for one in conversations)
    assert history.messages == []


def test_a_turn_that_is_open_is_waited_for(server, hub):
    chat = ChatQwenConv(model=MODEL, conversations=hub, session_id="alice")
    chunks = chat.stream("I am Alice.")
    next(chunks)
    with pytest.raises(errors.ConversationBusyError):
        hub.erase_session("alice")
    told = []
    waits = threading.Thread(target=lambda: told.append(hub.erase_session("alice")))
    waits.start()
    list(chunks)
    waits.join()
    assert (len(told[0].items), len(told[0].responses), told[0].left) == (2, 1, ())


# --- What could not be deleted ------------------------------------------------------------------


@pytest.fixture
def relay(server):
    with relayed(server.base_url) as relay:
        yield relay


@pytest.fixture
def behind(server, relay):
    """A hub behind the relay; it tries nothing again."""
    hub = QwenConversations(
        api_key="any", base_url=relay.base_url, registry=MemoryRegistry(), max_retries=0
    )
    yield hub
    hub.close()


def refusing(*parts):
    """Refuses the deletion of what has one of these in its path."""
    return lambda method, path: (
        403 if method == "DELETE" and any(part in path for part in parts) else None
    )


@pytest.mark.parametrize("kind", ["item", "response"])
def test_what_could_not_be_deleted_is_told_and_the_second_try_finishes(
    server, relay, behind, erased, kind
):
    conversation, responses = talked(behind, "I am Alice.", "Who am I?")
    items = ids(server, conversation)
    stays = items[1] if kind == "item" else responses[0]
    relay.refuses = refusing(stays)
    told = erased(behind, "alice")
    assert [(one.kind, one.id) for one in told.left] == [
        (kind, stays),
        ("conversation", conversation),
    ]
    assert isinstance(told.left[0].error, errors.PermissionRefusedError)
    assert "erase it again" in str(told.left[1].error)
    assert stays in str(told)
    assert {*told.items, *told.responses} == {*items, *responses} - {stays}
    assert told.conversations == ()
    assert ids(server, conversation) == ([stays] if kind == "item" else [])
    assert place(behind) == conversation  # so it can be tried again
    relay.refuses = refusing()
    again = erased(behind, "alice")
    assert (again.left, again.conversations) == ((), (conversation,))
    assert again.items + again.responses == (stays,)
    assert is_gone(server, conversation, items, responses)


def test_a_conversation_that_could_not_be_deleted_stays_bound(server, relay, behind, erased):
    conversation, _ = talked(behind, "I am Alice.")
    relay.refuses = lambda method, path: (
        403 if (method, path[-37:]) == ("DELETE", conversation) else None
    )
    told = erased(behind, "alice")
    assert [(one.kind, one.id) for one in told.left] == [("conversation", conversation)]
    assert place(behind) == conversation
    relay.refuses = refusing()
    assert erased(behind, "alice").conversations == (conversation,)


def test_a_former_conversation_that_could_not_be_deleted_is_tried_again(
    server, relay, behind, erased
):
    (first, second, third), _ = rebased(behind)
    relay.refuses = refusing(f"{second}/items")
    told = erased(behind, "alice")
    assert told.conversations == (first, third)
    assert behind.registry.get(behind.session("alice")) is None
    relay.refuses = refusing()
    assert erased(behind, "alice").conversations == (second,)
    assert is_gone(server, second)


def test_items_that_could_not_be_listed_are_told(server, relay, behind, erased):
    conversation, _ = talked(behind, "I am Alice.")
    relay.refuses = lambda method, path: 403 if method == "GET" and "/items" in path else None
    told = erased(behind, "alice")
    assert [one.kind for one in told.left] == ["items", "conversation"]
    assert len(told.responses) == 1
    assert len(server.items(conversation)) == 2
    assert place(behind) == conversation


def test_a_deletion_whose_reply_was_lost_is_no_failure(server, relay, erased):
    hub = QwenConversations(api_key="any", base_url=relay.base_url, max_retries=1)
    conversation, responses = talked(hub, "I am Alice.")
    lost = []

    def loses(method, path):
        """Loses the first reply to each deletion of the response."""
        found = method == "DELETE" and "/responses/" in path and path not in lost
        lost.extend([path] * found)
        return found

    relay.loses = loses
    told = erased(hub, "alice")
    assert (told.left, told.responses) == ((), tuple(responses))
    assert len(lost) == 1
    assert is_gone(server, conversation, (), responses)


def test_what_is_gone_already_counts_as_deleted(server, hub, erased):
    conversation, responses = talked(hub, "I am Alice.")
    hub.run(flows.send, calls.DeleteResponse(*responses))
    another_process(server).run(flows.delete, conversation)
    told = erased(hub, "alice")
    assert (told.left, told.conversations) == ((), (conversation,))
    assert told.responses == tuple(responses)
    assert hub.registry.get(hub.session("alice")) is None


def test_that_nothing_is_found_where_a_response_is_deleted_is_not_believed_if_it_is_shown(
    server, relay, behind, erased
):
    _, responses = talked(behind, "I am Alice.")
    relay.refuses = lambda method, path: 404 if method == "DELETE" and "/respons" in path else None
    told = erased(behind, "alice")
    assert [one.id for one in told.left if one.kind == "response"] == responses
    assert "still shows it" in str(told.left[0].error)


def test_where_responses_cannot_be_deleted_nor_shown_they_are_said_to_be_left(
    server, relay, behind, erased
):
    _, responses = talked(behind, "I am Alice.")
    unknown = json.dumps({"code": "Not Found", "message": "Not support", "request_id": "r"})
    answer = Answer(404, "application/json", unknown.encode())  # as of an address that is none
    relay.refuses = lambda method, path: (
        answer if method != "POST" and "/responses/" in path else None
    )
    told = erased(behind, "alice")
    assert [one.id for one in told.left if one.kind == "response"] == responses
    assert told.responses == ()


def test_where_nobody_answers_the_rest_is_not_waited_for(server, relay, behind, erased):
    conversation, _ = talked(behind, "one", "two", "three")
    deletions = []

    def loses(method, path):
        """Loses every reply to a deletion."""
        deletions.extend([path] * (method == "DELETE"))
        return method == "DELETE"

    relay.loses = loses
    told = erased(behind, "alice")
    assert len(deletions) == 3
    assert len(told.left) == 6 + 3 + 1
    assert {type(one.error) for one in told.left[:-1]} == {errors.UnreachableError}
    assert place(behind) == conversation


def test_a_service_that_is_not_there_leaves_all_as_it_was(server, relay, behind, erased):
    conversation, _ = talked(behind, "I am Alice.")
    relay.refuses = lambda _method, _path: 401
    told = erased(behind, "alice")
    assert {one.kind for one in told.left} == {"items", "response", "conversation"}
    assert len(server.items(conversation)) == 2
    assert place(behind) == conversation


def test_a_history_whose_deletion_failed_says_why_and_can_be_deleted_again(server, relay, behind):
    conversation, _ = talked(behind, "I am Alice.")
    history = QwenConvChatMessageHistory("alice", conversations=behind)
    relay.refuses = refusing("/responses/")
    with pytest.raises(errors.PermissionRefusedError):
        history.delete()
    relay.refuses = refusing()
    history.delete()
    assert is_gone(server, conversation)


def test_an_item_whose_id_leads_elsewhere_is_left_and_not_asked_for(erased):
    listed = b'{"data": [{"type": "message", "id": "../../responses/1", "role": "user"}], "has_more": false}'
    with answering(listed) as address:
        hub = QwenConversations(api_key="any", base_url=address, registry=MemoryRegistry())
        hub.registry.bind(hub.session("alice"), CONVERSATION)
        told = erased(hub, "alice")
        hub.close()
    assert [one.id for one in told.left] == ["../../responses/1", CONVERSATION]
    assert isinstance(told.left[0].error, errors.UsageError)


# --- What is noted for that ---------------------------------------------------------------------


def test_a_response_is_noted_once_and_forgotten_after_seven_days(traces, clock):
    assert isinstance(traces, Traces)
    for response in ("a", "b", "a"):
        traces.note_response(HERE, CONVERSATION, response)
        clock.now += 3 * DAY
    traces.note_response(HERE, "conv_2", "c")
    assert "b" in traces.responses(HERE, CONVERSATION)
    assert len(traces.responses(HERE, CONVERSATION)) <= 2
    assert traces.responses("https://other.example.com", CONVERSATION) == []
    clock.now += 5 * DAY
    assert traces.responses(HERE, CONVERSATION) == []
    assert traces.responses(HERE, "conv_2") == ["c"]


def test_responses_are_forgotten_one_by_one(traces):
    for response in ("a", "b", "c"):
        traces.note_response(HERE, CONVERSATION, response)
    traces.note_response(HERE, "conv_2", "a")
    traces.forget_responses(HERE, CONVERSATION, ["a", "c", "never noted"])
    assert traces.responses(HERE, CONVERSATION) == ["b"]
    assert traces.responses(HERE, "conv_2") == ["a"]


def test_rows_of_responses_that_the_service_has_forgotten_are_removed(tmp_path, clock):
    with SqlRegistry(f"sqlite:///{tmp_path / 'sessions.db'}") as registry:
        registry.note_response(HERE, CONVERSATION, "a-long-forgotten-one")
        clock.now += 8 * DAY
        registry.note_response(HERE, "conv_2", "b")
        clock.now = 1000
        assert registry.responses(HERE, CONVERSATION) == []


def test_a_process_notes_so_many_responses_and_no_more(monkeypatch):
    monkeypatch.setattr("qwen_conv.registry.MOST_RESPONSES", 3)
    traces = MemoryRegistry()
    for number in range(5):
        traces.note_response(HERE, CONVERSATION, str(number))
    assert traces.responses(HERE, CONVERSATION) == ["2", "3", "4"]


def test_a_session_that_is_rebound_keeps_what_it_was_bound_to(traces):
    row = traces.bind(ALICE, "conv_1")
    other = traces.rebind(row, "conv_2")
    traces.rebind(row, "conv_3")  # somebody else was first
    back = traces.rebind(other, "conv_1")
    traces.rebind(back, "conv_1")
    traces.rebind(back, "conv_4")
    assert sorted(traces.former(ALICE)) == ["conv_1", "conv_2"]
    traces.forget_former(ALICE, "conv_1")
    assert traces.former(ALICE) == ["conv_2"]
    traces.unbind(ALICE)
    assert traces.former(ALICE) == ["conv_2"]


def test_former_conversations_are_of_one_namespace_key_base_url_and_account(traces):
    traces.rebind(traces.bind(ALICE, "conv_1"), "conv_2")
    for name in ("namespace", "key", "base_url", "account"):
        changed = {**{f: getattr(ALICE, f) for f in ALICE.__slots__}, name: "another"}
        other = type(ALICE)(**changed)
        assert traces.former(other) == []
        traces.forget_former(other, "conv_1")
    assert traces.former(ALICE) == ["conv_1"]


def test_a_session_that_is_adopted_takes_its_former_conversations_along(tmp_path):
    with SqlRegistry(f"sqlite:///{tmp_path / 'sessions.db'}") as registry:
        registry.rebind(registry.bind(ALICE, "conv_1"), "conv_2")
        new = type(ALICE)(ALICE.namespace, ALICE.key, ALICE.base_url, "another")
        registry.adopt(new)
        assert registry.former(new) == ["conv_1"]


def test_a_registry_that_cannot_note_a_response_does_not_fail_the_turn(server, tmp_path, caplog):
    with SqlRegistry(f"sqlite:///{tmp_path / 'sessions.db'}") as registry:
        hub = another_process(server, registry=registry)
        talked(hub, "I am Alice.")
        with registry._engine.begin() as db:
            db.exec_driver_sql("drop table qwen_conv_responses")
        _, (response,) = talked(hub, "Who am I?")
        assert f"response {response} is not noted" in caplog.text


class Bare:
    """A registry of a user's own, which notes nothing."""

    def __init__(self):
        self._rows = MemoryRegistry()
        for name in ("get", "bind", "rebind", "unbind", "sessions"):
            setattr(self, name, getattr(self._rows, name))


def test_with_a_registry_that_notes_nothing_this_process_does(server, erased):
    hub = another_process(server, registry=Bare())
    conversation, responses = talked(hub, "I am Alice.")
    assert erased(hub, "alice").responses == tuple(responses)
    assert is_gone(server, conversation, (), responses)


def test_a_turn_on_no_conversation_is_not_noted(server, hub):
    ChatQwenConv(model=MODEL, conversations=hub).invoke("hi")
    ChatQwenConv(model=MODEL, conversations=hub, state="response").invoke("hi")
    assert hub.traces.responses(hub.base_url, "") == []


# --- The command --------------------------------------------------------------------------------


def ran(*options, **environment):
    return CliRunner().invoke(main, ["erase", *options], env=environment)


def test_the_command_erases_a_session_and_tells_what_it_did(server, tmp_path):
    url = f"sqlite:///{tmp_path / 'sessions.db'}"
    with SqlRegistry(url) as registry:
        hub = another_process(server, registry=registry)
        conversation, responses = talked(hub, "I am Alice.")
        environment = {"DASHSCOPE_API_KEY": "any", "DASHSCOPE_BASE_URL": server.base_url}
        told = ran("--session", "alice", "--registry", url, **environment)
        assert "Deleted: 1 conversations, 2 items, 1 responses." in told.output
        assert (told.exit_code, registry.get(hub.session("alice"))) == (0, None)
    assert is_gone(server, conversation, (), responses)


def test_the_command_fails_if_something_is_left(server, relay):
    conversation = another_process(server).run(flows.create, [Message.of("user", "hi")]).id
    relay.refuses = refusing("/items/")
    environment = {"DASHSCOPE_API_KEY": "any", "DASHSCOPE_BASE_URL": relay.base_url}
    told = ran("--conversation", conversation, **environment)
    assert told.exit_code == 1
    assert f"Left: conversation {conversation}" in told.output


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "one of the two"),
        (["--session", "alice"], "--registry"),
        (["--conversation", "alice"], "not a conversation id"),
        (["--session", "alice", "--registry", "nowhere"], "no database URL"),
    ],
)
def test_what_the_command_cannot_do_is_told(options, says):
    told = ran(*options, DASHSCOPE_API_KEY="any")
    assert told.exit_code in {1, 2}
    assert isinstance(told.exception, SystemExit)
    assert says in told.output
