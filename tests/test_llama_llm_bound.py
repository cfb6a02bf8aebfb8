"""An LLM that is told its conversation or session: each turn sends what is new, prompts go beside."""

import asyncio
import inspect
import threading

import pytest
from conftest import MODEL, always, another_process, asked, said
from llama import scripted
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock
from llama_index.core.prompts import PromptTemplate
from llama_index.core.types import PydanticProgramMode
from llama_llm import COMPLETIONS, NOW, WAYS, WEATHER, calls_of
from pydantic import BaseModel

from llamaindex_qwen_conv import QwenConv, QwenConvChatStore
from qwen_conv import errors, flows
from qwen_conv.offline import CallTool, OfflineServer, Think

SYSTEM = ChatMessage("Answer briefly.", role="system")
QUESTIONS = ["The sky is blue.", "Is it?", "yes", "yes"]


class Person(BaseModel):
    """A person."""

    name: str


@pytest.fixture(params=WAYS)
def ask(request):
    """Asks in one of the four ways; the answer."""
    return WAYS[request.param]


@pytest.fixture(params=["conversation_id", "session_id"])
def bound(request, hub, server):
    """An LLM that is bound in one of the two ways."""
    if request.param == "session_id":
        return llm_on(hub, session_id="alice")
    conversation = hub.run(flows.create).id
    server.requests.clear()
    return llm_on(hub, conversation_id=conversation)


def llm_on(hub, **settings):
    return QwenConv(model=MODEL, conversations=hub, **settings)


def conversation_of(llm):
    hub = llm.conversations
    return llm.conversation_id or hub.registry.get(hub.session(llm.session_id)).conversation_id


def dialog(ask, llm, questions=QUESTIONS, messages=None):
    """Asks question by question; the whole list, with the answers."""
    messages = [SYSTEM] if messages is None else messages
    for question in questions:
        messages.append(ChatMessage(question))
        messages.append(ask(llm, messages).message)
    return messages


def spoken(messages):
    return [f"{one.role.value}: {one.content}" for one in messages if one.role != "system"]


def dumped(messages):
    """The list as a database gives it back."""
    return [ChatMessage.model_validate_json(message.model_dump_json()) for message in messages]


def sent(server):
    """What the turns sent, and where to."""
    turns = [request.body for request in server.requests if request.path == "/responses"]
    return [(turn["input"], turn.get("conversation")) for turn in turns]


# --- Only what is new is sent -----------------------------------------------------------------


def test_each_turn_sends_its_question_and_everything_is_there_once(ask, server, bound):
    messages = dialog(ask, bound)
    conversation = conversation_of(bound)
    assert sent(server) == [(question, conversation) for question in QUESTIONS]
    assert {
        request.body["instructions"] for request in server.requests if request.body.get("input")
    } == {"Answer briefly."}
    assert not any("store" in (request.body or {}) for request in server.requests)
    assert said(server, conversation) == spoken(messages)


def test_a_turn_is_one_request(ask, server, bound):
    dialog(ask, bound)
    first = ["POST /conversations"] if bound.session_id else []
    assert asked(server) == first + ["POST /responses"] * 4


def test_ways_of_asking_can_be_mixed(server, bound):
    messages = [SYSTEM]
    for way, question in zip(WAYS, QUESTIONS, strict=True):
        dialog(WAYS[way], bound, [question], messages)
    assert [question for question, _ in sent(server)] == QUESTIONS
    assert said(server, conversation_of(bound)) == spoken(messages)


def test_only_the_new_messages_do_as_well(ask, server, bound):
    answers = [ask(bound, question) for question in QUESTIONS]
    assert {answer.additional_kwargs["decision"] for answer in answers} == {"attached"}
    assert len(said(server, conversation_of(bound))) == 8


def test_the_older_part_of_the_list_may_be_missing(ask, server, bound):
    messages = dialog(ask, bound)
    server.requests.clear()
    answer = ask(bound, [*messages[-2:], ChatMessage("go on")])
    assert answer.additional_kwargs["decision"] == "attached"
    assert sent(server) == [("go on", conversation_of(bound))]


def test_a_list_that_is_read_back_later_goes_on(ask, server, bound):
    messages = dialog(ask, bound)
    server.requests.clear()
    answer = ask(bound, [*dumped(messages), ChatMessage("go on")])
    assert answer.additional_kwargs["decision"] == "attached"
    assert sent(server) == [("go on", conversation_of(bound))]
    assert asked(server) == ["POST /responses"]  # this process saw what it holds


@pytest.mark.parametrize("kept", ["references", "texts"])
def test_it_goes_on_in_another_process_as_well(ask, server, hub, bound, kept):
    messages = dialog(ask, bound)
    messages = dumped(messages) if kept == "texts" else messages
    there = another_process(server, registry=hub.registry)
    llm = llm_on(there, conversation_id=bound.conversation_id, session_id=bound.session_id)
    server.requests.clear()
    messages = dialog(ask, llm, ["go on", "and on"], messages)
    assert [question for question, _ in sent(server)] == ["go on", "and on"]
    assert asked(server).count("GET /conversations/*/items") == 1
    assert said(server, conversation_of(bound)) == spoken(messages)


def test_a_message_is_not_marked(ask, bound):
    (_, _, answer) = dialog(ask, bound, ["hi"])
    assert answer == ChatMessage(answer.content, role="assistant")
    assert answer.model_dump() == dumped([answer])[0].model_dump()
    assert repr(answer) == repr(dumped([answer])[0])


def test_images_and_thoughts_do_not_hinder(ask, server, hub):
    server.script = always([Think("what may that be?"), "A cat."])
    llm = llm_on(hub, session_id="alice")
    image = ImageBlock(image=b"\x89PNG\r\n\x1a\n and so on", image_mimetype="image/png")
    messages = [ChatMessage(blocks=[TextBlock(text="What is it?"), image])]
    messages.append(ask(llm, messages).message)
    server.requests.clear()
    messages = dialog(ask, llm, ["Sure?"], messages)
    assert [question for question, _ in sent(server)] == ["Sure?"]
    assert messages[1].blocks[0].content == "what may that be?"


def test_a_round_of_tools_sends_the_results_alone(ask, server, hub):
    server.script = scripted
    llm = llm_on(hub, session_id="alice")
    messages = [ChatMessage("How is the weather?")]
    calling = ask(llm, messages, tools=[WEATHER])
    ((call_id, _, _),) = calls_of(calling)
    server.requests.clear()
    messages.append(calling.message)
    messages.append(ChatMessage("sunny", role="tool", additional_kwargs={"tool_call_id": call_id}))
    answer = ask(llm, messages, tools=[WEATHER])
    assert answer.message.content.startswith("sunny")
    ((given, _),) = sent(server)
    assert [one["type"] for one in given] == ["function_call_output"]


@pytest.mark.parametrize("lone_output", ["accepted", "pair_required", "pair_refused"])
@pytest.mark.parametrize("stored_items", ["all", "messages"])
def test_a_call_without_a_result_does_not_bar_the_next_turn(ask, lone_output, stored_items):
    script = always([CallTool("now", {}, "c1"), CallTool("now", {}, "c2")])
    with OfflineServer(script, lone_output=lone_output, stored_items=stored_items) as server:
        llm = llm_on(another_process(server), session_id="alice")
        messages = [ChatMessage("What time is it?")]
        messages.append(ask(llm, messages, tools=[NOW]).message)
        server.script = always("fine")
        messages.append(ChatMessage("Never mind."))
        answer = ask(llm, messages)
        assert answer.message.content == "fine"
        assert answer.additional_kwargs["decision"] == "attached"


def test_that_it_does_can_be_asked_for(ask, server, hub):
    server.script = always(CallTool("now", {}, "c1"))
    llm = llm_on(hub, session_id="alice", on_unanswered_call="raise")
    messages = [ChatMessage("What time is it?")]
    messages += [ask(llm, messages, tools=[NOW]).message, ChatMessage("Never mind.")]
    with pytest.raises(errors.UnansweredCallError):
        ask(llm, messages)


# --- What does not continue it ----------------------------------------------------------------


def diverged(ask, llm):
    """A list whose first answer was changed since, with a new question behind."""
    messages = dialog(ask, llm)
    changed = [*messages[:2], ChatMessage("It is green.", role="assistant"), *messages[3:]]
    return [*changed, ChatMessage("go on")]


def test_by_default_it_is_sent_whole_on_no_conversation(ask, server, bound):
    messages = diverged(ask, bound)
    before = said(server, conversation_of(bound))
    answer = ask(bound, messages)
    assert answer.additional_kwargs["decision"] == "stateless"
    assert "conversation_id" not in answer.additional_kwargs
    assert len(server.requests[-1].body["input"]) == 9
    assert server.requests[-1].body["store"] is False
    assert said(server, conversation_of(bound)) == before


def with_policy(llm, policy):
    return llm.model_copy(update={"on_divergence": policy})


def test_it_can_be_refused(ask, server, bound):
    messages = diverged(ask, bound)
    server.requests.clear()
    with pytest.raises(errors.DivergedError, match="messages do not continue") as raised:
        ask(with_policy(bound, "raise"), messages)
    assert raised.value.conversation_id == conversation_of(bound)
    assert sent(server) == []


def test_what_is_new_can_be_sent_all_the_same(ask, server, bound):
    messages = diverged(ask, bound)
    answer = ask(with_policy(bound, "ignore"), messages)
    assert answer.additional_kwargs["decision"] == "attached"
    assert sent(server)[-1] == ("go on", conversation_of(bound))


def test_a_session_can_begin_a_new_conversation_from_the_list(ask, server, hub):
    llm = llm_on(hub, session_id="alice")
    messages = diverged(ask, llm)
    old = conversation_of(llm)
    rebasing = with_policy(llm, "rebase")
    answer = ask(rebasing, messages)
    assert answer.additional_kwargs["decision"] == "rebased"
    assert conversation_of(llm) == answer.additional_kwargs["conversation_id"] != old
    messages.append(answer.message)
    assert said(server, conversation_of(llm)) == spoken(messages)
    dialog(ask, rebasing, ["and on"], messages)
    assert sent(server)[-1] == ("and on", conversation_of(llm))


def test_a_way_out_that_does_not_exist_is_refused(hub):
    with pytest.raises(ValueError, match="'rebase', 'raise', 'ignore' or 'stateless'"):
        llm_on(hub, session_id="alice", on_divergence="fork")


def test_answers_of_another_conversation_are_not_taken_for_this_ones(ask, server, hub):
    there, here = llm_on(hub, session_id="there"), llm_on(hub, session_id="here")
    elsewhere = dialog(ask, there, ["one"])
    dialog(ask, here, ["two"])
    answer = ask(here, [*elsewhere, ChatMessage("three")])
    assert answer.additional_kwargs["decision"] == "stateless"
    assert len(said(server, conversation_of(here))) == 2
    assert len(said(server, conversation_of(there))) == 2


# --- What selects a conversation --------------------------------------------------------------


def test_both_ways_of_naming_a_conversation_at_once_are_refused(hub):
    with pytest.raises(errors.UsageError, match="not both"):
        llm_on(hub, conversation_id="conv_1", session_id="alice")


@pytest.mark.parametrize("given", ["alice", "conv 1", "conv_", "conv_../x", ""])
def test_what_is_no_conversations_id_is_refused(hub, given):
    with pytest.raises(errors.UsageError, match="is not a conversation id"):
        llm_on(hub, conversation_id=given)


def test_what_cannot_name_a_session_is_refused(hub):
    with pytest.raises(errors.UsageError, match="session_id is"):
        llm_on(hub, session_id="")


def test_a_bare_conversation_has_no_key_to_bind_to_a_new_one(hub):
    with pytest.raises(errors.UsageError, match="session_id"):
        llm_on(hub, conversation_id="conv_1", on_divergence="rebase")


def test_a_conversation_that_is_not_there_is_told(ask, server, hub):
    with pytest.raises(errors.ConversationNotFoundError):
        ask(llm_on(hub, conversation_id="conv_unknown"), "hi")
    assert sent(server) == []


def test_nothing_in_a_message_selects_a_conversation(ask, server, hub):
    messages = dialog(ask, llm_on(hub, session_id="alice"))
    answer = ask(llm_on(hub), [*messages, ChatMessage("go on")])
    assert answer.additional_kwargs["decision"] == "stateless"
    assert server.requests[-1].body["store"] is False


def test_two_models_on_one_hub_do_not_see_each_other(ask, server, hub):
    alice, bob = llm_on(hub, session_id="alice"), llm_on(hub, session_id="bob")
    of_alice, of_bob = [], []
    for question in QUESTIONS:  # the same to both
        of_alice = dialog(ask, alice, [question], of_alice)
        of_bob = dialog(ask, bob, [question], of_bob)
    assert conversation_of(alice) != conversation_of(bob)
    assert said(server, conversation_of(alice)) == spoken(of_alice)
    assert said(server, conversation_of(bob)) == spoken(of_bob)


def test_two_models_of_one_session_go_on_with_each_others_turns(ask, server, hub):
    messages = []
    for question in QUESTIONS:
        messages = dialog(ask, llm_on(hub, session_id="alice"), [question], messages)
    assert [question for question, _ in sent(server)] == QUESTIONS


def test_turns_at_once_come_one_after_the_other(server, hub):
    llm = llm_on(hub, session_id="alice")

    async def at_once():
        async with asyncio.TaskGroup() as tasks:
            for question in QUESTIONS:
                tasks.create_task(llm.achat([ChatMessage(question)]))

    asyncio.run(at_once())
    threads = [threading.Thread(target=llm.chat, args=([ChatMessage("hi")],)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = said(server, conversation_of(llm))
    assert [line.partition(":")[0] for line in told] == ["user", "assistant"] * 8
    assert sorted(told[::2]) == sorted(
        [f"user: {question}" for question in QUESTIONS] + ["user: hi"] * 4
    )


# --- Every ordinary way of calling ------------------------------------------------------------


def test_a_dialog_goes_on_from_one_event_loop_to_the_next(server, hub):
    llm = llm_on(hub, session_id="alice")
    messages = []
    for _ in range(3):
        messages = dialog(WAYS["achat"], llm, ["hi"], messages)  # each in a loop of its own
        messages = dialog(WAYS["astream_chat"], llm, ["hi"], messages)
    assert said(server, conversation_of(llm)) == spoken(messages)


def test_it_is_called_inside_a_running_loop_as_in_a_notebook(server, hub):
    llm = llm_on(hub, session_id="alice")

    async def notebook():
        messages = dialog(WAYS["chat"], llm, ["one"])
        messages = dialog(WAYS["stream_chat"], llm, ["two"], messages)
        messages.append(ChatMessage("three"))
        return [*messages, (await llm.achat(messages)).message]

    messages = asyncio.run(notebook())
    assert said(server, conversation_of(llm)) == spoken(messages)


def test_a_stream_that_one_thread_began_is_read_by_another(server, hub):
    llm = llm_on(hub, session_id="alice")
    pieces = llm.stream_chat([ChatMessage("The sky is blue.")])
    received = []
    thread = threading.Thread(target=lambda: received.extend(pieces))
    thread.start()
    thread.join()
    messages = [ChatMessage("The sky is blue."), received[-1].message]
    dialog(WAYS["chat"], llm, ["Is it?"], messages)
    assert [question for question, _ in sent(server)] == ["The sky is blue.", "Is it?"]


# --- Prompts ----------------------------------------------------------------------------------

TEMPLATE = PromptTemplate("Who is {who}?")


def drained(llm, name, *args, **kwargs):
    """Calls a method, and reads what it gives to the end."""
    made = getattr(llm, name)(*args, **kwargs)
    if not inspect.iscoroutine(made):
        return [*made] if hasattr(made, "__next__") else made

    async def to_the_end():
        value = await made
        return [each async for each in value] if hasattr(value, "__anext__") else value

    return asyncio.run(to_the_end())


PROMPTS = {
    **dict.fromkeys(COMPLETIONS, (("Who is Alice?",), {})),
    **dict.fromkeys(["predict", "apredict", "stream", "astream"], ((TEMPLATE,), {"who": "Alice"})),
    **dict.fromkeys(
        [
            "structured_predict",
            "astructured_predict",
            "stream_structured_predict",
            "astream_structured_predict",
        ],
        ((Person, TEMPLATE), {"who": "Alice"}),
    ),
    **dict.fromkeys(["predict_and_call", "apredict_and_call"], (([WEATHER], "Who is Alice?"), {})),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_a_prompt_never_reaches_the_conversation(server, bound, name):
    def script(_context, request):
        tools = request.get("tools")
        if not tools:
            return "fine"
        wanted = {"Person": {"name": "Alice"}, "weather": {"city": "Rome"}}
        return CallTool(tools[0]["name"], wanted[tools[0]["name"]])

    messages = dialog(WAYS["chat"], bound, ["The sky is blue."])
    before = said(server, conversation_of(bound))
    server.script = script
    server.requests.clear()
    args, kwargs = PROMPTS[name]
    drained(bound, name, *args, **kwargs)
    (request,) = server.requests
    assert request.body["input"] == "Who is Alice?"
    assert request.body["store"] is False
    assert "conversation" not in request.body
    assert said(server, conversation_of(bound)) == before
    dialog(WAYS["chat"], bound, ["Is it?"], messages)  # nor does it hinder the next turn
    assert sent(server)[-1] == ("Is it?", conversation_of(bound))


@pytest.mark.parametrize("name", [name for name in PROMPTS if "structured" in name])
def test_nor_does_one_whose_answer_is_parsed(server, bound, name):
    dialog(WAYS["chat"], bound, ["The sky is blue."])
    before = said(server, conversation_of(bound))
    server.script = always('{"name": "Alice"}')
    args, kwargs = PROMPTS[name]
    parsing = bound.model_copy(update={"pydantic_program_mode": PydanticProgramMode.LLM})
    drained(parsing, name, *args, **kwargs)
    assert "tools" not in server.requests[-1].body
    assert server.requests[-1].body["store"] is False
    assert said(server, conversation_of(bound)) == before


def test_nor_does_a_structured_llm_with_the_messages_of_the_conversation(ask, server, bound):
    messages = dialog(ask, bound, ["My name is Alice."])
    before = said(server, conversation_of(bound))
    server.script = always(CallTool("Person", {"name": "Alice"}))
    made = bound.as_structured_llm(Person).chat([*messages, ChatMessage("Who am I?")])
    assert made.raw == Person(name="Alice")
    assert server.requests[-1].body["store"] is False
    assert said(server, conversation_of(bound)) == before


# --- Beside a store on the same hub -----------------------------------------------------------


def test_it_goes_on_with_what_a_store_was_given(ask, server, hub):
    store = QwenConvChatStore(conversations=hub)
    llm = llm_on(hub, session_id="alice")
    for question in QUESTIONS:
        store.add_message("alice", ChatMessage(question))
        store.add_message("alice", ask(llm, store.get_messages("alice")).message)
    assert [question for question, _ in sent(server)] == QUESTIONS
    assert said(server, conversation_of(llm)) == spoken(store.get_messages("alice"))


def test_a_prompt_made_of_a_stores_messages_is_refused_if_that_was_asked_for(ask, server, hub):
    store = QwenConvChatStore(conversations=hub)
    llm = llm_on(hub, session_id="alice")
    store.add_message("alice", ChatMessage("The sky is blue."))
    store.add_message("alice", ask(llm, store.get_messages("alice")).message)
    before = said(server, conversation_of(llm))
    prompt = [
        ChatMessage("Summarize this."),
        ChatMessage("fine", role="assistant"),
        ChatMessage("go"),
    ]
    assert ask(llm, prompt).additional_kwargs["decision"] == "stateless"
    for policy in ("rebase", "ignore"):
        answer = ask(with_policy(llm, policy), prompt)
        assert answer.additional_kwargs["decision"] == "stateless"
    server.requests.clear()
    with pytest.raises(errors.DivergedError):
        ask(with_policy(llm, "raise"), prompt)
    assert sent(server) == []
    assert said(server, conversation_of(llm)) == before


def test_a_store_that_is_opened_later_shows_what_was_said(ask, server, hub):
    llm = llm_on(hub, session_id="alice")
    messages = dialog(ask, llm, QUESTIONS[:2], [])
    store = QwenConvChatStore(conversations=hub)
    assert spoken(store.get_messages("alice")) == spoken(messages)
    server.requests.clear()
    dialog(ask, llm, ["go on"], messages)
    assert [question for question, _ in sent(server)] == ["go on"]


def test_a_system_message_that_a_store_holds_is_sent_by_the_conversation_alone(ask, server, hub):
    store = QwenConvChatStore(conversations=hub)
    models = llm_on(hub), llm_on(hub, session_id="alice")
    for message in (SYSTEM, ChatMessage("hi")):
        store.add_message("alice", message)
    rules = ChatMessage("Be kind.", role="system")
    for llm in models:
        answer = ask(llm, [rules, *store.get_messages("alice")])
        store.add_message("alice", answer.message)
        store.add_message("alice", ChatMessage("go on"))
        assert answer.additional_kwargs["decision"] == "attached"
        assert server.requests[-1].body["instructions"] == "Be kind."


def test_a_list_that_a_store_gave_and_a_database_kept_goes_on(ask, server, hub):
    store = QwenConvChatStore(conversations=hub)
    llm = llm_on(hub, session_id="alice")
    store.add_message("alice", ChatMessage("The sky is blue."))
    store.add_message("alice", ask(llm, store.get_messages("alice")).message)
    messages = dialog(ask, llm, ["go on"], dumped(store.get_messages("alice")))
    assert sent(server)[-1] == ("go on", conversation_of(llm))
    assert said(server, conversation_of(llm)) == spoken(messages)


def test_a_list_of_somewhere_else_begins_a_conversation_whose_store_has_nothing(ask, server, hub):
    store = QwenConvChatStore(conversations=hub)
    assert store.get_messages("alice") == []
    llm = llm_on(hub, session_id="alice")
    messages = [ChatMessage("one"), ChatMessage("uno", role="assistant"), ChatMessage("two")]
    messages.append(ask(llm, messages).message)
    told = [f"{one.role.value}: {one.content}" for one in messages]
    assert said(server, conversation_of(llm)) == told
    messages.append(ChatMessage("three"))
    ask(llm, messages)
    assert asked(server) == ["POST /conversations", "POST /responses", "POST /responses"]
    assert store.get_messages("alice")[:5] == messages
