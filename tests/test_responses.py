"""However a stream tells its answer, it is read once and whole; whatever ends it early is an error."""

import pytest

from qwen_conv import errors
from qwen_conv.items import FunctionCall, Message
from qwen_conv.offline import CallTool, Say, Switches, Think, model
from qwen_conv.responses import CallDelta, Reading, ReasoningDelta, Response, TextDelta, Usage

PIECES = (Think("two words"), Say("The answer. "), CallTool("f", {"city": "Singapore"}, "call_1"))


def response(pieces=PIECES):
    return {
        "id": "response-1",
        "model": "qwen3.6-plus",
        "status": "completed",
        "output": model.output_items(pieces),
        "usage": {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7},
    }


def read(events):
    reading = Reading()
    deltas = [delta for event in events for delta in reading.feed(event)]
    return reading, deltas


def text_of(deltas):
    return "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))


def thought_in(deltas):
    return "".join(delta.text for delta in deltas if isinstance(delta, ReasoningDelta))


def calls_in(deltas):
    pieces = [delta for delta in deltas if isinstance(delta, CallDelta)]
    return [(p.call_id, p.name) for p in pieces if p.name], "".join(p.arguments for p in pieces)


@pytest.mark.parametrize(
    ("call_arguments", "final_output"),
    [
        ("deltas", "whole"),
        ("done", "whole"),
        ("item", "whole"),
        ("response", "whole"),
        ("deltas", "missing"),
        ("done", "missing"),
        ("item", "missing"),
    ],
)
def test_text_thought_and_arguments_come_once_and_whole(call_arguments, final_output):
    switches = Switches(call_arguments=call_arguments, final_output=final_output)
    whole = response()
    reading, deltas = read(model.events(whole, switches, None))
    assert text_of(deltas) == "The answer. "
    assert thought_in(deltas) == "two words"
    assert calls_in(deltas) == ([("call_1", "f")], '{"city": "Singapore"}')
    assert reading.received == (
        Message.of("assistant", "The answer. "),
        FunctionCall("call_1", "f", '{"city": "Singapore"}'),
    )
    assert reading.response.output == Response.from_wire(whole).output


def test_two_calls_at_once_are_kept_apart():
    pieces = (CallTool("f", {"a": 1}, "call_1"), CallTool("f", {"b": 2}, "call_2"))
    reading, deltas = read(model.events(response(pieces), Switches(), None))
    assert [d.output_index for d in deltas if isinstance(d, CallDelta) and d.name] == [0, 1]
    assert [call.arguments for call in reading.received] == ['{"a": 1}', '{"b": 2}']


def test_two_messages_are_one_text():
    pieces = (Say("A"), Say("AB"))
    reading, deltas = read(model.events(response(pieces), Switches(), None))
    assert text_of(deltas) == "AAB"
    assert reading.received == (Message.of("assistant", "AAB"),)


def test_text_that_only_the_last_event_tells_is_passed_on():
    whole = response((Say("late"),))
    _, deltas = read([{"type": "response.completed", "response": whole}])
    assert text_of(deltas) == "late"


def test_deltas_without_place_or_id_are_read():
    """The vendor's own example of a stream leaves both out."""
    _, deltas = read(
        [
            {"type": "response.output_item.added", "item": {"type": "message", "id": "msg_final"}},
            {"type": "response.output_text.delta", "delta": "hel"},
            {"type": "response.output_text.delta", "delta": "lo"},
            {"type": "response.completed", "response": {"id": "r", "status": "completed"}},
        ]
    )
    assert text_of(deltas) == "hello"
    assert {delta.item_id for delta in deltas} == {"msg_final"}


def test_arguments_without_a_beginning_wait_for_the_name():
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a": 1}'}
    _, deltas = read(
        [
            {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": '{"a"'},
            {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": ": 1}"},
            {"type": "response.output_item.done", "output_index": 0, "item": call},
        ]
    )
    assert deltas == [CallDelta(0, "", "c", "f"), CallDelta(0, '{"a": 1}')]


def test_an_incomplete_answer_keeps_its_text_and_its_reason():
    told = {**response((Say("half"),)), "status": "incomplete"}
    told["incomplete_details"] = {"reason": "max_output_tokens"}
    reading, deltas = read(model.events(told, Switches(), None))
    assert text_of(deltas) == "half"
    assert reading.response.status == "incomplete"
    assert reading.response.incomplete_reason == "max_output_tokens"


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (
            {"type": "response.failed", "response": {"error": {"code": "x", "message": "m"}}},
            errors.ServiceFailedError,
        ),
        ({"type": "error", "code": "x", "message": "<429> slow down"}, errors.RateLimitedError),
        (
            {"type": "server_error", "message": "Backend buffer overflow."},
            errors.ServiceFailedError,
        ),
        (
            {"code": "Throttling.RateQuota", "message": "m", "request_id": "r"},
            errors.RateLimitedError,
        ),
        ("not an event", errors.ServiceFailedError),
    ],
)
def test_an_event_that_says_failure_raises(event, kind):
    with pytest.raises(kind):
        read([{"type": "response.created", "response": {"id": "r"}}, event])


def test_a_stream_that_just_ends_is_cut_and_tells_what_had_come():
    events = [*model.events(response((Say("half a sentence"),)), Switches(), None)][:5]
    reading, _ = read(events)
    with pytest.raises(errors.StreamCutError) as raised:
        _ = reading.response
    assert raised.value.received == "half"
    assert raised.value.response_id == "response-1"


def test_the_finished_item_has_the_last_word_about_a_calls_arguments():
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": ""}
    reading, deltas = read(
        [
            {"type": "response.output_item.added", "output_index": 0, "item": call},
            {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": "{"},
            {
                "type": "response.output_item.done",
                "output_index": 0,
                "item": {**call, "arguments": '{"a": 1}'},
            },
        ]
    )
    assert calls_in(deltas) == ([("c", "f")], '{"a": 1}')
    assert reading.received == (FunctionCall("c", "f", '{"a": 1}'),)


def test_unknown_events_are_passed_over():
    _, deltas = read([{"type": "response.web_search_call.searching", "output_index": 0}])
    assert deltas == []


def test_a_failed_response_is_an_error_though_its_status_was_200():
    with pytest.raises(errors.ServiceFailedError, match="sorry"):
        Response.from_wire({"id": "r", "status": "failed", "error": {"message": "sorry"}})


def test_what_is_no_response_is_an_error():
    with pytest.raises(errors.ServiceFailedError):
        Response.from_wire({"object": "list", "data": []})


def test_usage_is_read_with_or_without_its_details():
    assert Usage.from_wire({"input_tokens": 78, "output_tokens": 16}) == Usage(78, 16, 94)
    told = {
        "input_tokens": 100,
        "output_tokens": 46,
        "total_tokens": 146,
        "input_tokens_details": {"cached_tokens": 64},
        "output_tokens_details": {"reasoning_tokens": 33},
        "x_details": [{"prompt_tokens_details": {"cache_creation_input_tokens": 10}}],
    }
    assert Usage.from_wire(told) == Usage(100, 46, 146, 64, 10, 33)
