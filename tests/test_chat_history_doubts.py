"""A run with a history whose turn failed is run again with the same question: it is asked once."""

import pytest
from conftest import MODEL, Take, another_process, asked, eventually, invoke, said, stream
from langchain_core.messages import AIMessage, HumanMessage
from lossy import lost, never_ran, put_off, relayed
from talks import TURN, echo, failing_late
from test_chat_history_patterns import CONFIG, TAILS, asks, vendor, with_history

from langchain_qwen_conv import ChatQwenConv, QwenConvChatMessageHistory
from qwen_conv import errors
from qwen_conv.offline import Fail, OfflineServer, Say


class Run:
    """A chain with a history, whose model reaches its server across a relay."""

    def __init__(self, server, relay, tail="ours", mode="prompt", **settings):
        self.server, self.relay, self.mode = server, relay, mode
        relay.clock = server.clock
        self.hub = another_process(relay, **{"settle_timeout": 0.0, **settings})
        self.chain = with_history(TAILS[tail], mode, self.hub)
        self.history = QwenConvChatMessageHistory("alice", conversations=self.hub)
        self.history.add_messages([HumanMessage("zero")])
        self.id = self.hub.registry.get(self.hub.session("alice")).conversation_id

    def ask(self, take, question):
        answer = take(self.chain, asks(self.mode, question), CONFIG)
        return getattr(answer, "text", answer)

    def lose(self, take, question):
        """Asks, and nobody knows what became of it; what is returned carries it out."""
        waiting = []
        self.relay.faults = [put_off(waiting)]
        with pytest.raises(errors.UndecidedError):
            self.ask(take, question)
        return waiting.pop()

    @property
    def holds(self):
        return said(self.server, self.id)[1:]

    @property
    def shown(self):
        """What a new history shows."""
        found = QwenConvChatMessageHistory("alice", conversations=self.hub).messages
        roles = {"human": "user", "ai": "assistant"}
        return [f"{roles[one.type]}: {one.text}" for one in found][1:]


def turn(question):
    return [f"user: {question}", f"assistant: You said: {question}"]


@pytest.fixture
def relay(server):
    server.script = echo
    with relayed(server.base_url) as relay:
        yield relay


@pytest.fixture(params=[("ours", "prompt"), ("ours, parsed", "list")], ids=" ".join)
def run(request, server, relay):
    return Run(server, relay, *request.param)


def is_once(run, take, question):
    """Whether the question is there once, and goes on being so."""
    assert run.holds == run.shown == turn(question)
    assert run.ask(take, "and now?") == "You said: and now?"
    assert run.holds == run.shown == turn(question) + turn("and now?")
    return True


def test_what_was_stored_before_it_is_asked_again_is_its_answer(take: Take, run):
    run.lose(take, "one")()
    assert run.shown == turn("one")
    run.server.requests.clear()
    assert run.ask(take, "one") == "You said: one"
    assert TURN not in asked(run.server)
    assert is_once(run, take, "one")


def test_what_was_not_stored_is_asked(take: Take, run):
    run.relay.faults = [never_ran]
    with pytest.raises(errors.UndecidedError):
        run.ask(take, "one")
    assert run.shown == []
    assert run.ask(take, "one") == "You said: one"
    assert is_once(run, take, "one")


def test_a_chain_is_retried_as_a_whole(run):
    waiting = []
    run.relay.faults = [put_off(waiting)]
    lists = []

    def stored(request):
        lists.append(request.is_list)
        if lists.count(True) == 3 and waiting:  # the first run has read, and looked
            waiting.pop()()

    run.relay.sees = stored
    chain = run.chain.with_retry(stop_after_attempt=2, wait_exponential_jitter=False)
    answer = chain.invoke(asks(run.mode, "one"), CONFIG)
    assert getattr(answer, "text", answer) == "You said: one"
    assert not waiting
    assert run.holds == turn("one")


@pytest.mark.parametrize("take", ["stream", "astream"], indirect=True)
@pytest.mark.parametrize("is_shown", [True, False])
def test_a_question_that_a_failing_stream_left_is_answered(take: Take, is_shown):
    answers = iter([Fail("out of order", "InternalError", 500), Say("fine"), Say("so am I")])
    waiting = []
    server = OfflineServer(lambda *_: next(answers), failed_turn="input_stored")
    with server, relayed(server.base_url) as relay:
        run = Run(server, relay, settle_timeout=30.0, max_retries=0)
        relay.faults = [failing_late(waiting, "InternalError")]
        with pytest.raises(errors.ServiceFailedError):
            run.ask(take, "how are you?")
        looks = []

        def stored(request):
            looks.append(request.is_list)
            # The history is read first, and then it is looked for.
            if looks.count(True) == 2 - is_shown and waiting:
                waiting.pop()()

        relay.sees = stored
        assert run.ask(take, "how are you?") == "fine"
        assert run.ask(take, "and you?") == "so am I"
        holds = ["user: how are you?", "assistant: fine", "user: and you?", "assistant: so am I"]
        assert run.shown == run.holds == holds


def test_who_goes_on_after_a_turn_that_was_stored_late_finds_it_in_the_history(take: Take, run):
    run.lose(take, "one")()
    assert run.ask(take, "two") == "You said: two"
    assert run.holds == run.shown == turn("one") + turn("two")


def test_who_was_told_that_it_is_answered_and_says_the_same_is_answered_anew(take: Take, run):
    run.lose(take, "yes")()
    assert run.hub.settle(run.id) == "answered"
    assert run.ask(take, "yes") == "You said: yes"
    assert run.holds == run.shown == turn("yes") * 2


def test_who_left_a_stream_and_says_the_same_is_answered_anew(server, relay):
    run = Run(server, relay)
    pieces = run.chain.stream(asks(run.mode, "go on"), CONFIG)
    next(pieces)
    pieces.close()
    eventually(lambda: len(run.holds) == 2)
    assert run.ask(stream, "go on") == "You said: go on"
    assert run.holds == run.shown == turn("go on") * 2


def test_a_lost_answer_is_found_within_the_run(take: Take, run):
    run.relay.faults = [lost]
    assert run.ask(take, "one") == "You said: one"
    assert asked(run.server).count(TURN) == 1
    assert is_once(run, take, "one")


@pytest.mark.parametrize("is_stored", [True, False])
def test_what_another_model_answered_instead_is_no_lost_turn(take: Take, server, relay, is_stored):
    run = Run(server, relay)
    ours = ChatQwenConv(model=MODEL, conversations=run.hub)
    run.chain = with_history(lambda _ours: ours.with_fallbacks([vendor()]), "prompt", run.hub)
    waiting = []
    relay.faults = [put_off(waiting)]
    assert run.ask(take, "go on") == "the vendor's"
    if is_stored:
        waiting.pop()()
    assert run.ask(take, "go on") == "You said: go on"
    instead = ["user: go on", "assistant: the vendor's"]
    assert run.holds == run.shown == instead + turn("go on") * (1 + is_stored)


def test_a_list_of_ones_own_holds_what_the_conversation_holds(take: Take, run):
    chat = ChatQwenConv(model=MODEL, conversations=run.hub, session_id="alice")
    waiting = []
    run.relay.faults = [put_off(waiting)]
    with pytest.raises(errors.UndecidedError):
        take(chat, [*run.history.messages, HumanMessage("one")])
    waiting.pop()()
    messages = [*run.history.messages, HumanMessage("one")]
    messages += [take(chat, messages), HumanMessage("two")]
    answer = take(chat, messages)
    assert answer.response_metadata["decision"] == "attached"
    assert run.holds == turn("one") * 2 + turn("two")


def test_what_is_added_after_a_reading_in_doubt_is_written(take: Take, run):
    chat = ChatQwenConv(model=MODEL, conversations=run.hub, session_id="alice")
    take(chat, "yes")
    run.relay.faults = [never_ran]
    with pytest.raises(errors.UndecidedError):
        take(chat, "lost")
    history = QwenConvChatMessageHistory("alice", conversations=run.hub)
    assert len(history.messages) == 3
    history.add_messages([HumanMessage("yes"), AIMessage("You said: yes")])
    assert run.holds == turn("yes") * 2


@pytest.mark.parametrize("name", ["ours, changed", "ours, then a vendor's"])
def test_what_a_chain_makes_of_a_found_answer_is_held_once(server, relay, name):
    run = Run(server, relay, name)
    run.lose(invoke, "one")()
    made = run.ask(invoke, "one")
    assert made != "You said: one"
    assert run.holds == run.shown == ["user: one", f"assistant: {made}"]


def test_who_leaves_the_answer_that_was_found_and_says_the_same_is_answered_anew(run):
    chat = ChatQwenConv(model=MODEL, conversations=run.hub, session_id="alice")
    messages = [*run.history.messages, HumanMessage("go on")]
    waiting = []
    run.relay.faults = [put_off(waiting)]
    with pytest.raises(errors.UndecidedError):
        chat.invoke(messages)
    waiting.pop()()
    pieces = chat.stream(messages)
    next(pieces)
    pieces.close()
    assert run.ask(stream, "go on") == "You said: go on"
    assert run.holds == turn("go on") * 2
