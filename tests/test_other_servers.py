"""Servers that answer otherwise than ours: read all the same, or refused with what they said."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import MODEL, astream, stream

from langchain_qwen_conv import ChatQwenConv
from qwen_conv import QwenConversations, errors, flows

KEY = "sk-a-very-secret-key"
JSON = "application/json"
EVENTS = "text/event-stream"


@contextmanager
def answering(body, kind=JSON, status=200):
    """A base URL where every request is answered by these bytes."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.send_header("x-request-id", "request-1")
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_DELETE = do_POST  # noqa: N815 - the names of http.server

        def log_message(self, *args):
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            thread.join()


def chat_at(address):
    return ChatQwenConv(model=MODEL, api_key=KEY, base_url=address)


def response(*output, **more):
    return {"id": "r1", "object": "response", "status": "completed", "output": [*output], **more}


def message(*content, **more):
    return {"type": "message", "id": "m1", "role": "assistant", "content": [*content], **more}


def words(text):
    return {"type": "output_text", "text": text}


def framed(*events, between=b""):
    """Events as Qwen frames them, with something of the server's own between them."""
    return between.join(
        f"id:{number}\nevent:{event['type']}\n:HTTP_STATUS/200\ndata:{json.dumps(event)}\n\n".encode()
        for number, event in enumerate(events, 1)
    )


def text_events(*deltas, whole=None):
    text = "".join(deltas) if whole is None else whole
    return [
        {"type": "response.created", "response": {"id": "r1"}},
        *({"type": "response.output_text.delta", "delta": delta} for delta in deltas),
        {"type": "response.completed", "response": response(message(words(text)))},
    ]


@pytest.mark.parametrize(
    "between", [b": keep-alive\n\n", b"\n", b"event: ping\ndata: \n\n", b"retry: 1000\n\n"]
)
@pytest.mark.parametrize("way", [stream, astream])
def test_what_keeps_a_stream_alive_is_passed_over(way, between):
    with answering(framed(*text_events("one ", "two"), between=between), EVENTS) as address:
        assert way(chat_at(address), "hi").text == "one two"


def test_the_end_that_some_servers_announce_is_no_event():
    body = framed(*text_events("one")) + b"data: [DONE]\n\n"
    with answering(body, EVENTS) as address:
        assert "".join(chunk.text for chunk in chat_at(address).stream("hi")) == "one"


def test_a_server_that_does_not_stream_gives_its_answer_in_one_piece(take):
    body = json.dumps(response(message(words("one two")), error=None)).encode()
    with answering(body) as address:
        assert take(chat_at(address), "hi").text == "one two"


@pytest.mark.parametrize(
    "body",
    [
        {"code": "Throttling.RateQuota", "message": "slow down", "request_id": "request-2"},
        {"error": {"code": "Throttling", "message": "slow down"}, "request_id": "request-2"},
        {"type": "error", "code": "x", "message": "<429> slow down", "request_id": "request-2"},
    ],
)
def test_an_error_in_an_http_200_is_an_error_with_its_request_id(take, body):
    with answering(json.dumps(body).encode()) as address:
        with pytest.raises(errors.RateLimitedError, match="slow down") as raised:
            take(chat_at(address), "hi")
        assert raised.value.request_id == "request-2"
        hub = QwenConversations(api_key=KEY, base_url=address)
        with pytest.raises(errors.RateLimitedError, match="slow down"):
            hub.run(flows.create)


def test_an_error_in_the_middle_of_a_stream_keeps_its_request_id():
    failed = {"type": "error", "error": {"code": "Throttling", "message": "slow down"}}
    body = framed(text_events("one")[0], {**failed, "request_id": "request-2"})
    with answering(body, EVENTS) as address:
        with pytest.raises(errors.RateLimitedError, match="slow down") as raised:
            [*chat_at(address).stream("hi")]
        assert raised.value.request_id == "request-2"


@pytest.mark.parametrize("status", [200, 400])
def test_an_echoed_key_is_blackened_wherever_the_error_came(take, status):
    failed = {"id": "r1", "status": "failed", "error": {"code": "x", "message": f"bad {KEY}"}}
    with (
        answering(json.dumps(failed).encode(), status=status) as address,
        pytest.raises(errors.ServiceError, match=r"bad \[api key\]") as raised,
    ):
        take(chat_at(address), "hi")
    error = raised.value
    while error is not None:
        assert KEY not in f"{error} {error.args} {vars(error)}"
        error = error.__cause__ or error.__context__


def test_halves_of_a_character_are_joined_or_replaced(take):
    events = text_events("Hi \ud83d", "\ude00 and \ude00", whole="Hi \ud83d\ude00 and \ude00")
    with answering(framed(*events), EVENTS) as address:
        assert "".join(chunk.text for chunk in chat_at(address).stream("hi")) == "Hi 😀 and �"
    with answering(json.dumps(events[-1]["response"]).encode()) as address:
        assert take(chat_at(address), "hi").text == "Hi 😀 and �"


@pytest.mark.parametrize(
    "odd",
    [
        response(None, message(None, words("fine"))),
        response(message({**words("fine"), "annotations": ["a"]})),
        response(message(words("fine")), usage={"input_tokens": "3", "x_details": [None]}),
        response(message(words("fine")), usage=[]),
        response(message(words("fine")), incomplete_details="max"),
        response({"type": "reasoning", "content": [None]}, message(words("fine"))),
        {**response(message(words("fine"))), "id": None},
        {**response(message(words("fine"))), "id": 7},
    ],
)
def test_harmless_oddities_do_not_cost_the_answer(take, odd):
    with answering(json.dumps(odd).encode()) as address:
        assert take(chat_at(address), "hi").text == "fine"


@pytest.mark.parametrize("odd", [response(7), response(message(7)), {"output": 7}])
def test_what_cannot_be_read_is_told_as_the_services_fault(take, odd):
    with (
        answering(json.dumps(odd).encode()) as address,
        pytest.raises(errors.ServiceFailedError, match="cannot be read"),
    ):
        take(chat_at(address), "hi")


@pytest.mark.parametrize("status", ["cancelled", "in_progress", "queued"])
def test_a_response_that_did_not_come_to_its_end_is_no_answer(take, status):
    body = json.dumps({**response(), "status": status}).encode()
    with answering(body) as address, pytest.raises(errors.ServiceFailedError, match=status):
        take(chat_at(address), "hi")


@pytest.mark.parametrize(
    ("given", "taken"), [(None, {}), ({"a": 1}, {"a": 1}), ("", {}), ('{"a": 1}', {"a": 1})]
)
def test_a_calls_arguments_are_taken_in_any_form(take, given, taken):
    call = {"type": "function_call", "id": "fc_1", "name": "f", "arguments": given}
    with answering(json.dumps(response(call)).encode()) as address:
        (made,) = take(chat_at(address), "hi").tool_calls
    assert (made["name"], made["args"], made["id"]) == ("f", taken, "fc_1")
