"""Agents with `QwenConvMiddleware`: each message is sent once and stored once."""

import pytest
from agents import WAYS, Driven, Model, agent_on, local_transcript, settled, transcript
from conftest import MODEL, another_process, asked
from langchain.agents import create_agent
from langgraph.checkpoint.memory import InMemorySaver

from langchain_qwen_conv import ChatQwenConv, QwenConvMiddleware
from qwen_conv import errors
from qwen_conv.offline import OfflineServer
from qwen_conv.offline.model import input_items
from qwen_conv.offline.responder import CallTool

QUESTIONS = [f"weather in city {turn}" if turn % 3 == 0 else f"turn {turn}" for turn in range(10)]


@pytest.fixture
def model(server):
    server.script = Model()
    return server.script


@pytest.fixture(params=WAYS)
def way(request):
    return request.param


@pytest.mark.parametrize("given", ["no hub", "a hub"])
def test_ten_turns_of_which_four_call_a_tool(server, hub, model, way, given):
    ours = QwenConvMiddleware(conversations=hub if given == "a hub" else None)
    driven = Driven(agent_on(hub, ours=ours, system_prompt="Be brief."), way)
    for question in QUESTIONS:
        driven.ask(question)
    assert asked(server) == ["POST /conversations"] + ["POST /responses"] * 14
    stored = server.items(driven.conversation)
    assert len(stored) == 42
    assert transcript(stored) == local_transcript(driven.messages)
    assert [item["type"] for item in stored if item["type"] == "reasoning"] == ["reasoning"] * 14
    assert settled(model.shown[-1]) == local_transcript(driven.messages[:-1])
    bodies = [request.body for request in server.requests[1:]]
    assert all(body["instructions"] == "Be brief." for body in bodies)
    assert [len(input_items(body["input"])) for body in bodies] == [1] * 14


def test_the_results_of_parallel_calls_travel_together(server, hub, model, way):
    driven = Driven(agent_on(hub), way)
    driven.ask("weather in Paris and Rome")
    assert asked(server) == ["POST /conversations"] + ["POST /responses"] * 2
    assert [item["type"] for item in server.requests[-1].body["input"]] == [
        "function_call_output"
    ] * 2
    assert settled(transcript(server.items(driven.conversation))) == local_transcript(
        driven.messages
    )


def test_each_thread_has_a_conversation_that_says_whose_it_is(server, hub, model, way):
    agent = agent_on(hub, ours=QwenConvMiddleware(metadata={"app": "travel"}))
    threads = [Driven(agent, way, thread, user_id="alice") for thread in ("1", "2")]
    for driven in threads:
        driven.ask("hello")
    assert threads[0].conversation != threads[1].conversation
    created = [one.body["metadata"] for one in server.requests if one.path == "/conversations"]
    assert created == [
        {"thread_id": thread, "user_id": "alice", "app": "travel"} for thread in ("1", "2")
    ]


def test_another_process_goes_on_with_what_the_checkpoint_says(server, hub, model, way):
    saver = InMemorySaver()
    first = Driven(agent_on(hub, checkpointer=saver), way)
    first.ask("weather in Paris")
    server.requests.clear()
    again = Driven(agent_on(another_process(server), checkpointer=saver), way)
    again.ask("and now?")
    assert asked(server) == ["GET /conversations/*/items", "POST /responses"]
    assert settled(model.shown[-1]) == local_transcript(again.messages[:-1])
    assert again.conversation == first.conversation


@pytest.mark.parametrize("lone_output", ["accepted", "pair_required", "pair_refused"])
def test_results_travel_as_the_service_wants_them(way, lone_output):
    model = Model()
    with OfflineServer(model, lone_output=lone_output) as server:
        driven = Driven(agent_on(another_process(server)), way)
        for question in ("weather in Paris", "weather in Rome and Oslo"):
            driven.ask(question)
        stored = server.items(driven.conversation)
    assert [one for one in model.shown[-1] if one[0] == "result"] == [
        one for one in local_transcript(driven.messages) if one[0] == "result"
    ]
    assert [item["type"] for item in stored].count("function_call_output") == 3


def test_a_conversation_is_created_before_the_first_call_where_the_hub_is_known(server, hub, way):
    server.script = lambda *_: (_ for _ in ()).throw(RuntimeError("the service is down"))
    driven = Driven(agent_on(hub, ours=QwenConvMiddleware(conversations=hub)), way)
    with pytest.raises(errors.ServiceError):
        driven.ask("hello")
    conversation = driven.conversation
    server.script = Model()
    driven.ask("are you there?")
    assert driven.conversation == conversation
    assert asked(server).count("POST /conversations") == 1


def test_a_conversation_whose_first_turn_failed_is_not_left_behind(server, hub, way):
    server.script = lambda *_: (_ for _ in ()).throw(RuntimeError("the service is down"))
    driven = Driven(agent_on(hub), way)
    with pytest.raises(errors.ServiceError):
        driven.ask("hello")
    assert asked(server)[-1] == "DELETE /conversations/*"
    assert driven.conversation is None
    server.script = Model()
    driven.ask("are you there?")
    assert transcript(server.items(driven.conversation)) == local_transcript(driven.messages)


def test_a_state_can_name_the_conversation(server, hub, model, way):
    conversation = Driven(agent_on(hub), way)
    conversation.ask("hello")
    agent = create_agent(
        ChatQwenConv(model=MODEL, conversations=hub), middleware=[QwenConvMiddleware()]
    )
    before = conversation.messages
    result = agent.invoke(
        {
            "messages": [*before, ("user", "again")],
            "qwen_conversation_id": conversation.conversation,
        }
    )
    assert "qwen_conversation_id" not in result
    assert transcript(server.items(conversation.conversation)) == local_transcript(
        result["messages"]
    )


# --- Bad input --------------------------------------------------------------------------------


def test_a_model_with_a_conversation_of_its_own_is_refused(server, hub, way):
    for own in ({"session_id": "alice"}, {"conversation_id": "conv_1"}):
        chat = ChatQwenConv(model=MODEL, conversations=hub, **own)
        with pytest.raises(errors.UsageError, match="without conversation_id and session_id"):
            Driven(agent_on(hub, model=chat), way).ask("hello")
    assert server.requests == []


def test_a_model_on_another_hub_is_refused(server, hub, way):
    ours = QwenConvMiddleware(conversations=hub)
    chat = ChatQwenConv(model=MODEL, conversations=another_process(server))
    with pytest.raises(errors.UsageError, match="the same conversations to both"):
        Driven(agent_on(hub, model=chat, ours=ours), way).ask("hello")


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"on_divergence": "fork"}, "on_divergence is 'fork'"),
        ({"on_trimmed": "raise"}, "on_trimmed is 'raise'"),
        ({"metadata": {"a": "x" * 513}}, "513 characters"),
        ({"metadata": {str(n): "" for n in range(17)}}, "16 pairs"),
    ],
)
def test_a_setting_out_of_its_range_is_refused(setting, says):
    with pytest.raises(errors.UsageError, match=says):
        QwenConvMiddleware(**setting)


def test_a_state_that_names_no_conversation_is_refused(server, hub):
    with pytest.raises(errors.UsageError, match="not a conversation id"):
        agent_on(hub).invoke(
            {"messages": "hi", "qwen_conversation_id": "alice"},
            {"configurable": {"thread_id": "1"}},
        )
    assert server.requests == []


# --- A service that keeps nothing but messages -------------------------------------------------


def test_where_only_messages_are_kept_the_model_is_shown_every_call_and_result(way):
    model = Model()
    with OfflineServer(model, stored_items="messages") as server:
        driven = Driven(agent_on(another_process(server)), way)
        for question in QUESTIONS:
            driven.ask(question)
        turns = [one for one in server.requests if one.path == "/responses"]
        stored = transcript(server.items(driven.conversation))
        other = [one for one in asked(server) if one != "POST /responses"]
    said = local_transcript(driven.messages)
    assert stored == [one for one in said if one[0] in {"user", "assistant"}]
    assert sorted(map(str, model.shown[-1])) == sorted(map(str, said[:-1]))
    assert len(turns) == 15  # a result alone is refused once
    assert other == ["POST /conversations", "GET /conversations/*/items"]


def test_where_only_messages_are_kept_an_agent_that_calls_twice_sees_the_first_result(way):
    def script(context, request):
        said = model(context, request)
        rounds = sum(one[0] == "result" for one in model.shown[-1])
        return CallTool("weather", {"city": "Rome"}) if rounds == 1 else said

    model = Model()
    with OfflineServer(script, stored_items="messages") as server:
        driven = Driven(agent_on(another_process(server)), way)
        driven.ask("weather in Paris")
        driven.ask("weather in Oslo")
    assert [one for one in model.shown[-1] if one[0] in {"call", "result"}] == [
        one for one in local_transcript(driven.messages) if one[0] in {"call", "result"}
    ]
    assert len(driven.messages) == 10
