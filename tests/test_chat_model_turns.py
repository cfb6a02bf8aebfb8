"""`ChatQwenConv` over HTTP, in its four ways: what is sent, what is stored, whatever is passed."""

import threading

import pytest
from conftest import MODEL, added, always, another_process, asked, eventually, said
from langchain_core.messages import (
    AIMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    messages_from_dict,
    messages_to_dict,
    trim_messages,
)

from langchain_qwen_conv import ChatQwenConv
from qwen_conv import errors, flows
from qwen_conv.calls import CreateItems
from qwen_conv.items import Message
from qwen_conv.offline import CallTool, Fail, OfflineServer, Say

QUESTION = ("What should I know before I travel there in the summer with two children? " * 2)[:117]


def in_turns(take, chat, count, messages=()):
    """A chat of so many turns, the whole list passed each time."""
    messages = list(messages)
    for number in range(count):
        messages.append(HumanMessage(f"question {number}"))
        messages.append(take(chat, messages))
    return messages


@pytest.fixture
def conversation(hub, server):
    made = hub.run(flows.create).id
    server.requests.clear()
    return made


@pytest.fixture
def bound(server, conversation):
    """A model on a conversation that its process has not seen yet."""
    return ChatQwenConv(
        model=MODEL, conversations=another_process(server), conversation_id=conversation
    )


# --- Figures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [10, 100])
def test_each_turn_is_one_request_and_each_message_is_stored_once(
    take, server, conversation, bound, count
):
    in_turns(take, bound, count)
    assert asked(server) == ["GET /conversations/*"] + ["POST /responses"] * count
    stored = said(server, conversation)
    assert len(stored) == 2 * count
    assert stored[::2] == [f"user: question {number}" for number in range(count)]


def test_a_turn_sends_hardly_more_than_the_new_text_in_a_raw_call(take, server, bound):
    sizes = []
    messages = []
    for _ in range(10):
        messages.append(HumanMessage(QUESTION))
        messages.append(take(bound, messages))
        sizes.append(server.requests[-1].body_bytes)
    server.requests.clear()
    streamed = "stream" in take.__name__
    client = another_process(server).sync()._client
    raw = {"model": MODEL, "conversation": bound.conversation_id, "input": QUESTION}
    answer = client.responses.create(**raw, stream=streamed)
    assert [*answer] if streamed else answer.output_text
    assert sum(sizes) <= 1.2 * 10 * server.requests[-1].body_bytes


# --- The case table ---------------------------------------------------------------------------


def test_nothing_selects_a_conversation_all_messages_are_sent_and_nothing_is_stored(
    take, server, chat
):
    messages = in_turns(take, chat, 2)
    assert messages[-1].response_metadata["decision"] == "stateless"
    last = server.requests[-1].body
    assert [one["content"] for one in last["input"]][::2] == ["question 0", "question 1"]
    assert last["store"] is False
    assert "conversation" not in last
    assert "stamp" not in messages[-1].response_metadata


def test_only_new_messages_are_sent_to_a_conversation_that_holds_others(take, server, bound):
    for number in range(3):
        take(bound, [HumanMessage(f"question {number}")])
    assert len(said(server, bound.conversation_id)) == 6
    assert server.requests[-1].body["input"] == "question 2"


def test_a_list_whose_older_part_was_trimmed_goes_on(take, server, bound):
    messages = in_turns(take, bound, 3)
    trimmed = trim_messages(
        messages, max_tokens=2, token_counter=len, strategy="last", start_on="human"
    )
    assert len(trimmed) == 2
    answer = take(bound, [*trimmed, HumanMessage("question 3")])
    assert answer.response_metadata["decision"] == "attached"
    assert server.requests[-1].body["input"] == "question 3"
    assert len(said(server, bound.conversation_id)) == 8


def test_another_process_goes_on_after_one_look(take, server, conversation, bound):
    messages = in_turns(take, bound, 2)
    written_down = messages_from_dict(messages_to_dict(messages))
    server.requests.clear()
    there = bound.model_copy(update={"conversations": another_process(server)})
    in_turns(take, there, 3, written_down)
    assert asked(server) == ["GET /conversations/*/items"] + ["POST /responses"] * 3
    assert len(said(server, conversation)) == 10


def test_lists_that_lost_their_stamps_go_on_in_the_same_process_without_a_look(take, server, bound):
    bare = [
        type(message)(message.content)
        if isinstance(message, HumanMessage)
        else AIMessage(message.text)
        for message in in_turns(take, bound, 2)
    ]
    server.requests.clear()
    take(bound, [*bare, HumanMessage("question 2")])
    assert asked(server) == ["POST /responses"]
    assert server.requests[-1].body["input"] == "question 2"


def test_lists_that_lost_their_stamps_go_on_in_another_process_after_a_reading(
    take, server, conversation, bound
):
    in_turns(take, bound, 2)
    bare = [
        (HumanMessage if line.startswith("user") else AIMessage)(line.split(": ", 1)[1])
        for line in said(server, conversation)
    ]
    server.requests.clear()
    there = bound.model_copy(update={"conversations": another_process(server)})
    take(there, [*bare, HumanMessage("question 2")])
    assert asked(server) == ["GET /conversations/*/items", "POST /responses"]
    assert len(said(server, conversation)) == 6


def test_a_stored_message_without_an_answer_is_taken_back_into_the_turn(
    take, server, conversation, bound
):
    messages = in_turns(take, bound, 1)
    hub = another_process(server)
    hub.run(flows.append, conversation, [Message.of("user", "question 1")])
    there = bound.model_copy(update={"conversations": hub})
    answer = take(there, [*messages, HumanMessage("question 1")])
    assert answer.response_metadata["reason"] == "the last message is stored, but unanswered"
    stored = said(server, conversation)
    assert [line for line in stored if line.startswith("user")] == [
        "user: question 0",
        "user: question 1",
    ]
    assert stored[-1].startswith("assistant")


def test_a_whole_list_is_taken_over_by_an_empty_conversation(take, server, conversation, bound):
    elsewhere = [HumanMessage("a"), AIMessage("b"), HumanMessage("c")]
    take(bound, elsewhere)
    assert said(server, conversation)[:3] == ["user: a", "assistant: b", "user: c"]
    assert len(said(server, conversation)) == 4


def test_answers_that_the_conversation_does_not_hold_are_refused_with_the_ways_out(
    take, server, conversation, bound
):
    another_process(server).run(flows.append, conversation, [Message.of("user", "else")])
    server.requests.clear()
    with pytest.raises(errors.DivergedError, match="session_id") as raised:
        take(bound, [HumanMessage("a"), AIMessage("b"), HumanMessage("c")])
    assert raised.value.conversation_id == conversation
    assert "POST /responses" not in asked(server)


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(lambda m: m.__setitem__(0, HumanMessage("edited")), id="edited"),
        pytest.param(lambda m: m.__delitem__(slice(2, 4)), id="a turn taken out"),
        pytest.param(lambda m: m.insert(2, HumanMessage("inserted")), id="inserted"),
        pytest.param(lambda m: m.__delitem__(slice(4, 6)), id="gone back"),
        pytest.param(lambda m: m.__setitem__(slice(0, 4), m[2:4] + m[0:2]), id="reordered"),
    ],
)
@pytest.mark.parametrize("same_process", [True, False])
def test_a_changed_list_is_refused_and_leaves_the_conversation_alone(
    take, server, conversation, bound, changed, same_process
):
    messages = in_turns(take, bound, 3)
    before = server.items(conversation)
    changed(messages)
    if not same_process:
        bound = bound.model_copy(update={"conversations": another_process(server)})
    with pytest.raises(errors.DivergedError):
        take(bound, [*messages, HumanMessage("new")])
    assert server.items(conversation) == before


def test_a_changed_list_can_be_ignored(take, server, conversation, bound):
    messages = in_turns(take, bound, 2)
    messages[0] = HumanMessage("edited")
    answer = take(bound, [*messages, HumanMessage("new")], on_divergence="ignore")
    assert server.requests[-1].body["input"] == "new"
    assert "ignore" in answer.response_metadata["reason"]


def test_messages_of_seven_days_ago_are_refused(take, server, conversation, bound):
    messages = in_turns(take, bound, 1)
    server.clock.advance(days=7)
    with pytest.raises(errors.DivergedError, match="seven days"):
        take(bound, [*messages, HumanMessage("new")])


def test_results_of_a_stored_call_are_sent_alone(take):
    def script(context, request):
        if context[-1]["type"] == "function_call_output":
            return f"It is {context[-1]['output']}."
        return CallTool("weather", {"city": "Singapore"}, "call_1")

    with OfflineServer(script) as server:
        hub = another_process(server)
        chat = ChatQwenConv(
            model=MODEL, conversations=hub, conversation_id=hub.run(flows.create).id
        ).bind_tools([weather])
        messages = [HumanMessage("How is the weather in Singapore?")]
        messages.append(take(chat, messages))
        (call,) = messages[-1].tool_calls
        assert (call["name"], call["args"]) == ("weather", {"city": "Singapore"})
        messages.append(ToolMessage("sunny", tool_call_id=call["id"]))
        assert take(chat, messages).text == "It is sunny."
        assert server.requests[-1].body["input"] == [
            {"type": "function_call_output", "call_id": "call_1", "output": "sunny"}
        ]


def weather(city: str) -> str:
    """The weather in a city."""
    return city


def test_a_list_that_the_conversation_holds_whole_is_refused(take, bound):
    messages = in_turns(take, bound, 1)
    with pytest.raises(errors.UsageError, match="nothing new"):
        take(bound, messages)


# --- Sessions ---------------------------------------------------------------------------------


def test_a_session_creates_its_conversation_with_the_first_turn(take, server, hub):
    chat = ChatQwenConv(model=MODEL, conversations=hub, session_id="alice")
    assert asked(server) == []
    messages = in_turns(take, chat, 3)
    assert asked(server) == ["POST /conversations"] + ["POST /responses"] * 3
    assert len(said(server, messages[-1].response_metadata["conversation_id"])) == 6


def test_a_session_is_the_same_for_every_model_of_the_hub(take, server, hub):
    first = ChatQwenConv(model=MODEL, conversations=hub, session_id="alice")
    second = ChatQwenConv(model="qwen3.5-flash", conversations=hub, session_id="alice")
    messages = in_turns(take, first, 1)
    in_turns(take, second, 1, messages)
    assert asked(server) == ["POST /conversations"] + ["POST /responses"] * 2


@pytest.mark.parametrize("same_process", [True, False])
def test_a_changed_list_of_a_session_begins_a_new_conversation(take, server, hub, same_process):
    chat = ChatQwenConv(model=MODEL, conversations=hub, session_id="alice")
    messages = in_turns(take, chat, 2)
    old = messages[-1].response_metadata["conversation_id"]
    before = server.items(old)
    messages[0] = HumanMessage("edited")
    if not same_process:
        other = another_process(server)
        other.registry = hub.registry
        chat = chat.model_copy(update={"conversations": other})
    messages.append(HumanMessage("new"))
    messages.append(take(chat, messages))
    told = messages[-1].response_metadata
    assert told["decision"] == "rebased"
    assert server.items(old) == before
    assert [line.split(": ")[1] for line in said(server, told["conversation_id"])][::2] == [
        "edited",
        "question 1",
        "new",
    ]
    server.requests.clear()
    in_turns(take, chat, 2, messages)
    assert asked(server) == ["POST /responses"] * 2
    assert len(said(server, told["conversation_id"])) == 10


def test_a_session_outlives_the_seven_days_of_its_items(take, server, hub):
    chat = ChatQwenConv(model=MODEL, conversations=hub, session_id="alice")
    messages = in_turns(take, chat, 2)
    server.clock.advance(days=7)
    messages = in_turns(take, chat, 2, messages)
    assert messages[-3].response_metadata["decision"] == "rebased"
    assert messages[-1].response_metadata["decision"] == "attached"
    assert len(said(server, messages[-1].response_metadata["conversation_id"])) == 8


def test_a_session_whose_conversation_was_deleted_says_so(take, server, hub):
    chat = ChatQwenConv(model=MODEL, conversations=hub, session_id="alice")
    messages = in_turns(take, chat, 1)
    another_process(server).run(flows.delete, messages[-1].response_metadata["conversation_id"])
    messages.append(HumanMessage("still there?"))
    with pytest.raises(errors.ConversationNotFoundError, match="forget_session"):
        take(chat, messages)
    hub.forget_session("alice")
    assert take(chat, messages).response_metadata["decision"] == "attached"


# --- System prompts ---------------------------------------------------------------------------


def test_leading_system_messages_go_along_with_every_turn_and_are_not_stored(
    take, server, conversation, bound
):
    system = [SystemMessage("Be brief."), SystemMessage("Be kind.")]
    messages = in_turns(take, bound, 2, system)
    in_turns(take, bound, 1, [SystemMessage("Be long."), *messages[2:]])
    turns = [request.body for request in server.requests if request.method == "POST"]
    assert [turn["instructions"] for turn in turns] == [
        "Be brief.\n\nBe kind.",
        "Be brief.\n\nBe kind.",
        "Be long.",
    ]
    assert len(said(server, conversation)) == 6


def test_system_messages_can_be_stored_instead(take, server, conversation, bound):
    chat = bound.model_copy(update={"system_prompt": "item"})
    in_turns(take, chat, 2, [SystemMessage("Be brief.")])
    assert said(server, conversation)[0] == "system: Be brief."
    assert len(said(server, conversation)) == 5
    assert "instructions" not in server.requests[-1].body


def test_a_system_message_further_down_is_a_message_like_any_other(
    take, server, conversation, bound
):
    take(bound, [HumanMessage("a"), SystemMessage("b"), HumanMessage("c")])
    assert said(server, conversation)[:3] == ["user: a", "system: b", "user: c"]


# --- After a failure --------------------------------------------------------------------------


def test_a_turn_that_was_refused_changes_nothing(take, server, conversation, bound):
    messages = in_turns(take, bound, 1)
    with pytest.raises(errors.ModelNotFoundError):
        take(bound, [*messages, HumanMessage("new")], model="gpt-4")
    server.requests.clear()
    in_turns(take, bound, 1, messages)
    assert asked(server) == ["POST /responses"]
    assert len(said(server, conversation)) == 4


def test_a_stream_that_is_left_early_is_taken_back_by_a_list_without_it(
    server, conversation, bound
):
    messages = in_turns(lambda chat, given: added(chat.stream(given)), bound, 1)
    stream = bound.stream([*messages, HumanMessage("tell me more about it")])
    next(stream)
    stream.close()
    answer = bound.invoke([*messages, HumanMessage("something else")])
    assert answer.response_metadata["decision"] == "attached"
    questions = said(server, conversation)[::2]
    assert questions == ["user: question 0", "user: something else"]


def test_a_stream_that_is_left_early_stays_if_only_new_messages_follow(server, conversation, bound):
    stream = bound.stream("tell me more about it")
    next(stream)
    stream.close()
    bound.invoke("something else")
    questions = said(server, conversation)[::2]
    assert questions == ["user: tell me more about it", "user: something else"]


@pytest.mark.parametrize("failed_turn", ["not_stored", "input_stored"])
def test_a_turn_that_failed_is_asked_again_and_stored_once(take, failed_turn):
    answers = iter([Fail("out of order", "InternalError", 500), Say("fine")])
    with OfflineServer(lambda _context, _request: next(answers), failed_turn=failed_turn) as server:
        hub = another_process(server, max_retries=0, settle_timeout=0)
        chat = ChatQwenConv(model=MODEL, conversations=hub, session_id="alice")
        if failed_turn == "not_stored":
            with pytest.raises(errors.ServiceFailedError):
                take(chat, "hi")
        answer = take(chat, "hi")
        conversation = answer.response_metadata["conversation_id"]
        assert said(server, conversation) == ["user: hi", "assistant: fine"]


def test_a_turn_whose_reply_came_too_late_is_found_when_it_is_asked_again():
    released = threading.Event()

    def slow(_context, _request):
        released.wait()
        return "the answer"

    with OfflineServer(slow) as server:
        hub = another_process(server, settle_timeout=0)
        chat = ChatQwenConv(model=MODEL, conversations=hub, session_id="alice")
        try:
            with pytest.raises(errors.UndecidedError) as raised:
                chat.invoke("hi", timeout=0.3)
        finally:
            released.set()
        conversation = raised.value.conversation_id
        eventually(lambda: len(server.items(conversation)) == 2)
        server.requests.clear()
        assert chat.invoke("hi").text == "the answer"
        assert "POST /responses" not in asked(server)
        assert said(server, conversation) == ["user: hi", "assistant: the answer"]


def test_a_list_that_goes_back_to_an_equal_turn_is_no_continuation(take, server, hub):
    server.script = always("ok")
    chat = ChatQwenConv(model=MODEL, conversations=hub, session_id="alice")
    first = take(chat, "yes")
    take(chat, "yes")
    back = take(chat, [HumanMessage("yes"), first, HumanMessage("no")])
    assert back.response_metadata["decision"] == "rebased"


def test_a_list_that_diverged_can_be_sent_whole_on_no_conversation(
    take, server, conversation, bound
):
    messages = in_turns(take, bound, 2)
    fork = [*messages[:2], HumanMessage("something else")]
    answer = take(bound, fork, on_divergence="stateless")
    assert answer.response_metadata["decision"] == "stateless"
    assert server.requests[-1].body["store"] is False
    assert len(server.requests[-1].body["input"]) == 3
    assert len(server.items(conversation)) == 4
    take(bound, [*messages, HumanMessage("question 2")])
    assert len(server.items(conversation)) == 6


def test_models_that_share_no_hub_know_what_the_other_did_in_this_process(take, server):
    one, other = (
        ChatQwenConv(model=MODEL, api_key="any", base_url=server.base_url, session_id="alice")
        for _ in range(2)
    )
    first = [HumanMessage("a"), take(one, "a")]
    take(other, [*first, HumanMessage("b")])
    fork = take(one, [*first, HumanMessage("c")])
    assert fork.response_metadata["decision"] == "rebased"
    old, new = (each.response_metadata["conversation_id"] for each in (first[1], fork))
    assert said(server, old)[::2] == ["user: a", "user: b"]
    assert said(server, new)[::2] == ["user: a", "user: c"]


def test_items_that_are_added_by_hand_are_seen_by_the_next_turn(take, server, hub, conversation):
    chat = ChatQwenConv(model=MODEL, conversations=hub, conversation_id=conversation)
    by_hand = (Message.of("user", "hello"), Message.of("assistant", "hi"))
    hub.run(flows.send, CreateItems(conversation, by_hand))
    take(chat, [HumanMessage("hello"), AIMessage("hi"), HumanMessage("new")])
    assert said(server, conversation)[:3] == ["user: hello", "assistant: hi", "user: new"]
    assert len(server.items(conversation)) == 4


@pytest.mark.parametrize("stamps", ["kept", "lost"])
def test_two_processes_take_turns_on_one_conversation_and_each_sees_what_the_other_did(
    server, hub, take, stamps
):
    conversation = hub.run(flows.create).id
    both = [
        ChatQwenConv(model=MODEL, conversations=each, conversation_id=conversation)
        for each in (another_process(server), another_process(server))
    ]
    messages = []
    for number in range(6):
        messages.append(HumanMessage(f"question {number}"))
        messages.append(take(both[number % 2], messages))
        if stamps == "lost":
            messages[-1] = AIMessage(messages[-1].text)
    assert [line.partition(": ")[2] for line in said(server, conversation)] == [
        message.text for message in messages
    ]


def test_what_a_lost_turn_left_is_taken_back_though_another_process_went_on_behind_it(take):
    with OfflineServer(failed_turn="input_stored") as server:
        hub = another_process(server)
        conversation = hub.run(flows.create).id
        chat, there = (
            ChatQwenConv(model=MODEL, conversations=each, conversation_id=conversation)
            for each in (hub, another_process(server))
        )
        messages = [HumanMessage("one")]
        messages.append(take(chat, messages))
        messages.append(HumanMessage("two"))
        server.script = always(Fail("down"))
        with pytest.raises(errors.ServiceError):
            take(chat, messages, max_retries=0)
        server.script = always("Fine.")
        take(there, "three")
        with pytest.raises(errors.DivergedError):
            take(chat, messages)
        assert [line.partition(": ")[2] for line in said(server, conversation)] == [
            "one",
            messages[1].text,
            "three",
            "Fine.",
        ]
