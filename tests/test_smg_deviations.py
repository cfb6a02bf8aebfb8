"""What SMG does otherwise than the documents say, and what comes of it: the rows of docs/servers.md.

Each test says first what SMG itself does, asked without anything of the project.
"""

import re
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import pytest
from agents import Model, local_transcript, weather
from conftest import MODEL, always, another_process, eventually, invoke, said, stream
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from llama_index.core.base.llms.types import ChatMessage
from smg_server import SmgServer, asked, holds, is_exact, refused, server
from test_chat_model_turns import in_turns

from langchain_qwen_conv import ChatQwenConv, QwenConvChatMessageHistory
from llamaindex_qwen_conv import QwenConvChatStore
from qwen_conv import errors, flows
from qwen_conv.calls import DeleteResponse
from qwen_conv.items import Message
from qwen_conv.offline import Fail
from qwen_conv.registry import SqlRegistry

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(autouse=True)
def _model(server):
    server.script = Model()


@pytest.fixture
def conversation(hub):
    return hub.run(flows.create).id


@pytest.fixture
def place(server, conversation):
    """The address of a conversation."""
    return f"{server.base_url}/conversations/{conversation}"


@pytest.fixture
def history(hub, conversation):
    return QwenConvChatMessageHistory(conversation_id=conversation, conversations=hub)


def chat_on(hub, **settings):
    return ChatQwenConv(model=MODEL, conversations=hub, **settings)


def message(text, role="user"):
    return {"type": "message", "role": role, "content": text}


def numbered(count):
    return [Message.of("assistant" if n % 2 else "user", f"message {n}") for n in range(count)]


def test_every_row_of_the_table_names_its_tests():
    page = (DOCS / "servers.md").read_text()
    assert f"smg {version('smg')}" in page
    rows = re.findall(r"^\|.*\|$", page, re.MULTILINE)[2:]
    named = {name for row in rows for name in re.findall(r"`(test_\w+)`", row)}
    assert all("`test_" in row for row in rows)
    tests = "".join(one.read_text() for one in Path(__file__).parent.glob("test_smg_*.py"))
    assert {name for name in named if f"def {name}(" not in tests} == set()
    here = {name for name in globals() if name.startswith("test_")}
    assert here - named == {"test_every_row_of_the_table_names_its_tests"}


# --- What is lost -----------------------------------------------------------------------------


def test_messages_in_the_creation_of_a_conversation_are_lost(server, hub, tmp_path):
    made = asked(f"{server.base_url}/conversations", {"items": [message("lost")]})
    assert server.items(made["id"]) == []
    history = QwenConvChatMessageHistory("alice", conversations=hub)
    history.add_messages([HumanMessage("lost")])
    assert history.messages == []
    with SqlRegistry(f"sqlite:///{tmp_path}/sessions.db") as registry:
        hub = another_process(server, registry=registry)
        history = QwenConvChatMessageHistory("alice", conversations=hub)
        history.add_messages([HumanMessage("kept")])
        assert [one.text for one in history.messages] == ["kept"]
        store = QwenConvChatStore(conversations=hub)
        store.add_message("bob", ChatMessage("lost"))
        conversation = registry.get(hub.session("bob")).conversation_id
        assert server.items(conversation) == []


def test_of_a_long_conversation_the_model_is_shown_the_oldest_hundred(server, hub, conversation):
    hub.run(flows.append, conversation, numbered(104))
    chat_on(hub, conversation_id=conversation).invoke("and now?")
    assert server.shown[-1] == [
        *((one.role, one.text) for one in numbered(100)),
        ("user", "and now?"),
    ]


def test_of_a_long_chain_of_responses_the_model_is_shown_everything(server, hub):
    messages = in_turns(invoke, chat_on(hub, state="response"), 52)
    assert server.shown[-1] == [
        ("assistant" if isinstance(one, AIMessage) else "user", one.text) for one in messages[:-1]
    ]


def test_what_is_kept_for_less_than_seven_days_is_missing_without_a_word():
    with SmgServer(retention=1) as server:
        server.script = Model()
        hub = another_process(server)
        chat = chat_on(hub, session_id="alice")
        messages = in_turns(invoke, chat, 1)
        conversation = messages[-1].response_metadata["conversation_id"]
        writes = hub.run(flows.create).id

        def is_gone():
            hub.run(flows.append, writes, numbered(1))  # that is when SMG looks what is too old
            return server.items(conversation) == []

        eventually(is_gone)
        chat.invoke([*messages, HumanMessage("and now?")])
        assert server.shown[-1] == [("user", "and now?")]


# --- What is refused --------------------------------------------------------------------------


def test_a_field_that_is_qwens_own_is_refused(server, hub, conversation):
    body = {"model": MODEL, "input": "hi", "enable_thinking": True}
    assert refused(f"{server.base_url}/responses", body)[0] == 400
    chat = chat_on(hub, conversation_id=conversation)
    with pytest.raises(errors.RequestRefusedError, match="unknown field `enable_thinking`"):
        chat.invoke("hi", extra_body={"enable_thinking": True})
    chat.invoke("hi")
    assert said(server, conversation) == ["user: hi", "assistant: answer 1"]


def test_a_response_that_is_gone_is_refused_with_400(server, hub):
    body = {"model": MODEL, "input": "hi", "previous_response_id": "resp_unknown"}
    status, error = refused(f"{server.base_url}/responses", body)
    assert (status, error["code"]) == (400, "previous_response_not_found")
    chat = chat_on(hub, state="response")
    messages = in_turns(invoke, chat, 1)
    hub.run(flows.send, DeleteResponse(messages[-1].response_metadata["response_id"]))
    messages = in_turns(invoke, chat, 1, messages)
    assert messages[-1].response_metadata["decision"] == "recovered"


# --- What is answered otherwise ---------------------------------------------------------------


def test_a_list_behind_an_item_that_is_not_there_begins_at_the_first(server, hub, place, history):
    history.add_messages([HumanMessage(f"message {number}") for number in range(3)])
    assert len(history.messages) == 3
    last = server.items(place.split("/")[-1])[-1]["id"]
    asked(f"{place}/items/{last}", method="DELETE")
    assert len(asked(f"{place}/items?order=asc&after={last}")["data"]) == 2
    assert [one.text for one in history.messages] == ["message 0", "message 1"]


@pytest.mark.parametrize(
    "count",
    [
        1,
        2,
        pytest.param(
            None,
            marks=pytest.mark.xfail(strict=True, reason="Nothing behind, and no item, look alike"),
        ),
    ],
)
def test_a_turn_of_another_process_sends_what_was_deleted_again(server, hub, count):
    messages = in_turns(invoke, chat_on(hub, session_id="alice"), 2)
    conversation = messages[-1].response_metadata["conversation_id"]
    held = server.items(conversation)
    for item in held[-(count or len(held)) :]:
        asked(f"{server.base_url}/conversations/{conversation}/items/{item['id']}", method="DELETE")
    chat = chat_on(another_process(server, registry=hub.registry), session_id="alice")
    messages.append(HumanMessage("and now?"))
    messages.append(chat.invoke(messages))
    assert is_exact(server, messages[-1].response_metadata["conversation_id"], messages)


def test_a_page_is_of_a_hundred_items_unless_it_is_asked_for_otherwise(
    server, hub, conversation, place, history
):
    hub.run(flows.append, conversation, numbered(104))
    assert len(asked(f"{place}/items")["data"]) == 100
    assert len(asked(f"{place}/items?limit=1000")["data"]) == 104
    assert [one.text for one in history.messages] == [one.text for one in numbered(104)]


def test_metadata_is_merged(place, history):
    asked(place, {"metadata": {"app": "travel"}})
    assert asked(place, {"metadata": {"user": "alice"}})["metadata"] == {
        "app": "travel",
        "user": "alice",
    }
    history.set_metadata({"user": "bob"})
    assert history.get_metadata() == {"app": "travel", "user": "bob"}


def test_an_item_may_be_deleted_twice(server, conversation, place, history):
    history.add_messages([HumanMessage("one"), HumanMessage("two")])
    first = server.items(conversation)[0]["id"]
    for _ in range(2):
        asked(f"{place}/items/{first}", method="DELETE")
    with pytest.raises(errors.ItemNotFoundError):
        history.delete_message(first)
    assert said(server, conversation) == ["user: two"]


def test_a_message_may_have_any_role(server, conversation, place, history):
    asked(f"{place}/items", {"items": [message("beep", "robot")]})
    assert said(server, conversation) == ["robot: beep"]
    assert [one.text for one in history.messages] == ["beep"]


def test_calls_and_results_can_be_added(server, hub, conversation):
    call = {"name": "weather", "args": {"city": "Rome"}, "id": "c1", "type": "tool_call"}
    given = [
        HumanMessage("How is it?"),
        AIMessage("", tool_calls=[call]),
        ToolMessage("sunny", tool_call_id="c1"),
        AIMessage("It is sunny."),
    ]
    for each in (hub, another_process(server)):
        history = QwenConvChatMessageHistory(
            conversation_id=conversation, conversations=each, tool_items="native"
        )
        history.add_messages(given if each is hub else [])
        assert local_transcript(history.messages) == local_transcript(given)
    assert holds(server, conversation, given)


def test_a_call_may_stay_without_a_result(server, hub, conversation):
    chat = chat_on(hub, conversation_id=conversation)
    messages = [HumanMessage("weather in Paris")]
    messages.append(chat.bind_tools([weather]).invoke(messages))
    messages.append(HumanMessage("never mind"))
    messages.append(chat.invoke(messages))
    assert is_exact(server, conversation, messages)
    assert "no result" not in messages[-1].response_metadata["reason"]


def test_turns_at_once_see_what_had_ended_when_they_began(server, hub, conversation):
    body = {"model": MODEL, "conversation": conversation}
    address = f"{server.base_url}/responses"
    with server.late() as release, ThreadPoolExecutor(3) as pool:
        turns = [pool.submit(asked, address, {**body, "input": f"raw {n}"}) for n in range(3)]
        eventually(lambda: len(server.turns) == 3)
        release()
        for turn in turns:
            turn.result()
    assert [len(shown) for shown in server.shown] == [1] * 3
    stored = [line.split(":")[0] for line in said(server, conversation)]
    assert (stored.count("user"), stored.count("assistant")) == (3, 3)
    with ThreadPoolExecutor(3) as pool:
        chat = chat_on(hub, conversation_id=conversation)
        for turn in [pool.submit(chat.invoke, f"ours {number}") for number in range(3)]:
            turn.result()
    assert [len(shown) for shown in server.shown[3:]] == [7, 9, 11]


# --- What failed, and what was given up -------------------------------------------------------


def test_a_stream_that_fails_leaves_what_it_was_asked(server, hub, conversation):
    works, server.script = server.script, always(Fail("sorry", "InternalError", 500))
    body = {"model": MODEL, "conversation": conversation, "input": "raw", "stream": True}
    assert b"response.failed" in asked(f"{server.base_url}/responses", body)
    eventually(lambda: said(server, conversation) == ["user: raw"])
    chat = chat_on(hub, conversation_id=conversation)
    for retries in (0, 2):
        with pytest.raises(errors.ServiceFailedError):
            stream(chat, "ours", max_retries=retries)
    server.script = works
    stream(chat, "ours")
    assert said(server, conversation)[1:] == ["user: ours", "assistant: answer 1"]


def test_a_whole_answer_that_was_not_waited_for_is_not_stored(server, hub, conversation):
    hub.settle_timeout = 0.0
    chat = chat_on(hub, conversation_id=conversation)
    with server.late(), pytest.raises(errors.UndecidedError):
        chat.invoke("are you there?", timeout=0.1)
    chat.invoke("are you there?")
    assert said(server, conversation) == ["user: are you there?", "assistant: answer 2"]
