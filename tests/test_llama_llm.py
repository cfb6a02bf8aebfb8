"""LlamaIndex's LLM: what is sent, what comes back, piece by piece too, and what is told about it."""

import copy
import inspect
import json
import logging
import pickle
from collections import Counter
from contextlib import suppress

import pytest
from conftest import KEY, MODEL, always, asked
from llama_index.core.base.llms.types import (
    ChatMessage,
    ImageBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
)
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.callbacks import TokenCountingHandler as Counting
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.prompts import PromptTemplate
from llama_llm import (
    COMPLETIONS,
    STREAMS,
    WAYS,
    begin,
    chat,
    hearing,
    llm_at,
    message,
    response,
    serving,
)
from pydantic import ValidationError

from llamaindex_qwen_conv import QwenConv
from qwen_conv import QwenConversations, errors
from qwen_conv.offline import CallTool, Fail, OfflineServer, Think
from qwen_conv.registry import MemoryRegistry

SYSTEM = ChatMessage("Answer briefly.", role="system")


@pytest.fixture
def llm(hub):
    return QwenConv(model=MODEL, conversations=hub)


@pytest.fixture(params=WAYS)
def ask(request):
    """Asks in one of the four ways; the answer."""
    return WAYS[request.param]


@pytest.fixture(params=STREAMS)
def pieces_of(request):
    """Asks in one of the two ways that stream; the pieces."""
    return STREAMS[request.param]


@pytest.fixture(params=COMPLETIONS)
def complete(request):
    """Asks for a completion in one of the four ways; its pieces."""
    return COMPLETIONS[request.param]


@pytest.fixture
def heard():
    """Every event that LlamaIndex tells of, in order."""
    with hearing() as events:
        yield events


class Called(BaseCallbackHandler):
    """Keeps what LlamaIndex's callbacks are called with."""

    def __init__(self):
        super().__init__([], [])
        self.started = []
        self.ended = []

    def on_event_start(self, event_type, payload=None, event_id="", **_):
        if event_type == CBEventType.LLM:
            self.started.append(payload)
        return event_id

    def on_event_end(self, event_type, payload=None, **_):
        if event_type == CBEventType.LLM:
            self.ended.append(payload)

    def start_trace(self, trace_id=None):
        """Is of no interest."""

    def end_trace(self, trace_id=None, trace_map=None):
        """Is of no interest."""


# --- What is sent -----------------------------------------------------------------------------


def test_without_a_conversation_everything_is_sent_and_nothing_is_stored(ask, server, llm):
    history = [SYSTEM, ChatMessage("hi"), ChatMessage("hello", role="assistant"), ChatMessage("go")]
    ask(llm, history)
    assert asked(server) == ["POST /responses"]
    body = dict(server.requests[-1].body)
    body.pop("stream", None)
    assert body == {
        "model": MODEL,
        "instructions": "Answer briefly.",
        "input": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "hello"},
            {"role": "user", "content": "go"},
        ],
        "store": False,
    }


def test_only_the_ways_that_stream_ask_for_a_stream(server, llm):
    for way, ask in WAYS.items():
        ask(llm, "hi")
        assert ("stream" in server.requests[-1].body) == ("stream" in way)


def test_system_messages_at_the_beginning_are_the_instructions_and_others_stay(ask, server, llm):
    rules = ChatMessage("Be kind.", role="developer")
    late = ChatMessage("Be quick.", role="system")
    ask(llm, [SYSTEM, rules, ChatMessage("hi"), late, ChatMessage("go")])
    body = server.requests[-1].body
    assert body["instructions"] == "Answer briefly.\n\nBe kind."
    assert [one["role"] for one in body["input"]] == ["user", "system", "user"]


def test_images_go_out_by_address_and_as_data_in_a_history_too(ask, server, llm):
    png = b"\x89PNG\r\n\x1a\n and so on"
    seen = ChatMessage(
        blocks=[
            TextBlock(text="What is it?"),
            ImageBlock(url="https://example.com/cat.png", detail="low"),
            ImageBlock(image=png, image_mimetype="image/png"),
        ]
    )
    ask(llm, [seen, ChatMessage("A cat.", role="assistant"), ChatMessage("Sure?")])
    parts = server.requests[-1].body["input"][0]["content"]
    assert [part["type"] for part in parts] == ["input_text", "input_image", "input_image"]
    assert parts[1] == {
        "type": "input_image",
        "image_url": "https://example.com/cat.png",
        "detail": "low",
    }
    assert parts[2]["image_url"].startswith("data:image/png;base64,iVBOR")


def test_what_a_message_thought_is_not_sent(ask, server, llm):
    thought = ThinkingBlock(content="a private thought")
    said = ChatMessage(role="assistant", blocks=[thought, TextBlock(text="4")])
    ask(llm, [ChatMessage("2+2?"), said, ChatMessage("Sure?")])
    assert "private" not in json.dumps(server.requests[-1].body)


def test_what_is_set_goes_out_and_what_is_not_is_left_out(ask, server, hub):
    llm = QwenConv(
        model=MODEL,
        conversations=hub,
        temperature=0,
        top_p=0.5,
        max_tokens=100,
        reasoning_effort="high",
        extra_body={"enable_search": True, "x": 1},
    )
    ask(llm, "hi")
    body = server.requests[-1].body
    assert (body["temperature"], body["top_p"], body["max_output_tokens"]) == (0, 0.5, 100)
    assert body["reasoning"] == {"effort": "high"}
    assert (body["enable_search"], body["x"]) == (True, 1)
    assert "enable_thinking" not in body
    ask(
        llm,
        "hi",
        model="qwen3.8-max",
        temperature=1,
        top_p=1,
        max_tokens=16,
        reasoning_effort="low",
        enable_thinking=False,
        extra_body={"x": 2},
    )
    body = server.requests[-1].body
    assert body["model"] == "qwen3.8-max"
    assert (body["temperature"], body["top_p"], body["max_output_tokens"]) == (1, 1, 16)
    assert body["reasoning"] == {"effort": "low"}
    assert (body["enable_search"], body["x"], body["enable_thinking"]) == (True, 2, False)


def test_how_often_a_call_is_sent_again_is_said_by_the_model_or_by_the_call(ask):
    with OfflineServer(always(Fail("sorry"))) as server:
        for llm, kwargs in (
            (llm_at(server, max_retries=0), {}),
            (llm_at(server), {"max_retries": 0}),
        ):
            server.requests.clear()
            with pytest.raises(errors.ServiceFailedError):
                ask(llm, "hi", **kwargs)
            assert len(server.requests) == 1


def test_how_long_to_wait_is_said_by_the_model_or_by_the_call(ask):
    def silent(handler):
        handler.connection.settimeout(10)
        with suppress(OSError):
            handler.rfile.read(1)  # until the client gives up

    with serving(silent) as address:
        for llm, kwargs in (
            (llm_at(address, timeout=0.05, max_retries=0), {}),
            (llm_at(address, max_retries=0), {"timeout": 0.05}),
        ):
            with pytest.raises(errors.TimedOutError):
                ask(llm, "hi", **kwargs)


# --- What comes back --------------------------------------------------------------------------


def test_an_answer_tells_what_was_decided_and_what_it_cost(ask):
    with OfflineServer(always("one two three")) as server:
        answer = ask(llm_at(server), [SYSTEM, ChatMessage("hi there")])
    assert answer.message.role == MessageRole.ASSISTANT
    assert answer.message.content == "one two three"
    assert answer.additional_kwargs == {
        "decision": "stateless",
        "reason": "nothing selects a conversation",
        "response_id": answer.raw["id"],
        "status": "completed",
    }
    assert type(answer.raw) is dict
    usage = {name: answer.raw["usage"][name] for name in ("input_tokens", "output_tokens")}
    assert usage == {"input_tokens": 4, "output_tokens": 3}
    assert answer.message == ChatMessage("one two three", role="assistant")


def test_in_a_conversation_it_tells_which_one(ask, hub, server):
    llm = QwenConv(model=MODEL, conversations=hub, session_id="alice")
    answer = ask(llm, "hi")
    conversation = hub.registry.get(hub.session("alice")).conversation_id
    assert answer.additional_kwargs["decision"] == "attached"
    assert answer.additional_kwargs["conversation_id"] == conversation
    assert answer.message.additional_kwargs == {}


def test_a_stream_shows_all_that_came_so_far_and_ends_with_the_whole_answer(pieces_of):
    with OfflineServer(always("one two three")) as server:
        *pieces, last = pieces_of(llm_at(server), "hi")
        whole = chat(llm_at(server), "hi")
    assert [piece.delta for piece in pieces] == ["one", " two", " three"]
    assert [piece.message.content for piece in pieces] == ["one", "one two", "one two three"]
    assert {piece.message.role for piece in pieces} == {MessageRole.ASSISTANT}
    assert all(piece.raw is None and piece.additional_kwargs == {} for piece in pieces)
    assert (last.delta, last.message) == ("", whole.message)
    assert last.raw["usage"] == whole.raw["usage"]
    assert last.additional_kwargs.keys() == whole.additional_kwargs.keys()


def test_a_piece_that_was_passed_on_stays_as_it_was(pieces_of):
    with OfflineServer(always([Think("hm"), "one two"])) as server:
        pieces = pieces_of(llm_at(server), "hi")
    told = [[type(block).__name__ for block in piece.message.blocks] for piece in pieces]
    assert told == [["ThinkingBlock"]] + [["ThinkingBlock", "TextBlock"]] * 3


def test_thoughts_are_told_as_they_come_and_kept_in_the_message(pieces_of):
    with OfflineServer(always([Think("let me see"), "four"])) as server:
        pieces = pieces_of(llm_at(server), "2+2?")
    thoughts = [piece.additional_kwargs.get("thinking_delta") for piece in pieces]
    assert thoughts == ["let", " me", " see", None, None]
    assert [piece.delta for piece in pieces] == ["", "", "", "four", ""]
    seen = [piece.message.blocks[0].content for piece in pieces]
    assert seen == ["let", "let me", "let me see", "let me see", "let me see"]


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param("one two three", id="text"),
        pytest.param([Think("hm hm"), "one two"], id="thought and text"),
        pytest.param(["let me see", CallTool("weather", {"city": "x"}, "c1")], id="text and call"),
        pytest.param([CallTool("weather", {"city": x}, x) for x in "ab"], id="two calls"),
        pytest.param([CallTool("now", "", "c1")], id="a call without arguments"),
        pytest.param(CallTool("weather", '{"city": ', "c1"), id="a call that was cut"),
        pytest.param("", id="nothing"),
    ],
)
def test_an_answer_is_the_same_in_every_way(ask, answer):
    with OfflineServer(always(answer)) as server:
        llm = llm_at(server)
        assert ask(llm, "hi").message == chat(llm, "hi").message


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param([Think("hm hm"), "one two"], id="thought and text"),
        pytest.param(["let me see", CallTool("weather", {"city": "x"}, "c1")], id="text and call"),
        pytest.param([CallTool("weather", {"city": x}, x) for x in "ab"], id="two calls"),
        pytest.param([CallTool("now", "", "c1")], id="a call without arguments"),
    ],
)
def test_the_last_but_one_piece_shows_what_the_whole_answer_says(pieces_of, answer):
    with OfflineServer(always(answer)) as server:
        *_, before, last = pieces_of(llm_at(server), "hi")
    assert before.message == last.message


def test_an_answer_that_says_nothing_is_an_empty_text(ask):
    with OfflineServer(always("")) as server:
        assert ask(llm_at(server), "hi").message.content == ""


def test_an_incomplete_answer_keeps_its_text_and_says_why(ask, caplog):
    with OfflineServer(always(" ".join(map(str, range(30))))) as server:
        answer = ask(llm_at(server, max_tokens=16), "hi")
    assert answer.message.content == " ".join(map(str, range(16)))
    assert answer.additional_kwargs["status"] == "incomplete"
    assert answer.additional_kwargs["incomplete_reason"] == "max_output_tokens"
    assert "incomplete: max_output_tokens" in caplog.text


# --- Completions ------------------------------------------------------------------------------


def test_a_completion_is_the_answer_to_its_prompt(complete):
    with OfflineServer(always("one two")) as server:
        pieces = complete(llm_at(server), "Say it.")
        assert server.requests[-1].body["input"] == "Say it."
        assert server.requests[-1].body["store"] is False
    last = pieces[-1]
    assert last.text == "one two"
    assert last.raw["usage"]["output_tokens"] == 2
    assert last.additional_kwargs["decision"] == "stateless"


@pytest.mark.parametrize("way", ["stream_complete", "astream_complete"])
def test_a_streamed_completion_shows_all_that_came_so_far(way):
    with OfflineServer(always([Think("hm"), "one two"])) as server:
        pieces = COMPLETIONS[way](llm_at(server), "Say it.")
    assert [piece.delta for piece in pieces] == ["", "one", " two", ""]
    assert [piece.text for piece in pieces] == ["", "one", "one two", "one two"]
    assert pieces[0].additional_kwargs == {"thinking_delta": "hm"}


def test_a_prompt_is_made_by_completion_to_prompt_unless_it_is_formatted(complete, server, hub):
    llm = QwenConv(model=MODEL, conversations=hub, completion_to_prompt=lambda text: f"<{text}>")
    complete(llm, "hi")
    assert server.requests[-1].body["input"] == "<hi>"
    complete(llm, "hi", formatted=True)
    assert server.requests[-1].body["input"] == "hi"


def test_a_completion_takes_what_a_call_may_say(complete, server, llm):
    complete(llm, "hi", temperature=1, model="qwen3.8-max")
    body = server.requests[-1].body
    assert (body["temperature"], body["model"]) == (1, "qwen3.8-max")


def test_a_prediction_has_the_system_prompt_of_the_model(server, hub):
    llm = QwenConv(model=MODEL, conversations=hub, system_prompt="Answer briefly.")
    template = PromptTemplate("Describe {what}.")
    told = llm.predict(template, what="it")
    assert "".join(llm.stream(template, what="it")) == told
    for request in server.requests:
        assert request.body["instructions"] == "Answer briefly."
        assert request.body["input"] == "Describe it."


# --- What LlamaIndex is told of it ------------------------------------------------------------


def test_tokens_are_counted_exactly(ask, complete):
    counting = Counting(tokenizer=lambda text: [text] * 1000)  # what it would guess with
    with OfflineServer(always([Think("hm"), "one two three"])) as server:
        llm = llm_at(server, callback_manager=CallbackManager([counting]))
        ask(llm, [SYSTEM, ChatMessage("hi there")])
        complete(llm, "four words are here")
    assert counting.prompt_llm_token_count == 4 + 4
    assert counting.completion_llm_token_count == 4 + 4
    assert len(counting.llm_token_counts) == 2


@pytest.mark.parametrize("way", WAYS)
def test_a_chat_is_told_of_once_from_beginning_to_end(heard, way):
    called = Called()
    with OfflineServer(always("one two")) as server:
        llm = llm_at(server, callback_manager=CallbackManager([called]))
        heard.clear()
        answer = WAYS[way](llm, "hi", temperature=1)
    expected = {"LLMChatStartEvent": 1, "LLMChatEndEvent": 1}
    if "stream" in way:
        expected["LLMChatInProgressEvent"] = 3
    assert Counter(type(event).__name__ for event in heard) == expected
    start, end = heard[0], heard[-1]
    assert start.messages == [ChatMessage("hi")]
    assert start.additional_kwargs == {"temperature": 1}
    assert start.model_dict["model_name"] == MODEL
    assert end.response == answer
    assert len(called.started) == len(called.ended) == 1
    assert called.ended[0][EventPayload.RESPONSE] == answer


@pytest.mark.parametrize("way", COMPLETIONS)
def test_a_completion_is_told_of_once_and_not_as_a_chat(heard, way):
    called = Called()
    with OfflineServer(always("one two")) as server:
        llm = llm_at(server, callback_manager=CallbackManager([called]))
        heard.clear()
        *_, last = COMPLETIONS[way](llm, "hi")
    expected = {"LLMCompletionStartEvent": 1, "LLMCompletionEndEvent": 1}
    if "stream" in way:
        expected["LLMCompletionInProgressEvent"] = 3
    assert Counter(type(event).__name__ for event in heard) == expected
    assert len(called.started) == len(called.ended) == 1
    assert called.ended[0][EventPayload.COMPLETION] == last


@pytest.mark.parametrize("way", [*WAYS, *COMPLETIONS])
def test_a_failure_is_told_of_once(heard, way):
    called = Called()
    with OfflineServer(always(Fail("sorry"))) as server:
        llm = llm_at(server, max_retries=0, callback_manager=CallbackManager([called]))
        heard.clear()
        with pytest.raises(errors.ServiceFailedError) as raised:
            (WAYS | COMPLETIONS)[way](llm, "hi")
    assert [payload[EventPayload.EXCEPTION] for payload in called.ended] == [raised.value]
    told = Counter(type(event).__name__ for event in heard)
    assert told["ExceptionEvent"] == ("stream" in way)
    assert told["SpanDropEvent"] == ("stream" not in way)
    assert told["LLMChatEndEvent"] == told["LLMCompletionEndEvent"] == 0


def test_the_log_tells_what_was_decided_without_content(ask, hub, caplog):
    caplog.set_level(logging.INFO, "qwen_conv")
    ask(QwenConv(model=MODEL, conversations=hub, session_id="alice"), "a private matter")
    assert "turn attached: conversation=conv_" in caplog.text
    assert "private" not in caplog.text


# --- Bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize("messages", [[], [SYSTEM], [ChatMessage(role="user", blocks=[])], ""])
@pytest.mark.parametrize("session", [None, "alice"])
def test_empty_input_is_refused(ask, server, hub, messages, session):
    llm = QwenConv(model=MODEL, conversations=hub, session_id=session)
    with pytest.raises(errors.UsageError, match=r"nothing to send|is empty"):
        ask(llm, messages)
    assert asked(server) == []


@pytest.mark.parametrize(
    "messages",
    [
        "\ud83d",
        [ChatMessage("\ud83d", role="system"), ChatMessage("hi")],
        [ChatMessage("hi"), ChatMessage("\ud83d", role="assistant"), ChatMessage("hi")],
        [ChatMessage(role="tool", content="no call is named")],
        [
            ChatMessage(role="system", blocks=[ImageBlock(url="https://a.example")]),
            ChatMessage("hi"),
        ],
    ],
)
@pytest.mark.parametrize("session", [None, "alice"])
def test_what_cannot_be_sent_is_refused_before_anything_is(ask, server, hub, messages, session):
    llm = QwenConv(model=MODEL, conversations=hub, session_id=session)
    with pytest.raises(errors.UsageError):
        ask(llm, messages)
    assert asked(server) == []


@pytest.mark.parametrize("name", ["response_format", "conversation", "stop", "instructions", "n"])
def test_an_unknown_argument_is_refused(ask, complete, server, llm, name):
    with pytest.raises(errors.UsageError, match=f"'{name}'"):
        ask(llm, "hi", **{name: "x"})
    with pytest.raises(errors.UsageError, match=f"'{name}'"):
        complete(llm, "hi", **{name: "x"})
    assert asked(server) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": 2},
        {"temperature": -1},
        {"top_p": 0},
        {"top_p": 1.5},
        {"max_tokens": 15},
        {"reasoning_effort": "much"},
        {"enable_thinking": "sometimes"},
    ],
)
def test_values_that_the_service_refuses_are_refused_before_anything_is_sent(
    ask, server, llm, wrong
):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        QwenConv(model=MODEL, api_key="any", **wrong)
    with pytest.raises(errors.UsageError, match=next(iter(wrong))):
        ask(llm, "hi", **wrong)
    assert asked(server) == []


@pytest.mark.parametrize("name", ["model", "input", "conversation", "stream", "instructions"])
def test_what_a_turn_decides_cannot_be_said_in_extra_body(ask, server, llm, name):
    with pytest.raises(errors.UsageError, match=f"extra_body holds '{name}'"):
        ask(llm, "hi", extra_body={name: "x"})
    assert asked(server) == []


@pytest.mark.parametrize("unknown", ["temprature", "additional_kwargs", "stop"])
def test_an_unknown_setting_is_refused(unknown):
    with pytest.raises(ValidationError, match=unknown):
        QwenConv(model=MODEL, api_key="any", **{unknown: 1})


def test_a_missing_key_is_told_when_the_model_is_made(monkeypatch):
    monkeypatch.delenv("DASHSCOPE_API_KEY", raising=False)
    with pytest.raises(errors.MissingKeyError, match="DASHSCOPE_API_KEY"):
        QwenConv(model=MODEL)


@pytest.mark.parametrize(
    "settings",
    [{"api_key": "another"}, {"base_url": "https://example.com"}, {"default_headers": {"x": "y"}}],
)
def test_a_setting_beside_a_hub_that_says_otherwise_is_refused(hub, settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))}: the hub"):
        QwenConv(model=MODEL, conversations=hub, **settings)


# --- Secrets, dumps and copies ----------------------------------------------------------------


def test_the_key_is_told_nowhere(ask, server, heard, caplog):
    caplog.set_level(logging.DEBUG, "qwen_conv")
    called = Called()
    llm = QwenConv(
        model=MODEL,
        api_key=KEY,
        base_url=server.base_url,
        session_id="alice",
        default_headers={"x-secret": KEY},
        callback_manager=CallbackManager([called]),
    )
    answer = ask(llm, "hi")
    told = [repr(llm), str(llm), repr(llm.to_payload()), repr(llm.to_dict()), llm.to_json()]
    told += [repr(answer), repr(heard), repr(called.started), repr(called.ended), caplog.text]
    told += [repr(pickle.dumps(llm))]
    assert KEY not in "".join(told)


def test_what_is_told_of_the_model_is_enough_to_know_it(llm):
    assert llm.to_payload() == {"class_name": "QwenConv", **llm.metadata.model_dump()}


SETTINGS = {
    "session_id": "alice",
    "on_divergence": "raise",
    "on_unanswered_call": "raise",
    "temperature": 0.5,
    "top_p": 0.5,
    "max_tokens": 100,
    "reasoning_effort": "low",
    "enable_thinking": True,
    "context_window": 1000,
    "timeout": 5.0,
    "max_retries": 0,
    "extra_body": {"x": 1},
    "system_prompt": "Answer briefly.",
    "namespace": "here",
}
RESTORED = {
    "to_dict": lambda llm: QwenConv.from_dict(llm.to_dict()),
    "to_json": lambda llm: QwenConv.from_json(llm.to_json()),
    "pickle": lambda llm: pickle.loads(pickle.dumps(llm)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


@pytest.mark.parametrize("way", RESTORED)
def test_a_model_is_restored_with_its_settings_and_the_key_of_the_environment(
    monkeypatch, server, way
):
    monkeypatch.setenv("DASHSCOPE_API_KEY", KEY)
    llm = QwenConv(model=MODEL, base_url=server.base_url, **SETTINGS)
    restored = RESTORED[way](llm)
    assert type(restored) is QwenConv
    assert restored.to_dict() == llm.to_dict()
    assert restored.to_dict().items() >= SETTINGS.items()
    for each in (restored, llm):  # neither is broken by it
        assert each.chat([ChatMessage("hi")]).additional_kwargs["decision"] == "attached"


@pytest.mark.parametrize("way", ["to_dict", "to_json", "pickle"])
def test_without_a_key_a_model_is_not_restored(monkeypatch, server, way):
    monkeypatch.delenv("DASHSCOPE_API_KEY", raising=False)
    llm = QwenConv(model=MODEL, api_key=KEY, base_url=server.base_url)
    with pytest.raises(errors.MissingKeyError):
        RESTORED[way](llm)


def test_a_model_is_restored_on_a_hub(hub):
    hub = QwenConversations(api_key=KEY, base_url=hub.base_url, registry=MemoryRegistry())
    llm = QwenConv(model=MODEL, conversations=hub)
    assert QwenConv.from_dict(llm.to_dict(), conversations=hub).conversations is hub


# --- The model --------------------------------------------------------------------------------


def test_the_metadata_are_those_of_the_model(hub):
    def metadata(**settings):
        return QwenConv(conversations=hub, **settings).metadata

    known = metadata(model="qwen3.6-plus")
    assert known.model_name == "qwen3.6-plus"
    assert known.is_chat_model
    assert known.is_function_calling_model
    assert known.system_role == MessageRole.SYSTEM
    # The service cuts what is longer in the middle, and does not say so.
    assert (known.context_window, known.num_output) == (800_000, 65_536)
    assert metadata(model="qwen3.5-flash").context_window == 89_000  # as measured
    assert metadata(model="qwen3-max-2026-01-23") == known.model_copy(
        update={"model_name": "qwen3-max-2026-01-23", "context_window": 209_715}
    )
    unknown = metadata(model="of-tomorrow")
    assert (unknown.context_window, unknown.num_output) == (131_072, 32_768)
    chosen = metadata(model="qwen3.6-plus", context_window=1000, max_tokens=100)
    assert (chosen.context_window, chosen.num_output) == (1000, 100)


@pytest.mark.parametrize("window", [0, -1])
def test_a_context_window_is_a_number_of_tokens(hub, window):
    with pytest.raises(ValidationError, match="context_window"):
        QwenConv(model=MODEL, conversations=hub, context_window=window)


def test_a_rate_limiter_is_asked_before_every_call(ask, complete, server, hub):
    class Limiter:
        asked = 0

        def acquire(self):
            self.asked += 1

        async def async_acquire(self):
            self.asked += 1

    limiter = Limiter()
    llm = QwenConv(model=MODEL, conversations=hub, rate_limiter=limiter)
    ask(llm, "hi")
    complete(llm, "hi")
    assert limiter.asked == 2


# --- Built-in tools ---------------------------------------------------------------------------

SEARCHED = {
    "type": "web_search_call",
    "id": "msg_1",
    "status": "completed",
    "action": {"type": "search", "query": "Web search", "sources": [{"url": "https://a.example"}]},
}
EXTRACTED = {"type": "web_extractor_call", "id": "msg_2", "goal": "the news", "output": "text"}


def test_what_the_services_own_tools_did_is_kept_beside_the_answer(ask):
    def write(handler):
        whole = response(SEARCHED, EXTRACTED, message("Found."))
        begin(handler, "application/json")
        handler.wfile.write(json.dumps(whole).encode())

    with serving(write) as address:
        answer = ask(llm_at(address), "What is new?")
    assert answer.message.content == "Found."
    assert answer.message.additional_kwargs == {"output_items": [SEARCHED, EXTRACTED]}


# --- The shape of the class -------------------------------------------------------------------


def test_it_is_a_model_that_calls_functions(llm):
    assert isinstance(llm, FunctionCallingLLM)
    assert QwenConv.class_name() == "QwenConv"


def test_every_public_method_of_its_own_is_explained():
    ours = {name for name, value in vars(QwenConv).items() if callable(value)}
    ours |= {"metadata", "class_name"}
    public = {name for name in ours if not name.startswith(("_", "model_"))}
    assert len(public) >= 20
    assert [name for name in public if not inspect.getdoc(getattr(QwenConv, name))] == []


TWINS = {
    name: f"a{name}"
    for name in (
        "chat",
        "complete",
        "stream_chat",
        "stream_complete",
        "chat_with_tools",
        "stream_chat_with_tools",
        "predict",
        "stream",
        "predict_and_call",
        "structured_predict",
        "stream_structured_predict",
    )
}


@pytest.mark.parametrize("name", TWINS)
def test_both_of_a_pair_take_the_same(name):
    sync, awaited = getattr(QwenConv, name), getattr(QwenConv, TWINS[name])
    assert _parameters(sync) == _parameters(awaited)
    assert inspect.iscoroutinefunction(awaited)
    assert not inspect.iscoroutinefunction(sync)


def _parameters(method):
    return [
        (one.name, one.kind, one.default) for one in inspect.signature(method).parameters.values()
    ]
