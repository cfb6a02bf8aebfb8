"""LangChain on SMG, which nobody here wrote: each message is stored once, and the model is shown it.

What is asserted is what SMG lists afterwards, and what it showed the model.
"""

import asyncio
import threading

import pytest
from agents import (
    Driven,
    agent_on,
    local_transcript,
    model,
    settled,
    transcript,
    weather,
)
from conftest import (
    MODEL,
    ainvoke,
    another_process,
    eventually,
    invoke,
    said,
    stream,
)
from langchain.agents import create_agent
from langchain_core.messages import (
    AIMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
    messages_from_dict,
    messages_to_dict,
    trim_messages,
)
from langgraph.checkpoint.memory import InMemorySaver
from lossy import lost, relayed
from pydantic import BaseModel
from smg_server import FAILURES, begun, holds, is_exact, refused, server
from test_chat_history_patterns import CONFIG, TAILS, asks, of_session, take_any, with_history
from test_chat_model_turns import in_turns

from langchain_qwen_conv import ChatQwenConv, QwenConvChatMessageHistory
from qwen_conv import errors, flows
from qwen_conv.calls import DeleteResponse
from qwen_conv.items import Message
from qwen_conv.offline import CallTool, Fail, Say

pytestmark = pytest.mark.usefixtures("model")


# The other two ways are taken on the offline server; a server cannot tell threads from tasks.
@pytest.fixture(params=["stream", "ainvoke"])
def way(request):
    return request.param


@pytest.fixture
def take(way):
    return {"stream": stream, "ainvoke": ainvoke}[way]


@pytest.fixture
def conversation(hub):
    return hub.run(flows.create).id


@pytest.fixture(params=["a conversation", "a session"])
def bound(request, server, hub):
    """A model that goes on with something, and what that is."""
    if request.param == "a session":
        return request.getfixturevalue("session")
    return on(server, hub.run(flows.create).id)


@pytest.fixture
def session(hub):
    """A model on a session."""
    return ChatQwenConv(model=MODEL, conversations=hub, session_id="alice")


def on(server, conversation):
    """A model on a conversation that its process has not seen yet."""
    return ChatQwenConv(
        model=MODEL, conversations=another_process(server), conversation_id=conversation
    )


def place(messages):
    """The conversation that the last answer is in."""
    return messages[-1].response_metadata["conversation_id"]


def written_down(messages):
    return messages_from_dict(messages_to_dict(messages))


def without_stamps(messages):
    return [
        HumanMessage(one.text) if isinstance(one, HumanMessage) else AIMessage(one.text)
        for one in messages
    ]


def with_tools(take, chat, *questions):
    """A dialog in which every call is answered."""
    tools, messages = chat.bind_tools([weather]), []
    for question in questions:
        messages.append(HumanMessage(question))
        messages.append(take(tools, messages))
        while messages[-1].tool_calls:
            messages += [weather.invoke(call) for call in messages[-1].tool_calls]
            messages.append(take(tools, messages))
    return messages


# --- Turns ------------------------------------------------------------------------------------


def test_a_chat_whose_whole_list_is_passed_each_time(take, server, bound):
    messages = in_turns(take, bound, 5)
    assert is_exact(server, place(messages), messages)


def test_a_chat_of_new_messages_only(take, server, bound):
    messages = []
    for number in range(5):
        question = HumanMessage(f"question {number}")
        messages += [question, take(bound, [question])]
    assert is_exact(server, place(messages), messages)


def test_a_system_prompt_goes_with_every_turn_and_is_not_stored(take, server, session):
    messages = in_turns(take, session, 2, [SystemMessage("Be brief.")])
    assert [body["instructions"] for body in server.turns] == ["Be brief."] * 2
    assert is_exact(server, place(messages), messages[1:])


def test_a_system_prompt_can_be_stored_instead(take, server, session):
    chat = session.model_copy(update={"system_prompt": "item"})
    messages = in_turns(take, chat, 2, [SystemMessage("Be brief.")])
    assert said(server, place(messages))[0] == "system: Be brief."
    assert is_exact(server, place(messages), messages[1:])
    assert not any(body.get("instructions") for body in server.turns)


def test_an_image_is_stored_and_shown_in_every_turn(take, server, session):
    image = {"type": "image", "url": "https://example.com/a.png"}
    messages = [HumanMessage([{"type": "text", "text": "What is this?"}, image])]
    messages.append(take(session, messages))
    messages = in_turns(take, session, 1, messages)
    assert is_exact(server, place(messages), messages)
    parts = server.turns[-1]["input"][0]["content"]
    assert parts == server.items(place(messages))[0]["content"]
    assert parts[1]["image_url"] == image["url"]


def test_a_list_whose_older_part_was_trimmed_goes_on(take, server, session):
    messages = in_turns(take, session, 3)
    trimmed = trim_messages(
        messages, max_tokens=2, token_counter=len, strategy="last", start_on="human"
    )
    messages.append(HumanMessage("and now?"))
    messages.append(take(session, [*trimmed, messages[-1]]))
    assert is_exact(server, place(messages), messages)


@pytest.mark.parametrize("stamps", [written_down, without_stamps])
def test_another_process_goes_on(take, server, session, stamps):
    messages = in_turns(take, session, 3)
    there = another_process(server, registry=session.conversations.registry)
    there = session.model_copy(update={"conversations": there})
    messages = in_turns(take, there, 2, stamps(messages))
    assert is_exact(server, place(messages), messages)


@pytest.mark.parametrize("stamps", [list, without_stamps])
def test_two_processes_take_turns(take, server, conversation, stamps):
    both, messages = [on(server, conversation) for _ in range(2)], []
    for number in range(6):
        messages.append(HumanMessage(f"question {number}"))
        messages.append(take(both[number % 2], messages))
        messages = stamps(messages)
    assert is_exact(server, conversation, messages)


def test_a_list_from_elsewhere_is_taken_over_by_an_empty_conversation(take, server, session):
    messages = [HumanMessage("a"), AIMessage("b"), HumanMessage("c")]
    messages.append(take(session, messages))
    assert is_exact(server, place(messages), messages)


def test_a_stored_question_without_an_answer_is_taken_back_into_the_turn(
    take, server, hub, conversation
):
    messages = in_turns(take, on(server, conversation), 1)
    hub.run(flows.append, conversation, [Message.of("user", "and now?")])
    messages.append(HumanMessage("and now?"))
    messages.append(take(on(server, conversation), messages))
    assert is_exact(server, conversation, messages)


@pytest.mark.parametrize("number", [1, 25])
def test_a_list_goes_on_behind_what_was_added_by_hand(take, server, hub, conversation, number):
    by_hand = [Message.of(*one) for one in [("user", "hello"), ("assistant", "hi")] * number]
    hub.run(flows.append, conversation, by_hand)
    messages = [HumanMessage("hello"), AIMessage("hi")] * number + [HumanMessage("new")]
    messages.append(take(on(server, conversation), messages))
    assert is_exact(server, conversation, messages)


def test_on_no_conversation_everything_is_sent_and_nothing_stored(take, server, hub):
    messages = in_turns(take, ChatQwenConv(model=MODEL, conversations=hub), 3)
    assert settled(server.shown[-1]) == local_transcript(messages[:-1])
    told = messages[-1].response_metadata
    assert told["decision"] == "stateless"
    assert refused(f"{server.base_url}/responses/{told['response_id']}")[0] == 404


# --- Lists that are no continuation -----------------------------------------------------------

CHANGES = {
    "edited": lambda m: m.__setitem__(0, HumanMessage("edited")),
    "a turn taken out": lambda m: m.__delitem__(slice(2, 4)),
    "gone back": lambda m: m.__delitem__(slice(4, 6)),
}


@pytest.mark.parametrize(
    ("change", "process"), [*((change, "this") for change in CHANGES), ("gone back", "another")]
)
def test_a_changed_list_begins_a_sessions_conversation_anew(take, server, hub, change, process):
    chat = ChatQwenConv(model=MODEL, conversations=hub, session_id="alice")
    old = in_turns(take, chat, 3)
    messages = [*old]
    CHANGES[change](messages)
    if process == "another":
        there = another_process(server, registry=hub.registry)
        chat = chat.model_copy(update={"conversations": there})
    messages = in_turns(take, chat, 2, messages)
    assert is_exact(server, place(messages), messages)
    assert holds(server, place(old), old)
    assert place(messages) != place(old)


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_list_of_a_bare_conversation_is_refused(take, server, conversation, change):
    chat = on(server, conversation)
    old = in_turns(take, chat, 3)
    messages = [*old, HumanMessage("new")]
    CHANGES[change](messages)
    with pytest.raises(errors.DivergedError):
        take(chat, messages)
    assert holds(server, conversation, old)
    take(chat, messages, on_divergence="stateless")
    assert settled(server.shown[-1]) == local_transcript(messages)
    assert holds(server, conversation, old)
    messages = [*old, messages[-1], take(chat, messages, on_divergence="ignore")]
    assert is_exact(server, conversation, messages)


@pytest.mark.parametrize("process", ["this", "another"])
def test_a_conversation_that_was_deleted_is_told(take, server, hub, process):
    chat = ChatQwenConv(model=MODEL, conversations=hub, session_id="alice")
    messages = in_turns(take, chat, 1)
    gone = place(messages)
    another_process(server).run(flows.delete, gone)
    if process == "another":
        hub = another_process(server, registry=hub.registry)
        chat = chat.model_copy(update={"conversations": hub})
    messages.append(HumanMessage("still there?"))
    with pytest.raises(errors.ConversationNotFoundError, match="forget_session"):
        take(chat, messages)
    hub.forget_session("alice")
    messages.append(take(chat, messages))
    assert place(messages) != gone
    assert is_exact(server, place(messages), messages)


# --- Chains of responses ----------------------------------------------------------------------


@pytest.fixture
def chain(hub):
    return ChatQwenConv(model=MODEL, conversations=hub, state="response")


def is_shown(server, messages):
    assert settled(server.shown[-1]) == local_transcript(messages)
    return True


def test_each_turn_of_a_chain_follows_the_response_of_the_last_one(take, server, chain):
    messages = with_tools(take, chain, "one", "weather in Paris and Rome", "three")
    assert is_shown(server, messages[:-1])
    assert messages[-1].response_metadata["decision"] == "chained"
    there = chain.model_copy(update={"conversations": another_process(server)})
    messages = in_turns(take, there, 1, written_down(messages))
    assert is_shown(server, messages[:-1])
    fork = [*messages[:2], HumanMessage("two, otherwise")]
    take(chain, fork)
    assert is_shown(server, fork)


def test_a_chain_whose_response_is_gone_begins_anew(take, server, hub, chain):
    messages = in_turns(take, chain, 2)
    hub.run(flows.send, DeleteResponse(messages[-1].response_metadata["response_id"]))
    messages.append(HumanMessage("three"))
    messages.append(take(chain, messages))
    assert is_shown(server, messages[:-1])
    assert messages[-1].response_metadata["decision"] == "recovered"


# --- Tools and objects ------------------------------------------------------------------------


def test_parallel_calls_and_their_results_are_stored_once(take, server, bound):
    messages = with_tools(take, bound, "weather in Paris and Rome", "hello", "weather in Oslo")
    assert is_exact(server, place(messages), messages)


def test_results_may_come_from_another_process(take, server, session):
    messages = [HumanMessage("weather in Paris and Rome")]
    messages.append(take(session.bind_tools([weather]), messages))
    messages = written_down(messages)
    messages += [weather.invoke(call) for call in messages[-1].tool_calls]
    there = another_process(server, registry=session.conversations.registry)
    there = session.model_copy(update={"conversations": there})
    messages.append(take(there.bind_tools([weather]), messages))
    assert is_exact(server, place(messages), messages)


class Person(BaseModel):
    """A person."""

    name: str


@pytest.mark.parametrize("process", ["this", "another"])
def test_an_object_leaves_the_conversation_usable(take, server, session, process):
    server.script = lambda _context, request: (
        CallTool("Person", {"name": "Bob"}) if request.get("tools") else "His name is Bob."
    )
    messages = [HumanMessage("Bob is here.")]
    found = session.with_structured_output(Person, include_raw=True).invoke(messages)
    assert found["parsed"] == Person(name="Bob")
    if process == "another":
        there = another_process(server, registry=session.conversations.registry)
        session = session.model_copy(update={"conversations": there})
    messages += [found["raw"], HumanMessage("Who is here?")]
    messages.append(take(session, messages))
    conversation = place(messages)
    assert said(server, conversation) == [
        "user: Bob is here.",
        "user: Who is here?",
        "assistant: His name is Bob.",
    ]
    take(session, "And now?")
    assert server.shown[-1] == [*transcript(server.items(conversation))[:-1]]


# --- Histories --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "mode"),
    [*((name, "prompt") for name in TAILS), ("ours", "list"), ("a vendor's", "list")],
)
def test_runs_with_a_history_store_each_message_once(take_any, server, hub, mode, name):
    server.script = lambda _context, _request: "the answer"
    if name.startswith("a vendor's"):
        begun(hub)
    chain = with_history(TAILS[name], mode, hub)
    for _ in range(2):
        take_any(chain, asks(mode, "yes"), CONFIG)
    last = "the vendor's" if "vendor" in name else "the answer"
    last = last.upper() if "changed" in name else last
    assert said(server, of_session(hub)) == ["user: yes", f"assistant: {last}"] * 2
    if name in {"ours", "ours, parsed"}:
        assert server.shown[-1] == [("user", "yes"), ("assistant", last), ("user", "yes")]


@pytest.fixture(params=["sync", "async"])
def by(request):
    """Calls a history's method in one of the two ways."""

    def called(history, name, *args):
        if request.param == "async":
            return asyncio.run(getattr(history, f"a{name}")(*args))
        if name == "get_messages":
            return history.messages
        return getattr(history, name)(*args)

    return called


@pytest.fixture
def history(hub):
    begun(hub)
    return alice(hub)


def alice(hub):
    return QwenConvChatMessageHistory("alice", conversations=hub)


def texts(messages):
    return [message.text for message in messages]


def test_question_model_and_answer_added_by_hand_are_stored_once(server, hub, history, by):
    chat = ChatQwenConv(model=MODEL, conversations=hub, session_id="alice")
    for _ in range(4):
        by(history, "add_messages", [HumanMessage("yes")])
        by(history, "add_messages", [chat.invoke(by(history, "get_messages"))])
    assert is_exact(server, of_session(hub), by(history, "get_messages"))
    assert texts(history.messages)[::2] == ["yes"] * 4


def test_a_history_of_more_messages_than_a_request_and_a_page_take(server, hub, history, by):
    given = [HumanMessage(f"message {number}") for number in range(130)]
    by(history, "add_messages", given)
    assert holds(server, of_session(hub), given)
    there = alice(another_process(server, registry=hub.registry))
    assert texts(by(there, "get_messages")) == texts(given)
    assert texts(by(there, "last_messages", 3)) == texts(given[-3:])
    by(there, "add_messages", [HumanMessage("one more")])
    assert texts(by(history, "get_messages")) == [*texts(given), "one more"]


def test_calls_and_results_written_by_hand_come_back_in_another_process(server, hub, history, by):
    call = {"name": "weather", "args": {"city": "Rome"}, "id": "c1", "type": "tool_call"}
    given = [
        HumanMessage("How is it?"),
        AIMessage("", tool_calls=[call]),
        ToolMessage("It is sunny.", tool_call_id="c1"),
        AIMessage("It is sunny."),
    ]
    by(history, "add_messages", given)
    found = by(alice(another_process(server, registry=hub.registry)), "get_messages")
    assert local_transcript(found) == local_transcript(given)


def test_clear_empties_the_conversation_and_delete_ends_it(server, hub, history, by):
    by(history, "add_messages", [HumanMessage("one"), AIMessage("two"), HumanMessage("three")])
    conversation = of_session(hub)
    first, *_ = server.items(conversation)
    by(history, "delete_message", first["id"])
    assert said(server, conversation) == ["assistant: two", "user: three"]
    by(history, "clear")
    assert server.items(conversation) == []
    by(history, "add_messages", [HumanMessage("anew")])
    assert said(server, conversation) == ["user: anew"]
    by(history, "delete")
    with pytest.raises(errors.ConversationNotFoundError):
        another_process(server).run(flows.read, conversation)
    assert by(history, "get_messages") == []


def test_what_another_process_deleted_at_the_end_is_not_read_any_more(server, hub, history, by):
    """SMG lists from the beginning behind an item that is not there."""
    by(history, "add_messages", [HumanMessage(f"message {number}") for number in range(4)])
    assert len(by(history, "get_messages")) == 4
    there = alice(another_process(server, registry=hub.registry))
    by(there, "delete_message", server.items(of_session(hub))[-1]["id"])
    assert len(by(history, "get_messages")) == 3
    by(history, "add_messages", [HumanMessage("new")])
    assert texts(by(there, "get_messages")) == texts(by(history, "get_messages"))


def test_metadata_is_written_and_read(server, hub, history, by):
    by(history, "add_messages", [HumanMessage("one")])
    by(history, "set_metadata", {"app": "travel", "user": "alice"})
    assert by(history, "get_metadata") == {"app": "travel", "user": "alice"}


# --- Agents -----------------------------------------------------------------------------------

ERRANDS = ["weather in Paris and Rome", "hello", "weather in Oslo", "bye"]


def agrees(server, driven):
    return is_exact(server, driven.conversation, driven.messages)


def test_an_agents_thread_is_a_conversation(server, hub, way):
    driven = Driven(agent_on(hub, system_prompt="Be brief."), way)
    for errand in ERRANDS:
        driven.ask(errand)
    assert agrees(server, driven)
    assert all(body["instructions"] == "Be brief." for body in server.turns)


def test_two_processes_take_turns_on_one_thread(server, way):
    saver = InMemorySaver()
    both = [Driven(agent_on(another_process(server), checkpointer=saver), way) for _ in range(2)]
    for number, errand in enumerate(ERRANDS):
        both[number % 2].ask(errand)
        assert agrees(server, both[number % 2])
    assert both[0].conversation == both[1].conversation


def test_a_thread_goes_on_from_an_older_checkpoint_in_a_conversation_of_its_own(server, hub, way):
    driven = Driven(agent_on(hub), way)
    driven.ask(ERRANDS[0])
    fork, first = driven.agent.get_state(driven.config).config, driven.conversation
    older = driven.ask("two")
    driven.ask("two, otherwise", fork)
    assert agrees(server, driven)
    assert driven.conversation != first
    assert holds(server, first, older)


def test_a_message_of_the_thread_is_edited(server, hub, way):
    driven = Driven(agent_on(hub), way)
    for errand in ERRANDS[:2]:
        driven.ask(errand)
    first = driven.messages[0]
    edited = {"messages": [HumanMessage("edited", id=first.id)]}
    driven.agent.update_state(driven.config, edited)
    driven.ask("what now?")
    assert agrees(server, driven)


def test_older_messages_of_the_thread_that_were_dropped_stay_in_the_conversation(server, hub, way):
    driven = Driven(agent_on(hub), way)
    for errand in ERRANDS[:2]:
        driven.ask(errand)
    whole = driven.messages
    gone = [RemoveMessage(one.id) for one in whole[:-2]]
    driven.agent.update_state(driven.config, {"messages": gone})
    driven.ask("what now?")
    assert is_exact(server, driven.conversation, [*whole, *driven.messages[-2:]])


@pytest.mark.parametrize("process", ["this", "another"])
def test_a_thread_whose_conversation_was_deleted_is_begun_anew(server, hub, way, process):
    saver = InMemorySaver()
    driven = Driven(agent_on(hub, checkpointer=saver), way)
    driven.ask(ERRANDS[0])
    gone = driven.conversation
    another_process(server).run(flows.delete, gone)
    if process == "another":
        driven = Driven(agent_on(another_process(server), checkpointer=saver), way)
    driven.ask("and now?")
    assert driven.conversation != gone
    assert agrees(server, driven)


def test_an_agent_on_a_chain_of_responses_needs_no_middleware(server, chain, way):
    driven = Driven(create_agent(chain, tools=[weather], checkpointer=InMemorySaver()), way)
    for errand in ERRANDS:
        driven.ask(errand)
    assert is_shown(server, driven.messages[:-1])


# --- Failures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", FAILURES)
def test_a_turn_that_failed_is_asked_again_and_stored_once(take, server, session, model, failure):
    answer, error = FAILURES[failure]
    messages = in_turns(take, session, 1)
    messages.append(HumanMessage("are you there?"))
    server.script = lambda _context, _request: [Say("I am"), answer]
    with pytest.raises(error):
        take(session, messages)
    server.script = model
    messages.append(take(session, messages))
    messages = in_turns(take, session, 1, messages)
    assert is_exact(server, place(messages), messages)


@pytest.mark.parametrize("failure", ["500", "in the middle of a stream"])
def test_an_agents_step_that_failed_is_asked_again(server, hub, way, model, failure):
    answer, error = FAILURES[failure]
    driven = Driven(agent_on(hub), way)
    driven.ask("weather in Paris")
    server.script = lambda _context, _request: [Say("I am"), answer]
    with pytest.raises(error):
        driven.ask("are you there?")
    server.script = model
    driven.ask("and now?")
    assert settled(server.shown[-1]) == local_transcript(driven.messages[:-1])
    assert agrees(server, driven)


def begin_to_read(way, chat, messages):
    """Reads the first chunk of a stream, and leaves it."""
    if way == "stream":
        stream = chat.stream(messages)
        next(stream)
        stream.close()
        return

    async def first():
        stream = chat.astream(messages)
        await anext(stream)
        await stream.aclose()

    asyncio.run(first())


LEFT = pytest.mark.parametrize("left", ["stream", "astream"])


@LEFT
@pytest.mark.parametrize("follows", ["a list without it", "the same list", "a new message only"])
def test_a_stream_that_was_left_is_stored_when_the_model_has_ended(server, session, left, follows):
    messages = in_turns(invoke, session, 1)
    conversation = place(messages)
    question = HumanMessage("tell me more")
    with server.late():
        begin_to_read(left, session, [*messages, question])
        assert len(server.items(conversation)) == 3
    eventually(lambda: len(server.items(conversation)) == 6)
    lost = [question, AIMessage("answer 2")]
    messages += {"the same list": [question], "a new message only": lost}.get(follows, [])
    if follows != "the same list":
        messages.append(HumanMessage("something else"))
    passed = messages[-1:] if follows == "a new message only" else messages
    messages.append(session.invoke(passed))
    assert is_exact(server, conversation, messages)
    messages = in_turns(invoke, session, 1, messages)
    assert is_exact(server, conversation, messages)


def test_a_stream_that_was_left_may_be_stored_while_the_next_turn_looks(server, session):
    messages = in_turns(invoke, session, 1)
    with server.late() as release:
        begin_to_read("stream", session, [*messages, HumanMessage("tell me more")])
        timer = threading.Timer(0.3, release)
        timer.start()
        messages.append(HumanMessage("something else"))
        try:
            messages.append(session.invoke(messages))
        finally:
            timer.join()
    messages = in_turns(invoke, session, 2, messages)
    assert is_exact(server, place(messages), messages)


@pytest.fixture
def relay(server):
    with relayed(server.base_url) as relay:
        relay.clock = server.clock
        yield relay


def test_an_answer_that_was_lost_is_found(take, server, relay, conversation):
    chat = on(relay, conversation)
    messages = [*in_turns(take, chat, 1), HumanMessage("are you there?")]
    relay.faults = [lost]
    messages.append(take(chat, messages))
    assert is_exact(server, conversation, messages)
