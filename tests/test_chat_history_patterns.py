"""`QwenConvChatMessageHistory` in every pattern of use: each message is stored once."""

import asyncio
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import repeat

import pytest
from conftest import MODEL, WAYS, another_process, asked, invoke, said
from conftest import ainvoke as taken_async
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import (
    AIMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    messages_from_dict,
    messages_to_dict,
)
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import RunnableLambda
from langchain_core.runnables.history import RunnableWithMessageHistory

from langchain_qwen_conv import ChatQwenConv, QwenConvChatMessageHistory
from qwen_conv import flows
from qwen_conv.items import Message
from qwen_conv.offline import Fail, OfflineServer

CONFIG = {"configurable": {"session_id": "alice"}}
ANSWER = "the answer"


@pytest.fixture
def server():
    with OfflineServer(lambda _context, _request: ANSWER) as server:
        yield server


def vendor(answers=1000):
    # A generator would not be taken from by several threads at once.
    return GenericFakeChatModel(messages=map(AIMessage, repeat("the vendor's", answers)))


def translated(text):
    return [HumanMessage(f"Translate: {text}")]


def shouted(text):
    return text.upper()


TAILS = {
    "ours": lambda ours: ours,
    "ours, parsed": lambda ours: ours | StrOutputParser(),
    "ours, changed": lambda ours: ours | StrOutputParser() | shouted,
    "two of ours": lambda ours: ours | StrOutputParser() | translated | ours,
    "two of ours, parsed": lambda ours: (
        ours | StrOutputParser() | translated | ours | StrOutputParser()
    ),
    "ours, then a vendor's, parsed": lambda ours: (
        ours | StrOutputParser() | translated | vendor() | StrOutputParser()
    ),
    "ours, then a vendor's": lambda ours: ours | StrOutputParser() | translated | vendor(),
    "a vendor's": lambda _ours: vendor(),
    "a vendor's, parsed": lambda _ours: vendor() | StrOutputParser(),
}
PROMPT = ChatPromptTemplate.from_messages(
    [("system", "Be brief."), MessagesPlaceholder("history"), ("human", "{question}")]
)


def with_history(tail, mode, hub, histories=None):
    """A chain with a history, in one of the two modes; `histories` keeps what was made."""

    def history_of(session):
        history = QwenConvChatMessageHistory(session, conversations=hub)
        if histories is not None:
            histories.append(history)
        return history

    ours = ChatQwenConv(model=MODEL, conversations=hub)
    head = PROMPT if mode == "prompt" else RunnableLambda(lambda messages: messages)
    keys = {"input_messages_key": "question", "history_messages_key": "history"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # LangChain announces its removal in 2.0
        return RunnableWithMessageHistory(
            head | tail(ours), history_of, **(keys if mode == "prompt" else {})
        )


def asks(mode, text):
    return {"question": text} if mode == "prompt" else [HumanMessage(text)]


def of_session(hub):
    return hub.registry.get(hub.session("alice")).conversation_id


@pytest.mark.parametrize("mode", ["list", "prompt"])
@pytest.mark.parametrize("name", TAILS)
def test_ten_runs_store_twenty_messages(take_any, server, hub, mode, name):
    chain = with_history(TAILS[name], mode, hub)
    for _ in range(10):  # people do say "yes" ten times
        take_any(chain, asks(mode, "yes"), CONFIG)
    stored = said(server, of_session(hub))
    last = "the vendor's" if "vendor" in name else ANSWER
    last = ANSWER.upper() if "changed" in name else last
    assert stored == ["user: yes", f"assistant: {last}"] * 10


@pytest.fixture(params=WAYS)
def take_any(request):
    """One call of any runnable, in one of the four ways."""

    def taken(chain, given, config):
        match request.param:
            case "invoke":
                return chain.invoke(given, config)
            case "stream":
                return [*chain.stream(given, config)]
            case "ainvoke":
                return asyncio.run(chain.ainvoke(given, config))

        async def streamed():
            return [chunk async for chunk in chain.astream(given, config)]

        return asyncio.run(streamed())

    return taken


@pytest.mark.parametrize(
    ("name", "mode", "requests"),
    [
        ("ours", "list", ["GET /conversations/*/items", "POST /responses"]),
        ("ours", "prompt", ["GET /conversations/*/items", "POST /responses"]),
        ("ours, parsed", "list", ["GET /conversations/*/items", "POST /responses"]),
        ("ours, parsed", "prompt", ["GET /conversations/*/items", "POST /responses"]),
        (
            "a vendor's",
            "list",
            ["GET /conversations/*/items"] * 2 + ["POST /conversations/*/items"],
        ),
        (
            "a vendor's",
            "prompt",
            ["GET /conversations/*/items", "POST /conversations/*/items"],
        ),
    ],
)
def test_a_run_costs_a_reading_and_a_turn(take_any, server, hub, name, mode, requests):
    chain = with_history(TAILS[name], mode, hub)
    take_any(chain, asks(mode, "yes"), CONFIG)
    for _ in range(3):
        server.requests.clear()
        take_any(chain, asks(mode, "yes"), CONFIG)
        assert asked(server) == requests


@pytest.mark.parametrize(
    ("name", "requests"), [("two of ours, parsed", 4), ("ours, changed", 3), ("two of ours", 4)]
)
def test_a_run_that_comes_to_something_else_is_written_and_not_taken_back_again(
    take_any, server, hub, name, requests
):
    chain = with_history(TAILS[name], "prompt", hub)
    for _ in range(2):
        take_any(chain, asks("prompt", "yes"), CONFIG)
    server.requests.clear()
    take_any(chain, asks("prompt", "yes"), CONFIG)
    assert len(server.requests) == requests
    plain = with_history(TAILS["ours"], "prompt", hub)
    take_any(plain, asks("prompt", "yes"), CONFIG)
    server.requests.clear()
    take_any(plain, asks("prompt", "yes"), CONFIG)
    assert asked(server) == ["GET /conversations/*/items", "POST /responses"]
    assert len(said(server, of_session(hub))) == 10


def test_a_turn_of_a_run_sends_the_new_message_only(take_any, server, hub):
    chain = with_history(TAILS["ours"], "prompt", hub)
    for _ in range(3):
        take_any(chain, asks("prompt", "yes"), CONFIG)
    assert server.requests[-1].body["input"] == "yes"
    assert server.requests[-1].body["instructions"] == "Be brief."


def test_system_messages_of_the_conversation_are_no_system_prompt(take_any, server, hub):
    history = QwenConvChatMessageHistory("alice", conversations=hub)
    history.add_messages([SystemMessage("Alice is 20 years old."), HumanMessage("one")])
    chain = with_history(TAILS["ours"], "prompt", hub)
    take_any(chain, asks("prompt", "two"), CONFIG)
    assert server.requests[-1].body["instructions"] == "Be brief."
    assert server.requests[-1].body["input"] == "two"


def test_what_another_process_writes_during_a_run_is_not_taken_for_its_input(take_any, server, hub):
    chain = with_history(TAILS["a vendor's"], "list", hub)
    take_any(chain, asks("list", "one"), CONFIG)

    def disturb(given):
        other = another_process(server)
        other.run(flows.append, of_session(hub), [Message.of("user", "from elsewhere")])
        return given

    chain = with_history(lambda _ours: RunnableLambda(disturb) | vendor(), "list", hub)
    take_any(chain, asks("list", "two"), CONFIG)
    assert said(server, of_session(hub))[2:] == [
        "user: from elsewhere",
        "user: two",
        "assistant: the vendor's",
    ]


def test_a_run_that_fails_adds_nothing_and_the_next_one_reads_anew(take_any, server, hub):
    history = QwenConvChatMessageHistory("alice", conversations=hub)
    history.add_user_message("before")
    failures = iter([True, False])

    def fails_once(given):
        if next(failures):
            raise RuntimeError("no luck")
        return [message.content for message in given][-1]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chain = RunnableWithMessageHistory(RunnableLambda(fails_once), lambda _session: history)
    with pytest.raises(RuntimeError, match="no luck"):
        take_any(chain, [HumanMessage("one")], CONFIG)
    QwenConvChatMessageHistory("alice", conversations=hub).add_ai_message("meanwhile")
    take_any(chain, [HumanMessage("two")], CONFIG)
    assert said(server, of_session(hub)) == [
        "user: before",
        "assistant: meanwhile",
        "user: two",
        "assistant: two",
    ]


def test_after_a_chain_that_failed_behind_its_model_nothing_added_by_hand_is_swallowed(server, hub):
    histories = []

    def fails(_text):
        raise RuntimeError("no luck")

    chain = with_history(lambda ours: ours | StrOutputParser() | fails, "list", hub, histories)
    with pytest.raises(RuntimeError, match="no luck"):
        chain.invoke(asks("list", "one"), CONFIG)
    histories[0].add_messages([HumanMessage("two"), AIMessage("by hand")])
    assert said(server, of_session(hub))[-2:] == ["user: two", "assistant: by hand"]


def test_a_model_that_is_given_another_conversation_goes_there(take_any, server, hub):
    other = hub.run(flows.create).id
    chain = with_history(lambda ours: ours.with_conversation(other), "list", hub)
    for _ in range(2):
        take_any(chain, asks("list", "yes"), CONFIG)
    once = ["user: yes", f"assistant: {ANSWER}"]
    assert said(server, other)[:2] == once
    assert said(server, of_session(hub)) == once * 2


@pytest.mark.parametrize("parsed", [False, True])
def test_a_model_without_a_chain_around_it_is_run_as_well(take_any, server, hub, parsed):
    ours = ChatQwenConv(model=MODEL, conversations=hub)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chain = RunnableWithMessageHistory(
            ours | StrOutputParser() if parsed else ours,
            lambda session: QwenConvChatMessageHistory(session, conversations=hub),
        )
    for _ in range(3):
        server.requests.clear()
        take_any(chain, [HumanMessage("yes")], CONFIG)
        assert asked(server)[-1] == "POST /responses"
        assert len(server.requests) == 2
    assert said(server, of_session(hub)) == ["user: yes", f"assistant: {ANSWER}"] * 3


def test_runs_at_once_on_one_history_are_stored_once_each(server, hub):
    history = QwenConvChatMessageHistory("alice", conversations=hub)
    ours = ChatQwenConv(model=MODEL, conversations=hub)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chain = RunnableWithMessageHistory(ours | StrOutputParser(), lambda _session: history)

    async def at_once():
        runs = (chain.ainvoke([HumanMessage(f"question {n}")], CONFIG) for n in range(5))
        await asyncio.gather(*runs)

    asyncio.run(at_once())
    stored = said(server, of_session(hub))
    assert sorted(stored[::2]) == [f"user: question {n}" for n in range(5)]
    assert stored[1::2] == [f"assistant: {ANSWER}"] * 5


@pytest.mark.parametrize("name", ["ours", "a vendor's"])
def test_runs_of_threads_at_once_on_one_history_keep_every_question(server, hub, name):
    history = QwenConvChatMessageHistory("alice", conversations=hub)
    history.add_messages([HumanMessage("before"), AIMessage("fine")])
    ours = ChatQwenConv(model=MODEL, conversations=hub)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chain = RunnableWithMessageHistory(TAILS[name](ours), lambda _session: history)
    with ThreadPoolExecutor(8) as pool:
        runs = [
            pool.submit(chain.invoke, [HumanMessage(f"question {n}")], CONFIG) for n in range(16)
        ]
        for run in runs:
            run.result()
    stored = said(server, of_session(hub))[2:]
    assert len(stored) == 32
    assert {line for line in stored if line.startswith("user")} == {
        f"user: question {n}" for n in range(16)
    }


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("name", ["ours", "a vendor's"])
def test_a_batch_keeps_every_question(server, hub, name, shared):
    history = QwenConvChatMessageHistory("alice", conversations=hub)
    history.add_messages([HumanMessage("before"), AIMessage("fine")])
    ours = ChatQwenConv(model=MODEL, conversations=hub)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chain = RunnableWithMessageHistory(
            RunnableLambda(lambda messages: messages) | TAILS[name](ours),
            lambda key: history if shared else QwenConvChatMessageHistory(key, conversations=hub),
        )
    chain.batch([[HumanMessage(f"question {n}")] for n in range(6)], CONFIG)
    stored = said(server, of_session(hub))[2:]
    assert {line for line in stored if line.startswith("user")} == {
        f"user: question {n}" for n in range(6)
    }
    assert len(stored) == 12


@pytest.mark.parametrize("name", ["ours", "ours, parsed", "a vendor's", "a vendor's, parsed"])
@pytest.mark.parametrize("first_ends", ["before the second", "after the second"])
def test_tasks_at_once_on_one_history_keep_every_question(server, hub, name, first_ends):
    history = QwenConvChatMessageHistory("alice", conversations=hub)
    history.add_messages([HumanMessage("before"), AIMessage("fine")])
    ours = ChatQwenConv(model=MODEL, conversations=hub)

    async def in_order():
        answered = {text: asyncio.Event() for text in ("one", "two", "three")}
        may_end = {text: asyncio.Event() for text in answered}

        async def ends(given, config):
            text = config["metadata"]["text"]
            answered[text].set()
            await may_end[text].wait()
            return given

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            chain = RunnableWithMessageHistory(
                TAILS[name](ours) | RunnableLambda(ends),
                lambda _session: history,
            )

        async def runs(text):
            await chain.ainvoke([HumanMessage(text)], {**CONFIG, "metadata": {"text": text}})

        first = asyncio.create_task(runs("one"))
        await answered["one"].wait()
        second = asyncio.create_task(runs("two"))
        await answered["two"].wait()
        tasks = [("one", first), ("two", second)]
        for text, task in tasks if first_ends == "before the second" else reversed(tasks):
            may_end[text].set()
            await task
        may_end["three"].set()
        await runs("three")

    asyncio.run(in_order())
    answer = "the vendor's" if "vendor" in name else ANSWER
    stored = said(server, of_session(hub))[2:]
    assert sorted(stored[::2]) == ["user: one", "user: three", "user: two"]
    assert stored[1::2] == [f"assistant: {answer}"] * 3
    assert stored[-2] == "user: three"


def test_readings_at_once_find_each_message_once(server, hub):
    history = QwenConvChatMessageHistory("alice", conversations=hub)
    history.add_messages([HumanMessage(f"message {n}") for n in range(3)])
    assert len(history.messages) == 3
    there = QwenConvChatMessageHistory(
        "alice", conversations=another_process(server, registry=hub.registry)
    )
    call = {"name": "f", "args": {}, "id": "c1", "type": "tool_call"}
    there.add_messages([AIMessage("", tool_calls=[call]), ToolMessage("x", tool_call_id="c1")])

    async def at_once():
        return await asyncio.gather(*(history.aget_messages() for _ in range(5)))

    assert [len(found) for found in asyncio.run(at_once())] == [5] * 5
    assert len(history.messages) == 5


# --- By hand ----------------------------------------------------------------------------------


@pytest.fixture(params=["sync", "async"])
def hand(request, hub):
    """A history's methods, and a model's call, in one of the two ways."""

    class Hand:
        history = QwenConvChatMessageHistory("alice", conversations=hub)
        chat = ChatQwenConv(model=MODEL, conversations=hub, session_id="alice")

        def messages(self):
            if request.param == "sync":
                return self.history.messages
            return asyncio.run(self.history.aget_messages())

        def add(self, *messages):
            if request.param == "sync":
                return self.history.add_messages(messages)
            return asyncio.run(self.history.aadd_messages(messages))

        def invoke(self, messages, **kwargs):
            way = invoke if request.param == "sync" else taken_async
            return way(self.chat, messages, **kwargs)

    return Hand()


@pytest.mark.parametrize("as_text", [False, True])
def test_question_model_and_answer_added_by_hand_are_stored_once(server, hub, hand, as_text):
    for _ in range(10):
        hand.add(HumanMessage("yes"))
        answer = hand.invoke(hand.messages())
        hand.add(AIMessage(answer.text) if as_text else answer)
    assert said(server, of_session(hub)) == ["user: yes", f"assistant: {ANSWER}"] * 10


@pytest.mark.parametrize("as_text", [False, True])
def test_question_and_answer_added_after_the_turn_are_stored_once(server, hub, hand, as_text):
    for _ in range(10):
        question = HumanMessage("yes")
        answer = hand.invoke([*hand.messages(), question])
        hand.add(question)
        hand.add(AIMessage(answer.text) if as_text else answer)
    assert said(server, of_session(hub)) == ["user: yes", f"assistant: {ANSWER}"] * 10


def test_what_was_read_since_the_turn_is_said_again_if_it_is_added(server, hub, hand):
    hand.invoke([HumanMessage("yes")])
    assert len(hand.messages()) == 2
    hand.add(HumanMessage("yes"))
    assert said(server, of_session(hub))[2:] == ["user: yes"]


def test_an_unanswered_question_in_the_conversation_is_taken_back_into_the_turn(server, hub, hand):
    hand.add(HumanMessage("one"), AIMessage("first"), HumanMessage("two"))
    hand.invoke(hand.messages())
    assert said(server, of_session(hub)) == [
        "user: one",
        "assistant: first",
        "user: two",
        f"assistant: {ANSWER}",
    ]


def test_a_vendors_answers_added_by_hand_are_stored_once(server, hub, hand):
    model = vendor()
    for _ in range(10):
        hand.add(HumanMessage("yes"))
        hand.add(model.invoke(hand.messages()))
    assert said(server, of_session(hub)) == ["user: yes", "assistant: the vendor's"] * 10


# --- Lists that come from somewhere -----------------------------------------------------------


def test_a_list_read_from_the_same_conversation_is_not_added_again(server, hub, hand):
    hand.add(HumanMessage("yes"), AIMessage("no"), HumanMessage("yes"))
    hand.add(*hand.messages())
    hand.add(*hand.messages(), AIMessage("new"))
    assert said(server, of_session(hub))[2:] == ["user: yes", "assistant: new"]


def test_nor_does_another_process_add_it_again(server, hub, hand):
    hand.add(HumanMessage("yes"), AIMessage("no"))
    told = messages_from_dict(messages_to_dict(hand.messages()))
    there = another_process(server, registry=hub.registry)
    history = QwenConvChatMessageHistory("alice", conversations=there)
    history.add_messages([*told, HumanMessage("new")])
    assert said(server, of_session(hub)) == ["user: yes", "assistant: no", "user: new"]


def test_a_list_read_from_another_conversation_is_added_whole(server, hub, hand):
    other = QwenConvChatMessageHistory("bob", conversations=hub)
    other.add_messages([HumanMessage("yes"), AIMessage("no")])
    hand.add(*other.messages)
    assert said(server, of_session(hub)) == ["user: yes", "assistant: no"]


@pytest.mark.parametrize("fresh", [False, True])
def test_a_list_from_a_checkpoint_is_added_from_where_the_conversation_ends(
    server, hub, hand, fresh
):
    state = [HumanMessage("one")]
    state.append(hand.invoke([SystemMessage("Be brief."), *state]))
    state.append(HumanMessage("two"))
    state.append(hand.invoke(state))
    state = messages_from_dict(messages_to_dict(state))
    there = another_process(server, registry=hub.registry) if fresh else hub
    history = QwenConvChatMessageHistory("alice", conversations=there)
    history.add_messages([*state, HumanMessage("three")])
    assert said(server, of_session(hub)) == [
        "user: one",
        f"assistant: {ANSWER}",
        "user: two",
        f"assistant: {ANSWER}",
        "user: three",
    ]


@pytest.mark.parametrize("fresh", [False, True])
def test_so_it_is_where_the_service_lists_answers_under_other_ids(fresh):
    with OfflineServer(lambda _context, _request: ANSWER, output_ids="new") as server:
        hub = another_process(server)
        chat = ChatQwenConv(model=MODEL, conversations=hub, session_id="alice")
        state = []
        for _ in range(2):
            state.append(HumanMessage("yes"))
            state.append(chat.invoke(state))
        there = another_process(server, registry=hub.registry) if fresh else hub
        history = QwenConvChatMessageHistory("alice", conversations=there)
        history.add_messages([*state, HumanMessage("new")])
        stored = said(server, of_session(hub))
        assert stored == ["user: yes", f"assistant: {ANSWER}"] * 2 + ["user: new"]
        history.clear()
        history.add_messages(state)
        assert len(server.items(of_session(hub))) == 4


def test_a_checkpoint_of_another_conversation_is_added_whole(server, hub, hand):
    state = [HumanMessage("one")]
    state.append(hand.invoke(state))
    other = QwenConvChatMessageHistory("bob", conversations=hub)
    other.add_messages(state)
    conversation = hub.registry.get(hub.session("bob")).conversation_id
    assert said(server, conversation) == ["user: one", f"assistant: {ANSWER}"]


def test_what_was_never_sent_is_not_taken_for_sent(server, hub, hand):
    question = HumanMessage("yes")
    answer = hand.invoke([question])
    hand.add(HumanMessage("something that was never sent"), question, answer)
    assert said(server, of_session(hub)) == [
        "user: yes",
        f"assistant: {ANSWER}",
        "user: something that was never sent",
    ]


def test_a_message_that_was_changed_since_it_was_read_is_a_new_one(server, hub, hand):
    hand.add(HumanMessage("one"))
    (message,) = hand.messages()
    message.content = "two"
    hand.add(message)
    assert said(server, of_session(hub)) == ["user: one", "user: two"]


def test_a_message_that_is_gone_from_the_conversation_is_added_again(server, hub, hand):
    hand.add(HumanMessage("one"))
    messages = hand.messages()
    hand.history.clear()
    hand.add(*messages)
    assert said(server, of_session(hub)) == ["user: one"]


def test_a_stamp_that_somebody_made_up_does_not_keep_a_message_out(server, hub, hand):
    hand.add(HumanMessage("one"))
    (message,) = hand.messages()
    forged = message.model_copy(deep=True)
    forged.response_metadata["stamp"]["item_ids"] = ["msg_made_up"]
    hand.add(forged)
    assert said(server, of_session(hub)) == ["user: one", "user: one"]


# --- Errors that LangChain swallows -----------------------------------------------------------


def test_a_writing_that_failed_inside_a_run_is_kept_and_logged(take_any, server, hub, caplog):
    histories = []
    chain = with_history(TAILS["a vendor's"], "list", hub, histories)
    take_any(chain, asks("list", "one"), CONFIG)
    assert histories[-1].last_error is None
    chain = with_history(lambda _ours: RunnableLambda(lambda _given: ""), "list", hub, histories)
    take_any(chain, asks("list", "two"), CONFIG)
    assert "says nothing" in str(histories[-1].last_error)
    assert "writing failed" in caplog.text


def test_a_turn_that_failed_in_a_run_leaves_nothing_to_claim(take_any, server, hub):
    chain = with_history(TAILS["ours"], "list", hub)
    take_any(chain, asks("list", "one"), CONFIG)
    server.script = lambda _context, _request: Fail("out of order", "InternalError", 500)
    with pytest.raises(Exception, match="out of order"):
        take_any(chain, asks("list", "two"), CONFIG)
    server.script = lambda _context, _request: ANSWER
    take_any(chain, asks("list", "three"), CONFIG)
    assert said(server, of_session(hub))[2:] == ["user: three", f"assistant: {ANSWER}"]


@pytest.mark.parametrize("pieces", [1, 2, 3])
@pytest.mark.parametrize("mode", ["list", "prompt"])
def test_a_run_that_is_broken_off_leaves_the_conversation_free(server, hub, mode, pieces):
    histories = []
    chain = with_history(lambda ours: ours, mode, hub, histories)
    invoke(chain, asks(mode, "one"), CONFIG)
    with closing(chain.stream(asks(mode, "two"), CONFIG)) as stream:
        for _ in range(pieces):
            next(stream)
    assert len(said(server, of_session(hub))) in {2, 4}  # what the service made of it
    invoke(chain, asks(mode, "three"), CONFIG)
    stored = said(server, of_session(hub))
    assert stored[-2:] == ["user: three", f"assistant: {ANSWER}"]
    assert stored.count("user: two") == stored.count("user: three") == 1
    assert stored[1::2] == [f"assistant: {ANSWER}"] * 3
