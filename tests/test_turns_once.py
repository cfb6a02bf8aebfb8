"""A turn happens once, whatever becomes of its request and its answer: LangChain and LlamaIndex."""

import asyncio
import threading

import pytest
from conftest import (
    MODEL,
    Take,
    always,
    another_process,
    asked,
    eventually,
    invoke,
    nobody,
    said,
)
from langchain_core.exceptions import ModelError
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from lossy import cut, failed_after, late, lost, never_ran, put_off, refused, relayed
from talks import (
    LOOK,
    TURN,
    Talk,
    echo,
    relay,
    stored_after_a_look,
    talk,
)

from langchain_qwen_conv import ChatQwenConv
from qwen_conv import QwenConversations, errors, flows
from qwen_conv.items import Message
from qwen_conv.offline import CallTool, Fail, OfflineServer, Say
from qwen_conv.registry import SqlRegistry

# --- Certainly not carried out ------------------------------------------------------------------


@pytest.mark.parametrize(
    "refusal",
    [
        refused(429, "Throttling.RateQuota", retry_after="0"),
        refused(529, "overloaded", retry_after="0"),
        refused(503, "server_overloaded", retry_after_ms="1"),
        refused(400, "conversation_locked", retry_after="0"),
        refused(
            400,
            "InvalidParameter",
            "Another process is currently operating on this "
            "conversation. Please retry in a few seconds.",
            retry_after="0",
        ),
    ],
    ids=["rate limit", "overload", "overloaded", "locked", "locked, in words"],
)
def test_what_was_refused_for_now_is_sent_again_without_a_look(talk, relay, refusal):
    relay.faults = [refusal, refusal]
    assert talk.ask("one") == "You said: one"
    assert talk.holds == talk.turn("one")
    assert LOOK not in talk.asked


def test_it_is_sent_again_no_more_often_than_was_asked_for(talk, relay):
    relay.faults = [refused(429, "limit_requests", retry_after="0") for _ in range(9)]
    with pytest.raises(errors.RateLimitedError):
        talk.ask("one", max_retries=2)
    assert len(relay.faults) == 6
    with pytest.raises(errors.RateLimitedError):
        talk.ask("one", max_retries=0)
    relay.faults.clear()
    assert talk.ask("two") == "You said: two"
    assert talk.holds == talk.turn("two")
    assert LOOK not in talk.asked


def test_who_is_to_wait_longer_than_he_would_is_told_at_once(talk, relay):
    relay.faults = [refused(429, "limit_requests", retry_after="3600")]
    with pytest.raises(errors.RateLimitedError) as raised:
        talk.ask("one", timeout=30)
    assert raised.value.retry_after == 3600


def test_a_service_that_cannot_be_reached_leaves_nothing_in_doubt(take: Take):
    with nobody() as address:
        hub = QwenConversations(api_key="any", base_url=address, max_retries=0)
        hub.ledger.note("conv_a", hub.ledger.of("conv_a")._replace(exists=True))
        chat = ChatQwenConv(model=MODEL, conversations=hub, conversation_id="conv_a")
        with pytest.raises(errors.NotConnectedError) as raised:
            take(chat, "hi")
    assert isinstance(raised.value, ModelError)
    assert raised.value.is_retryable
    assert hub.ledger.of("conv_a").doubt is None


# --- It failed, or no reply came ----------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504])
def test_a_turn_that_failed_is_sent_again_if_the_conversation_does_not_show_it(talk, relay, status):
    relay.faults = [refused(status, "InternalError", retry_after="0")]
    assert talk.ask("one") == "You said: one"
    assert talk.holds == talk.turn("one")
    assert [one for one in talk.asked if one in {LOOK, TURN}] == [LOOK, LOOK, TURN]


@pytest.mark.parametrize("fault", [lost, failed_after(500), failed_after(502), cut(0)])
def test_a_turn_that_was_carried_out_is_not_sent_again_and_its_answer_is_found(talk, relay, fault):
    for question in ("zero", "one"):
        relay.faults = [] if question == "zero" else [fault]
        assert talk.ask(question) == f"You said: {question}"
    assert talk.asked.count(TURN) == 2
    talk.server.requests.clear()
    assert talk.ask("two") == "You said: two"
    assert talk.asked == [TURN]
    assert talk.holds == talk.turn("zero") + talk.turn("one") + talk.turn("two")


def test_a_turn_that_is_stored_just_after_it_was_said_to_have_failed_is_not_sent_again(talk, relay):
    waiting = []

    def fault(request):
        waiting.append(request.carry_out)
        refused(500, "InternalError", retry_after="0")(request)

    relay.faults, relay.loses = [fault], stored_after_a_look(waiting)
    assert talk.ask("one") == "You said: one"
    assert talk.asked.count(TURN) == 1
    assert talk.holds == talk.turn("one")


def test_what_is_stored_late_is_waited_for(talk, relay):
    talk.hub.settle_timeout = 30.0
    talk.ask("zero")
    released = threading.Event()
    relay.faults = [late(released)]
    # The first look finds nothing.
    relay.loses = lambda method, _path: method == "GET" and released.set()
    assert talk.ask("one") == "You said: one"
    assert talk.asked.count(TURN) == 2
    assert talk.holds == talk.turn("zero") + talk.turn("one")


def test_a_turn_that_is_not_found_is_undecided_and_may_be_asked_again(talk, relay):
    relay.faults = [never_ran]
    with pytest.raises(errors.UndecidedError, match=r"hub.settle\(conversation_id\)") as raised:
        talk.ask("one")
    assert raised.value.conversation_id == talk.id
    assert not getattr(raised.value, "is_retryable", False)
    assert talk.ask("one") == "You said: one"
    assert talk.holds == talk.turn("one")


def test_a_turn_that_is_stored_after_all_is_found_when_it_is_asked_again(talk, relay):
    talk.ask("zero")
    released = threading.Event()
    relay.faults = [late(released)]
    with pytest.raises(errors.UndecidedError):
        talk.ask("one")
    released.set()
    eventually(lambda: len(talk.holds) == 4)
    assert talk.hub.settle(talk.id) == "answered"
    talk.server.requests.clear()
    assert talk.ask("one") == "You said: one"
    assert talk.asked == [LOOK]
    assert talk.ask("two") == "You said: two"
    assert talk.holds == talk.turn("zero") + talk.turn("one") + talk.turn("two")


def test_what_is_settled_by_hand_may_be_asked_again(talk, relay):
    assert talk.hub.settle(talk.id) is None
    relay.faults = [never_ran]
    with pytest.raises(errors.UndecidedError):
        talk.ask("one")
    assert asyncio.run(talk.hub.asettle(talk.id)) == "nothing"
    talk.server.requests.clear()
    talk.ask("one")
    assert talk.asked == [TURN]
    assert talk.holds == talk.turn("one")


def test_a_turn_in_doubt_can_be_sent_again_at_once(talk, relay):
    talk.hub.on_doubt = "resend"
    relay.faults = [never_ran]
    assert talk.ask("one") == "You said: one"
    assert talk.holds == talk.turn("one")


def test_an_equal_turn_before_is_not_taken_for_the_one_in_doubt(talk, relay):
    talk.server.script = always("ok")
    for _ in range(2):
        talk.ask("yes")
    relay.faults = [never_ran]
    with pytest.raises(errors.UndecidedError):
        talk.ask("yes")
    relay.faults = [lost]
    assert talk.ask("yes") == "ok"
    assert talk.holds == ["user: yes", "assistant: ok"] * 3


def test_an_old_turn_is_not_taken_for_it_though_others_wrote_and_ids_are_new():
    with (
        OfflineServer(always("ok"), output_ids="new") as server,
        relayed(server.base_url) as relay,
    ):
        talk = Talk("langchain invoke", server, relay)
        messages = []
        for question in ("yes", "no"):
            messages.append(HumanMessage(question))
            messages.append(talk.model.invoke(messages))
        there = another_process(server)
        invoke(ChatQwenConv(model=MODEL, conversations=there, conversation_id=talk.id), "else")
        relay.faults = [never_ran]
        with pytest.raises(errors.UndecidedError):
            talk.model.invoke([*messages, HumanMessage("yes")])


def test_what_others_wrote_meanwhile_stays(talk, relay):
    talk.ask("zero")
    relay.faults = [never_ran]
    with pytest.raises(errors.UndecidedError):
        talk.ask("one")
    there = another_process(talk.server)
    invoke(ChatQwenConv(model=MODEL, conversations=there, conversation_id=talk.id), "else")
    assert talk.ask("one") == "You said: one"
    assert talk.holds == talk.turn("zero") + talk.turn("else") + talk.turn("one")


@pytest.mark.parametrize("has_tools", [False, True])
def test_a_question_that_was_stored_without_its_answer_is_answered(take: Take, has_tools):
    @tool
    def weather(place: str) -> str:
        """Tells the weather."""
        return "sunny"

    answers = iter([Fail("out of order", "InternalError", 500), Say("fine")])
    with OfflineServer(lambda *_: next(answers), failed_turn="input_stored") as server:
        hub = another_process(server)
        chat = ChatQwenConv(model=MODEL, conversations=hub, session_id="alice")
        model = chat.bind_tools([weather]) if has_tools else chat
        messages = [HumanMessage("hi")]
        messages.append(take(model, messages))
        conversation = messages[-1].response_metadata["conversation_id"]
        assert said(server, conversation) == ["user: hi", "assistant: fine"]
        turns = [one.body for one in server.requests if one.path == "/responses"]
        assert [one.get("conversation") for one in turns] == (
            [conversation, conversation] if has_tools else [conversation, None]
        )
        server.script, again = always("bye"), len(server.requests)
        take(model, [*messages, HumanMessage("so long")])
        assert asked(server)[again:] == [TURN]


def test_the_answer_to_a_question_that_stood_alone_may_be_added_late(take: Take):
    answers = iter([Fail("out of order", "InternalError", 500), Say("fine"), Say("bye")])
    server = OfflineServer(lambda *_: next(answers), failed_turn="input_stored")
    with server, relayed(server.base_url) as relay:
        relay.clock = server.clock
        chat = ChatQwenConv(
            model=MODEL, conversations=another_process(relay, settle_timeout=30), session_id="alice"
        )
        waiting = []
        relay.appends = [put_off(waiting)]
        relay.loses = stored_after_a_look(waiting)
        answer = take(chat, "hi")
        assert answer.text == "fine"
        assert take(chat, [HumanMessage("hi"), answer, HumanMessage("so long")]).text == "bye"
        conversation = answer.response_metadata["conversation_id"]
        stored = ["user: hi", "assistant: fine", "user: so long", "assistant: bye"]
        assert said(server, conversation) == stored


def test_a_lost_turn_of_a_list_that_was_changed_is_found(take: Take, server, relay):
    server.script, relay.clock = echo, server.clock
    hub = another_process(relay, settle_timeout=0)
    for way_out in ("rebase", "ignore"):
        chat = ChatQwenConv(
            model=MODEL, conversations=hub, session_id=way_out, on_divergence=way_out
        )
        messages = [HumanMessage("zero")]
        messages += [take(chat, messages), HumanMessage("one")]
        changed = [HumanMessage("nought"), *messages[1:]]
        waiting = []
        relay.faults = [put_off(waiting)]
        with pytest.raises(errors.UndecidedError) as raised:
            take(chat, changed)
        waiting.pop()()
        server.requests.clear()
        assert take(chat, changed).text == "You said: one"
        assert TURN not in asked(server)
        conversation = hub.registry.get(hub.session(way_out)).conversation_id
        assert raised.value.conversation_id == conversation
        assert said(server, conversation)[-2:] == ["user: one", "assistant: You said: one"]
        assert hub.erase_session(way_out).left == ()
        assert not server.items(conversation)


def test_what_this_process_wrote_since_is_not_taken_for_the_lost_turn(talk, relay):
    talk.ask("zero")
    relay.faults = [never_ran]
    with pytest.raises(errors.UndecidedError):
        talk.ask("yes")
    written = [Message.of("user", "yes"), Message.of("assistant", "by hand")]
    talk.hub.run(flows.append, talk.id, written)
    assert talk.ask("yes") == "You said: yes"
    stands = ["user: yes", "assistant: by hand"]
    assert talk.holds == talk.turn("zero") + stands + talk.turn("yes")


@pytest.mark.parametrize("switches", [{}, {"stored_items": "messages"}, {"output_ids": "new"}])
def test_a_lost_answer_to_a_tools_result_is_found(take: Take, switches):
    def script(context, _request):
        if context[-1]["type"] == "function_call_output":
            return "It is sunny."
        return CallTool("weather", {"place": "Rome"}, "c1")

    @tool
    def weather(place: str) -> str:
        """Tells the weather."""
        return "sunny"

    with OfflineServer(script, **switches) as server, relayed(server.base_url) as relay:
        hub = QwenConversations(api_key="any", base_url=relay.base_url, settle_timeout=0.0)
        chat = ChatQwenConv(model=MODEL, conversations=hub, session_id="alice")
        model = chat.bind_tools([weather])
        messages = [HumanMessage("weather?")]
        messages.append(take(model, messages))
        messages.append(ToolMessage("sunny", tool_call_id="c1"))
        if not switches.get("stored_items"):
            relay.faults = [lost]
        messages.append(take(model, messages))
        assert messages[-1].text == "It is sunny."
        conversation = messages[-1].response_metadata["conversation_id"]
        assert said(server, conversation)[-1] == "assistant: It is sunny."
        assert asked(server).count(TURN) >= 2


def test_an_equal_turn_is_not_taken_for_it_where_a_list_behind_an_unknown_id_is_the_whole():
    with (
        OfflineServer(always("ok"), unknown_after="ignored", output_ids="new") as server,
        relayed(server.base_url) as relay,
    ):
        talk = Talk("langchain invoke", server, relay)
        for question in ("yes", "no"):
            talk.ask(question)
        relay.faults = [never_ran]
        with pytest.raises(errors.UndecidedError):
            talk.ask("yes")
        talk.ask("yes")
        assert talk.holds[::2] == ["user: yes", "user: no", "user: yes"]


def test_an_equal_turn_is_found_by_a_process_that_knows_the_list_only(server, relay):
    server.script = always("ok")
    talk = Talk("langchain invoke", server, relay)
    messages = [HumanMessage("yes")]
    messages.append(talk.model.invoke(messages))
    there = another_process(server, settle_timeout=0.0)
    there.base_url, relay.faults = relay.base_url, [lost]
    assert talk.another(there).invoke([*messages, HumanMessage("yes")]).text == "ok"
    assert talk.holds == ["user: yes", "assistant: ok"] * 2


def test_an_answer_that_was_found_says_where_it_is(server, relay):
    talk = Talk("langchain invoke", server, relay)
    relay.faults = [lost]
    messages = [HumanMessage("yes")]
    messages.append(talk.model.invoke(messages))
    there = another_process(server)
    there.base_url = relay.base_url
    server.requests.clear()
    talk.another(there).invoke([*messages, HumanMessage("no")])
    assert talk.asked == [LOOK, TURN]
    assert server.requests[0].query["after"] == server.items(talk.id)[1]["id"]


def test_a_question_is_answered_though_a_call_before_it_was_given_no_result(take: Take):
    answers = iter([CallTool("weather", {}, "c1"), "fine", Fail("no", "InternalError", 500), "so"])

    @tool
    def weather(place: str) -> str:
        """Tells the weather."""
        return "sunny"

    with OfflineServer(lambda *_: next(answers), failed_turn="input_stored") as server:
        chat = ChatQwenConv(model=MODEL, conversations=another_process(server), session_id="alice")
        first = take(chat.bind_tools([weather]), "weather?")
        take(chat, "never mind")
        assert take(chat, "how are you?").text == "so"
        conversation = first.response_metadata["conversation_id"]
        assert said(server, conversation)[-2:] == ["user: how are you?", "assistant: so"]


def test_what_bars_the_next_turn_may_be_the_one_that_was_lost(talk, relay):
    locked = refused(400, "conversation_locked", retry_after="0")
    talk.ask("zero")
    waiting = [talk.lose("one")]
    relay.faults = [locked] * 3 * 2
    with pytest.raises(errors.ConversationLockedError):
        talk.ask("one", max_retries=1)
    relay.faults, turns = [locked], []

    def ends(request):
        if request.is_list and turns and waiting:  # while the next one waits
            waiting.pop()()
        turns.extend([request] * request.is_turn)

    relay.sees = ends
    assert talk.ask("one") == "You said: one"
    assert not waiting
    assert talk.holds == talk.turn("zero") + talk.turn("one")


def test_a_lost_turn_that_barred_another_one_is_found_when_it_has_ended(talk, relay):
    talk.ask("zero")
    ends = talk.lose("one")
    relay.faults = [refused(400, "conversation_locked", retry_after="0")]
    with pytest.raises(errors.ConversationLockedError):
        talk.ask("one", max_retries=0)
    relay.faults.clear()
    ends()
    assert talk.ask("one") == "You said: one"
    assert talk.holds == talk.turn("zero") + talk.turn("one")


# --- Neighbours ---------------------------------------------------------------------------------


def test_with_retry_finds_what_the_first_call_lost(server, relay):
    server.script = echo
    talk = Talk("langchain invoke", server, relay)
    waiting, looks = [], []
    relay.faults = [put_off(waiting)]

    def stored(request):
        looks.append(request.is_list)
        if looks.count(True) == 2 and waiting:  # the first call has looked, and found nothing
            waiting.pop()()

    relay.sees = stored
    model = talk.model.with_retry(stop_after_attempt=2, wait_exponential_jitter=False)
    assert model.invoke("one").text == "You said: one"
    assert talk.asked.count(TURN) == 1
    assert talk.holds == talk.turn("one")


def test_a_task_that_is_cancelled_leaves_the_conversation_free(server, relay):
    server.script = echo
    talk = Talk("langchain ainvoke", server, relay)
    arrived, released = threading.Event(), threading.Event()

    def fault(request):
        arrived.set()
        released.wait(10)
        request.answer(request.carry_out())

    relay.faults = [fault]

    async def cancelled():
        running = asyncio.create_task(talk.model.ainvoke("one"))
        waiting = asyncio.create_task(talk.model.ainvoke("never"))
        await asyncio.to_thread(arrived.wait, 10)
        waiting.cancel()
        running.cancel()
        await asyncio.gather(running, waiting, return_exceptions=True)
        released.set()
        talk.hub.settle_timeout = 30.0
        return await talk.model.ainvoke("one")

    assert asyncio.run(cancelled()).text == "You said: one"
    assert talk.holds[:2] == talk.turn("one")


def test_a_process_that_shares_the_registry_settles_what_another_one_left_in_doubt(
    take: Take, server, relay, tmp_path
):
    server.script, relay.clock = echo, server.clock
    with SqlRegistry(f"sqlite:///{tmp_path}/sessions.db") as registry:
        one, other = (another_process(relay, registry=registry, settle_timeout=0) for _ in "ab")
        here, there = (
            ChatQwenConv(model=MODEL, conversations=hub, session_id="alice") for hub in (one, other)
        )
        take(here, "zero")
        released = threading.Event()
        relay.faults = [late(released)]
        with pytest.raises(errors.UndecidedError) as raised:
            take(here, "one")
        released.set()
        conversation = raised.value.conversation_id
        eventually(lambda: len(said(server, conversation)) == 4)
        assert take(there, "one").text == "You said: one"
        assert asked(server).count(TURN) == 2
        assert take(here, "two").text == "You said: two"
        assert said(server, conversation)[2::2] == ["user: one", "user: two"]


def test_an_equal_turn_of_another_process_that_shares_the_registry_is_not_taken_for_it(
    take: Take, server, relay, tmp_path
):
    server.script, relay.clock = always("ok"), server.clock
    with SqlRegistry(f"sqlite:///{tmp_path}/sessions.db") as registry:
        for number in range(3):
            hub = another_process(relay, registry=registry, settle_timeout=0)
            chat = ChatQwenConv(model=MODEL, conversations=hub, session_id="alice")
            if number:
                relay.faults = [never_ran]
                with pytest.raises(errors.UndecidedError):
                    take(chat, "yes")
            take(chat, "yes")
        conversation = registry.get(hub.session("alice")).conversation_id
        assert said(server, conversation) == ["user: yes", "assistant: ok"] * 3
