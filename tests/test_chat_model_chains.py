"""`state="response"`: each turn follows the response of the last one."""

import pytest
from agents import Driven, Model, local_transcript, settled, weather
from conftest import MODEL, another_process, asked
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver

from langchain_qwen_conv import ChatQwenConv, QwenConvMiddleware
from qwen_conv import errors, flows
from qwen_conv.calls import DeleteResponse
from qwen_conv.offline import OfflineServer
from qwen_conv.stamps import Stamp


@pytest.fixture
def model(server):
    server.script = Model()
    return server.script


@pytest.fixture
def chat(hub):
    return ChatQwenConv(model=MODEL, conversations=hub, state="response")


def bodies(server):
    return [one.body for one in server.requests if one.path == "/responses"]


def is_exact(model, messages):
    return settled(model.shown[-1]) == local_transcript(messages)


def held(chat, take, *questions):
    """A dialog, whose list is passed whole each time."""
    messages = []
    for question in questions:
        messages.append(HumanMessage(question))
        messages.append(take(chat, messages))
    return messages


@pytest.mark.parametrize("response_ids", ["uuid", "resp"])
def test_ten_turns_send_what_is_new_whatever_the_ids_look_like(take, response_ids):
    model = Model()
    with OfflineServer(model, response_ids=response_ids) as server:
        chat = ChatQwenConv(model=MODEL, conversations=another_process(server), state="response")
        messages = held(chat, take, *(f"question {number}" for number in range(10)))
        assert [body["input"] for body in bodies(server)] == [
            message.text for message in messages[::2]
        ]
        assert asked(server) == ["POST /responses"] * 10
    assert not any("conversation" in body for body in bodies(server))
    assert [body.get("previous_response_id") for body in bodies(server)] == [
        None,
        *(answer.response_metadata["response_id"] for answer in messages[1:-1:2]),
    ]
    assert is_exact(model, messages[:-1])
    told = messages[-1].response_metadata
    assert (told["decision"], "conversation_id" in told) == ("chained", False)


def test_another_process_goes_on_with_the_chain(server, chat, model, take):
    messages = held(chat, take, "one", "two")
    there = ChatQwenConv(model=MODEL, conversations=another_process(server), state="response")
    messages.append(HumanMessage("three"))
    take(there, messages)
    assert bodies(server)[-1]["input"] == "three"
    assert is_exact(model, messages)


def test_the_system_prompt_goes_with_every_turn(server, chat, model, take):
    messages = held(chat, take, "one")
    take(chat, [("system", "Be brief."), *messages, HumanMessage("two")])
    assert bodies(server)[-1]["instructions"] == "Be brief."
    assert bodies(server)[-1]["input"] == "two"


@pytest.mark.parametrize("lone_output", ["accepted", "pair_required", "pair_refused"])
def test_results_of_tools_follow_their_calls(take, lone_output):
    model = Model()
    with OfflineServer(model, lone_output=lone_output) as server:
        chat = ChatQwenConv(model=MODEL, conversations=another_process(server), state="response")
        tools = chat.bind_tools([weather])
        messages = [HumanMessage("weather in Paris and Rome")]
        messages.append(take(tools, messages))
        messages += [weather.invoke(call) for call in messages[-1].tool_calls]
        messages.append(take(tools, messages))
        messages.append(HumanMessage("thanks"))
        take(tools, messages)
    assert [one for one in model.shown[-1] if one[0] == "result"] == [
        ("result", message.tool_call_id, message.text)
        for message in messages
        if isinstance(message, ToolMessage)
    ]


@pytest.mark.parametrize("first", ["a chain", "a conversation"])
@pytest.mark.parametrize("stored_items", ["all", "messages"])
def test_what_chains_want_is_no_lesson_for_conversations(take, stored_items, first):
    """A chain keeps every call; a conversation may keep none, and is told them again then."""
    model = Model()
    with OfflineServer(model, lone_output="pair_required", stored_items=stored_items) as server:
        hub = another_process(server)
        chains = ChatQwenConv(model=MODEL, conversations=hub, state="response")
        converses = ChatQwenConv(model=MODEL, conversations=hub, session_id="alice")
        lists = {"a chain": [], "a conversation": []}
        order = [("a chain", chains), ("a conversation", converses)]
        for _ in range(2):
            for name, chat in order if first == "a chain" else reversed(order):
                messages, tools = lists[name], chat.bind_tools([weather])
                messages.append(HumanMessage("weather in Paris"))
                messages.append(take(tools, messages))
                messages += [weather.invoke(call) for call in messages[-1].tool_calls]
                messages.append(take(tools, messages))
                results = [one for one in model.shown[-1] if one[0] == "result"]
                assert len(results) == sum(isinstance(one, ToolMessage) for one in messages)


# --- Going back -------------------------------------------------------------------------------


@pytest.mark.parametrize("process", ["this", "another"])
def test_a_list_that_goes_back_follows_the_answer_that_it_goes_back_to(
    server, chat, model, take, process
):
    messages = held(chat, take, "one", "two", "three")
    if process == "another":
        chat = ChatQwenConv(model=MODEL, conversations=another_process(server), state="response")
    server.requests.clear()
    branch = [*messages[:2], HumanMessage("two, otherwise")]
    answer = take(chat, branch)
    assert is_exact(model, branch)
    assert bodies(server)[-1]["input"] == "two, otherwise"
    assert len(server.requests) == 1
    take(chat, [*messages, HumanMessage("four")])
    assert bodies(server)[-1]["input"] == "four"
    take(chat, [*branch, answer, HumanMessage("three, otherwise")])
    assert is_exact(model, [*branch, answer, HumanMessage("three, otherwise")])
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("place", "follows", "decision"),
    [(0, None, "rebased"), (1, None, "rebased"), (2, 1, "chained")],
)
def test_a_list_that_was_edited_follows_the_last_answer_before_that(
    server, chat, model, take, place, follows, decision
):
    messages = held(chat, take, "one", "two")
    messages[place] = messages[place].model_copy(update={"content": "edited"})
    messages.append(HumanMessage("three"))
    answer = take(chat, messages)
    assert is_exact(model, messages)
    parent = bodies(server)[-1].get("previous_response_id")
    assert parent == (
        None if follows is None else messages[follows].response_metadata["response_id"]
    )
    assert answer.response_metadata["decision"] == decision


def test_a_list_without_its_older_part_follows_all_the_same(server, chat, model, take):
    messages = held(chat, take, "one", "two")
    take(chat, [*messages[2:], HumanMessage("three")])
    assert is_exact(model, [*messages, HumanMessage("three")])
    assert bodies(server)[-1]["input"] == "three"


@pytest.mark.parametrize("policy", ["raise", "stateless", "ignore"])
def test_what_was_asked_for_is_done_about_an_edited_list(server, chat, model, take, policy):
    messages = held(chat, take, "one", "two")
    shown = model.shown[-1]
    edited = [HumanMessage("uno"), *messages[1:], HumanMessage("three")]
    if policy == "raise":
        with pytest.raises(errors.DivergedError, match="on_divergence='rebase'"):
            take(chat, edited, on_divergence=policy)
        return
    answer = take(chat, edited, on_divergence=policy)
    if policy == "stateless":
        assert is_exact(model, edited)
        assert bodies(server)[-1]["store"] is False
        assert answer.response_metadata["decision"] == "stateless"
    else:
        said = [*shown, ("assistant", messages[-1].text), ("user", "three")]
        assert model.shown[-1] == said


# --- What is not there any more ---------------------------------------------------------------


def test_a_response_that_is_not_there_is_made_up_for_by_the_whole_list_once(
    server, hub, chat, model, take
):
    messages = held(chat, take, "one", "two")
    hub.run(flows.send, DeleteResponse(messages[-1].response_metadata["response_id"]))
    server.requests.clear()
    messages.append(HumanMessage("three"))
    answer = take(chat, messages)
    assert is_exact(model, messages)
    assert asked(server) == ["POST /responses"] * 2
    assert answer.response_metadata["decision"] == "recovered"
    assert "not there any more" in answer.response_metadata["reason"]
    take(chat, [*messages, answer, HumanMessage("four")])
    assert bodies(server)[-1]["input"] == "four"


def test_responses_that_are_too_old_are_not_even_asked_for(server, chat, model, take):
    messages = held(chat, take, "one", "two")
    server.clock.advance(days=8)
    server.requests.clear()
    messages.append(HumanMessage("three"))
    answer = take(chat, messages)
    assert is_exact(model, messages)
    assert asked(server) == ["POST /responses"]
    assert answer.response_metadata["decision"] == "recovered"
    assert "seven days" in answer.response_metadata["reason"]


def test_answers_of_others_are_sent_along(server, chat, model, take):
    messages = [HumanMessage("one"), AIMessage("uno"), HumanMessage("two")]
    messages.append(take(chat, messages))
    messages.append(HumanMessage("three"))
    take(chat, messages)
    assert is_exact(model, messages)
    assert bodies(server)[-1]["input"] == "three"


# --- What selects -----------------------------------------------------------------------------


def test_a_forged_stamp_opens_nobody_elses_response(server, hub, chat, model, take):
    (_, secret) = held(chat, take, "a secret")
    said = secret.response_metadata["stamp"]
    mine = held(chat, take, "mine")
    for forged in (
        {**mine[1].response_metadata["stamp"], "response_id": said["response_id"]},
        {**said, "said": mine[1].response_metadata["stamp"]["said"], "sent": []},
        {**said, "seal": ""},
        {**said, "seal": "\ud800"},
    ):
        answer = mine[1].model_copy(
            update={"response_metadata": {**mine[1].response_metadata, "stamp": forged}}
        )
        assert Stamp.from_dict(forged) is not None
        list_of_client = [mine[0], answer, HumanMessage("what do you know?")]
        take(chat, list_of_client)
        assert is_exact(model, list_of_client)


def test_another_account_does_not_follow(server, chat, model, take):
    messages = [*held(chat, take, "one"), HumanMessage("two")]
    hub = another_process(server)
    hub.api_key = type(hub.api_key)("another key")
    take(ChatQwenConv(model=MODEL, conversations=hub, state="response"), messages)
    assert is_exact(model, messages)
    assert "previous_response_id" not in bodies(server)[-1]


def test_never_both_ids(server, hub, chat, take):
    for own in ({"session_id": "alice"}, {"conversation_id": "conv_1"}):
        with pytest.raises(errors.UsageError, match="state='response'"):
            ChatQwenConv(model=MODEL, conversations=hub, state="response", **own)
        with pytest.raises(errors.UsageError, match="one thing"):
            take(chat, "hi", **own)
    with pytest.raises(errors.UsageError, match="one thing"):
        take(chat, "hi", previous_response_id="r")
    with pytest.raises(errors.UsageError, match="stop"):
        take(chat, "hi", stop=["x"])
    assert server.requests == []


def test_no_config_brings_a_conversation_in(server, chat, model, take):
    take(chat, "hi", config={"configurable": {"session_id": "alice"}})
    assert asked(server) == ["POST /responses"]
    assert "conversation" not in bodies(server)[-1]


def test_an_agent_needs_no_middleware_for_it_and_branches_as_it_likes(server, chat, model):
    agent = create_agent(chat, tools=[weather], checkpointer=InMemorySaver())
    driven = Driven(agent)
    for question in ("one", "weather in Paris", "three"):
        driven.ask(question)
    assert is_exact(model, driven.messages[:-1])
    older = next(
        state
        for state in agent.get_state_history(driven.config)
        if len(state.values["messages"]) == 6 and not state.next
    )
    driven.ask("three, otherwise", older.config)
    assert is_exact(model, driven.messages[:-1])
    assert bodies(server)[-1]["input"] == "three, otherwise"
    assert asked(server) == ["POST /responses"] * 5


def test_the_middleware_refuses_a_model_that_follows_responses(server, chat):
    agent = create_agent(chat, middleware=[QwenConvMiddleware()])
    with pytest.raises(errors.UsageError, match="leave QwenConvMiddleware out"):
        agent.invoke({"messages": "hi"})
    assert server.requests == []
