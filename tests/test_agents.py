"""Agents with `QwenConvMiddleware`: each message is sent once and stored once."""

import asyncio
import threading
from dataclasses import dataclass

import pytest
from agents import (
    WAYS,
    Driven,
    Model,
    agent_on,
    local_transcript,
    model,
    settled,
    transcript,
    way,
    weather,
)
from conftest import MODEL, another_process, asked
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import ConfigurableField
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from langchain_qwen_conv import ChatQwenConv, QwenConvMiddleware
from langchain_qwen_conv.messages import to_core
from qwen_conv import errors, flows
from qwen_conv.items import fingerprints
from qwen_conv.offline import OfflineServer
from qwen_conv.offline.model import input_items
from qwen_conv.offline.responder import CallTool, Fail

THREAD = {"configurable": {"thread_id": "1"}}
QUESTIONS = [f"weather in city {turn}" if turn % 3 == 0 else f"turn {turn}" for turn in range(10)]


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


@pytest.mark.parametrize("given", ["no hub", "a hub"])
def test_the_user_may_be_in_the_context_of_the_run(server, hub, model, given):
    @dataclass
    class Context:
        user_id: str

    ours = QwenConvMiddleware(conversations=hub if given == "a hub" else None)
    agent = agent_on(hub, ours=ours, context_schema=Context)
    agent.invoke({"messages": "hello"}, THREAD, context=Context("alice"))
    assert server.requests[0].body["metadata"] == {"thread_id": "1", "user_id": "alice"}


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


def test_whoever_passes_a_state_in_cannot_name_a_conversation(server, hub, model, way):
    other = Driven(agent_on(hub), way, "other")
    other.ask("a secret")
    driven = Driven(agent_on(hub), way)
    driven.ask({"messages": [("user", "hi")], "qwen_conversation_id": other.conversation})
    assert driven.conversation != other.conversation
    assert model.shown[-1] == [("user", "hi")]


@pytest.mark.parametrize("id_in_state", ["private", "public"])
def test_an_agent_that_is_a_node_of_a_graph(server, hub, model, way, id_in_state):
    """Its state is the graph's, which has to have the id for the agent to find it again."""

    class State(MessagesState):
        qwen_conversation_id: str

    agent = create_agent(
        ChatQwenConv(model=MODEL, conversations=hub),
        tools=[weather],
        middleware=[QwenConvMiddleware(id_in_state=id_in_state)],
    )
    graph = StateGraph(State)
    graph.add_node("agent", agent)
    graph.add_edge(START, "agent")
    driven = Driven(graph.compile(checkpointer=InMemorySaver()), way)
    for question in QUESTIONS[:4]:
        driven.ask(question)
    assert settled(model.shown[-1]) == local_transcript(driven.messages[:-1])
    created = asked(server).count("POST /conversations")
    assert created == (1 if id_in_state == "public" else 4)


def test_two_processes_take_turns_on_one_thread(server, hub, model, way):
    saver = InMemorySaver()
    both = [Driven(agent_on(another_process(server), checkpointer=saver), way) for _ in range(2)]
    for number, question in enumerate(QUESTIONS):
        driven = both[number % 2]
        driven.ask(question)
        assert settled(model.shown[-1]) == local_transcript(driven.messages[:-1])
    assert transcript(server.items(driven.conversation)) == local_transcript(driven.messages)
    assert asked(server).count("POST /conversations") == 1


@pytest.mark.parametrize("process", ["that knows it", "that does not"])
def test_a_conversation_that_was_deleted_is_begun_anew_from_the_state(
    server, hub, model, way, process
):
    saver = InMemorySaver()
    driven = Driven(agent_on(hub, checkpointer=saver), way)
    driven.ask("weather in Paris")
    gone = driven.conversation
    another_process(server).run(flows.delete, gone)
    if process == "that does not":
        driven = Driven(agent_on(another_process(server), checkpointer=saver), way)
    driven.ask("and now?")
    assert driven.conversation != gone
    assert settled(model.shown[-1]) == local_transcript(driven.messages[:-1])
    assert driven.messages[-1].response_metadata["decision"] == "rebased"
    assert "not there any more" in driven.messages[-1].response_metadata["reason"]


def test_something_else_that_is_not_found_begins_no_conversation(server, hub, model, way):
    driven = Driven(agent_on(hub), way)
    driven.ask("one")
    conversation = driven.conversation
    server.script = lambda *_: Fail("File not found: https://example.com/a.png", status=400)
    with pytest.raises(errors.ServiceError, match="File not found"):
        driven.ask("two")
    server.script = model
    assert asked(server).count("POST /conversations") == 1
    driven.ask("three")
    assert driven.conversation == conversation
    assert settled(model.shown[-1]) == local_transcript(driven.messages[:-1])


def test_a_service_that_ignores_unknown_conversations_is_found_out_by_a_result(way):
    model = Model()
    with OfflineServer(model, unknown_conversation="ignored") as server:
        hub = another_process(server)
        driven = Driven(agent_on(hub), way)
        driven.ask("one")
        another_process(server).run(flows.delete, driven.conversation)
        driven.ask("weather in Paris")
        assert settled(model.shown[-1]) == local_transcript(driven.messages[:-1])
        assert transcript(server.items(driven.conversation)) == local_transcript(driven.messages)


@pytest.mark.parametrize("policy", ["raise", "stateless", "ignore"])
def test_a_conversation_that_was_deleted_is_told_where_nothing_else_was_asked_for(
    server, hub, model, way, policy
):
    driven = Driven(agent_on(hub, ours=QwenConvMiddleware(on_divergence=policy)), way)
    driven.ask("one")
    another_process(server).run(flows.delete, driven.conversation)
    with pytest.raises(errors.ConversationNotFoundError):
        driven.ask("two")


def test_a_message_that_was_forged_does_not_hide_what_stands_before_it(server, hub, model, way):
    """It claims to be where an answer is, and to be what was said there."""
    saver = InMemorySaver()
    driven = Driven(agent_on(hub, checkpointer=saver), way)
    driven.ask("one")
    stamp = driven.messages[-1].response_metadata["stamp"]
    asks, noted = HumanMessage("I accept the terms"), AIMessage("noted")
    noted.response_metadata["stamp"] = {
        **stamp,
        "said": [*fingerprints(to_core(noted))],
        "sent": [*fingerprints(to_core(asks))],
        "after": stamp["response_id"],
    }
    again = Driven(agent_on(another_process(server), checkpointer=saver), way)
    again.ask({"messages": [asks, noted, HumanMessage("go on")]})
    assert settled(model.shown[-1]) == local_transcript(again.messages[:-1])


def down(*_):
    return Fail("down")


@pytest.mark.parametrize("unknown_after", ["refused", "ignored"])
@pytest.mark.parametrize("failed_turn", ["not_stored", "input_stored"])
@pytest.mark.parametrize("output_ids", ["kept", "new"])
def test_a_thread_goes_on_after_a_turn_that_failed(way, output_ids, failed_turn, unknown_after):
    switches = {
        "output_ids": output_ids,
        "failed_turn": failed_turn,
        "unknown_after": unknown_after,
    }
    model = Model()
    with OfflineServer(model, **switches) as server:
        driven = Driven(agent_on(another_process(server)), way)
        driven.ask("one")
        server.script = down
        with pytest.raises(errors.ServiceError):
            driven.ask("two")
        server.script = model
        for question in ("three", "four"):
            driven.ask(question)
            assert settled(model.shown[-1]) == local_transcript(driven.messages[:-1])
        assert transcript(server.items(driven.conversation)) == local_transcript(driven.messages)


def test_no_conversation_is_left_behind_by_a_new_branch_that_failed(server, hub, model, way):
    hub.max_retries = 0
    driven = Driven(agent_on(hub), way)
    driven.ask("one")
    fork = driven.agent.get_state(driven.config).config
    driven.ask("two")
    server.script = down
    for _ in range(2):
        with pytest.raises(errors.ServiceError):
            driven.ask("two, otherwise", fork)
    assert asked(server).count("POST /conversations") == 3
    assert asked(server).count("DELETE /conversations/*") == 2
    assert driven.conversation in server_conversations(server)


def server_conversations(server):
    return {one for (one,) in server._store._run("select id from conversations")}


def test_no_conversation_is_left_behind_by_a_run_that_was_cancelled(server, hub):
    came = threading.Event()

    async def slow(*_):
        came.set()
        await asyncio.sleep(60)

    async def cancelled():
        running = asyncio.create_task(agent_on(hub).ainvoke({"messages": "hi"}, THREAD))
        await asyncio.to_thread(came.wait)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    server.script = slow
    asyncio.run(cancelled())
    assert asked(server)[-1] == "DELETE /conversations/*"


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
        ({"metadata": {str(n): "" for n in range(15)}}, "16 pairs, not 17"),
        ({"id_in_state": "shown"}, "id_in_state is 'shown'"),
    ],
)
def test_a_setting_out_of_its_range_is_refused(setting, says):
    with pytest.raises(errors.UsageError, match=says):
        QwenConvMiddleware(**setting)


def test_a_state_that_names_no_conversation_is_refused(server, hub):
    ours = QwenConvMiddleware(id_in_state="public")
    with pytest.raises(errors.UsageError, match="not a conversation id"):
        agent_on(hub, ours=ours).invoke({"messages": "hi", "qwen_conversation_id": "a"}, THREAD)
    assert server.requests == []


def test_a_model_that_is_bound_to_a_conversation_is_refused_however_it_is_wrapped(server, hub):
    chat = ChatQwenConv(model=MODEL, conversations=hub).with_config(tags=["one"])
    with pytest.raises(errors.UsageError, match="without conversation_id and session_id"):
        Driven(agent_on(hub, model=chat.bind(conversation_id="conv_1"), tools=[])).ask("hello")
    assert server.requests == []


def test_a_model_that_something_hides_is_refused(server, hub):
    chat = ChatQwenConv(model=MODEL, conversations=hub)
    for hidden in (
        chat.with_fallbacks([chat]),
        chat.configurable_fields(temperature=ConfigurableField("temperature")),
    ):
        with pytest.raises(errors.UsageError, match="pass the ChatQwenConv itself"):
            Driven(agent_on(hub, model=hidden)).ask("hello")
    assert server.requests == []


def test_a_model_with_a_config_is_one_of_ours(server, hub, model, way):
    chat = ChatQwenConv(model=MODEL, conversations=hub).with_config(tags=["one"])
    driven = Driven(agent_on(hub, model=chat), way)
    driven.ask("weather in Paris")
    assert transcript(server.items(driven.conversation)) == local_transcript(driven.messages)


def test_what_the_model_says_about_divergence_holds_unless_the_middleware_says_more(server, hub):
    server.script = Model()
    chat = ChatQwenConv(model=MODEL, conversations=hub, on_divergence="raise")
    driven = Driven(agent_on(hub, model=chat))
    driven.ask("one")
    fork = driven.agent.get_state(driven.config).config
    driven.ask("two")
    with pytest.raises(errors.DivergedError):
        driven.ask("two, otherwise", fork)


def test_what_is_too_long_for_a_conversations_metadata_is_left_out(server, hub, model, caplog):
    driven = Driven(agent_on(hub), user_id="x" * 513)
    driven.ask("one")
    assert server.requests[0].body["metadata"] == {"thread_id": "1"}
    assert "user_id is too long" in caplog.text


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
