"""What comes back: content, ids, usage, metadata; the chunks of a stream add up to it."""

import json

import pytest
from conftest import MODEL, added, always, another_process, asked, astream, stream
from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool as as_tool
from pydantic import BaseModel, Field

from langchain_qwen_conv import ChatQwenConv
from qwen_conv import QwenConversations, errors, flows
from qwen_conv.offline import CallTool, Fail, OfflineServer, Say, Think


def model_of(server, **settings):
    hub = QwenConversations(api_key="any", base_url=server.base_url)
    return ChatQwenConv(model=MODEL, conversations=hub, **settings)


@as_tool
def weather(city: str, days: int = 1) -> str:
    """The weather in a city."""
    return f"{city} {days}"


class Place(BaseModel):
    """A place."""

    name: str = Field(description="Its name.")


# --- Content, ids, usage, metadata ------------------------------------------------------------


def test_an_answer_tells_what_it_cost_and_where_it_is(take, server, hub, chat):
    conversation = hub.run(flows.create).id
    answer = take(chat.with_conversation(conversation), "The sky is blue.")
    item = server.items(conversation)[-1]
    assert answer.id == item["id"]
    assert answer.text == item["content"][0]["text"]
    told = answer.response_metadata
    assert told["model_name"] == MODEL
    assert told["model_provider"] == "qwen"
    assert told["status"] == "completed"
    assert told["conversation_id"] == conversation
    assert told["decision"] == "attached"
    assert told["reason"] == "all messages are new"
    assert told["stamp"]["response_id"] == told["response_id"]
    assert told["stamp"]["item_ids"] == [answer.id]
    usage = answer.usage_metadata
    assert usage["input_tokens"] + usage["output_tokens"] == usage["total_tokens"] > 0


def test_cached_and_reasoning_tokens_are_told(take):
    with OfflineServer(always([Think("one two three"), "four"])) as server:
        answer = take(model_of(server), "hi")
    assert answer.usage_metadata["output_token_details"] == {"reasoning": 3}
    assert answer.usage_metadata["input_token_details"] == {"cache_read": 0, "cache_creation": 0}


def test_reasoning_is_kept_beside_the_text_and_never_sent_back(take):
    with OfflineServer(always([Think("let me see"), "four"])) as server:
        chat = model_of(server)
        messages = [HumanMessage("two and two?")]
        messages.append(take(chat, messages))
        assert messages[-1].text == "four"
        blocks = messages[-1].content_blocks
        assert [block["type"] for block in blocks] == ["reasoning", "text"]
        assert blocks[0]["reasoning"] == "let me see"
        take(chat, [*messages, HumanMessage("sure?")])
        assert "let me see" not in json.dumps(server.requests[-1].body)


@pytest.mark.parametrize("chunks_of", [stream, astream])
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param("one two three", id="text"),
        pytest.param([Think("hm hm"), "one two"], id="thought and text"),
        pytest.param(["let me see", CallTool("weather", {"city": "x"}, "c1")], id="text and call"),
        pytest.param([CallTool("weather", {"city": x}, x) for x in "ab"], id="two calls"),
        pytest.param("", id="nothing"),
    ],
)
def test_chunks_add_up_to_the_message(chunks_of, answer):
    with OfflineServer(always(answer), unanswered_call="accepted") as server:
        chat = model_of(server)
        whole, chunked = chat.invoke("hi"), chunks_of(chat, "hi")
    for name in ("content", "tool_calls", "additional_kwargs", "usage_metadata"):
        assert getattr(chunked, name) == getattr(whole, name)
    assert {**chunked.response_metadata, "response_id": ""} == {
        **whole.response_metadata,
        "response_id": "",
    }


def test_a_call_whose_arguments_are_no_json_is_no_call():
    with OfflineServer(always(CallTool("weather", '{"city": ', "c1"))) as server:
        answer = model_of(server).invoke("hi")
    assert answer.tool_calls == []
    (broken,) = answer.invalid_tool_calls
    assert (broken["name"], broken["args"]) == ("weather", '{"city": ')
    assert "not a JSON object" in broken["error"]


def test_a_call_that_was_cut_off_is_no_call_in_a_stream_either_and_goes_back_as_it_came():
    answers = iter([CallTool("rm", '{"path": "/tmp/x", "only": "a', "c1"), "fine"])
    with OfflineServer(lambda *_: next(answers), unanswered_call="accepted") as server:
        chat = ChatQwenConv(model=MODEL, conversations=another_process(server), session_id="alice")
        answer = stream(chat, "hi")
        assert answer.tool_calls == []
        assert [call["name"] for call in answer.invalid_tool_calls] == ["rm"]
        again = chat.invoke([HumanMessage("hi"), answer, HumanMessage("what?")])
        assert again.response_metadata["decision"] == "attached"


def test_a_call_without_arguments_goes_on(take):
    answers = iter([CallTool("now", "", "c1"), "noon"])
    with OfflineServer(lambda *_: next(answers)) as server:
        chat = ChatQwenConv(model=MODEL, conversations=another_process(server), session_id="alice")
        answer = take(chat, "what time is it?")
        assert [(call["name"], call["args"]) for call in answer.tool_calls] == [("now", {})]
        asked_for = [HumanMessage("what time is it?"), answer, ToolMessage("12", tool_call_id="c1")]
        assert take(chat, asked_for).response_metadata["decision"] == "attached"


def test_thoughts_come_streamed_as_they_come_whole():
    with OfflineServer(always((Think("one"), Say("x"), Think("two"), Say("y")))) as server:
        chat = model_of(server)
        whole, streamed = chat.invoke("hi"), stream(chat, "hi")
        assert whole.additional_kwargs == {"reasoning_content": "one\n\ntwo"}
        assert streamed.additional_kwargs == whole.additional_kwargs


def test_an_answer_streams_token_by_token_and_tells_what_comes_once_at_the_end(server, chat):
    chunks = [*chat.stream("The sky is blue today.")]
    texts = [chunk.text for chunk in chunks if chunk.text]
    assert len(texts) == 6
    once = [chunk for chunk in chunks if chunk.usage_metadata or chunk.response_metadata]
    assert once == [chunks[-1]]
    assert chunks[-1].chunk_position == "last"
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


def test_content_blocks_are_the_same_however_the_answer_comes(take):
    with OfflineServer(
        always([Think("hm"), "text", CallTool("weather", {"city": "x"}, "c1")])
    ) as server:
        answer = take(model_of(server, output_version="v1"), "hi")
    kinds = [block["type"] for block in answer.content_blocks]
    assert kinds == ["reasoning", "text", "tool_call"]
    assert answer.content == answer.content_blocks


@pytest.mark.parametrize("output_version", ["v0", "v1"])
def test_both_output_versions_go_on_in_a_conversation(take, server, hub, output_version):
    chat = ChatQwenConv(
        model=MODEL, conversations=hub, session_id="alice", output_version=output_version
    )
    messages = []
    for question in ("The sky is blue.", "Is it?", "Sure?"):
        messages.append(HumanMessage(question))
        messages.append(take(chat, messages))
    assert asked(server) == ["POST /conversations"] + ["POST /responses"] * 3


def test_an_incomplete_answer_keeps_its_text_and_says_why(take):
    long = " ".join(map(str, range(30)))
    with OfflineServer(always(long)) as server:
        answer = take(model_of(server, max_tokens=16), "hi")
    assert answer.text == " ".join(map(str, range(16)))
    assert answer.response_metadata["status"] == "incomplete"
    assert answer.response_metadata["incomplete_reason"] == "max_output_tokens"


# --- Parameters -------------------------------------------------------------------------------


def test_what_is_set_goes_out_and_what_is_not_is_left_out(take, server, hub):
    take(ChatQwenConv(model=MODEL, conversations=hub), "hi")
    body = server.requests[-1].body
    assert {k: v for k, v in body.items() if k != "stream"} == {
        "model": MODEL,
        "input": "hi",
        "store": False,
    }
    chat = ChatQwenConv(
        model=MODEL,
        conversations=hub,
        temperature=0,
        top_p=0.5,
        max_tokens=100,
        reasoning_effort="high",
        extra_body={"enable_search": True},
    )
    take(chat, "hi", max_tokens=50, enable_thinking=True)
    body = server.requests[-1].body
    assert (body["temperature"], body["top_p"], body["max_output_tokens"]) == (0, 0.5, 50)
    assert (body["enable_search"], body["enable_thinking"]) == (True, True)
    assert body["reasoning"] == {"effort": "high"}
    take(chat, "hi", reasoning_effort="low")
    assert server.requests[-1].body["reasoning"] == {"effort": "low"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": 2},
        {"temperature": -1},
        {"top_p": 0},
        {"top_p": 1.5},
        {"stop": [""]},
        {"reasoning_effort": "much"},
        {"enable_thinking": "sometimes"},
    ],
)
def test_values_that_the_service_refuses_are_refused_before_anything_is_sent(
    take, server, chat, wrong
):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ChatQwenConv(model=MODEL, api_key="any", **wrong)
    with pytest.raises(errors.UsageError, match=next(iter(wrong))):
        take(chat, "hi", **wrong)
    assert asked(server) == []


@pytest.mark.parametrize("wrong", [15, 20.5, "20"])
def test_a_limit_of_tokens_is_checked_with_the_turn(take, server, chat, wrong):
    with pytest.raises(errors.UsageError, match="max_tokens"):
        take(chat, "hi", max_tokens=wrong)
    assert asked(server) == []


def test_an_answer_ends_before_a_stop_word(take):
    with OfflineServer(always("one two STOP three")) as server:
        assert take(model_of(server), "hi", stop=["STOP"]).text == "one two "
        assert take(model_of(server, stop=["wo S"]), "hi").text == "one t"
        assert take(model_of(server, stop=["STOP"]), "hi", stop=[]).text == "one two STOP three"


def test_stop_words_are_refused_in_a_conversation(take, server, chat, hub):
    bound = chat.with_conversation(hub.run(flows.create).id)
    server.requests.clear()
    with pytest.raises(errors.UsageError, match="stay whole there"):
        take(bound, "hi", stop=["STOP"])
    assert asked(server) == []


# --- Tools ------------------------------------------------------------------------------------


def test_tools_of_every_kind_go_out_flat(server, chat):
    schema = {"title": "lookup", "description": "Looks up.", "type": "object", "properties": {}}
    chat.bind_tools([weather, Place, schema, {"type": "web_search"}]).invoke("hi")
    tools = server.requests[-1].body["tools"]
    assert [tool.get("name", tool["type"]) for tool in tools] == [
        "weather",
        "Place",
        "lookup",
        "web_search",
    ]
    assert tools[0] == {
        "type": "function",
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"default": 1, "type": "integer"}},
            "required": ["city"],
        },
    }


@pytest.mark.parametrize(
    ("tools", "choice", "sent"),
    [
        ([weather], "any", "required"),
        ([weather], "weather", "required"),
        ([weather], "auto", "auto"),
        ([weather], "none", "none"),
        (
            [weather, Place],
            "required",
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [
                    {"type": "function", "name": "weather"},
                    {"type": "function", "name": "Place"},
                ],
            },
        ),
        (
            [weather, Place],
            "Place",
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "Place"}],
            },
        ),
    ],
)
def test_a_tool_choice_goes_out_as_the_service_takes_it(server, chat, tools, choice, sent):
    chat.bind_tools(tools, tool_choice=choice).invoke("hi")
    assert server.requests[-1].body["tool_choice"] == sent


def test_a_tool_choice_that_is_none_of_the_tools_is_refused(chat):
    with pytest.raises(errors.UsageError, match="none of the tools"):
        chat.bind_tools([weather], tool_choice="wether")


def test_a_function_named_like_a_tool_of_the_service_is_refused(chat):
    with pytest.raises(errors.UsageError, match="file_search"):
        chat.bind_tools([{"type": "function", "name": "file_search", "parameters": {}}])


def test_calls_of_a_stateless_list_go_out_with_each_result_directly_behind(take, server, chat):
    answer = added([AIMessageChunk("let me see"), AIMessageChunk("")])
    answer.tool_calls = [
        {"name": "weather", "args": {"city": "x"}, "id": "c1", "type": "tool_call"},
        {"name": "weather", "args": {"city": "y"}, "id": "c2", "type": "tool_call"},
    ]
    take(
        chat,
        [
            HumanMessage("hi"),
            answer,
            ToolMessage("sunny", tool_call_id="c1"),
            ToolMessage("rainy", tool_call_id="c2"),
        ],
    )
    kinds = [one.get("type", "message") for one in server.requests[-1].body["input"]]
    assert kinds == ["message"] * 2 + ["function_call", "function_call_output"] * 2


@pytest.mark.parametrize("call_arguments", ["deltas", "done", "item", "response"])
def test_a_streamed_call_has_its_arguments_whatever_event_brings_them(call_arguments):
    script = always([Say("ok "), CallTool("weather", {"city": "x"}, "c1")])
    with OfflineServer(script, call_arguments=call_arguments) as server:
        answer = added(model_of(server).stream("hi"))
    (call,) = answer.tool_calls
    assert (call["name"], call["args"], call["id"]) == ("weather", {"city": "x"}, "c1")


# --- Failures ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fail", "kind"),
    [
        (Fail("slow down", "Throttling.RateQuota", 429), errors.RateLimitedError),
        (Fail("sorry", "InternalError", 500), errors.ServiceFailedError),
        (Fail("Invalid 'x'", "InvalidParameter", 400), errors.RequestRefusedError),
    ],
)
def test_a_failure_of_the_service_raises_in_every_way_of_asking(take, fail, kind):
    with OfflineServer(always(fail)) as server, pytest.raises(kind):
        take(model_of(server, max_retries=0), "hi")


def test_a_stream_that_fails_on_the_way_raises_after_what_had_come():
    script = always([Say("one two three"), Fail("sorry", after=2)])
    received = []
    with OfflineServer(script) as server, pytest.raises(errors.ServiceFailedError):
        received.extend(model_of(server).stream("hi"))
    assert "".join(chunk.text for chunk in received) == "one two"
