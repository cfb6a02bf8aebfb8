"""What a history costs, what it refuses, and what it does when the service fails half-way."""

import asyncio
import sqlite3

import pytest
from conftest import another_process, asked, said
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from langchain_qwen_conv import QwenConvChatMessageHistory, errors
from qwen_conv import QwenConversations, flows
from qwen_conv import errors as core
from qwen_conv.items import Message
from qwen_conv.offline import OfflineServer
from qwen_conv.registry import MemoryRegistry, SqlRegistry


@pytest.fixture
def history(hub):
    return QwenConvChatMessageHistory("alice", conversations=hub)


@pytest.fixture
def existing(hub, server):
    """A history of a conversation that is there, and empty."""
    conversation = hub.run(flows.create).id
    server.requests.clear()
    return QwenConvChatMessageHistory(conversation_id=conversation, conversations=hub)


def numbered(count):
    return [HumanMessage(f"message {number}") for number in range(count)]


def texts(messages):
    return [message.content for message in messages]


# --- Figures ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long():
    """A server with a conversation of 10,000 messages."""
    with OfflineServer() as server:
        hub = QwenConversations(api_key="any", base_url=server.base_url)
        conversation = hub.run(flows.create).id
        roles = ("user", "assistant") * 5_000
        items = [Message.of(role, f"message {number}") for number, role in enumerate(roles)]
        hub.run(flows.append, conversation, items)
        yield server, conversation


@pytest.fixture
def long_history(long):
    server, conversation = long
    server.requests.clear()
    return server, QwenConvChatMessageHistory(
        conversation_id=conversation, conversations=another_process(server)
    )


def test_ten_thousand_messages_are_read_in_a_hundred_requests_and_again_in_one(long_history):
    server, history = long_history
    assert texts(history.messages) == texts(numbered(10_000))
    assert len(server.requests) == 100
    assert len(history.messages) == 10_000
    assert len(server.requests) == 101


def test_the_iterator_asks_for_a_page_only_when_it_is_wanted(long_history):
    server, history = long_history
    messages = history.iter_messages()
    assert len(server.requests) == 0
    assert next(messages).content == "message 0"
    assert len(server.requests) == 1
    assert texts(messages) == texts(numbered(10_000)[1:])
    assert len(server.requests) == 100


def test_so_does_the_asynchronous_one(long_history):
    server, history = long_history

    async def first():
        messages = history.aiter_messages()
        found = [(await anext(messages)).content for _ in range(3)]
        await messages.aclose()
        return found

    assert asyncio.run(first()) == ["message 0", "message 1", "message 2"]
    assert len(server.requests) == 1


@pytest.mark.parametrize(("count", "requests"), [(1, 1), (3, 1), (99, 1), (250, 3)])
def test_the_last_messages_are_read_without_the_others(long_history, count, requests):
    server, history = long_history
    expected = texts(numbered(10_000)[-count:])
    assert texts(history.last_messages(count)) == expected
    assert len(server.requests) == requests
    assert texts(asyncio.run(history.alast_messages(count))) == expected


def test_there_are_no_more_last_messages_than_messages(history):
    history.add_messages(numbered(3))
    assert texts(history.last_messages(10)) == texts(numbered(3))


def test_forty_five_messages_are_written_in_three_requests(server, history, existing):
    for one in (history, existing):
        server.requests.clear()
        one.add_messages(numbered(45))
        assert len(server.requests) == 3
        assert texts(one.messages) == texts(numbered(45))


def test_nothing_is_sent_and_made_before_the_first_message(server, history):
    assert history.messages == []
    assert history.last_messages(3) == []
    assert [*history.iter_messages()] == []
    assert history.get_metadata() == {}
    history.add_messages([])
    history.clear()
    history.delete()
    assert asked(server) == []


# --- Appends that fail half-way ---------------------------------------------------------------


@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize("other_object", [False, True])
@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_an_append_that_failed_is_finished_by_adding_the_same_again(
    server, hub, existing, failing, fails_at, committed, other_object
):
    messages = [
        *numbered(42),
        AIMessage("", tool_calls=[CALL]),
        ToolMessage("x", tool_call_id="c1"),
    ]
    failing(fails_at, committed=committed)
    with pytest.raises((errors.PartlyWrittenError, errors.UnreachableError)) as raised:
        existing.add_messages(messages)
    if fails_at > 1:
        assert raised.value.written == 20 * (fails_at - 1)
        assert raised.value.total == 44
    again = existing
    if other_object:
        again = QwenConvChatMessageHistory(**existing.selects, conversations=hub)
    again.add_messages(messages)
    found = again.messages
    assert texts(found[:42]) == texts(messages[:42])
    assert len(found) == 44
    assert found[42].tool_calls == messages[42].tool_calls


def test_so_is_one_that_failed_behind_the_creation_of_its_conversation(server, history, failing):
    messages = numbered(45)
    failing(2, committed=True)
    with pytest.raises(errors.PartlyWrittenError) as raised:
        history.add_messages(messages)
    assert (raised.value.written, raised.value.total) == (40, 45)
    history.add_messages(messages)
    assert texts(history.messages) == texts(messages)


def test_so_is_one_whose_next_request_was_refused(server, history, failing):
    failing(1, committed=False)
    with pytest.raises(errors.PartlyWrittenError) as raised:
        history.add_messages(numbered(45))
    assert raised.value.written == 20
    history.add_messages(numbered(45))
    assert texts(history.messages) == texts(numbered(45))


def test_what_others_wrote_in_between_does_not_hide_what_was_written(server, existing, failing):
    existing.add_user_message("before")
    assert len(existing.messages) == 1
    failing(1, committed=True)
    with pytest.raises(errors.UnreachableError):
        existing.add_messages(numbered(3))
    another = another_process(server)
    another.run(flows.append, existing.selects["conversation_id"], [Message.of("user", "else")])
    existing.add_messages(numbered(3))
    assert texts(existing.messages) == ["before", *texts(numbered(3)), "else"]


def test_it_is_finished_also_when_something_else_was_added_first(existing, failing):
    failing(2, committed=True)
    with pytest.raises(errors.PartlyWrittenError):
        existing.add_messages(numbered(45))
    existing.add_user_message("else")
    existing.add_messages(numbered(45))
    assert texts(existing.messages) == [
        *texts(numbered(45))[:40],
        "else",
        *texts(numbered(45))[40:],
    ]


def test_what_was_added_first_is_not_taken_for_the_rest_of_it(existing, failing):
    messages = [*numbered(20), HumanMessage("yes"), HumanMessage("no")]
    failing(2, committed=False)
    with pytest.raises(errors.PartlyWrittenError):
        existing.add_messages(messages)
    existing.add_user_message("yes")
    existing.add_messages(messages)
    assert texts(existing.messages)[20:] == ["yes", "yes", "no"]


def test_messages_that_are_said_again_after_a_failure_are_written_again(hub, existing, failing):
    failing(2, committed=False)
    with pytest.raises(errors.PartlyWrittenError):
        existing.add_messages(numbered(25))
    existing.add_messages(numbered(25))
    existing.add_messages(numbered(25))
    assert texts(existing.messages) == texts(numbered(25)) * 2


CALL = {"name": "weather", "args": {"city": "Singapore"}, "id": "c1", "type": "tool_call"}


@pytest.fixture
def failing(monkeypatch, hub):
    """Has the n-th request that creates items fail, before or after the service carried it out."""

    def prepare(count, *, committed):
        hub.settle_timeout = 0.0
        client = hub.sync()._client
        post, calls = client.post, []

        def posted(path, **arguments):
            if path.endswith("/items"):
                calls.append(path)
            if len(calls) == count and path.endswith("/items"):
                calls.append("failed")
                if committed:
                    post(path, **arguments)
                raise APIConnectionError(request=None)
            return post(path, **arguments)

        from openai import APIConnectionError

        monkeypatch.setattr(client, "post", posted)

    return prepare


# --- Single messages and metadata -------------------------------------------------------------


@pytest.fixture(params=["sync", "async"])
def by(request):
    """Calls a method of a history, or its asynchronous twin."""

    def call(history, name, *args):
        if request.param == "sync":
            return getattr(history, name)(*args)
        return asyncio.run(getattr(history, f"a{name}")(*args))

    return call


def test_a_message_is_retrieved_and_deleted_by_its_id(server, history, by):
    history.add_messages(numbered(3))
    wanted = history.messages[1]
    assert by(history, "get_message", wanted.id) == wanted
    by(history, "delete_message", wanted.id)
    assert texts(history.messages) == ["message 0", "message 2"]


@pytest.mark.parametrize("name", ["get_message", "delete_message"])
def test_a_message_that_is_not_there_is_told(history, by, name):
    history.add_messages(numbered(1))
    with pytest.raises(errors.ItemNotFoundError, match="'msg_unknown'"):
        by(history, name, "msg_unknown")


def test_metadata_is_written_and_read_and_leaves_the_encodings_readable(server, history, by):
    history.add_messages([AIMessage("", tool_calls=[CALL]), ToolMessage("x", tool_call_id="c1")])
    by(history, "set_metadata", {"owner": "alice"})
    assert by(history, "get_metadata") == {"owner": "alice"}
    there = QwenConvChatMessageHistory(
        "alice", conversations=another_process(server, registry=history.hub.registry)
    )
    assert there.messages[0].tool_calls == [CALL]


def test_metadata_over_the_limits_is_refused_before_anything_is_sent(server, history, by):
    with pytest.raises(errors.UsageError, match="at most 16 pairs"):
        by(history, "set_metadata", {str(number): "x" for number in range(16)})
    with pytest.raises(errors.UsageError, match="the history's own"):
        by(history, "set_metadata", {"qwen_conv": "x"})
    assert asked(server) == []


def test_clear_keeps_the_conversation_and_delete_does_not(server, hub, history, by):
    history.add_messages(numbered(3))
    conversation = hub.registry.get(hub.session("alice")).conversation_id
    by(history, "clear")
    assert history.messages == []
    assert hub.registry.get(hub.session("alice")).conversation_id == conversation
    history.add_messages(numbered(2))
    assert texts(history.messages) == texts(numbered(2))
    by(history, "delete")
    assert history.messages == []
    assert hub.registry.get(hub.session("alice")) is None
    assert said(server, conversation) == []


def test_a_session_can_be_deleted_whose_conversation_is_gone(server, hub, history, by):
    history.add_messages(numbered(1))
    conversation = hub.registry.get(hub.session("alice")).conversation_id
    another_process(server).run(flows.delete, conversation)
    by(history, "delete")
    assert hub.registry.get(hub.session("alice")) is None


def test_two_histories_of_one_session_see_each_other(hub, history):
    other = QwenConvChatMessageHistory("alice", conversations=hub)
    history.add_user_message("one")
    assert texts(other.messages) == ["one"]
    other.add_ai_message("two")
    assert texts(history.messages) == ["one", "two"]
    other.clear()
    assert history.messages == []


@pytest.mark.parametrize("unknown_after", ["refused", "ignored"])
@pytest.mark.parametrize("left", [0, 1, 2, 3])
def test_what_another_process_deleted_at_the_end_is_not_shown_any_more(unknown_after, left):
    with OfflineServer(unknown_after=unknown_after) as server:
        here = QwenConvChatMessageHistory("alice", conversations=another_process(server))
        here.add_messages(numbered(3))
        conversation = here.hub.registry.get(here.hub.session("alice")).conversation_id
        assert len(here.messages) == 3
        there = another_process(server)
        items = there.run(flows.read, conversation)
        there.run(flows.remove, conversation, items[left:])
        assert texts(here.messages) == texts(numbered(left))
        there.run(flows.append, conversation, [Message.of("user", "anew")])
        assert texts(here.messages) == [*texts(numbered(left)), "anew"]


# --- Bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{}, {"session_id": "alice", "conversation_id": "conv_1"}])
def test_a_history_is_of_a_session_or_of_a_conversation(hub, given):
    with pytest.raises(errors.UsageError, match="one of the two"):
        QwenConvChatMessageHistory(**given, conversations=hub)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"session_id": ""}, "session_id is ''"),
        ({"session_id": 7}, "session_id is 7"),
        ({"conversation_id": "alice"}, "not a conversation id"),
        ({"session_id": "alice", "on_loss": "ignore"}, "on_loss is 'ignore'"),
        ({"session_id": "alice", "tool_items": "text"}, "tool_items is 'text'"),
    ],
)
def test_what_cannot_be_is_refused_when_the_history_is_made(hub, given, says):
    with pytest.raises(errors.UsageError, match=says):
        QwenConvChatMessageHistory(**given, conversations=hub)


@pytest.mark.parametrize("count", [0, -1, 1.5, "2", None])
def test_the_last_messages_are_one_or_more(server, history, count):
    with pytest.raises(errors.UsageError, match="1 or more"):
        history.last_messages(count)


def test_a_conversation_that_was_deleted_behind_our_back_is_told(server, hub, history):
    history.add_messages(numbered(2))
    conversation = hub.registry.get(hub.session("alice")).conversation_id
    another_process(server).run(flows.delete, conversation)
    with pytest.raises(errors.ConversationNotFoundError, match="begin a new one"):
        _ = history.messages
    with pytest.raises(errors.ConversationNotFoundError):
        history.add_user_message("more")
    hub.forget_session("alice")
    history.add_user_message("again")
    assert texts(history.messages) == ["again"]


def test_a_session_of_another_account_is_told(server, tmp_path):
    with SqlRegistry(f"sqlite:///{tmp_path / 'registry.db'}") as registry:
        there = another_process(server, registry=registry)
        QwenConvChatMessageHistory("alice", conversations=there).add_user_message("hi")
        here = QwenConversations(api_key="other", base_url=server.base_url, registry=registry)
        history = QwenConvChatMessageHistory("alice", conversations=here)
        server.requests.clear()
        with pytest.raises(errors.SessionElsewhereError, match="namespace"):
            history.add_user_message("hi")
        with pytest.raises(errors.SessionElsewhereError):
            _ = history.messages
        assert asked(server) == []


def test_a_registry_that_cannot_be_opened_or_is_newer_is_told(tmp_path):
    with pytest.raises(core.RegistryError, match="cannot be opened"):
        SqlRegistry(f"sqlite:///{tmp_path / 'missing' / 'registry.db'}")
    path = tmp_path / "registry.db"
    SqlRegistry(f"sqlite:///{path}").close()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE qwen_conv_schema SET version = 99")
    with pytest.raises(core.RegistryError, match="99"):
        SqlRegistry(f"sqlite:///{path}")


def test_settings_beside_a_hub_have_to_agree_with_it(hub):
    with pytest.raises(errors.UsageError, match="registry"):
        QwenConvChatMessageHistory("alice", conversations=hub, registry=MemoryRegistry())


def test_a_history_makes_its_own_hub_from_settings(server):
    history = QwenConvChatMessageHistory("alice", api_key="any", base_url=server.base_url)
    history.add_user_message("hi")
    assert texts(history.messages) == ["hi"]
    assert "any" not in repr(history)
