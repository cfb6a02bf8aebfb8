"""Tool calls and their results on routed turns, in whatever way a server wants them."""

import asyncio

import pytest
from conftest import MODEL, another_process, asked
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from pydantic import BaseModel

from langchain_qwen_conv import ChatQwenConv, QwenConvChatMessageHistory, errors
from qwen_conv import errors as core
from qwen_conv import flows
from qwen_conv.items import FunctionCall, FunctionOutput
from qwen_conv.offline import CallTool, Fail, OfflineServer, Say
from qwen_conv.pairing import NOT_EXECUTED

PAIRS = ["accepted", "pair_required", "pair_refused"]


class Person(BaseModel):
    """A person."""

    name: str


def weather(city: str) -> str:
    """The weather in a city."""
    return f"Sunny in {city}."


def calls_twice(context, request):
    """Calls the tool for two cities if it is asked about the weather; repeats results otherwise."""
    if "tool_choice" in request:
        return CallTool(request["tools"][0]["name"], {"name": "Alice"})
    last = context[-1]
    if last.get("type") == "message" and "weather" in last["content"][0]["text"]:
        return [CallTool("weather", {"city": city}) for city in ("Rome", "Paris")]
    results = [one["output"] for one in context if one.get("type") == "function_call_output"]
    return " ".join(results) or "no results"


@pytest.fixture(params=PAIRS)
def server(request):
    with OfflineServer(calls_twice, lone_output=request.param) as server:
        yield server


def results_of(message):
    return [
        ToolMessage(weather(**call["args"]), tool_call_id=call["id"]) for call in message.tool_calls
    ]


def model(hub, **fields):
    return ChatQwenConv(model=MODEL, conversations=hub, session_id="alice", **fields)


def held(server, hub):
    """The calls and results that the conversation holds, each once, in order."""
    conversation = hub.registry.get(hub.session("alice")).conversation_id
    items = another_process(server).run(flows.read, conversation)
    return list(
        dict.fromkeys(
            (type(item).__name__, item.call_id, getattr(item, "output", ""))
            for item in items
            if isinstance(item, FunctionCall | FunctionOutput)
        )
    )


def test_a_round_of_parallel_calls_is_answered_in_one_turn(take, server, hub):
    chat = model(hub).bind_tools([weather])
    messages = [HumanMessage("How is the weather?")]
    for _ in range(2):
        messages.append(take(chat, messages))
        messages += results_of(messages[-1])
        messages.append(take(chat, messages))
        assert messages[-1].text.startswith("Sunny in Rome. Sunny in Paris.")
        messages.append(HumanMessage("And the weather tomorrow?"))
    calls = [
        call["id"] for one in messages if isinstance(one, AIMessage) for call in one.tool_calls
    ]
    assert len(calls) == 4
    told = held(server, hub)
    for call in calls:
        assert ("FunctionCall", call, "") in told
    assert {one[1] for one in told if one[0] == "FunctionOutput"} == {*calls}


def test_what_a_server_wants_is_learned_from_its_first_refusal(take, server, hub):
    chat = model(hub).bind_tools([weather])
    messages = [HumanMessage("How is the weather?")]
    requests = []
    for _ in range(2):
        messages.append(take(chat, messages))
        server.requests.clear()
        messages += results_of(messages[-1])
        messages.append(take(chat, messages))
        requests.append(len(server.requests))
        messages.append(HumanMessage("And the weather tomorrow?"))
    assert requests[1] == 1


def test_another_process_sends_results_as_well(take, server, hub):
    messages = [HumanMessage("How is the weather?")]
    messages.append(take(model(hub).bind_tools([weather]), messages))
    messages += results_of(messages[-1])
    there = another_process(server, registry=hub.registry)
    answer = take(model(there).bind_tools([weather]), messages)
    assert answer.text == "Sunny in Rome. Sunny in Paris."


@pytest.mark.parametrize("stored_items", ["all", "messages"])
@pytest.mark.parametrize("lone_output", PAIRS)
def test_a_call_without_a_result_does_not_bar_the_next_turn(take, stored_items, lone_output):
    switches = {"stored_items": stored_items, "lone_output": lone_output}
    with OfflineServer(calls_twice, **switches) as server:
        hub = another_process(server)
        chat = model(hub).bind_tools([weather])
        messages = [HumanMessage("How is the weather?")]
        messages.append(take(chat, messages))
        messages.append(HumanMessage("Never mind."))
        messages.append(take(chat, messages))
        assert messages[-1].response_metadata["decision"] == "attached"
        messages.append(HumanMessage("Go on."))
        answer = take(chat, messages)
        assert answer.response_metadata["decision"] == "attached"
        there = model(another_process(server, registry=hub.registry))
        answer = take(there, [*messages, answer, HumanMessage("And on.")])
        assert answer.response_metadata["decision"] == "attached"
        if stored_items == "all":
            outputs = [one[2] for one in held(server, hub) if one[0] == "FunctionOutput"]
            assert outputs == [NOT_EXECUTED] * 2


def test_nor_does_one_that_is_answered_in_part(take, server, hub):
    chat = model(hub).bind_tools([weather])
    messages = [HumanMessage("How is the weather?")]
    messages.append(take(chat, messages))
    messages.append(results_of(messages[-1])[0])
    answer = take(chat, messages)
    assert answer.response_metadata["decision"] == "attached"
    outputs = {one[2] for one in held(server, hub) if one[0] == "FunctionOutput"}
    assert outputs == {"Sunny in Rome.", NOT_EXECUTED}


def test_the_reason_of_the_turn_says_so(server, hub):
    chat = model(hub).bind_tools([weather])
    chat.invoke("How is the weather?")
    answer = chat.invoke("Never mind.")
    assert "tool calls that were given no result: 2" in answer.response_metadata["reason"]


def test_a_server_that_does_not_mind_is_asked_once(take):
    with OfflineServer(calls_twice, unanswered_call="accepted") as server:
        chat = model(another_process(server)).bind_tools([weather])
        messages = [HumanMessage("How is the weather?")]
        messages.append(take(chat, messages))
        server.requests.clear()
        take(chat, [*messages, HumanMessage("Never mind.")])
        assert asked(server) == ["POST /responses"]


def test_it_can_be_raised_instead(take, server, hub):
    chat = model(hub, on_unanswered_call="raise").bind_tools([weather])
    messages = [HumanMessage("How is the weather?")]
    messages.append(take(chat, messages))
    with pytest.raises(errors.UnansweredCallError):
        take(chat, [*messages, HumanMessage("Never mind.")])
    answered = [*messages, *results_of(messages[-1])]
    assert take(chat, answered).text == "Sunny in Rome. Sunny in Paris."


def test_on_unanswered_call_is_one_of_two(hub):
    with pytest.raises(ValueError, match="answer"):
        model(hub, on_unanswered_call="ignore").invoke("hi")


@pytest.mark.parametrize("way", ["sync", "async"])
def test_structured_output_leaves_the_conversation_usable_for_every_process(server, hub, way):
    structured = model(hub).with_structured_output(Person)
    question = "My name is Alice."
    if way == "sync":
        found = structured.invoke(question)
    else:
        found = asyncio.run(structured.ainvoke(question))
    assert found == Person(name="Alice")
    there = model(another_process(server, registry=hub.registry))
    assert there.invoke("Go on.").response_metadata["decision"] == "attached"
    assert model(hub).with_structured_output(Person).invoke("And again.") == Person(name="Alice")
    assert [one[0] for one in held(server, hub)] == [
        "FunctionCall",
        "FunctionOutput",
        "FunctionCall",
    ]


@pytest.mark.parametrize("lone_output", PAIRS)
def test_a_stateless_list_has_each_result_directly_behind_its_call(take, lone_output):
    with OfflineServer(calls_twice, lone_output=lone_output) as server:
        chat = ChatQwenConv(model=MODEL, conversations=another_process(server))
        messages = [HumanMessage("How is the weather?")]
        messages.append(take(chat.bind_tools([weather]), messages))
        messages += results_of(messages[-1])
        assert take(chat, messages).text == "Sunny in Rome. Sunny in Paris."
        sent = [one["type"] for one in server.requests[-1].body["input"] if "type" in one]
        assert [one for one in sent if one != "message"] == [
            "function_call",
            "function_call_output",
        ] * 2


def test_a_stateless_list_with_a_call_that_has_no_result_is_answered(take, server, hub):
    chat = ChatQwenConv(model=MODEL, conversations=hub)
    messages = [HumanMessage("How is the weather?")]
    messages.append(take(chat.bind_tools([weather]), messages))
    messages.append(HumanMessage("Never mind."))
    assert take(chat, messages).text == f"{NOT_EXECUTED} {NOT_EXECUTED}"


# --- What must not happen ---------------------------------------------------------------------


def test_results_alone_are_sent_with_their_calls_once_that_is_learned(take, server, hub):
    chat = model(hub).bind_tools([weather])
    for _ in range(2):
        calling = take(chat, "How is the weather?")
        answer = take(chat, results_of(calling))
        assert answer.text.startswith("Sunny in Rome. Sunny in Paris.")


@pytest.mark.parametrize("stream", ["stream", "astream"])
def test_what_failed_after_it_had_begun_is_not_sent_again(stream):
    failing = [Say("Hello there"), Fail("No tool output found for function call x.", after=1)]
    with OfflineServer(lambda *_: failing) as server:
        chat = model(another_process(server))
        chunks = []

        async def collect():
            async for chunk in chat.astream("hi"):
                chunks.append(chunk.text)  # noqa: PERF401 - what came before the failure counts

        with pytest.raises(core.QwenConvError):  # noqa: PT012
            if stream == "astream":
                asyncio.run(collect())
            for chunk in chat.stream("hi"):
                chunks.append(chunk.text)  # noqa: PERF401
        assert chunks == ["Hello"]
        assert asked(server).count("POST /responses") == 1


def test_calls_of_another_conversation_are_not_answered_here(take, server, hub):
    here, there = model(hub).bind_tools([weather]), hub.run(flows.create).id
    take(here, "How is the weather?")
    elsewhere = take(
        ChatQwenConv(model=MODEL, conversations=hub, conversation_id=there).bind_tools([weather]),
        "How is the weather?",
    )
    messages = [HumanMessage("How is the weather?"), elsewhere, HumanMessage("Never mind.")]
    take(model(hub, on_divergence="ignore").bind_tools([weather]), messages)
    ids = {one[1] for one in held(server, hub)}
    assert ids.isdisjoint(call["id"] for call in elsewhere.tool_calls)
    assert len(ids) == 2


@pytest.mark.parametrize("stored_items", ["all", "messages"])
def test_ids_of_calls_may_be_anything(take, stored_items):
    def odd(context, _request):
        if len(context) == 1:
            return CallTool("weather", {"city": "Rome"}, "functions.weather:0")
        return "fine"

    with OfflineServer(odd, stored_items=stored_items) as server:
        chat = model(another_process(server)).bind_tools([weather])
        take(chat, "How is the weather?")
        assert take(chat, "Never mind.").text == "fine"


def test_results_of_calls_that_share_an_id_stay_behind_their_own(take, server, hub):
    call = {"name": "weather", "args": {"city": "Rome"}, "id": "call_0", "type": "tool_call"}
    messages = []
    for text in ("one", "two"):
        messages += [
            HumanMessage(text),
            AIMessage("", tool_calls=[call]),
            ToolMessage(text, tool_call_id="call_0"),
        ]
    take(ChatQwenConv(model=MODEL, conversations=hub), messages)
    sent = [one.get("output", one.get("name")) for one in server.requests[-1].body["input"]]
    assert sent == [None, "weather", "one", None, "weather", "two"]


@pytest.mark.parametrize("policy", ["answer", "raise"])
def test_a_service_that_wants_pairs_is_not_told_of_calls_it_does_not_mind(take, policy):
    switches = {"unanswered_call": "accepted", "lone_output": "pair_required"}
    with OfflineServer(calls_twice, **switches) as server:
        hub = another_process(server)
        chat = model(hub, on_unanswered_call=policy).bind_tools([weather])
        messages = [HumanMessage("How is the weather?")]
        messages.append(take(chat, messages))
        messages.append(results_of(messages[-1])[0])
        take(chat, messages)
        outputs = [one[2] for one in held(server, hub) if one[0] == "FunctionOutput"]
        assert outputs == ["Sunny in Rome."]


def test_a_request_that_is_refused_for_something_else_about_tools_is_sent_once(take):
    def refuses(context, request):
        if len(context) > 1:
            return Fail("tool_choice is not supported in thinking mode", "InvalidParameter", 400)
        return calls_twice(context, request)

    with OfflineServer(refuses, unanswered_call="accepted") as server:
        chat = model(another_process(server)).bind_tools([weather])
        take(chat, "How is the weather?")
        server.requests.clear()
        with pytest.raises(errors.RequestRefusedError, match="thinking mode"):
            take(chat, "Never mind.")
        assert asked(server) == ["POST /responses"]


def test_a_history_shows_each_call_once(take, server, hub):
    chat = model(hub).bind_tools([weather])
    messages = [HumanMessage("How is the weather?")]
    messages.append(take(chat, messages))
    messages += results_of(messages[-1])
    messages.append(take(chat, messages))
    history = QwenConvChatMessageHistory("alice", conversations=hub)
    found = history.messages
    assert [one.type for one in found] == ["human", "ai", "tool", "tool", "ai"]
    assert found[1].tool_calls == messages[1].tool_calls
    server.requests.clear()
    assert history.messages == found
    assert len(server.requests) == 1


@pytest.mark.parametrize("kept", ["stamps", "texts"])
def test_a_list_equals_its_conversation_after_a_call_was_told(take, server, hub, kept):
    messages = [HumanMessage("How is the weather?")]
    messages.append(take(model(hub).bind_tools([weather]), messages))
    messages.append(HumanMessage("Never mind."))
    messages.append(take(model(hub), messages))
    messages.append(HumanMessage("Go on."))
    if kept == "texts":
        for message in messages:
            message.response_metadata.clear()
    there = model(another_process(server, registry=hub.registry))
    assert take(there, messages).response_metadata["decision"] == "attached"
