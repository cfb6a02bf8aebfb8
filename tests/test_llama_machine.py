"""A store and an LLM on one hub, driven in any order and with any fault: the history stays exact.

The machine does what engines and agents do, over HTTP, and what goes wrong there: answers get lost,
turns fail, streams are left, other processes write. What a history is to be is kept in a list.
"""

import asyncio
import time
from collections import Counter
from contextlib import ExitStack
from functools import partial

import pytest
from conftest import always, another_process, asked, said
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from llama import llm_on
from llama_index.core.base.llms.types import ToolCallBlock
from llama_index.core.llms import ChatMessage
from lossy import relayed

from llamaindex_qwen_conv import QwenConvAsyncChatStore, QwenConvChatStore
from qwen_conv.errors import Failure, NoReplyError, QwenConvError, ServiceFailedError
from qwen_conv.offline import CallTool, Fail, OfflineServer
from qwen_conv.registry import MemoryRegistry, SqlRegistry

KEY = "alice"
SWITCHES = (
    {},
    {"output_ids": "new"},
    {"stored_items": "messages"},
    {"unknown_after": "ignored", "output_ids": "new"},
    {"cut_stream": "not_stored", "failed_turn": "input_stored"},
    {"lone_output": "pair_required", "listed_content": "text"},
    {"stored_items": "messages", "output_ids": "new", "missing_status": "400"},
)
LOST = ("/responses", "/items", "/conversations", "DELETE")
words = st.sampled_from(["yes", "no", "why?"])
ways = st.sampled_from(["chat", "stream_chat", "achat", "astream_chat"])


def user(text):
    return ChatMessage(text, role="user")


def assistant(text):
    return ChatMessage(text, role="assistant")


def told(message):
    """What a message says, in a form that can be compared and read."""
    calls = [one.tool_call_id for one in message.blocks if isinstance(one, ToolCallBlock)]
    named = message.additional_kwargs.get("tool_call_id")
    return (message.role.value, message.content or "", *calls, *([named] if named else []))


def is_of_a_tool(messages):
    return any(len(told(one)) > 2 for one in messages)


def without_last(messages, count):
    """The messages without the last ones, nor a call whose result is among these."""
    kept = messages[: max(0, len(messages) - count)]
    return kept[:-1] if kept and kept[-1].role == "assistant" and is_of_a_tool(kept[-1:]) else kept


def answered(llm, way, messages, pieces=None):
    """The whole answer of an LLM; or nothing, if its stream is left after some pieces."""

    async def streamed():
        chunks = await llm.astream_chat(messages)
        found = []
        async for chunk in chunks:
            found.append(chunk)
            if len(found) == pieces:
                await chunks.aclose()
                return None
        return found[-1].message

    match way:
        case "chat":
            return llm.chat(messages).message
        case "achat":
            return asyncio.run(llm.achat(messages)).message
        case "astream_chat":
            return asyncio.run(streamed())
    chunks = llm.stream_chat(messages)
    if pieces:
        for _ in range(pieces):
            next(chunks)
        chunks.close()
        return None
    return [*chunks][-1].message


TURN = "a turn, and what is asked about it"


def loses_a_turn(method, path):
    return method == "GET" or path.endswith("/responses")


class Place:
    """A server, the relay before it, and what it answers next."""

    def __init__(self, stack, switches):
        self.server = stack.enter_context(OfflineServer(self.script, **switches))
        self.relay = stack.enter_context(relayed(self.server.base_url))
        self.relay.loses = self.loses
        self.reply = "yes"
        self.lost = None

    def script(self, _context, _request):
        return self.reply

    def loses(self, method, path):
        lost = self.lost
        if lost == TURN:
            return loses_a_turn(method, path)
        return lost is not None and (method == lost or (method == "POST" and path.endswith(lost)))


class Histories(RuleBasedStateMachine):
    places: dict

    # --- Processes ----------------------------------------------------------------------------

    @initialize(switches=st.sampled_from(range(len(SWITCHES))), in_tasks=st.booleans())
    def begin(self, switches, in_tasks):
        self.place = self.places[switches]
        self.place.lost, self.place.reply = None, "yes"
        self.native_tools_listed = SWITCHES[switches].get("stored_items") != "messages"
        self.registry = MemoryRegistry()
        self.in_tasks = in_tasks
        self.oracle: list = []
        self.others: Counter = Counter()
        self.archived = 0
        self.count = 0
        self.open()

    def open(self):
        self.hub = another_process(
            self.place.server, registry=self.registry, settle_timeout=0, max_retries=0
        )
        self.hub.base_url = self.place.relay.base_url
        self.llm = llm_on(self.hub)
        kind = QwenConvAsyncChatStore if self.in_tasks else QwenConvChatStore
        self.store = kind(conversations=self.hub)

    def ran(self, name, *args):
        done = getattr(self.store, name)(KEY, *args)
        return asyncio.run(done) if self.in_tasks else done

    # --- The store ----------------------------------------------------------------------------

    def shown(self):
        if not self.in_tasks:
            return self.store.get_messages(KEY)
        return asyncio.run(self.store.get_messages(KEY, None))

    def put(self, *messages):
        if self.in_tasks:
            self.ran("add_messages", [*messages])
        else:
            for message in messages:
                self.ran("add_message", message)

    def ours(self, messages):
        return [one for one in map(told, messages) if "other" not in one[1]]

    def faulty(self, lost, done):
        """Does something, of which answers get lost at first; then again, if it failed."""
        self.place.lost = lost
        try:
            return done()
        except QwenConvError:
            self.place.lost = None
            # What was to be deleted may be gone by now, and is not seen to go the second time.
            left = [line.partition(": ")[2] for line in said(self.place.server, place(self.hub))]
            self.others &= Counter(left)
            return done()
        finally:
            self.place.lost = None

    # --- What engines do ----------------------------------------------------------------------

    @rule(word=words)
    def ask(self, word):
        self.put(user(word))
        self.oracle.append(("user", word))

    @rule(way=ways, reply=words)
    def take_a_turn(self, way, reply):
        self.place.reply = reply
        self.put(answered(self.llm, way, self.history()))
        self.oracle.append(("assistant", reply))

    @rule(way=ways, reply=words, text=words)
    def take_a_turn_and_put_another_text(self, way, reply, text):
        self.place.reply = reply
        answered(self.llm, way, self.history())
        self.put(assistant(text))
        self.oracle.append(("assistant", text))

    @rule(way=ways, reply=words)
    def take_a_turn_and_never_put_it(self, way, reply):
        self.place.reply = reply
        answered(self.llm, way, self.history())

    @rule(way=st.sampled_from(["stream_chat", "astream_chat"]))
    def leave_a_stream(self, way):
        self.place.reply = "one and two and three and four and five"
        answered(self.llm, way, self.history(), pieces=1)

    @rule(text=words)
    def put_another_models_answer(self, text):
        self.put(assistant(text))
        self.oracle.append(("assistant", text))

    @rule(way=ways, reply=words, final=st.booleans())
    def run_a_tool(self, way, reply, final):
        self.count += 1
        call_id = f"call_{self.count}"
        history = self.history()
        self.place.reply = CallTool("weather", {"day": self.count}, call_id)
        call = answered(self.llm, way, history)
        result = ChatMessage("sunny", role="tool", additional_kwargs={"tool_call_id": call_id})
        new = [call, result]
        said = [("assistant", "", call_id), ("tool", "sunny", call_id)]
        if final:
            self.place.reply = reply
            new.append(answered(self.llm, way, [*history, call, result]))
        else:
            new.append(assistant(reply))  # another model's, or an engine's own
        self.put(*new)
        self.oracle += [*said, ("assistant", reply)]

    def history(self):
        """What an engine passes to the model: it has a question at its end."""
        messages = self.shown()
        if not messages or messages[-1].role.value != "user":
            self.ask("so?")
            messages = self.shown()
        return messages

    # --- What users do ------------------------------------------------------------------------

    @rule(keep=st.integers(0, 4), new=st.lists(words, max_size=3))
    def replace_the_tail(self, keep, new):
        messages = self.shown()
        fresh = [user(one) if n % 2 == 0 else assistant(one) for n, one in enumerate(new)]
        self.replaced(messages, [*without_last(messages, keep), *fresh])

    @rule(index=st.integers(0, 5))
    def leave_one_out(self, index):
        """As a memory does that was given a list and puts it back with a gap."""
        messages = self.shown()
        if not is_of_a_tool(messages[index : index + 2]):
            self.replaced(messages, messages[:index] + messages[index + 1 :])

    @rule(index=st.integers(0, 5))
    def say_one_twice(self, index):
        messages = self.shown()
        if not is_of_a_tool(messages[index : index + 1]):
            self.replaced(messages, [*messages[index:], *messages[index : index + 1]])

    def replaced(self, before, after):
        self.ran("set_messages", after)
        self.oracle = self.ours(after)
        self.gone([one for one in before if told(one) not in [*map(told, after)]])

    @rule(index=st.integers(-3, 5))
    def delete_by_index(self, index):
        messages = self.shown()
        place = index % len(messages) if messages else 0
        # Without what stands before a call, an answer and the call would be one message.
        if -len(messages) <= index < len(messages) and not is_of_a_tool(
            messages[place : place + 2]
        ):
            gone = self.ran("delete_message", index)
            assert told(gone) == told(messages[index])
            self.gone([gone])
            del messages[index]
            self.oracle = self.ours(messages)

    def gone(self, messages):
        for one in messages:
            if "other" in told(one)[1]:
                del self.others[one.content]

    @precondition(lambda self: self.in_tasks)
    @rule(count=st.integers(1, 2))
    def archive(self, count):
        self.ran("archive_oldest_messages", count)

    @rule()
    def clear(self):
        self.ran("delete_messages")
        self.oracle.clear()
        self.others.clear()

    @rule()
    def flush(self):
        self.store.flush()

    # --- What goes wrong ----------------------------------------------------------------------

    @rule(way=ways, reply=words, keeps=st.booleans())
    def lose_a_turn(self, way, reply, keeps):
        history = self.history()
        self.place.reply = reply if keeps else Fail("no")
        self.place.lost = TURN if keeps else None
        with pytest.raises(QwenConvError):
            answered(self.llm, way, history)
        self.place.lost = None

    @rule(text=words, lost=st.sampled_from(LOST), again=st.booleans())
    def lose_an_answer_to_a_put(self, text, lost, again):
        self.place.lost = lost
        try:
            self.put(assistant(text))
        except QwenConvError:
            self.place.lost = None
            if not again:
                return
            self.put(assistant(text))
        self.place.lost = None
        self.oracle.append(("assistant", text))

    @rule(lost=st.sampled_from(LOST), keep=st.integers(0, 3))
    def lose_an_answer_to_a_change(self, lost, keep):
        self.faulty(lost, partial(self.change, keep))

    def change(self, keep):
        messages = self.shown()
        self.replaced(messages, [*without_last(messages, keep), assistant("so be it")])

    @rule(lost=st.sampled_from(LOST))
    def lose_an_answer_to_a_flush(self, lost):
        self.faulty(lost, self.store.flush)

    @rule(role=st.sampled_from(["user", "assistant"]))
    def another_process_writes(self, role):
        self.count += 1
        elsewhere = another_process(self.place.server, registry=self.registry)
        elsewhere.base_url = self.hub.base_url
        text = f"other {self.count}"
        QwenConvChatStore(conversations=elsewhere).add_message(KEY, ChatMessage(text, role=role))
        elsewhere.close()
        self.others[text] += 1

    @rule()
    def end_the_process(self):
        self.store.close()
        self.open()
        found = self.shown()
        listed, expected = self.ours(found), [*self.oracle]
        if not self.native_tools_listed:  # then they are kept nowhere
            listed = [one for one in listed if len(one) == 2]
            expected = [one for one in expected if len(one) == 2]
        assert listed == expected
        assert Counter(one[1] for one in map(told, found) if "other" in one[1]) == self.others
        self.oracle = self.ours(found)

    @invariant()
    def shows_what_it_was_given(self):
        if hasattr(self, "store"):
            assert self.ours(self.shown()) == self.oracle

    def teardown(self):
        if hasattr(self, "store"):
            try:
                self.end_the_process()
            finally:
                self.hub.close()


def test_whatever_is_done_and_goes_wrong_the_history_stays_exact():
    with ExitStack() as stack:
        Histories.places = {n: Place(stack, each) for n, each in enumerate(SWITCHES)}
        case = Histories.TestCase
        case.settings = settings(
            max_examples=16,
            stateful_step_count=16,
            deadline=None,
            derandomize=True,
            suppress_health_check=[HealthCheck.too_slow],
            phases=(Phase.generate, Phase.shrink),
        )
        case("runTest").runTest()


# --- What the machine and its author have found -------------------------------------------------


@pytest.fixture
def store(hub):
    return QwenConvChatStore(conversations=hub)


def place(hub):
    return hub.registry.get(hub.session(KEY)).conversation_id


def texts(messages):
    return [one.content for one in messages]


def elsewhere(server, hub, kind=QwenConvChatStore):
    """A store of another process."""
    return kind(conversations=another_process(server, registry=hub.registry))


def asked_and_answered(llm, store, server, question, reply):
    """A turn whose answer is not put."""
    server.script = always(reply)
    store.add_message(KEY, user(question))
    return llm.chat(store.get_messages(KEY)).message


def test_a_question_does_not_claim_an_answer_that_says_the_same(hub, server, store):
    llm = llm_on(hub)
    asked_and_answered(llm, store, server, "so?", "yes")
    store.add_message(KEY, user("yes"))
    assert [*map(told, store.get_messages(KEY))] == [("user", "so?"), ("user", "yes")]
    hub.close()
    assert said(server, place(hub)) == ["user: so?", "user: yes"]


def test_an_answer_to_a_repeated_question_stands_behind_it(hub, server, store):
    llm = llm_on(hub)
    asked_and_answered(llm, store, server, "so?", "yes")  # whoever asked went away
    asked_and_answered(llm, store, server, "so?", "yes")
    store.add_message(KEY, assistant("yes"))
    hub.close()
    assert texts(store.get_messages(KEY)) == ["so?", "so?", "yes"]
    assert said(server, place(hub)) == ["user: so?", "user: so?", "assistant: yes"]


def test_an_answer_that_was_never_put_is_taken_out_at_the_end(hub, server, store):
    asked_and_answered(llm_on(hub), store, server, "so?", "yes")
    hub.close()
    assert texts(elsewhere(server, hub).get_messages(KEY)) == ["so?"]


def test_what_a_lost_turn_left_is_taken_out_though_its_question_was_deleted(server):
    with relayed(server.base_url) as relay:
        hub = another_process(server, registry=MemoryRegistry(), settle_timeout=0, max_retries=0)
        hub.base_url = relay.base_url
        llm, store = llm_on(hub), QwenConvChatStore(conversations=hub)
        store.add_message(KEY, asked_and_answered(llm, store, server, "one?", "one"))
        relay.loses = loses_a_turn
        with pytest.raises(NoReplyError):
            asked_and_answered(llm, store, server, "two?", "two")
        relay.loses = lambda _method, _path: False
        store.delete_last_message(KEY)
        hub.close()
        assert said(server, place(hub)) == ["user: one?", "assistant: one"]


@pytest.mark.parametrize("switches", [{"output_ids": "new"}, {"unknown_after": "ignored"}], ids=str)
def test_what_a_lost_turn_left_is_found_though_ids_changed_and_others_wrote(switches):
    with OfflineServer(**switches) as server, relayed(server.base_url) as relay:
        hub = another_process(server, registry=MemoryRegistry(), settle_timeout=0, max_retries=0)
        hub.base_url = relay.base_url
        llm, store = llm_on(hub), QwenConvChatStore(conversations=hub)
        store.add_message(KEY, asked_and_answered(llm, store, server, "one?", "one"))
        relay.loses = loses_a_turn
        with pytest.raises(NoReplyError):
            asked_and_answered(llm, store, server, "two?", "two")
        relay.loses = lambda _method, _path: False
        hub.close()
        assert said(server, place(hub)) == ["user: one?", "assistant: one", "user: two?"]


@pytest.mark.parametrize("again", [True, False])
def test_what_was_written_although_its_put_failed_is_claimed_or_taken_out(server, again):
    with relayed(server.base_url) as relay:
        hub = another_process(server, registry=MemoryRegistry())
        hub.base_url = relay.base_url
        llm_on(hub)
        store = QwenConvChatStore(conversations=hub)
        store.add_message(KEY, assistant("zero"))
        store.add_message(KEY, user("one?"))
        relay.loses = lambda method, _path: method == "POST"
        with pytest.raises(NoReplyError):
            store.add_message(KEY, assistant("one"))
        relay.loses = lambda _method, _path: False
        store.add_message(KEY, assistant("one" if again else "another"))
        hub.close()
        expected = ["zero", "one?", "one" if again else "another"]
        assert texts(store.get_messages(KEY)) == expected
        assert texts(elsewhere(server, hub).get_messages(KEY)) == []  # at another address
        assert [one.split(": ")[1] for one in said(server, place(hub))] == expected


def test_a_put_that_fails_claims_nothing(hub, server):
    llm, store = llm_on(hub), QwenConvAsyncChatStore(conversations=hub)

    def put(*messages):
        asyncio.run(store.add_messages(KEY, [*messages]))

    put(user("so?"))
    server.script = always("yes")
    answer = llm.chat(asyncio.run(store.get_messages(KEY))).message
    too_long = assistant("x" * 20)
    hub.mirrors.find(KEY)._record.append = refusing(hub.mirrors.find(KEY)._record.append)
    with pytest.raises(ServiceFailedError):
        put(answer, too_long)
    put(answer, too_long)
    hub.close()
    expected = ["user: so?", "assistant: yes", "assistant: " + "x" * 20]
    assert said(server, place(hub)) == expected


def refusing(flow):
    """The flow, which fails the first time."""
    failures = [ServiceFailedError(Failure("It failed."))]

    async def tried(*args, **kwargs):
        if failures:
            raise failures.pop()
        return await flow(*args, **kwargs)

    return tried


def test_one_message_that_is_set_twice_is_two(hub, server, store):
    store.set_messages(KEY, [user("one?"), assistant("one")])
    one, two = store.get_messages(KEY)
    store.set_messages(KEY, [two, one, one])
    store.delete_last_message(KEY)
    assert texts(store.get_messages(KEY)) == ["one", "one?"]
    assert said(server, place(hub)) == ["assistant: one", "user: one?"]


def test_a_key_that_was_archived_and_deleted_can_be_closed(hub):
    llm_on(hub)
    store = QwenConvAsyncChatStore(conversations=hub)

    async def whole():
        await store.add_messages(KEY, [user("one?"), assistant("one")])
        await store.archive_oldest_messages(KEY, 1)
        await store.delete_messages(KEY)

    asyncio.run(whole())
    hub.close()


def test_what_is_archived_stays_so_when_the_last_of_it_is_deleted(hub, server):
    store = QwenConvAsyncChatStore(conversations=hub)

    async def whole():
        await store.add_messages(KEY, [user("one?"), assistant("one"), user("two?")])
        await store.archive_oldest_messages(KEY, 2)
        await asyncio.to_thread(store.flush)
        await store.delete_message(KEY, 1)
        await asyncio.to_thread(store.flush)
        return await elsewhere(server, hub, QwenConvAsyncChatStore).get_messages(KEY)

    assert texts(asyncio.run(whole())) == ["two?"]


def test_calls_of_another_model_are_written_once_with_their_results(hub, server, store):
    llm_on(hub)
    call = ToolCallBlock(tool_call_id="call_1", tool_name="weather", tool_kwargs={})
    store.add_message(KEY, user("one?"))
    store.add_message(KEY, ChatMessage([call], role="assistant"))
    result = ChatMessage("sunny", role="tool", additional_kwargs={"tool_call_id": "call_1"})
    store.add_message(KEY, result)
    store.add_message(KEY, assistant("one"))
    assert not [one for one in asked(server) if one.startswith("DELETE")]
    assert len(server.items(place(hub))) == 4


def test_an_answer_of_two_texts_is_read_as_one(hub, server):
    llm, store = llm_on(hub), QwenConvChatStore(conversations=hub, freshness="turn")
    for number in range(2):
        answer = asked_and_answered(llm, store, server, f"{number}?", ["one", "two"])
        store.add_message(KEY, answer)
    assert len(store.get_messages(KEY)) == 4


def test_a_session_that_another_process_bound_anew_is_followed(hub, server, store):
    llm_on(hub)
    store.add_message(KEY, assistant("one"))
    there = another_process(server, registry=hub.registry)
    there.forget_session(KEY)
    QwenConvChatStore(conversations=there).add_message(KEY, assistant("two"))
    store.add_message(KEY, assistant("three"))
    assert texts(store.get_messages(KEY)) == ["two", "three"]
    assert said(server, place(hub)) == ["assistant: two", "assistant: three"]


def test_a_message_of_which_another_process_was_given_the_row_is_not_sent(server, tmp_path):
    with SqlRegistry(f"sqlite:///{tmp_path / 'sessions.db'}") as registry:
        hub = another_process(server, registry=registry)
        llm, store = llm_on(hub), QwenConvChatStore(conversations=hub)
        server.script = always("yes")
        store.add_message(KEY, user("so?"))
        messages = store.get_messages(KEY)
        registry.take_over(hub.session(KEY), "elsewhere:1:abc", time.time() + 1)
        store.add_message(KEY, user("and?"))
        answer = llm.chat(messages)
        assert answer.additional_kwargs["decision"] == "stateless"
        assert texts(store.get_messages(KEY)) == ["and?"]  # nobody else would write that
        hub.close()
        assert said(server, place(hub)) == ["user: and?"]


def test_what_a_killed_process_said_again_is_not_taken_for_what_it_said_before(server, tmp_path):
    with SqlRegistry(f"sqlite:///{tmp_path / 'sessions.db'}") as registry:
        hub = another_process(server, registry=registry)
        llm_on(hub)
        store = QwenConvChatStore(conversations=hub)
        store.add_message(KEY, user("yes"))
        store.add_message(KEY, assistant("why?"))  # both with the conversation: no id is known
        store.add_message(KEY, user("yes"))
        session = hub.session(KEY)
        (row,) = registry.waiting(session)
        registry.withdraw(session, [row.number])
        registry.post(session, "elsewhere:1:abc", [row.data])
        there = another_process(server, registry=registry)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("qwen_conv.outbox.SILENCE", -1.0)
            assert texts(elsewhere(server, there).get_messages(KEY)) == ["yes", "why?", "yes"]
        for each in (hub, there):
            each.mirrors._recent.clear()
