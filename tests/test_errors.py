"""Every envelope that the service was seen to use becomes one error of one tree, with its request."""

import pickle

import pytest

from qwen_conv import errors
from qwen_conv.calls import CreateResponse, RetrieveItem, RetrieveResponse
from qwen_conv.errors import Failure, service_error
from qwen_conv.items import Message

FLAT = {"request_id": "r-1", "code": "InvalidParameter", "message": "Unsupported model: 'x'"}
TURN = CreateResponse("m", (Message.of("user", "hi"),), conversation_id="conv_1")


@pytest.mark.parametrize(
    ("body", "code", "message", "request_id"),
    [
        pytest.param(FLAT, "InvalidParameter", "Unsupported model: 'x'", "r-1", id="flat"),
        pytest.param(
            {"error": {"message": "gone", "type": "InvalidParameter"}, "request_id": "r-2"},
            "InvalidParameter",
            "gone",
            "r-2",
            id="nested",
        ),
        pytest.param(
            {"type": "response.failed", "response": {"error": {"code": "c", "message": "m"}}},
            "c",
            "m",
            None,
            id="response.failed",
        ),
        pytest.param(
            {"type": "error", "code": "server_error", "message": "<429> Too many requests."},
            "server_error",
            "<429> Too many requests.",
            None,
            id="an error event",
        ),
        pytest.param(
            'event:error\ndata:{"request_id":"r-5","code":"c","message":"data: '
            '{\\"error\\":{\\"code\\":\\"inner\\",\\"message\\":\\"deep\\"}}"}',
            "inner",
            "deep",
            "r-5",
            id="event stream text",
        ),
    ],
)
def test_the_five_envelopes_are_read(body, code, message, request_id):
    failure = Failure.from_wire(body, 400)
    assert (failure.code, failure.message, failure.request_id) == (code, message, request_id)


@pytest.mark.parametrize(
    ("status", "code", "message", "kind"),
    [
        (401, "InvalidApiKey", "Invalid API-key provided.", errors.KeyRefusedError),
        (403, "AccessDenied", "no", errors.PermissionRefusedError),
        (400, "InvalidParameter", "Unsupported model: 'x'", errors.ModelNotFoundError),
        (
            400,
            "InvalidParameter",
            "Range of input length should be [1, 9]",
            errors.InputTooLongError,
        ),
        (400, "InvalidParameter", "Invalid 'top_p': 9.", errors.RequestRefusedError),
        (400, "conversation_locked", "Another process", errors.ConversationLockedError),
        (
            400,
            "InvalidParameter",
            "Not found previous_response_id: x",
            errors.ResponseNotFoundError,
        ),
        (404, None, "Conversation with id 'conv_1' not found.", errors.ConversationNotFoundError),
        (400, "InvalidParameter", "Conversation not found", errors.ConversationNotFoundError),
        (429, "Throttling.RateQuota", "slow down", errors.RateLimitedError),
        (200, None, "server_error: <429> InternalError.Algo: x", errors.RateLimitedError),
        (None, "server_error", "<429> InternalError.Algo: x", errors.RateLimitedError),
        (500, "InternalError", "sorry", errors.ServiceFailedError),
        (None, None, "Backend buffer overflow.", errors.ServiceFailedError),
        (None, "InvalidParameter", "Invalid 'top_p': 9.", errors.RequestRefusedError),
        (
            None,
            "InvalidParameter",
            "Conversation with id 'conv_1' not found.",
            errors.ConversationNotFoundError,
        ),
    ],
)
def test_what_went_wrong_is_told_by_code_text_and_status(status, code, message, kind):
    failure = Failure.from_wire({"code": code, "message": message}, status)
    assert type(service_error(failure, TURN)) is kind


@pytest.mark.parametrize(
    ("call", "message", "kind"),
    [
        (
            RetrieveItem("conv_1", "msg_1"),
            "Item with id 'msg_1' not found.",
            errors.ItemNotFoundError,
        ),
        (
            RetrieveItem("conv_1", "msg_1"),
            "Conversation 'conv_1' not found.",
            errors.ConversationNotFoundError,
        ),
        (RetrieveResponse("r"), "Response with id 'r' not found.", errors.ResponseNotFoundError),
        (None, "not found", errors.NotFoundError),
    ],
)
def test_what_is_missing_is_what_the_call_names(call, message, kind):
    assert type(service_error(Failure(message, 404), call)) is kind


def test_an_error_tells_its_request_and_what_to_do_next():
    error = service_error(Failure.from_wire({**FLAT, "code": "InvalidApiKey"}, 401))
    assert error.request_id == "r-1"
    assert error.status == 401
    assert "request r-1" in str(error)
    assert "region" in str(error)


def test_the_tree_in_the_docstring_is_the_tree():
    def drawn(kind, depth=0):
        yield depth, kind.__name__
        for below in kind.__subclasses__():
            if below.__module__ == "qwen_conv.errors":
                yield from drawn(below, depth + 1)

    lines = errors.__doc__.split("QwenConvError\n", 1)[1].split("\n\n", 1)[0].splitlines()
    told = [(len(line[: line.index("─")]) // 4, line.split("─ ")[1].split()[0]) for line in lines]
    assert told == [*drawn(errors.QwenConvError)][1:]


def test_bad_usage_is_a_value_error():
    assert issubclass(errors.UsageError, ValueError)


def test_an_error_survives_pickling():
    error = service_error(Failure("gone", 404, "c", "r-1"), TURN)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.request_id) == (type(error), str(error), "r-1")
    cut = errors.StreamCutError("cut", "some text", "resp_1")
    assert pickle.loads(pickle.dumps(cut)).received == "some text"
