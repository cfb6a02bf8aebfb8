"""Messages come back from a store as they went in, and what is done to them leaves it as it is."""

import asyncio
import pickle
from copy import deepcopy

import pytest
from conftest import MODEL, another_process, asked, said
from llama_index.core.base.llms.types import (
    AudioBlock,
    CachePoint,
    DocumentBlock,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
    VideoBlock,
)
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import (
    ChatMemoryBuffer,
    InsertMethod,
    Memory,
    StaticMemoryBlock,
)
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
    system,
    texts,
    user,
)
from test_llama_messages import PNG

from llamaindex_qwen_conv import QwenConv, QwenConvAsyncChatStore, QwenConvChatStore
from qwen_conv import errors
from qwen_conv.encodings import is_sealed
from qwen_conv.items import from_wire
from qwen_conv.offline import CallTool


@pytest.fixture
def there(server, hub, store):
    """The same store in another process."""
    return Driven(store.way, conversations=another_process(server, registry=hub.registry))


# --- Roles and contents ------------------------------------------------------------------------

THOUGHTFUL = ChatMessage(
    [ThinkingBlock(content="Hm."), TextBlock(text="It is sunny.")], role="assistant"
)
SILENT_CALL = ChatMessage(
    [ToolCallBlock(tool_call_id="c1", tool_name="weather", tool_kwargs={"city": "Rome"})],
    role="assistant",
)
TWO_CALLS = ChatMessage(
    [
        TextBlock(text="Two at once."),
        ToolCallBlock(tool_call_id="c1", tool_name="weather", tool_kwargs={"city": "Rome"}),
        ToolCallBlock(tool_call_id="c2", tool_name="weather", tool_kwargs={"city": "Paris"}),
    ],
    role="assistant",
)
SHOWN = ChatMessage(
    [TextBlock(text="What is it?"), ImageBlock(url="https://example.com/a.png", detail="low")]
)
DRAWN = ChatMessage([TextBlock(text="And that?"), ImageBlock(image=PNG)])
HEARD = ChatMessage(
    [TextBlock(text="Listen."), AudioBlock(url="https://example.com/a.mp3")], role="user"
)
EXACT = [
    user("How is it?"),
    assistant("It is sunny."),
    system("Be brief."),
    ChatMessage("Be kind.", role="developer"),
    calling(),
    SILENT_CALL,
    TWO_CALLS,
    result(),
    ChatMessage("", role="tool", additional_kwargs={"tool_call_id": "c9"}),
    SHOWN,
    DRAWN,
    HEARD,
]


@pytest.mark.parametrize("message", EXACT, ids=lambda message: f"{message.role.value}: {message}")
def test_a_message_comes_back_as_it_went_in_here_and_elsewhere(store, there, message):
    given = [user("hi"), message, assistant("bye")]
    store.set_messages("alice", deepcopy(given))
    store.flush()
    assert store.get_messages("alice") == given
    assert there.get_messages("alice") == given


def test_so_do_all_of_them_together_and_can_be_written_again(server, hub, store, there):
    store.set_messages("alice", deepcopy(EXACT))
    store.flush()
    found = there.get_messages("alice")
    assert found == EXACT
    there.set_messages("alice", found[3:])
    assert there.get_messages("alice") == EXACT[3:]
    assert len(server.items(place(hub))) == len(EXACT) - 3


def test_calls_and_results_are_stored_as_messages(server, hub, store):
    store.set_messages("alice", [user("How is it?"), calling(), result()])
    store.flush()
    items = server.items(place(hub))
    assert [item["type"] for item in items] == ["message"] * 3
    assert [is_sealed(from_wire(item)) for item in items] == [False, True, True]


def test_a_text_that_looks_like_a_call_or_a_result_is_a_text(server, hub, store, there):
    store.set_messages("alice", [user("How is it?"), calling(), result()])
    store.flush()
    raw = [item["content"][0]["text"] for item in server.items(place(hub))]
    store.add_message("alice", user(raw[1]))
    store.add_message("alice", assistant(raw[2]))
    for reader in (store, there):
        found = reader.get_messages("alice")
        assert [message.role.value for message in found[3:]] == ["user", "assistant"]
        assert texts(found[3:]) == raw[1:]
        assert not any(isinstance(block, ToolCallBlock) for block in found[3].blocks)


def test_thinking_is_kept_in_this_process_and_never_stored(server, hub, store, there):
    store.add_message("alice", user("How is it?"))
    store.add_message("alice", deepcopy(THOUGHTFUL))
    assert store.get_messages("alice")[1] == THOUGHTFUL
    assert there.get_messages("alice")[1] == assistant("It is sunny.")
    assert "Hm." not in str(server.items(place(hub)))


def test_a_cache_point_is_kept_in_this_process_and_never_stored(store, there):
    cached = ChatMessage(
        [TextBlock(text="hi"), CachePoint(cache_control={"type": "ephemeral"})], role="user"
    )
    store.add_message("alice", deepcopy(cached))
    store.add_message("alice", assistant("ho"))
    assert store.get_messages("alice")[0] == cached
    assert there.get_messages("alice")[0] == user("hi")


def test_texts_of_a_user_stay_apart_and_those_of_an_answer_become_one(store, there):
    two = [TextBlock(text="one"), TextBlock(text="two")]
    store.add_message("alice", ChatMessage(two, role="user"))
    store.add_message("alice", ChatMessage(two, role="assistant"))
    assert [message.blocks for message in store.get_messages("alice")] == [two, two]
    assert there.get_messages("alice") == [
        ChatMessage(two, role="user"),
        assistant("one\ntwo"),
    ]


def test_additional_kwargs_are_kept_in_this_process(store, there):
    thing = object()
    given = [user("hi", page=3, thing={"a": [1, None]}), assistant("ho", by="me")]
    store.set_messages("alice", given)
    store.flush()
    assert store.get_messages("alice") == given
    assert there.get_messages("alice") == [user("hi"), assistant("ho")]
    store.add_message("alice", assistant("look", thing=thing))
    assert store.get_messages("alice")[2].additional_kwargs["thing"] is not None


def test_those_of_calls_and_results_go_along_with_them(store, there):
    asking, told = calling(), result()
    asking.additional_kwargs |= {"by": "me"}
    told.additional_kwargs |= {"took": 0.5, "thing": object()}
    store.set_messages("alice", [user("hi"), asking, told])
    store.flush()
    found = there.get_messages("alice")
    assert found[1].additional_kwargs == {"by": "me"}
    assert found[2].additional_kwargs == {"tool_call_id": "call_1", "took": 0.5}


def test_calls_that_other_models_left_beside_their_answers_are_stored_too(store, there):
    function = {"name": "weather", "arguments": '{"city": "Rome"}'}
    calls = [{"id": "c1", "type": "function", "function": function}]
    given = ChatMessage(
        "One moment.", role="assistant", additional_kwargs={"tool_calls": deepcopy(calls)}
    )
    store.add_message("alice", given)
    assert store.get_messages("alice")[0].additional_kwargs == {"tool_calls": calls}
    assert there.get_messages("alice")[0].blocks == [
        TextBlock(text="One moment."),
        SILENT_CALL.blocks[0],
    ]


WRONG = [
    (assistant(""), "says nothing"),
    (user(""), "is empty"),
    (system(""), "is empty"),
    (ChatMessage([VideoBlock(video=b"1234")]), "'video' block"),
    (ChatMessage([DocumentBlock(data=b"1234", title="a.pdf")]), "'document' block"),
    (ChatMessage([ImageBlock(image=PNG)], role="assistant"), "'image' block"),
    (ChatMessage([ImageBlock(image=PNG)], role="system"), "'image' block"),
    (
        ChatMessage([ImageBlock(image=PNG)], role="tool", additional_kwargs={"tool_call_id": "c"}),
        "'image' block",
    ),
    (ChatMessage("42", role="tool"), "tool_call_id"),
    (ChatMessage([ToolCallBlock(tool_name="f", tool_kwargs={})], role="assistant"), "no id"),
    (user("half \ud83d"), "half of a character"),
]


@pytest.mark.parametrize(("wrong", "says"), WRONG)
def test_what_cannot_be_stored_is_refused_and_nothing_is_sent(server, store, wrong, says):
    with pytest.raises(errors.NotRepresentableError, match=says):
        store.add_message("alice", wrong)
    with pytest.raises(errors.NotRepresentableError, match=says):
        store.set_messages("alice", [user("hi"), wrong])
    assert store.get_messages("alice") == []
    assert store.get_keys() == []
    assert asked(server) == []


@pytest.mark.parametrize(("wrong", "says"), WRONG)
def test_it_leaves_what_was_there_as_it_was(server, hub, store, wrong, says):
    given = [user("one"), assistant("two")]
    store.set_messages("alice", given)
    server.requests.clear()
    with pytest.raises(errors.NotRepresentableError, match=says):
        store.add_message("alice", wrong)
    with pytest.raises(errors.NotRepresentableError, match=says):
        store.set_messages("alice", [user("else"), wrong])
    if store.way == WAYS[2]:
        with pytest.raises(errors.NotRepresentableError, match=says):
            store.add_messages("alice", [user("three"), wrong])
    else:
        with pytest.raises(errors.NotRepresentableError, match=says):
            store.add_message("alice", wrong, 0)
    assert store.get_messages("alice") == given
    assert asked(server) == []
    assert said(server, place(hub)) == ["user: one", "assistant: two"]


# --- Copies ------------------------------------------------------------------------------------


def spoil(message):
    """Does to a message whatever engines do to what they are given."""
    message.additional_kwargs["session_id"] = "bob"
    message.additional_kwargs.setdefault("nested", {})["a"] = "changed"
    message.blocks[0].text = "changed"
    message.blocks.append(TextBlock(text="appended"))
    message.role = "system"


def given_messages():
    return [user("one", nested={"a": 1}), assistant("two", nested={"a": 2}), calling(), result()]


def test_what_is_done_to_a_message_that_was_given_leaves_the_store_as_it_is(store):
    for way in ("one by one", "at once"):
        given = given_messages()
        if way == "at once":
            store.set_messages(way, given)
        for message in given if way == "one by one" else ():
            store.add_message(way, message)
        for message in given:
            spoil(message)
        given.clear()
        assert store.get_messages(way) == given_messages()


def test_what_is_done_to_a_message_that_was_returned_leaves_the_store_as_it_is(server, hub, store):
    store.set_messages("alice", given_messages())
    for flushed in (False, True):
        if flushed:
            store.flush()
        found = store.get_messages("alice")
        for message in found:
            spoil(message)
        found.pop()
        assert store.get_messages("alice") == given_messages()
    store.add_message("alice", assistant("bye"))
    assert "changed" not in str(server.items(place(hub)))


def test_nor_does_what_is_done_to_one_that_was_archived(hub):
    store = Driven(WAYS[2], conversations=hub)
    store.set_messages("alice", given_messages())
    for message in store.archive_oldest_messages("alice", 2):
        spoil(message)
    assert store.get_messages("alice", ARCHIVED) == given_messages()[:2]


def test_a_message_says_to_nobody_where_it_was_read_from(store):
    given = [user("one", page=3), assistant("two")]
    store.set_messages("alice", given)
    for found, plain in zip(store.get_messages("alice"), given, strict=True):
        assert found == plain
        assert repr(found) == repr(plain)
        assert found.model_dump() == plain.model_dump()
        assert found.model_dump_json() == plain.model_dump_json()
        assert pickle.loads(pickle.dumps(found)) == plain
        assert deepcopy(found) == plain


@pytest.mark.parametrize("method", InsertMethod)
def test_what_a_memory_puts_before_its_messages_does_not_pile_up(server, hub, method):
    memory = Memory.from_defaults(
        session_id="alice",
        chat_store=QwenConvAsyncChatStore(conversations=hub),
        memory_blocks=[StaticMemoryBlock(name="core", static_content="Alice likes rain.")],
        insert_method=method,
    )
    given = [system("Be brief."), user("one"), assistant("two"), user("three")]
    memory.put_messages(given)
    first = memory.get()
    for _ in range(3):
        assert asyncio.run(memory.aget()) == first
    assert str(first).count("Alice likes rain.") == 1
    assert memory.get_all() == given
    memory.put(assistant("four"))
    assert "rain" not in str(server.items(place(hub)))


def test_a_state_that_an_agent_writes_into_a_message_stays_with_the_agent(hub):
    buffer = ChatMemoryBuffer.from_defaults(
        chat_store=QwenConvChatStore(conversations=hub), chat_store_key="alice"
    )
    buffer.put(user("How is it?"))
    for message in buffer.get():
        for block in message.blocks:
            block.text = f"Current state: {{}}\n{block.text}"
    assert buffer.get() == [user("How is it?")]


def test_messages_of_one_key_can_be_added_to_another(server, hub, store):
    store.set_messages("alice", numbered(2))
    found = store.get_messages("alice")
    for message in found:
        store.add_message("bob", message)
    store.set_messages("carol", found)
    store.flush()
    for key in ("alice", "bob", "carol"):
        assert store.get_messages(key) == numbered(2)
        assert len(said(server, place(hub, key))) == 2


def test_a_message_that_was_read_can_be_added_again(server, hub, store):
    store.set_messages("alice", [user("yes"), assistant("no")])
    first, second = store.get_messages("alice")
    store.add_message("alice", first)
    store.add_message("alice", first)
    store.add_message("alice", second)
    assert texts(store.get_messages("alice")) == ["yes", "no", "yes", "yes", "no"]
    store.set_messages("alice", [second, second, first, first])
    assert texts(store.get_messages("alice")) == ["no", "no", "yes", "yes"]
    store.flush()
    assert said(server, place(hub)) == ["assistant: no"] * 2 + ["user: yes"] * 2
    assert store.delete_message("alice", 1) == assistant("no")
    assert texts(store.get_messages("alice")) == ["no", "yes", "yes"]
    assert said(server, place(hub)) == ["assistant: no", "user: yes", "user: yes"]


def test_a_reset_that_takes_a_stored_part_leaves_the_status(hub):
    store = Driven(WAYS[2], conversations=hub)
    store.add_messages("alice", numbered(4))
    store.archive_oldest_messages("alice", 2)
    store.set_messages("alice", store.get_messages("alice"))
    assert store.get_messages("alice", ACTIVE) == numbered(4)[2:]
    assert store.get_messages("alice", ARCHIVED) == []


# --- What turns have stored and nobody was handed ----------------------------------------------


@pytest.fixture
def beside(server):
    """A store beside a model, whose one turn was stored and whose answer no store was handed."""
    server.script = lambda _context, _request: "yes"
    hub = hub_of("beside a model", server)
    store, llm = QwenConvChatStore(conversations=hub), QwenConv(model=MODEL, conversations=hub)
    store.add_message("alice", user("Is it sunny?"))
    llm.chat(store.get_messages("alice"))
    yield store, llm
    hub.close()


def both(server, store):
    """What the store shows and what the conversation holds, once nothing waits."""
    store.flush()
    return (
        [f"{message.role.value}: {message.content}" for message in store.get_messages("alice")],
        said(server, place(store.conversations)),
    )


def test_a_user_who_says_what_the_model_said_is_no_model(server, beside):
    store, _ = beside
    store.add_message("alice", user("yes"))
    expected = ["user: Is it sunny?", "user: yes"]
    assert both(server, store) == (expected, expected)


def test_an_equal_answer_of_a_later_turn_stands_behind_its_question(server, beside):
    store, llm = beside
    store.add_message("alice", user("Is it warm?"))
    store.add_message("alice", llm.chat(store.get_messages("alice")).message)
    expected = ["user: Is it sunny?", "user: Is it warm?", "assistant: yes"]
    assert both(server, store) == (expected, expected)


def test_it_is_not_left_before_a_turn_of_a_memory_that_shows_only_its_end(server, beside):
    store, llm = beside
    store.add_message("alice", user("Is it warm?"))
    store.add_message("alice", llm.chat(store.get_messages("alice")[-1:]).message)
    expected = ["user: Is it sunny?", "user: Is it warm?", "assistant: yes"]
    assert both(server, store) == (expected, expected)


def test_a_call_that_nobody_was_handed_goes_with_what_a_turn_told_it(server):
    """A turn that goes on behind an unanswered call has to tell it that it was not executed."""
    hub = hub_of("beside a model", server)
    store, llm = QwenConvChatStore(conversations=hub), QwenConv(model=MODEL, conversations=hub)
    server.script = lambda _context, _request: CallTool("weather", {"city": "Rome"}, "c1")
    store.add_message("alice", user("Is it sunny?"))
    llm.chat(store.get_messages("alice"))
    server.script = lambda _context, _request: "yes"
    store.add_message("alice", user("Is it warm?"))
    store.add_message("alice", llm.chat(store.get_messages("alice")[-1:]).message)
    expected = ["user: Is it sunny?", "user: Is it warm?", "assistant: yes"]
    assert both(server, store) == (expected, expected)
    assert len(server.items(place(hub))) == 3
    store.add_message("alice", user("Is it late?"))
    store.add_message("alice", llm.chat(store.get_messages("alice")).message)
    assert len(both(server, store)[0]) == 5
    hub.close()
