"""Failures raise in every way of asking; servers that answer otherwise than ours are read."""

import asyncio
import threading

import pytest
from conftest import KEY, MODEL, always, another_process, asked, nobody, said
from llama_index.core.base.llms.types import ChatMessage
from llama_llm import (
    COMPLETIONS,
    CREATED,
    EVENTS,
    STREAMS,
    TOOL_WAYS,
    WAYS,
    WEATHER,
    achat,
    answering,
    begin,
    chat,
    completed,
    delta,
    framed,
    llm_at,
    message,
    response,
    serving,
    streaming,
)

from llamaindex_qwen_conv import QwenConv
from qwen_conv import errors
from qwen_conv.offline import Fail, OfflineServer, Say

REACHING = {
    **WAYS,
    **COMPLETIONS,
    **{
        name: lambda llm, message, way=way: way(llm, [WEATHER], message)
        for name, way in TOOL_WAYS.items()
    },
}
"""Every way of reaching the model."""


@pytest.fixture(params=WAYS)
def ask(request):
    """Asks in one of the four ways; the answer."""
    return WAYS[request.param]


@pytest.fixture(params=REACHING)
def reach(request):
    """Reaches the model in one of twelve ways."""
    return REACHING[request.param]


@pytest.fixture(params=STREAMS)
def pieces_of(request):
    """Asks in one of the two ways that stream; the pieces."""
    return STREAMS[request.param]


# --- The service fails ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fail", "kind"),
    [
        (Fail("slow down", "Throttling.RateQuota", 429), errors.RateLimitedError),
        (Fail("sorry", "InternalError", 500), errors.ServiceFailedError),
        (Fail("Invalid 'x'", "InvalidParameter", 400), errors.RequestRefusedError),
        (Fail("no", "InvalidApiKey", 401), errors.KeyRefusedError),
        (Fail("Unsupported model: 'x'", "InvalidParameter", 400), errors.ModelNotFoundError),
    ],
)
@pytest.mark.parametrize("stream_errors", ["event", "status"])
def test_a_failure_of_the_service_raises_in_every_way(reach, fail, kind, stream_errors):
    with (
        OfflineServer(always(fail), stream_errors=stream_errors) as server,
        pytest.raises(kind),
    ):
        reach(llm_at(server, max_retries=0), "hi")


def test_a_wrong_key_raises_in_every_way(reach):
    with (
        OfflineServer(api_keys=["another"]) as server,
        pytest.raises(errors.KeyRefusedError, match="Keys are of one region"),
    ):
        reach(llm_at(server), "hi")


def test_no_connection_raises_in_every_way(reach):
    with nobody() as address, pytest.raises(errors.UnreachableError):
        reach(llm_at(address, max_retries=0), "hi")


@pytest.mark.parametrize(
    "body",
    [
        {"code": "Throttling.RateQuota", "message": "slow down", "request_id": "request-2"},
        {"error": {"code": "Throttling", "message": "slow down"}, "request_id": "request-2"},
        {"type": "error", "code": "x", "message": "<429> slow down", "request_id": "request-2"},
    ],
)
def test_a_rate_limit_in_an_http_200_raises_in_every_way(reach, body):
    with (
        answering(body) as address,
        pytest.raises(errors.RateLimitedError, match="slow down") as raised,
    ):
        reach(llm_at(address), "hi")
    assert raised.value.request_id == "request-2"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (response(error={"code": "x", "message": "sorry"}, status="failed"), "sorry"),
        (response(status="cancelled"), "cancelled"),
        (response(status="queued"), "queued"),
        (response(7), "cannot be read"),
        ([], "not a JSON object|no event"),
        (b"<html>", "not JSON"),
    ],
)
def test_what_is_no_answer_raises_in_every_way(reach, body, kind):
    with answering(body) as address, pytest.raises(errors.ServiceFailedError, match=kind):
        reach(llm_at(address, max_retries=0), "hi")


def test_nothing_is_no_answer_in_any_way(reach):
    with (
        answering({}) as address,
        pytest.raises((errors.ServiceFailedError, errors.StreamCutError)),
    ):
        reach(llm_at(address, max_retries=0), "hi")


FAILED = {"status": "failed", "error": {"code": "InternalError", "message": "sorry"}}
ENDS = [
    pytest.param([{"type": "response.failed", "response": FAILED}], "sorry", id="response.failed"),
    pytest.param([{"type": "error", "code": "x", "message": "sorry"}], "sorry", id="error"),
    pytest.param([{"type": "server_error", "message": "<500> sorry"}], "sorry", id="server_error"),
    pytest.param(
        [{"type": "error", "error": {"code": "Throttling", "message": "slow"}}], "slow", id="rate"
    ),
    pytest.param([], "ended without response.completed", id="cut"),
]


@pytest.mark.parametrize("before", [[], [CREATED], [CREATED, delta("one "), delta("two")]])
@pytest.mark.parametrize(("end", "words"), ENDS)
def test_a_stream_that_does_not_come_to_its_end_raises_after_what_had_come(
    pieces_of, before, end, words
):
    with streaming(*before, *end) as address:
        llm, received = llm_at(address, max_retries=0), []
        with pytest.raises((errors.ServiceError, errors.StreamCutError), match=words):
            _collected(llm, pieces_of, received)
    assert received == [one["delta"] for one in before if "delta" in one]


def _collected(llm, pieces_of, received):
    """Asks, and keeps what comes before it fails."""
    messages = [ChatMessage("hi")]
    if pieces_of is STREAMS["stream_chat"]:
        for piece in llm.stream_chat(messages):
            received.append(piece.delta)
        return

    async def collect():
        async for piece in await llm.astream_chat(messages):
            received.append(piece.delta)

    asyncio.run(collect())


def test_a_stream_that_was_cut_tells_what_had_come(pieces_of):
    with (
        streaming(CREATED, delta("one "), delta("two")) as address,
        pytest.raises(errors.StreamCutError) as raised,
    ):
        pieces_of(llm_at(address), "hi")
    assert (raised.value.received, raised.value.response_id) == ("one two", "r1")


@pytest.mark.parametrize("status", [200, 400])
def test_an_echoed_key_is_blackened(reach, status):
    body = {"code": "x", "message": f"bad {KEY}"}
    with answering(body, status=status) as address:
        llm = QwenConv(model=MODEL, api_key=KEY, base_url=address, max_retries=0)
        with pytest.raises(errors.ServiceError, match=r"bad \[api key\]") as raised:
            reach(llm, "hi")
    error = raised.value
    while error is not None:
        assert KEY not in f"{error} {error.args} {vars(error)}"
        error = error.__cause__ or error.__context__


# --- In a conversation ------------------------------------------------------------------------


def test_a_turn_that_failed_is_sent_again_once_the_conversation_shows_that_it_is_not_there(ask):
    with OfflineServer(always(Fail("sorry"))) as server:
        hub = another_process(server, settle_timeout=0)
        llm = QwenConv(model=MODEL, conversations=hub, session_id="alice", max_retries=1)
        with pytest.raises(errors.ServiceFailedError):
            ask(llm, "hi")
        look = "GET /conversations/*/items"
        assert asked(server)[1:] == ["POST /responses", look, look, "POST /responses", look]


def test_what_failed_after_it_had_begun_is_not_sent_again(pieces_of):
    # A refusal of that kind is mended and sent again, as long as nothing was passed on.
    failing = [Say("Hello there"), Fail("No tool output found for function call x.", after=1)]
    with OfflineServer(always(failing)) as server:
        received = []
        with pytest.raises(errors.QwenConvError):
            _collected(llm_at(server, session_id="alice"), pieces_of, received)
        assert received == ["Hello"]
        assert asked(server).count("POST /responses") == 1


@pytest.mark.parametrize("ask", [chat, achat])
def test_the_next_turn_after_one_that_failed_need_not_look(ask, server, hub):
    llm = QwenConv(model=MODEL, conversations=hub, session_id="alice")
    messages = [ChatMessage("one")]
    messages += [ask(llm, messages).message, ChatMessage("two")]
    works, server.script = server.script, always(Fail("sorry"))
    with pytest.raises(errors.ServiceFailedError):
        ask(llm, messages, max_retries=0)
    server.script = works
    server.requests.clear()
    answer = ask(llm, messages)
    assert asked(server) == ["POST /responses"]
    assert len(said(server, answer.additional_kwargs["conversation_id"])) == 4


def test_a_conversation_that_is_gone_is_told_with_the_way_out(ask, server, hub):
    llm = QwenConv(model=MODEL, conversations=hub, session_id="alice")
    messages = [ChatMessage("one")]
    answer = ask(llm, messages)
    client = hub.sync()._client
    client.delete(f"/conversations/{answer.additional_kwargs['conversation_id']}", cast_to=object)
    messages += [answer.message, ChatMessage("two")]
    with pytest.raises(errors.ConversationNotFoundError, match="forget_session"):
        ask(llm, messages)
    hub.forget_session("alice")
    assert ask(llm, messages).additional_kwargs["decision"] == "attached"


# --- A consumer that stops early --------------------------------------------------------------


class Endless:
    """Streams until nobody reads any more."""

    def __init__(self):
        self.closed = threading.Event()

    def __call__(self, handler):
        begin(handler, EVENTS)
        try:
            while True:
                handler.wfile.write(framed(delta("more ")))
        except OSError:
            self.closed.set()


def test_a_consumer_that_stops_early_closes_the_connection():
    endless = Endless()
    with serving(endless) as address:
        pieces = llm_at(address).stream_chat([ChatMessage("hi")])
        assert next(pieces).delta == "more "
        pieces.close()
        assert endless.closed.wait(10)


def test_so_does_one_that_drops_the_stream():
    endless = Endless()
    with serving(endless) as address:
        for piece in llm_at(address).stream_chat([ChatMessage("hi")]):
            assert piece.delta == "more "
            break
        assert endless.closed.wait(10)


@pytest.mark.parametrize("name", ["astream_chat", "astream_complete"])
def test_so_does_a_task_that_stops_early(name):
    endless = Endless()

    async def stop(llm):
        given = "hi" if name == "astream_complete" else [ChatMessage("hi")]
        pieces = await getattr(llm, name)(given)
        assert (await anext(pieces)).delta == "more "
        await pieces.aclose()
        assert await asyncio.to_thread(endless.closed.wait, 10)

    with serving(endless) as address:
        asyncio.run(stop(llm_at(address)))


def test_so_does_a_completion_that_is_stopped_early():
    endless = Endless()
    with serving(endless) as address:
        pieces = llm_at(address).stream_complete("hi")
        assert next(pieces).delta == "more "
        pieces.close()
        assert endless.closed.wait(10)


def test_a_task_that_is_cancelled_closes_the_connection():
    endless = Endless()

    async def begin_and_cancel(llm):
        begun = asyncio.Event()

        async def read():
            async for _ in await llm.astream_chat([ChatMessage("hi")]):
                begun.set()

        task = asyncio.create_task(read())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(endless.closed.wait, 10)

    with serving(endless) as address:
        asyncio.run(begin_and_cancel(llm_at(address)))


def test_the_next_turn_of_a_conversation_follows_a_stream_that_was_stopped(server, hub):
    llm = QwenConv(model=MODEL, conversations=hub, session_id="alice")
    pieces = llm.stream_chat([ChatMessage("one two three")])
    next(pieces)
    pieces.close()
    answer = llm.chat([ChatMessage("four")])
    conversation = answer.additional_kwargs["conversation_id"]
    assert [text for text in said(server, conversation) if text == "user: four"] == ["user: four"]

    async def asynchronously():
        pieces = await llm.astream_chat([ChatMessage("five six seven")])
        await anext(pieces)
        await pieces.aclose()
        return await llm.achat([ChatMessage("eight")])

    assert asyncio.run(asynchronously()).additional_kwargs["decision"] == "attached"


def test_a_turn_that_waits_for_itself_is_told_so(hub):
    llm = QwenConv(model=MODEL, conversations=hub, session_id="alice")
    pieces = llm.stream_chat([ChatMessage("one two three")])
    next(pieces)
    with pytest.raises(errors.ConversationBusyError):
        llm.chat([ChatMessage("four")])
    pieces.close()
    assert llm.chat([ChatMessage("four")]).message.content


# --- Servers that answer otherwise ------------------------------------------------------------


def test_a_server_that_does_not_stream_gives_its_answer_in_one_piece(ask):
    with answering(response(message("one two"), error=None)) as address:
        assert ask(llm_at(address), "hi").message.content == "one two"


def test_an_incomplete_stream_keeps_what_had_come_though_its_end_does_not_repeat_it(pieces_of):
    whole = {"id": "r1", "status": "incomplete"}
    end = {"type": "response.incomplete", "response": whole}
    with streaming(CREATED, delta("one "), delta("two"), end) as address:
        *_, last = pieces_of(llm_at(address), "hi")
    assert last.message.content == "one two"
    assert last.additional_kwargs["status"] == "incomplete"
    assert "incomplete_reason" not in last.additional_kwargs


def test_a_stream_whose_end_does_not_repeat_the_answer_is_whole(ask):
    script = always([Say("one two")])
    with OfflineServer(script, final_output="missing") as server:
        assert ask(llm_at(server), "hi").message.content == "one two"


def test_an_answer_without_usage_is_an_answer(ask):
    with answering(response(message("fine"))) as address:
        answer = ask(llm_at(address), "hi")
    assert answer.message.content == "fine"
    assert "usage" not in answer.raw


def test_items_of_unknown_types_in_a_stream_are_kept_beside_the_answer(pieces_of):
    search = {"type": "web_search_call", "id": "w", "status": "completed"}
    extract = {"type": "web_extractor_call", "id": "x", "goal": "news", "output": "text"}
    events = [
        CREATED,
        {"type": "response.output_item.added", "output_index": 0, "item": search},
        {"type": "response.web_search_call.in_progress", "output_index": 0, "item_id": "w"},
        {"type": "response.web_search_call.searching", "output_index": 0, "item_id": "w"},
        {"type": "response.web_search_call.completed", "output_index": 0, "item_id": "w"},
        {"type": "response.output_item.done", "output_index": 0, "item": search},
        {"type": "response.output_item.added", "output_index": 1, "item": extract},
        {"type": "response.output_item.done", "output_index": 1, "item": extract},
        {"type": "response.something_new", "thing": [1]},
        delta("Found."),
        completed(search, extract, message("Found.")),
    ]
    with streaming(*events) as address:
        pieces = pieces_of(llm_at(address), "hi")
    assert [piece.delta for piece in pieces] == ["Found.", ""]
    assert pieces[-1].message.content == "Found."
    assert pieces[-1].message.additional_kwargs == {"output_items": [search, extract]}


def test_two_messages_of_one_answer_are_one_text(ask):
    with answering(response(message("A. "), message("B."))) as address:
        assert ask(llm_at(address), "hi").message.content == "A. B."
