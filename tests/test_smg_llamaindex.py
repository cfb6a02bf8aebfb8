"""LlamaIndex on SMG, which nobody here wrote: each message is stored once, and the model is shown it.

What is asserted is what SMG lists afterwards, and what it showed the model. A key whose first
messages a store writes, and no turn, is bound to an empty conversation before (`begun`).
"""

import asyncio

import pytest
from conftest import always, another_process, eventually, said
from llama import KEY, llm_on, memory_on, scripted
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_llm import COMPLETIONS, STREAMS, WAYS, WEATHER
from llama_store import WAYS as STORE_WAYS
from llama_store import Driven, assistant, calling, numbered, place, result, texts, user
from lossy import lost, relayed
from pydantic import BaseModel
from smg_server import FAILURES, begun, server
from test_llama_engines import ERRANDS, KINDS, QUESTIONS, shapes, shapes_of, spoken
from test_llama_llm_bound import SYSTEM, conversation_of, dialog, dumped

from benchmarks.engines import AGENTS, ENGINES, ask, made, run
from benchmarks.engines import WAYS as ENGINE_WAYS
from qwen_conv import errors, flows
from qwen_conv.offline import CallTool, Fail, Say


@pytest.fixture(autouse=True)
def _scripted(server):
    server.script = scripted


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(params=["chat", "astream_chat"])
def way(request):
    """Asks an LLM in one of the four ways; the answer."""
    return WAYS[request.param]


@pytest.fixture(params=["conversation_id", "session_id"])
def bound(request, hub):
    """An LLM that is bound in one of the two ways."""
    if request.param == "session_id":
        return request.getfixturevalue("session")
    return llm_on(hub, conversation_id=hub.run(flows.create).id)


@pytest.fixture
def session(hub):
    """An LLM on a session."""
    return llm_on(hub, session_id=KEY)


def in_another_process(server, llm):
    there = another_process(server, registry=llm.conversations.registry)
    return llm.model_copy(update={"conversations": there})


def is_exact(server, conversation, messages):
    """Whether SMG lists these messages, each once, and showed the model all but the last."""
    stored = said(server, conversation)
    assert stored == spoken(one for one in messages if one.role != "system")
    assert [f"{role}: {text}" for role, text in server.shown[-1]] == stored[:-1]
    return True


# --- Chat engines and agents, with both memories ----------------------------------------------


@pytest.mark.parametrize("how", ENGINE_WAYS)
def test_a_chat_is_written_once_and_shown_to_the_model(hub, server, kind, how):
    engine = made("SimpleChatEngine", how, llm_on(hub), memory_on(hub, kind))
    for question in QUESTIONS:
        ask(engine, how, question)
    hub.close()
    assert is_exact(server, place(hub), engine.chat_history)
    assert said(server, place(hub))[::2] == [f"user: {question}" for question in QUESTIONS]
    assert all(body["instructions"] == "Answer briefly." for body in server.turns)


@pytest.mark.parametrize("name", [name for name in ENGINES if name != "SimpleChatEngine"])
def test_an_engine_with_prompts_of_its_own_writes_each_message_once(hub, server, name, kind):
    conversation = begun(hub)
    engine = made(name, "chat", llm_on(hub), memory_on(hub, kind))
    for question in QUESTIONS:
        engine.chat(question)
    hub.close()
    assert said(server, conversation) == spoken(engine.chat_history)
    assert said(server, conversation)[::2] == [f"user: {question}" for question in QUESTIONS]


@pytest.mark.parametrize(("kind", "streaming"), [*zip(KINDS, [False, True], strict=True)])
@pytest.mark.parametrize("name", AGENTS)
def test_an_agent_writes_each_message_once(hub, server, name, kind, streaming):
    memory = memory_on(hub, kind)
    agent = AGENTS[name](llm_on(hub), streaming=streaming)
    for errand in ERRANDS:
        asyncio.run(run(agent, errand, memory))
    hub.close()
    assert shapes(server, hub) == [shape for one in memory.get_all() for shape in shapes_of(one)]
    questions = [line for line in said(server, place(hub)) if line.startswith("user")]
    assert questions == [f"user: {errand}" for errand in ERRANDS]


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
def test_the_results_of_parallel_calls_are_stored_once(hub, server, kind, streaming):
    def script(context, _request):
        if context[-1]["type"] == "function_call_output":
            return "Both are sunny."
        return [CallTool("weather", {"city": city}, f"call_{city}") for city in ("Rome", "Oslo")]

    server.script = script
    memory = memory_on(hub, kind)
    agent = AGENTS["FunctionAgent"](llm_on(hub), streaming=streaming)
    asyncio.run(run(agent, "Rome and Oslo?", memory))
    assert [one[:2] for one in server.shown[-1]] == [
        ("user", "Rome and Oslo?"),
        ("call", "call_Rome"),
        ("call", "call_Oslo"),
        ("result", "call_Rome"),
        ("result", "call_Oslo"),
    ]
    hub.close()
    assert shapes(server, hub) == [shape for one in memory.get_all() for shape in shapes_of(one)]


def test_two_processes_take_turns_on_one_key(hub, server, kind):
    there = another_process(server, registry=hub.registry)
    both = [
        made("SimpleChatEngine", "chat", llm_on(each), memory_on(each, kind, freshness="turn"))
        for each in (hub, there)
    ]
    for number in range(6):
        both[number % 2].chat(f"Question {number}?")
    hub.close()
    there.close()
    assert is_exact(server, place(hub), both[1].chat_history)
    assert len(both[1].chat_history) == 12


def test_an_engine_goes_on_in_another_process(hub, server, kind):
    made("SimpleChatEngine", "chat", llm_on(hub), memory_on(hub, kind)).chat("One?")
    hub.close()
    there = another_process(server, registry=hub.registry)
    engine = made("SimpleChatEngine", "chat", llm_on(there), memory_on(there, kind))
    engine.chat("Two?")
    assert is_exact(server, place(hub), engine.chat_history)
    assert len(engine.chat_history) == 4


def test_a_reset_engine_begins_anew(hub, server, kind):
    engine = made("SimpleChatEngine", "chat", llm_on(hub), memory_on(hub, kind))
    engine.chat("Old question?")
    engine.reset()
    engine.chat("New question?")
    assert is_exact(server, place(hub), engine.chat_history)
    assert len(engine.chat_history) == 2


def test_an_object_of_an_agent_never_reaches_the_conversation(hub, server):
    class Verdict(BaseModel):
        """What came of it."""

        sunny: bool

    def script(context, request):
        if any(tool["name"] == "Verdict" for tool in request.get("tools") or ()):
            return CallTool("Verdict", {"sunny": True})
        return scripted(context, request)

    server.script = script
    memory = memory_on(hub, "Memory")
    agent = AGENTS["FunctionAgent"](llm_on(hub), streaming=False)
    agent.output_cls = Verdict

    async def whole():
        return await agent.run(user_msg="How is the weather in Rome?", memory=memory)

    assert asyncio.run(whole()).structured_response == {"sunny": True}
    hub.close()
    assert shapes(server, hub) == [shape for one in memory.get_all() for shape in shapes_of(one)]
    assert len(memory.get_all()) == 4


# --- An LLM on a conversation -----------------------------------------------------------------


def test_a_chat_whose_whole_list_is_passed_each_time(way, server, bound):
    messages = dialog(way, bound)
    assert is_exact(server, conversation_of(bound), messages)
    assert {body["instructions"] for body in server.turns} == {SYSTEM.content}


def test_a_chat_of_new_messages_only(way, server, bound):
    messages = []
    for question in QUESTIONS:
        messages += [ChatMessage(question), way(bound, question).message]
    assert is_exact(server, conversation_of(bound), messages)


@pytest.mark.parametrize("kept", [list, dumped])
def test_another_process_goes_on(way, server, session, kept):
    messages = dialog(way, session, QUESTIONS[:2])
    there = in_another_process(server, session)
    messages = dialog(way, there, QUESTIONS[2:], kept(messages))
    assert is_exact(server, conversation_of(session), messages)


def test_two_processes_take_turns_on_one_conversation(way, server, session):
    both, messages = [session, in_another_process(server, session)], [SYSTEM]
    for number, question in enumerate(QUESTIONS):
        dialog(way, both[number % 2], [question], messages)
    assert is_exact(server, conversation_of(session), messages)


def test_a_changed_list_is_asked_on_no_conversation_or_in_a_new_one(way, server, hub, session):
    old = dialog(way, session)
    first = conversation_of(session)
    messages = [*old[:2], ChatMessage("It is green.", role="assistant"), *old[3:]]
    messages.append(ChatMessage("go on"))
    assert way(session, messages).additional_kwargs["decision"] == "stateless"
    assert [f"{role}: {text}" for role, text in server.shown[-1]] == spoken(messages[1:])
    messages.append(way(llm_on(hub, session_id=KEY, on_divergence="rebase"), messages).message)
    assert conversation_of(session) != first
    assert is_exact(server, conversation_of(session), messages)
    assert said(server, first) == spoken(old[1:])


def test_a_round_of_tools(way, server, session):
    messages = [ChatMessage("How is the weather?")]
    messages.append(way(session, messages, tools=[WEATHER]).message)
    (call_id,) = [one.tool_call_id for one in messages[-1].blocks if one.block_type == "tool_call"]
    messages.append(ChatMessage("sunny", role="tool", additional_kwargs={"tool_call_id": call_id}))
    messages.append(way(session, messages, tools=[WEATHER]).message)
    assert messages[-1].content.startswith("sunny")
    assert server.shown[-1][-1] == ("result", call_id, "sunny")
    stored = [item.get("role") or item["type"] for item in server.items(conversation_of(session))]
    assert stored == [shape for one in messages for shape in shapes_of(one)]


@pytest.mark.parametrize("how", COMPLETIONS)
def test_prompts_are_no_part_of_the_conversation(server, session, how):
    messages = dialog(WAYS["chat"], session, QUESTIONS[:1])
    COMPLETIONS[how](session, "Complete this.")
    assert server.shown[-1] == [("user", "Complete this.")]
    server.script = always(CallTool("Person", {"name": "Bob"}))
    found = session.structured_predict(Person, PromptTemplate("Who is it?"))
    assert found == Person(name="Bob")
    server.script = scripted
    dialog(WAYS["chat"], session, QUESTIONS[1:], messages)
    assert is_exact(server, conversation_of(session), messages)


class Person(BaseModel):
    """A person."""

    name: str


def test_a_conversation_that_was_deleted_is_told(way, server, hub, session):
    messages = dialog(way, session, QUESTIONS[:1])
    another_process(server).run(flows.delete, conversation_of(session))
    with pytest.raises(errors.ConversationNotFoundError, match="forget_session"):
        dialog(way, session, ["go on"], [*messages])
    hub.forget_session(KEY)
    dialog(way, session, ["go on"], messages)
    assert is_exact(server, conversation_of(session), messages)


# --- Stores on their own ----------------------------------------------------------------------


@pytest.fixture(params=STORE_WAYS)
def store(request, hub):
    begun(hub)
    return Driven(request.param, conversations=hub)


def elsewhere(server, store):
    there = another_process(server, registry=store.hub.registry)
    return Driven(store.way, conversations=there)


def test_messages_are_written_read_replaced_and_deleted(server, store):
    for message in (user("one"), assistant("two"), user("three")):
        store.add_message(KEY, message)
    assert said(server, place(store.hub)) == ["user: one", "assistant: two", "user: three"]
    assert texts(elsewhere(server, store).get_messages(KEY)) == ["one", "two", "three"]
    store.delete_message(KEY, 1)
    assert said(server, place(store.hub)) == ["user: one", "user: three"]
    store.set_messages(KEY, [user("one"), assistant("anew")])
    assert said(server, place(store.hub)) == ["user: one", "assistant: anew"]
    assert texts(elsewhere(server, store).get_messages(KEY)) == ["one", "anew"]
    gone = place(store.hub)
    store.delete_messages(KEY)
    assert store.get_messages(KEY) == []
    with pytest.raises(errors.ConversationNotFoundError):
        store.hub.run(flows.read, gone)


def test_more_messages_than_a_request_and_a_page_take(server, store):
    given = numbered(130)
    store.set_messages(KEY, given)
    assert said(server, place(store.hub)) == spoken(given)
    assert store.get_messages(KEY) == given
    assert texts(elsewhere(server, store).get_messages(KEY)) == texts(given)


def test_calls_and_results_come_back_in_another_process(server, store):
    given = [user("How is it?"), calling(), result(), assistant("It is sunny.")]
    store.set_messages(KEY, given)
    assert elsewhere(server, store).get_messages(KEY) == given


@pytest.mark.parametrize("freshness", ["owned", "turn", 0])
@pytest.mark.parametrize("how", STORE_WAYS)
def test_two_processes_write_each_message_once(server, hub, how, freshness):
    conversation, expected = begun(hub), []
    there = another_process(server, registry=hub.registry)
    both = [Driven(how, conversations=each, freshness=freshness) for each in (hub, there)]
    for number in range(6):
        both[number % 2].add_message(KEY, user(f"question {number}"))
        both[number % 2].add_message(KEY, assistant(f"answer {number}"))
        expected += [f"user: question {number}", f"assistant: answer {number}"]
    assert said(server, conversation) == expected
    assert len(elsewhere(server, both[0]).get_messages(KEY)) == 12


@pytest.mark.parametrize("freshness", ["turn", 0])
@pytest.mark.parametrize("how", STORE_WAYS)
def test_what_another_process_deleted_at_the_end_is_not_read_any_more(server, hub, how, freshness):
    """SMG lists from the beginning behind an item that is not there."""
    begun(hub)
    there = another_process(server, registry=hub.registry)
    here, there = [Driven(how, conversations=each, freshness=freshness) for each in (hub, there)]
    for message in numbered(4):
        here.add_message(KEY, message)
    there.delete_message(KEY, 3)
    here.add_message(KEY, user("new"))
    expected = [*texts(numbered(3)), "new"]
    assert texts(here.get_messages(KEY)) == expected
    assert texts(elsewhere(server, here).get_messages(KEY)) == expected


# --- Failures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", FAILURES)
def test_a_turn_that_failed_is_asked_again_and_stored_once(way, server, session, failure):
    answer, error = FAILURES[failure]
    messages = dialog(way, session, QUESTIONS[:2])
    server.script = always([Say("I am"), answer])
    with pytest.raises(error):
        dialog(way, session, ["still there?"], [*messages])
    server.script = scripted
    dialog(way, session, ["still there?", "and now?"], messages)
    assert is_exact(server, conversation_of(session), messages)


@pytest.mark.parametrize("failure", ["500", "in the middle of a stream"])
@pytest.mark.parametrize("how", ["chat", "achat"])
def test_an_engines_question_that_failed_stays_and_is_written_once(server, hub, kind, how, failure):
    answer, error = FAILURES[failure]
    engine = made("SimpleChatEngine", how, llm_on(hub), memory_on(hub, kind))
    ask(engine, how, "Zero?")
    server.script = always([Say("I am"), answer])
    with pytest.raises(error):
        ask(engine, how, "One?")
    server.script = scripted
    ask(engine, how, "Two?")
    hub.close()
    assert is_exact(server, place(hub), engine.chat_history)
    assert said(server, place(hub))[2:4] == ["user: One?", "user: Two?"]


def begin_to_read(how, llm, messages):
    """Reads the first piece of a stream, and leaves it."""
    if how == "stream_chat":
        pieces = llm.stream_chat(messages)
        next(pieces)
        pieces.close()
        return

    async def first():
        pieces = await llm.astream_chat(messages)
        await anext(pieces)
        await pieces.aclose()

    asyncio.run(first())


@pytest.mark.parametrize("how", STREAMS)
def test_a_stream_that_was_left_is_taken_back_and_its_question_asked_with_the_next(
    hub, server, kind, how
):
    llm, memory = llm_on(hub), memory_on(hub, kind)
    memory.put(user("One?"))
    with server.late():
        begin_to_read(how, llm, memory.get())
        assert server.items(place(hub)) == []
    eventually(lambda: len(server.items(place(hub))) == 2)
    memory.put(user("Two?"))
    memory.put(llm.chat(memory.get()).message)
    hub.close()
    assert is_exact(server, place(hub), memory.get_all())
    assert len(memory.get_all()) == 3


def test_an_answer_that_was_lost_is_found(way, server, hub):
    conversation = hub.run(flows.create).id
    with relayed(server.base_url) as relay:
        relay.clock = server.clock
        llm = llm_on(another_process(relay), conversation_id=conversation)
        messages = dialog(way, llm, QUESTIONS[:2])
        relay.faults = [lost]
        dialog(way, llm, ["still there?", "and now?"], messages)
    assert is_exact(server, conversation, messages)
