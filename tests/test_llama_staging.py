"""What waits for a turn: seen at once, sent once, and written at last, whatever happens."""

import asyncio
import os
import signal
import subprocess
import sys
import threading

import pytest
from conftest import another_process, asked, eventually, said
from llama import KEY, llm_on, memory_on, scripted
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.llms import ChatMessage
from lossy import put_off, relayed

from benchmarks.engines import ask, made
from llamaindex_qwen_conv import QwenConvChatStore
from qwen_conv import QwenConversations, flows
from qwen_conv.errors import (
    ConversationNotFoundError,
    NoReplyError,
    RequestRefusedError,
    ServiceFailedError,
    StreamCutError,
    UndecidedError,
)
from qwen_conv.offline import Fail, OfflineServer
from qwen_conv.registry import MemoryRegistry, SqlRegistry

KINDS = ["Memory", "ChatMemoryBuffer"]


@pytest.fixture(autouse=True)
def _scripted(server):
    server.script = scripted


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def conversation(hub, key=KEY):
    row = hub.registry.get(hub.session(key))
    return None if row is None else row.conversation_id


def held(server, hub):
    return said(server, conversation(hub))


def user(text):
    return ChatMessage(role="user", content=text)


def assistant(text):
    return ChatMessage(role="assistant", content=text)


def shown(memory):
    return [one.content for one in memory.get_all()]


# --- Who writes, and when ---------------------------------------------------------------------


def test_a_question_waits_for_its_turn_and_is_seen_at_once(hub, server, kind):
    llm_on(hub)
    memory = memory_on(hub, kind)
    memory.put(user("One?"))
    assert shown(memory) == ["One?"]
    assert server.requests == []


def test_without_an_llm_on_the_hub_nothing_waits(hub, server, kind):
    memory = memory_on(hub, kind)
    memory.put(user("One?"))
    assert held(server, hub) == ["user: One?"]
    memory.put(assistant("Two."))
    assert held(server, hub) == ["user: One?", "assistant: Two."]
    assert asked(server) == ["POST /conversations", "POST /conversations/*/items"]


def test_a_store_with_a_hub_of_its_own_writes_at_once(server):
    store = QwenConvChatStore(
        api_key="any", base_url=server.base_url, registry=(registry := MemoryRegistry())
    )
    store.add_message(KEY, user("One?"))
    hub = another_process(server, registry=registry)
    assert held(server, hub) == ["user: One?"]


def test_what_another_model_answered_is_written_with_its_question(hub, server, kind):
    llm_on(hub)
    memory = memory_on(hub, kind)
    memory.put(user("One?"))
    memory.put(assistant("Two."))
    assert held(server, hub) == ["user: One?", "assistant: Two."]
    assert asked(server) == ["POST /conversations"]  # with both in it


def test_it_is_written_when_the_hub_is_closed(hub, server, kind):
    llm_on(hub)
    memory_on(hub, kind).put(user("One?"))
    hub.close()
    assert held(server, hub) == ["user: One?"]
    hub.close()
    assert asked(server) == ["POST /conversations"]


def test_it_is_written_when_the_hub_is_closed_in_a_task(hub, server, kind):
    llm_on(hub)
    memory = memory_on(hub, kind)

    async def whole():
        await memory.aput(user("One?"))
        await hub.aclose()

    asyncio.run(whole())
    assert held(server, hub) == ["user: One?"]


def test_it_is_written_when_it_has_waited_long_enough(hub, server, kind):
    llm_on(hub)
    memory_on(hub, kind, stage_timeout=0).put(user("One?"))
    eventually(lambda: conversation(hub) is not None and len(held(server, hub)) == 1)


def test_a_question_that_was_written_alone_is_still_asked_once(hub, server, kind):
    llm = llm_on(hub)
    memory = memory_on(hub, kind)
    memory.put(user("One?"))
    hub.mirrors.flush()
    answer = llm.chat(memory.get()).message
    memory.put(answer)
    hub.close()
    assert held(server, hub) == ["user: One?", f"assistant: {answer.content}"]
    assert shown(memory) == ["One?", answer.content]


def test_what_waits_is_written_at_the_end_of_the_interpreter(server, tmp_path):
    run_in_another_interpreter(server, tmp_path, "")
    hub = QwenConversations(
        api_key="any", base_url=server.base_url, registry=SqlRegistry(database(tmp_path))
    )
    assert held(server, hub) == ["user: One?"]


@pytest.mark.parametrize("written_before", [False, True], ids=["fresh", "with a past"])
def test_a_killed_process_loses_nothing_over_a_database(server, tmp_path, written_before):
    before = "memory.put(ChatMessage(role='assistant', content='Zero.'))" if written_before else ""
    run_in_another_interpreter(server, tmp_path, "os.kill(os.getpid(), 9)", before)
    registry = SqlRegistry(database(tmp_path))
    hub = QwenConversations(api_key="any", base_url=server.base_url, registry=registry)
    llm, memory = llm_on(hub), memory_on(hub, "Memory")
    past = ["Zero."] * written_before
    assert shown(memory) == [*past, "One?"]
    memory.put(llm.chat(memory.get()).message)
    hub.close()
    assert [line.split(": ", 1)[1] for line in held(server, hub)] == shown(memory)
    assert len(shown(memory)) == 2 + written_before
    assert memory_on(another_process(server, registry=registry), "Memory").get_all()[
        -2
    ].content == ("One?")


def test_what_a_killed_process_had_sent_is_not_sent_again(server, tmp_path):
    taken = "llm.chat(memory.get()); os.kill(os.getpid(), 9)"
    run_in_another_interpreter(server, tmp_path, f"registry.withdraw = print; {taken}")
    hub = QwenConversations(
        api_key="any", base_url=server.base_url, registry=SqlRegistry(database(tmp_path))
    )
    memory = memory_on(hub, "Memory")
    assert [one.role.value for one in memory.get_all()] == ["user", "assistant"]
    hub.close()
    assert len(held(server, hub)) == 2


def database(tmp_path):
    return f"sqlite:///{tmp_path / 'sessions.db'}"


def run_in_another_interpreter(server, tmp_path, end, begin=""):
    code = f"""
import os
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import Memory
from llamaindex_qwen_conv import QwenConv, QwenConvAsyncChatStore
from qwen_conv import QwenConversations
from qwen_conv.registry import SqlRegistry
registry = SqlRegistry({database(tmp_path)!r})
hub = QwenConversations(api_key="any", base_url={server.base_url!r}, registry=registry)
llm = QwenConv(model="qwen3.6-plus", conversations=hub)
store = QwenConvAsyncChatStore(conversations=hub)
memory = Memory.from_defaults(session_id={KEY!r}, chat_store=store)
{begin}
memory.put(ChatMessage(role="user", content="One?"))
{end}
"""
    told = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, env=os.environ
    )
    assert told.returncode in {0, -signal.SIGKILL}, told.stderr


# --- What goes wrong --------------------------------------------------------------------------


def test_a_refused_turn_leaves_the_question_waiting(hub, server, kind):
    llm, memory = llm_on(hub), memory_on(hub, kind)
    memory.put(user("One?"))
    with pytest.raises(RequestRefusedError):
        llm.chat(memory.get(), extra_body={"max_output_tokens": 20, "reasoning": {"effort": "no"}})
    assert shown(memory) == ["One?"]
    memory.put(llm.chat(memory.get()).message)
    assert len(held(server, hub)) == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # the engine's
@pytest.mark.parametrize("kept", ["not_stored", "input_stored"])
@pytest.mark.parametrize("way", ["chat", "stream_chat"])
def test_a_turn_that_failed_leaves_nothing_twice(kept, way):
    with OfflineServer(scripted, failed_turn=kept) as server:
        hub = QwenConversations(api_key="any", base_url=server.base_url, registry=MemoryRegistry())
        engine = made("SimpleChatEngine", way, llm_on(hub), memory_on(hub, "Memory"))
        ask(engine, way, "Zero?")
        server.script = lambda _context, _request: Fail("It failed.", after=2)
        with pytest.raises(ServiceFailedError):
            ask(engine, way, "One?")
        server.script = scripted
        ask(engine, way, "Two?")
        hub.close()
        asked_for = [line for line in held(server, hub) if line.startswith("user")]
        assert asked_for == ["user: Zero?", "user: One?", "user: Two?"]
        assert held(server, hub) == [f"{m.role.value}: {m.content}" for m in engine.chat_history]


@pytest.mark.parametrize("kept", ["stored", "not_stored"])
def test_a_stream_that_was_left_is_taken_back_and_its_question_asked_with_the_next(kept, kind):
    with OfflineServer(scripted, cut_stream=kept) as server:
        hub = QwenConversations(api_key="any", base_url=server.base_url, registry=MemoryRegistry())
        llm, memory = llm_on(hub), memory_on(hub, kind)
        memory.put(user("One?"))
        chunks = llm.stream_chat(memory.get())
        next(chunks)
        chunks.close()
        memory.put(user("Two?"))
        memory.put(llm.chat(memory.get()).message)
        hub.close()
        assert held(server, hub)[:2] == ["user: One?", "user: Two?"]
        assert len(held(server, hub)) == len(shown(memory)) == 3


def test_an_answer_that_never_reached_the_history_is_taken_out_again(hub, server, kind):
    llm, memory = llm_on(hub), memory_on(hub, kind)
    memory.put(user("One?"))
    llm.chat(memory.get())  # and whoever asked went away
    memory.put(user("Two?"))
    assert shown(memory) == ["One?", "Two?"]
    memory.put(llm.chat(memory.get()).message)
    hub.close()
    assert held(server, hub)[:2] == ["user: One?", "user: Two?"]
    assert len(held(server, hub)) == len(shown(memory)) == 3


def test_another_text_than_the_answer_is_what_the_conversation_holds(hub, server, kind):
    llm, memory = llm_on(hub), memory_on(hub, kind)
    memory.put(user("One?"))
    llm.chat(memory.get())
    memory.put(assistant("Something else."))
    assert held(server, hub) == ["user: One?", "assistant: Something else."]
    assert shown(memory) == ["One?", "Something else."]


def test_what_another_process_wrote_is_never_taken_out(hub, server, kind):
    llm, memory = llm_on(hub), memory_on(hub, kind)
    memory.put(user("One?"))
    answer = llm.chat(memory.get()).message
    elsewhere = memory_on(another_process(server, registry=hub.registry), kind)
    elsewhere.put(assistant(answer.content))  # the very same words
    memory.put(assistant("Something else."))
    hub.close()
    assert held(server, hub) == [
        "user: One?",
        f"assistant: {answer.content}",
        "assistant: Something else.",
    ]


@pytest.mark.parametrize("path", ["/items", "/conversations"])
def test_a_lost_answer_to_a_writing_is_not_written_twice(server, kind, path):
    with relayed(server.base_url) as relay:
        hub = QwenConversations(api_key="any", base_url=relay.base_url, registry=MemoryRegistry())
        llm_on(hub)
        memory = memory_on(hub, kind)
        texts = ["One?", "Two.", "Three?", "Four."] if path == "/items" else ["Three?", "Four."]
        for one, other in zip(texts[:-2:2], texts[1:-2:2], strict=True):
            memory.put(user(one))
            memory.put(assistant(other))
        memory.put(user("Three?"))
        relay.loses = lambda method, at: method == "POST" and at.endswith(path)
        with pytest.raises(NoReplyError):
            memory.put(assistant("Four."))
        assert shown(memory) == texts[:-1]
        relay.loses = lambda _method, _path: False
        memory.put(assistant("Four."))
        hub.close()
        assert [line.split(": ")[1] for line in held(server, hub)] == shown(memory) == texts


@pytest.mark.parametrize("way", ["chat", "stream_chat", "achat", "astream_chat"])
def test_a_lost_answer_to_a_turn_leaves_nothing_twice(server, kind, way):
    with relayed(server.base_url) as relay:
        hub = QwenConversations(
            api_key="any",
            base_url=relay.base_url,
            registry=MemoryRegistry(),
            settle_timeout=0,
            max_retries=0,
        )
        llm, memory = llm_on(hub), memory_on(hub, kind)
        for text, loses in (("Zero?", False), ("One?", True), ("Two?", False)):
            memory.put(user(text))
            relay.loses = lambda method, path, loses=loses: (
                loses and (method == "GET" or path.endswith("/responses"))
            )
            if loses:
                history = memory.get()
                with pytest.raises(UndecidedError):
                    answered(llm, way, history)
            else:
                memory.put(answered(llm, way, memory.get()))
        hub.close()
        lines = held(server, hub)
        assert [one for one in lines if one.startswith("user")] == [
            "user: Zero?",
            "user: One?",
            "user: Two?",
        ]
        assert [line.split(": ")[1] for line in lines] == shown(memory)


@pytest.mark.parametrize("again", ["one", "two"])
def test_a_lost_first_turn_on_a_conversation_leaves_nothing_beside_the_history(server, kind, again):
    with relayed(server.base_url) as relay:
        relay.clock = server.clock
        hub = another_process(relay, settle_timeout=0)
        key, waiting = hub.run(flows.create).id, []
        memory = memory_on(hub, kind, key)
        engine = SimpleChatEngine.from_defaults(llm=llm_on(hub), memory=memory)
        relay.faults = [put_off(waiting)]
        with pytest.raises(UndecidedError):
            engine.chat("one")
        waiting.pop()()
        for question in (again, "three"):
            engine.chat(question)
        assert [line.split(": ", 1)[1] for line in said(server, key)] == shown(memory)


def answered(llm, way, messages):
    """The whole answer of an LLM."""

    async def streamed():
        return [chunk async for chunk in await llm.astream_chat(messages)][-1]

    match way:
        case "chat":
            return llm.chat(messages).message
        case "stream_chat":
            return [*llm.stream_chat(messages)][-1].message
        case "achat":
            return asyncio.run(llm.achat(messages)).message
    return asyncio.run(streamed()).message


def test_a_conversation_that_was_deleted_behind_our_back_is_told(hub, server, kind):
    llm, memory = llm_on(hub), memory_on(hub, kind)
    engine = SimpleChatEngine.from_defaults(llm=llm, memory=memory)
    engine.chat("One?")
    from qwen_conv import flows

    other = another_process(server, registry=hub.registry)
    other.run(flows.delete, conversation(hub))
    with pytest.raises(ConversationNotFoundError, match="forget_session"):
        engine.chat("Two?")
    hub.forget_session(KEY)
    engine.chat("Three?")
    hub.close()
    assert held(server, hub)[-2] == "user: Three?"
    assert "user: Two?" in held(server, hub)  # it waited, and nothing is lost


# --- Loops, threads, tasks --------------------------------------------------------------------


def test_sync_calls_inside_a_running_loop_lose_nothing(hub, server, kind):
    engine = made("SimpleChatEngine", "chat", llm_on(hub), memory_on(hub, kind))

    async def notebook():
        for number in range(3):
            engine.chat(f"Question {number}?")
            "".join(engine.stream_chat(f"Another {number}?").response_gen)

    asyncio.run(notebook())
    assert len(held(server, hub)) == 12
    assert asked(server) == ["POST /conversations"] + ["POST /responses"] * 6


def test_calls_from_several_loops_and_threads_lose_nothing(hub, server, kind):
    engine = made("SimpleChatEngine", "chat", llm_on(hub), memory_on(hub, kind))
    failures = []

    def worker(number):
        try:
            engine.chat(f"In a thread {number}?")
            asyncio.run(_whole(engine.achat(f"In its loop {number}?")))
        except BaseException as error:
            failures.append(error)
            raise

    for number in range(3):
        thread = threading.Thread(target=worker, args=(number,))
        thread.start()
        thread.join()
        ask(engine, "achat", f"In a loop {number}?")
        ask(engine, "astream_chat", f"Streamed {number}?")
    assert not failures
    assert len(held(server, hub)) == 24
    assert asked(server).count("POST /responses") == 12


async def _whole(answer):
    return await answer


@pytest.mark.parametrize("together", ["threads", "tasks"])
def test_many_at_once_on_one_key_write_each_message_once(hub, server, kind, together):
    llm, memory = llm_on(hub), memory_on(hub, kind)
    questions = [f"Question {number}?" for number in range(8)]

    async def tasks():
        engines = [SimpleChatEngine.from_defaults(llm=llm, memory=memory) for _ in questions]
        await asyncio.gather(
            *[engine.achat(question) for engine, question in zip(engines, questions, strict=True)]
        )

    if together == "tasks":
        asyncio.run(tasks())
    else:
        threads = [
            threading.Thread(
                target=SimpleChatEngine.from_defaults(llm=llm, memory=memory).chat, args=(one,)
            )
            for one in questions
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    hub.close()
    lines = held(server, hub)
    assert sorted(line for line in lines if line.startswith("user")) == sorted(
        f"user: {one}" for one in questions
    )
    assert len(lines) == 16
    assert lines == [f"{one.role.value}: {one.content}" for one in memory.get_all()]


def test_turns_of_one_conversation_are_taken_one_after_another(hub, server, kind):
    running, most = [], []

    async def slow(context, request):
        running.append(request)
        most.append(len(running))
        await asyncio.sleep(0.01)
        running.pop()
        return scripted(context, request)

    server.script = slow
    llm = llm_on(hub)
    memories = [memory_on(hub, kind, key) for key in ("a", "b")]

    def hold(memory):
        engine = SimpleChatEngine.from_defaults(llm=llm, memory=memory)
        for number in range(4):
            engine.chat(f"Question {number}?")

    threads = [threading.Thread(target=hold, args=(one,)) for one in memories]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 2  # other conversations are not held up
    for key in ("a", "b"):
        assert [line[:4] for line in said(server, conversation(hub, key))] == ["user", "assi"] * 4


def test_two_processes_on_one_key_write_each_message_once(hub, server, kind):
    mine = made("SimpleChatEngine", "chat", llm_on(hub), memory_on(hub, kind))
    elsewhere = another_process(server, registry=hub.registry)
    theirs = made("SimpleChatEngine", "chat", llm_on(elsewhere), memory_on(elsewhere, kind))
    for number in range(4):
        mine.chat(f"Mine {number}?")
        theirs.chat(f"Theirs {number}?")
    hub.close()
    elsewhere.close()
    lines = held(server, hub)
    expected = [f"{who} {number}?" for number in range(4) for who in ("Mine", "Theirs")]
    assert [line.removeprefix("user: ") for line in lines[::2]] == expected
    assert [line[:4] for line in lines] == ["user", "assi"] * 8


def test_a_stream_that_is_left_and_collected_blocks_nobody(hub, server, kind):
    llm, memory = llm_on(hub), memory_on(hub, kind)
    memory.put(user("One?"))
    chunks = llm.stream_chat(memory.get())
    next(chunks)
    assert shown(memory) == ["One?"]  # reading does not wait for the turn that is open
    del chunks
    memory.put(llm.chat(memory.get()).message)
    hub.close()
    assert len(held(server, hub)) == 2


def test_a_cut_stream_raises_and_the_question_is_asked_again(hub, server, kind):
    llm, memory = llm_on(hub), memory_on(hub, kind)
    memory.put(user("One?"))
    cut = cutting(llm.stream_chat(memory.get()))
    with pytest.raises(StreamCutError):
        list(cut)
    memory.put(llm.chat(memory.get()).message)
    hub.close()
    assert len(held(server, hub)) == len(shown(memory)) == 2


def cutting(chunks):
    """Breaks off a stream as a connection that ends does."""
    next(chunks)
    yield
    chunks.throw(StreamCutError("The stream ended.", "", None))


def test_sessions_beyond_what_is_kept_are_read_anew_and_nothing_is_lost(
    hub, server, kind, monkeypatch
):
    monkeypatch.setattr("qwen_conv.mirrors.MOST", 2)
    llm = llm_on(hub)
    keys = [f"user {number}" for number in range(5)]
    for _ in range(2):
        for key in keys:
            made("SimpleChatEngine", "chat", llm, memory_on(hub, kind, key)).chat(f"I am {key}.")
    for key in keys:
        assert [line[:4] for line in said(server, conversation(hub, key))] == ["user", "assi"] * 2
    assert QwenConvChatStore(conversations=hub).get_keys() == keys


def test_a_turn_of_a_bound_llm_that_no_store_was_told_of_stays_in_the_history(hub, server, kind):
    memory = memory_on(hub, kind)
    assert shown(memory) == []
    answer = llm_on(hub, session_id=KEY).chat([user("One?")]).message
    assert shown(memory) == ["One?", answer.content]
    memory.put(user("Two?"))
    hub.close()
    assert held(server, hub) == ["user: One?", f"assistant: {answer.content}", "user: Two?"]


def test_a_turn_of_a_bound_llm_that_a_store_is_told_of_later_is_there_once(hub, server, kind):
    memory = memory_on(hub, kind)
    assert shown(memory) == []
    answer = llm_on(hub, session_id=KEY).chat([user("One?")]).message
    memory.put(user("One?"))
    memory.put(assistant(answer.content))  # made anew, as engines do
    hub.close()
    assert held(server, hub) == ["user: One?", f"assistant: {answer.content}"]
    assert shown(memory) == ["One?", answer.content]
