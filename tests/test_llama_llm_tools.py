"""Chats with tools: which go out, which are called, and that no call runs that was not whole."""

import asyncio
import copy

import pytest
from conftest import MODEL, always, asked
from llama_index.core.agent.workflow import AgentStream, FunctionAgent
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, TextBlock, ToolCallBlock
from llama_index.core.tools import FunctionTool
from llama_llm import (
    NOW,
    STREAMS,
    TOOL_WAYS,
    WAYS,
    WEATHER,
    calls_of,
    completed,
    llm_at,
    streaming,
)

from llamaindex_qwen_conv import QwenConv
from qwen_conv import errors
from qwen_conv.offline import CallTool, OfflineServer, Say, Think

ROME = CallTool("weather", {"city": "Rome"}, "c1")
OSLO = CallTool("weather", {"city": "Oslo"}, "c2")


@pytest.fixture
def llm(hub):
    return QwenConv(model=MODEL, conversations=hub)


@pytest.fixture(params=WAYS)
def ask(request):
    """Asks in one of the four ways; the answer."""
    return WAYS[request.param]


@pytest.fixture(params=TOOL_WAYS)
def ask_with(request):
    """Asks with tools in one of the four ways; all pieces of the answer."""
    return TOOL_WAYS[request.param]


@pytest.fixture(params=["predict_and_call", "apredict_and_call"])
def run_tools(request):
    """Has the model call tools, and runs them, in one of the two ways."""

    def run(llm, *args, **kwargs):
        made = getattr(llm, request.param)(*args, **kwargs)
        return asyncio.run(made) if asyncio.iscoroutine(made) else made

    return run


# --- What is sent -----------------------------------------------------------------------------


def test_tools_go_out_flat(ask_with, server, llm):
    ask_with(llm, [WEATHER, NOW], "hi")
    body = server.requests[-1].body
    assert body["input"] == "hi"
    assert [tool["name"] for tool in body["tools"]] == ["weather", "now"]
    assert body["tools"][0] == {
        "type": "function",
        "name": "weather",
        "description": "weather(city: str, days: int = 1) -> str\nThe weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"title": "City", "type": "string"},
                "days": {"default": 1, "title": "Days", "type": "integer"},
            },
            "required": ["city"],
        },
    }
    assert "tool_choice" not in body
    assert "text" not in body


def test_tools_that_are_written_as_they_go_out_do_as_well(ask_with, server, llm):
    written = {"type": "function", "name": "lookup", "parameters": {"type": "object"}}
    ask_with(llm, [WEATHER, written, {"type": "web_search"}], "hi")
    tools = server.requests[-1].body["tools"]
    assert [tool.get("name", tool["type"]) for tool in tools] == ["weather", "lookup", "web_search"]


def test_a_plain_chat_takes_tools_too(ask, server, llm):
    ask(llm, "hi", tools=[WEATHER, {"type": "web_search"}], tool_choice="required")
    body = server.requests[-1].body
    assert [tool.get("name", tool["type"]) for tool in body["tools"]] == ["weather", "web_search"]
    assert body["tool_choice"]["type"] == "allowed_tools"


@pytest.mark.parametrize("nested", [{"type": "function", "function": {"name": "f"}}, {"name": "f"}])
def test_a_tool_in_another_form_is_refused(ask, server, llm, nested):
    with pytest.raises(errors.UsageError, match="form that the service does not take"):
        ask(llm, "hi", tools=[nested])
    assert asked(server) == []


@pytest.mark.parametrize("name", ["web_search", "file_search", "mcp"])
def test_a_function_named_like_a_tool_of_the_service_is_refused(ask_with, server, llm, name):
    tool = FunctionTool.from_defaults(lambda query: query, name=name, description="Searches.")
    with pytest.raises(errors.UsageError, match=name):
        ask_with(llm, [tool], "hi")
    assert asked(server) == []


ALLOWED = {
    "type": "allowed_tools",
    "mode": "required",
    "tools": [{"type": "function", "name": "weather"}, {"type": "function", "name": "now"}],
}


@pytest.mark.parametrize(
    ("tools", "wanted", "sent"),
    [
        ([WEATHER], {"tool_required": True}, "required"),
        ([WEATHER, NOW], {"tool_required": True}, ALLOWED),
        ([WEATHER], {"tool_choice": "weather"}, "required"),
        ([WEATHER, NOW], {"tool_choice": "now"}, {**ALLOWED, "tools": ALLOWED["tools"][1:]}),
        ([WEATHER, NOW], {"tool_choice": "any"}, ALLOWED),
        ([WEATHER, NOW], {"tool_choice": "auto"}, "auto"),
        ([WEATHER, NOW], {"tool_choice": "none"}, "none"),
        (
            [WEATHER, NOW],
            {"tool_choice": "now", "tool_required": True},
            {**ALLOWED, "tools": ALLOWED["tools"][1:]},
        ),
        ([WEATHER, NOW], {}, None),
    ],
)
def test_which_tool_is_to_be_called_goes_out_as_the_service_takes_it(
    ask_with, server, llm, tools, wanted, sent
):
    ask_with(llm, tools, "hi", **wanted)
    assert server.requests[-1].body.get("tool_choice") == sent


def test_a_tool_choice_that_is_none_of_the_tools_is_refused(ask_with, server, llm):
    with pytest.raises(errors.UsageError, match="none of the tools"):
        ask_with(llm, [WEATHER], "hi", tool_choice="wether")
    assert asked(server) == []


def test_without_tools_it_is_a_chat(ask_with, server, llm):
    ask_with(llm, [], "hi", tool_required=True)
    assert {*server.requests[-1].body} <= {"model", "input", "store", "stream"}


def test_the_question_stands_behind_the_history_which_is_left_alone(ask_with, server, llm):
    history = [ChatMessage("hi"), ChatMessage("hello", role="assistant")]
    before = copy.deepcopy(history)
    ask_with(llm, [WEATHER], "And now?", chat_history=history)
    assert [one["content"] for one in server.requests[-1].body["input"]] == [
        "hi",
        "hello",
        "And now?",
    ]
    ask_with(llm, [WEATHER], ChatMessage("And now?"), chat_history=history)
    ask_with(llm, [WEATHER], chat_history=history[:1])
    assert server.requests[-1].body["input"] == "hi"
    assert history == before


def test_a_chat_with_tools_takes_what_a_call_may_say(ask_with, server, llm):
    ask_with(llm, [WEATHER], "hi", temperature=1, model="qwen3.8-max")
    body = server.requests[-1].body
    assert (body["temperature"], body["model"]) == (1, "qwen3.8-max")
    with pytest.raises(errors.UsageError, match="'strict'"):
        ask_with(llm, [WEATHER], "hi", strict=True)


def test_calls_and_results_go_back_each_result_behind_its_call(ask, server, llm):
    history = [
        ChatMessage("hi"),
        ChatMessage(
            role="assistant",
            blocks=[
                TextBlock(text="Let me see."),
                ToolCallBlock(tool_call_id="c1", tool_name="weather", tool_kwargs={"city": "Rome"}),
                ToolCallBlock(tool_call_id="c2", tool_name="now"),
            ],
        ),
        ChatMessage("sunny", role="tool", additional_kwargs={"tool_call_id": "c1"}),
        ChatMessage("noon", role="tool", additional_kwargs={"tool_call_id": "c2"}),
    ]
    ask(llm, history)
    sent = server.requests[-1].body["input"][2:]
    assert [(one["type"], one["call_id"]) for one in sent] == [
        ("function_call", "c1"),
        ("function_call_output", "c1"),
        ("function_call", "c2"),
        ("function_call_output", "c2"),
    ]


# --- What is called ---------------------------------------------------------------------------


def test_the_calls_of_an_answer_are_its_blocks_and_are_read_from_them(ask_with):
    with OfflineServer(always(["Let me see.", ROME, OSLO])) as server:
        llm = llm_at(server)
        *_, last = ask_with(llm, [WEATHER], "hi", allow_parallel_tool_calls=True)
    assert last.message.content == "Let me see."
    assert calls_of(last) == [
        ("c1", "weather", {"city": "Rome"}),
        ("c2", "weather", {"city": "Oslo"}),
    ]
    selected = llm.get_tool_calls_from_response(last)
    assert [(one.tool_id, one.tool_name, one.tool_kwargs) for one in selected] == calls_of(last)


def test_one_call_is_left_of_several_where_one_was_asked_for(ask_with):
    with OfflineServer(always(["Let me see.", ROME, OSLO])) as server:
        pieces = ask_with(llm_at(server), [WEATHER], "hi", allow_parallel_tool_calls=False)
        assert server.requests[-1].body["parallel_tool_calls"] is False
    called = [calls_of(piece) for piece in pieces]
    assert called[-1] == [("c1", "weather", {"city": "Rome"})]
    assert all(one in ([], called[-1]) for one in called)
    assert pieces[-1].message.content == "Let me see."


def test_that_two_calls_are_alike_does_not_cost_the_first(ask_with):
    with OfflineServer(always([ROME, ROME])) as server:
        *_, last = ask_with(llm_at(server), [WEATHER], "hi")
    assert calls_of(last) == [("c1", "weather", {"city": "Rome"})]


def test_a_conversation_keeps_every_call_as_it_wants_every_result(ask_with, server, hub):
    server.script = always([ROME, OSLO])
    llm = QwenConv(model=MODEL, conversations=hub, session_id="alice")
    *pieces, last = ask_with(llm, [WEATHER], "hi", allow_parallel_tool_calls=False)
    assert len(calls_of(last)) == 2
    assert [len(calls_of(piece)) for piece in pieces] in ([], [1, 2])
    server.script = always("fine")
    results = [
        ChatMessage("sunny", role="tool", additional_kwargs={"tool_call_id": call_id})
        for call_id, _, _ in calls_of(last)
    ]
    *_, answer = ask_with(llm, [WEATHER], chat_history=[ChatMessage("hi"), last.message, *results])
    assert answer.additional_kwargs["decision"] == "attached"


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("call_arguments", ["deltas", "done", "item", "response"])
def test_a_streamed_call_is_shown_with_its_arguments_whatever_event_brings_them(
    stream, call_arguments
):
    with OfflineServer(always(["ok ", ROME]), call_arguments=call_arguments) as server:
        pieces = STREAMS[stream](llm_at(server), "hi")
    shown = [calls_of(piece) for piece in pieces if calls_of(piece)]
    assert shown == [[("c1", "weather", {"city": "Rome"})]] * 2
    assert [piece.delta for piece in pieces] == ["ok", " ", "", ""]


@pytest.mark.parametrize("stream", STREAMS)
def test_calls_whose_events_are_mixed_stay_apart(stream):
    def item(index, **more):
        call = {"type": "function_call", "id": f"i{index}", "call_id": f"c{index}", "name": "f"}
        return {**call, "arguments": "", **more}

    def event(kind, index, **more):
        return {"type": f"response.{kind}", "output_index": index, "item_id": f"i{index}", **more}

    whole = [item(index, arguments=f'{{"n": {index}}}') for index in (0, 1)]
    events = [
        event("output_item.added", 0, item=item(0)),
        event("output_item.added", 1, item=item(1)),
        event("function_call_arguments.delta", 1, delta='{"n":'),
        event("function_call_arguments.delta", 0, delta='{"n":'),
        event("function_call_arguments.done", 1, arguments='{"n": 1}'),
        event("function_call_arguments.done", 0, arguments='{"n": 0}'),
        completed(*whole),
    ]
    with streaming(*events) as address:
        pieces = STREAMS[stream](llm_at(address), "hi")
    assert calls_of(pieces[0]) == [("c1", "f", {"n": 1})]
    assert sorted(calls_of(pieces[1])) == calls_of(pieces[-1])
    assert calls_of(pieces[-1]) == [("c0", "f", {"n": 0}), ("c1", "f", {"n": 1})]


BROKEN = ['{"city": "Ro', '{"city": ', "[1]", '"Rome"', '{"days": NaN}', '{"days": 1e999}']


@pytest.mark.parametrize("arguments", BROKEN)
def test_a_call_whose_arguments_were_cut_or_are_no_object_is_not_run(ask_with, arguments):
    with OfflineServer(always(["ok", CallTool("weather", arguments, "c1")])) as server:
        llm = llm_at(server)
        *pieces, last = ask_with(llm, [WEATHER], "hi")
    assert calls_of(last) == [("c1", "weather", arguments)]  # as it came
    assert [calls_of(piece) for piece in pieces] == [[] for _ in pieces]
    with pytest.raises(errors.ServiceFailedError, match="'weather' has arguments"):
        llm.get_tool_calls_from_response(last)
    with pytest.raises(errors.ServiceFailedError):
        llm.get_tool_calls_from_response(last, error_on_no_tool_call=False)


@pytest.mark.parametrize("stream", STREAMS)
def test_a_stream_that_ends_in_the_middle_of_a_call_shows_no_call(stream):
    item = {"type": "function_call", "id": "i", "call_id": "c", "name": "weather", "arguments": ""}
    events = [
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": '{"city": '},
    ]
    with streaming(*events) as address, pytest.raises(errors.StreamCutError):
        STREAMS[stream](llm_at(address), "hi")


def test_a_call_without_arguments_is_a_call(ask_with, run_tools):
    with OfflineServer(always(CallTool("now", "", "c1"))) as server:
        llm = llm_at(server)
        *_, last = ask_with(llm, [NOW], "hi")
        assert calls_of(last) == [("c1", "now", {})]
        assert run_tools(llm, [NOW], "hi").response == "noon"


def test_no_call_is_an_error_only_where_one_has_to_be(llm):
    answer = ChatResponse(message=ChatMessage("no", role="assistant"))
    assert llm.get_tool_calls_from_response(answer, error_on_no_tool_call=False) == []
    with pytest.raises(ValueError, match="called none"):
        llm.get_tool_calls_from_response(answer)


def test_calls_that_another_model_made_are_read_as_well(llm):
    block = ToolCallBlock(tool_call_id=None, tool_name="weather", tool_kwargs='{"city": "Rome"}')
    answer = ChatResponse(message=ChatMessage(role="assistant", blocks=[block]))
    (selected,) = llm.get_tool_calls_from_response(answer)
    assert (selected.tool_id, selected.tool_kwargs) == ("", {"city": "Rome"})


# --- Predict and call -------------------------------------------------------------------------


def test_a_tool_is_predicted_and_called(run_tools):
    with OfflineServer(always(ROME)) as server:
        answer = run_tools(llm_at(server), [WEATHER], "How is the weather?")
        assert server.requests[-1].body["store"] is False
    assert answer.response == "Sunny in Rome for 1."
    assert [one.tool_name for one in answer.sources] == ["weather"]


def test_several_tools_are_called_only_where_that_was_asked_for(run_tools):
    with OfflineServer(always([ROME, OSLO])) as server:
        one = run_tools(llm_at(server), [WEATHER], "hi")
        both = run_tools(llm_at(server), [WEATHER], "hi", allow_parallel_tool_calls=True)
    assert one.response == "Sunny in Rome for 1."
    assert both.response == "Sunny in Rome for 1.\n\nSunny in Oslo for 1."


def test_what_was_not_whole_is_not_called(run_tools):
    ran = []
    tool = FunctionTool.from_defaults(
        lambda **kwargs: ran.append(kwargs), name="rm", description="x"
    )
    with (
        OfflineServer(always(CallTool("rm", '{"path": "/tmp/x", "only": "a', "c1"))) as server,
        pytest.raises(errors.ServiceFailedError),
    ):
        run_tools(llm_at(server), [tool], "hi")
    assert ran == []


def test_that_no_tool_was_called_is_told(run_tools):
    with OfflineServer(always("I would rather not.")) as server:
        with pytest.raises(ValueError, match="called none"):
            run_tools(llm_at(server), [WEATHER], "hi")
        answer = run_tools(llm_at(server), [WEATHER], "hi", error_on_no_tool_call=False)
    assert answer.response == "I would rather not."


# --- Agents -----------------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [True, False])
def test_an_agent_calls_its_tools(streaming):
    def script(context, _request):
        if context[-1].get("type") == "function_call_output":
            return context[-1]["output"]
        return [Say("One moment."), ROME, OSLO]

    async def run(llm):
        agent = FunctionAgent(tools=[WEATHER], llm=llm, streaming=streaming)
        return str(await agent.run("How is the weather?"))

    with OfflineServer(script) as server:
        assert asyncio.run(run(llm_at(server))) == "Sunny in Oslo for 1."
        sent = server.requests[-1].body["input"]
    assert [one.get("call_id") for one in sent[2:]] == ["c1", "c1", "c2", "c2"]


def test_an_agent_shows_what_the_model_says_and_thinks_as_it_comes():
    async def run(llm):
        handler = FunctionAgent(tools=[WEATHER], llm=llm).run("2+2?")
        shown = [event async for event in handler.stream_events() if isinstance(event, AgentStream)]
        await handler
        return shown

    with OfflineServer(always([Think("let me see"), "it is four"])) as server:
        shown = asyncio.run(run(llm_at(server)))
    assert "".join(event.thinking_delta or "" for event in shown) == "let me see"
    assert "".join(event.delta for event in shown) == shown[-1].response == "it is four"
    assert shown[-1].raw["usage"]["output_tokens"] == 6


def test_an_agent_does_not_run_what_was_not_whole():
    ran = []

    def rm(path: str) -> str:
        """Removes."""
        ran.append(path)
        return "gone"

    async def run(llm):
        return await FunctionAgent(tools=[rm], llm=llm).run("Tidy up.")

    with (
        OfflineServer(always(CallTool("rm", '{"path": "/', "c1"))) as server,
        pytest.raises(errors.ServiceFailedError),
    ):
        asyncio.run(run(llm_at(server)))
    assert ran == []
