"""A streamed turn happens once, wherever its stream breaks off or fails: LangChain and LlamaIndex."""

import pytest
from conftest import MODEL, Take, another_process, stream
from langchain_core.tools import tool
from llama_llm import CREATED, EVENTS, delta, framed
from lossy import Answer, cut, lost, relayed
from talks import (
    STREAMING,
    TURN,
    Talk,
    failing,
    failing_late,
    relay,
    stored_after_a_look,
    streamed,
)

from langchain_qwen_conv import ChatQwenConv
from qwen_conv import errors
from qwen_conv.offline import CallTool, Fail, OfflineServer, Say


@pytest.mark.parametrize("events", [0, 1, 4, 7])
def test_a_stream_that_is_cut_goes_on_with_what_is_found(streamed, relay, events):
    relay.faults = [cut(events)]
    assert streamed.ask("one two three") == "You said: one two three"
    assert streamed.asked.count(TURN) == 1
    assert streamed.holds == streamed.turn("one two three")


def test_a_found_answer_tells_what_it_cost_where_its_response_is_stored(server, relay):
    for fault, told in ((cut(3), True), (lost, False)):
        talk = Talk("langchain stream", server, relay)
        relay.faults = [fault]
        answer = stream(talk.model, "one")
        assert (answer.usage_metadata is not None) is told
        assert "found in the conversation" in answer.response_metadata["reason"]


def test_a_stream_that_was_cut_and_is_not_stored_tells_what_had_come(streamed, relay):
    events = Answer(200, EVENTS, b"".join(map(framed, [CREATED, delta("You "), delta("said")])))
    relay.faults = [lambda request: request.answer(events)]
    with pytest.raises(errors.UndecidedError, match="8 characters") as raised:
        streamed.ask("one")
    assert (raised.value.received, raised.value.response_id) == ("You said", "r1")
    assert streamed.ask("one") == "You said: one"
    assert streamed.holds == streamed.turn("one")


@pytest.mark.parametrize("take", ["stream", "astream"], indirect=True)
def test_a_refusal_is_mended_though_the_stream_had_begun(take: Take, server, relay):
    @tool
    def weather(place: str) -> str:
        """Tells the weather."""
        return "sunny"

    answers = iter([CallTool("weather", {}, "c1"), "fine"])
    server.script, relay.clock = lambda *_: next(answers), server.clock
    chat = ChatQwenConv(model=MODEL, conversations=another_process(relay), session_id="alice")
    take(chat.bind_tools([weather]), "weather?")
    refusal = failing("InvalidParameter", "No tool output found for function call c1.")
    relay.faults = [lambda request: request.answer(refusal)]
    assert take(chat, "never mind").text == "fine"


@pytest.fixture
def streaming(request):
    """What streams on a server that stores what it was asked a while after it has failed."""
    answers = iter([Fail("out of order", "InternalError", 500), Say("fine"), Say("fine, too")])
    server = OfflineServer(lambda *_: next(answers), failed_turn="input_stored")
    with server, relayed(server.base_url) as relay:
        yield Talk(request.param, server, relay, settle_timeout=30.0)


@pytest.mark.parametrize("streaming", STREAMING, indirect=True)
def test_what_a_stream_that_failed_was_asked_may_be_stored_later(streaming):
    waiting, relay = [], streaming.relay
    relay.faults = [failing_late(waiting, "InternalError")]
    relay.loses = stored_after_a_look(waiting)
    assert streaming.ask("one") == "fine"
    assert streaming.ask("two") == "fine, too"
    assert streaming.holds == ["user: one", "assistant: fine", "user: two", "assistant: fine, too"]


@pytest.mark.parametrize("streaming", STREAMING, indirect=True)
@pytest.mark.parametrize("code", ["InternalError", "InvalidParameter"])
def test_what_it_was_asked_is_found_by_the_next_turn_where_it_is_not_sent_again(streaming, code):
    waiting, relay = [], streaming.relay
    relay.faults = [failing_late(waiting, code)]
    with pytest.raises(errors.ServiceError, match="sorry"):
        streaming.ask("one", max_retries=0)
    relay.sees = lambda request: request.is_list and [waiting.pop()() for _ in waiting[:]]
    assert streaming.ask("one") == "fine"
    assert streaming.holds == ["user: one", "assistant: fine"]
