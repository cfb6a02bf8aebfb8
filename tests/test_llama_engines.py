"""Every chat engine and agent, with both memories: the history is that of LlamaIndex's own stores.

The same engine is played twice with one scripted model: over our store and hub, and over the stock
store. What is asked of the model and how is not to show in the history, and the conversation is to
hold each message once.
"""

import asyncio

import pytest
from conftest import asked, said
from llama import KEY, llm_on, memory_on, scripted, stock_memory, told
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import (
    FactExtractionMemoryBlock,
    InsertMethod,
    Memory,
    StaticMemoryBlock,
)
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

from benchmarks.engines import AGENTS, ENGINES, WAYS, ask, made, run, weather
from llamaindex_qwen_conv import QwenConvAsyncChatStore

QUESTIONS = ["How are you?", "Where is the ferry?", "How are you?", "Bye."]
ERRANDS = [
    "How are you?",
    "How is the weather in Rome?",
    "How is the weather in Rome?",
    "And the weather in Oslo?",
    "Bye.",
]
KINDS = ["Memory", "ChatMemoryBuffer"]


@pytest.fixture(autouse=True)
def _scripted(server):
    server.script = scripted


def conversation(hub, key=KEY):
    return hub.registry.get(hub.session(key)).conversation_id


def spoken(messages):
    return [f"{message.role.value}: {message.content}" for message in messages]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ENGINES)
def test_a_chat_engine_has_the_history_of_the_stock_store_and_writes_it_once(
    hub, server, name, kind, way
):
    answers, histories = [], []
    for memory in (stock_memory(kind), memory_on(hub, kind)):
        engine = made(name, way, llm_on(hub), memory)
        answers.append([ask(engine, way, question) for question in QUESTIONS])
        histories.append(told(memory.get_all()))
    assert answers[0] == answers[1]
    assert histories[0] == histories[1]
    hub.close()
    assert said(server, conversation(hub)) == spoken(memory.get_all())


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", AGENTS)
def test_an_agent_has_the_history_of_the_stock_store_and_writes_it_once(
    hub, server, name, kind, streaming
):
    answers, histories = [], []
    for memory in (stock_memory(kind), memory_on(hub, kind)):
        agent = AGENTS[name](llm_on(hub), streaming=streaming)
        answers.append([asyncio.run(run(agent, errand, memory)) for errand in ERRANDS])
        histories.append(told(memory.get_all()))
    assert answers[0] == answers[1]
    assert histories[0] == histories[1]
    hub.close()
    assert shapes(server, hub) == [shape for one in memory.get_all() for shape in shapes_of(one)]


def shapes(server, hub):
    """What the conversation holds: the role of each message, the type of each other item."""
    return [item.get("role") or item["type"] for item in server.items(conversation(hub))]


def shapes_of(message):
    if message.role.value == "tool":
        return ["function_call_output"]
    calls = [block for block in message.blocks if block.block_type == "tool_call"]
    return [message.role.value] * bool(message.content) + ["function_call"] * len(calls)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_chat_of_ten_turns_costs_ten_requests_and_one_that_creates_the_conversation(
    hub, server, kind, way
):
    engine = made("SimpleChatEngine", way, llm_on(hub), memory_on(hub, kind))
    for number in range(10):
        ask(engine, way, f"Question {number}?")
    assert asked(server) == ["POST /conversations"] + ["POST /responses"] * 10
    assert len(server.items(conversation(hub))) == 20
    sizes = [request.body_bytes for request in server.requests[1:]]
    assert max(sizes) - min(sizes) == 0  # each sends its question, and nothing else
    assert server.requests[-1].body["instructions"] == "Answer briefly."


@pytest.mark.parametrize("kind", KINDS)
def test_an_agent_costs_one_request_a_step(hub, server, kind):
    agent = AGENTS["FunctionAgent"](llm_on(hub), streaming=True)
    memory = memory_on(hub, kind)
    for errand in ERRANDS:
        asyncio.run(run(agent, errand, memory))
    assert asked(server) == ["POST /conversations"] + ["POST /responses"] * 8
    inputs = [request.body["input"] for request in server.requests[1:]]
    assert [one for one in inputs if isinstance(one, str)] == ERRANDS
    results = [one for one in inputs if not isinstance(one, str)]
    assert [[item["type"] for item in one] for one in results] == [["function_call_output"]] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_parallel_results_go_up_in_one_request(hub, server, kind):
    from qwen_conv.offline import CallTool

    def script(context, _request):
        if context[-1]["type"] == "function_call_output":
            return "Both are sunny."
        return [CallTool("weather", {"city": city}, f"call_{city}") for city in ("Rome", "Oslo")]

    server.script = script
    memory = memory_on(hub, kind)
    agent = AGENTS["FunctionAgent"](llm_on(hub), streaming=True)
    asyncio.run(run(agent, "Rome and Oslo?", memory))
    results = server.requests[-1].body["input"]
    assert [one["call_id"] for one in results] == ["call_Rome", "call_Oslo"]
    assert len(memory.get_all()) == 5
    hub.close()
    assert shapes(server, hub) == [shape for one in memory.get_all() for shape in shapes_of(one)]


# --- What engines do beside -------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_tool_that_answers_itself_is_in_the_history_as_the_stock_store_has_it(hub, server, kind):
    tool = FunctionTool.from_defaults(weather, return_direct=True)
    histories = []
    for memory in (stock_memory(kind), memory_on(hub, kind)):
        agent = FunctionAgent(tools=[tool], llm=llm_on(hub), streaming=False)
        for errand in ("How is the weather in Rome?", "How are you?"):
            asyncio.run(run(agent, errand, memory))
        histories.append(told(memory.get_all()))
    assert histories[0] == histories[1]
    assert server.requests[-1].body["conversation"] == conversation(hub)
    hub.close()
    assert len(server.items(conversation(hub))) == len(memory.get_all())


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_in_the_prompt_is_shown_to_the_model_and_not_kept(hub, server, kind):
    memory = memory_on(hub, kind)
    agent = FunctionAgent(
        tools=[weather], llm=llm_on(hub), streaming=True, initial_state={"mood": "good"}
    )
    asyncio.run(run(agent, "How is the weather in Rome?", memory))
    assert "mood" in str(server.requests[0].body["input"])
    assert memory.get_all()[0].content == "How is the weather in Rome?"
    hub.close()
    held = said(server, conversation(hub))
    assert held[0] == "user: How is the weather in Rome?"
    assert len(held) == 4


class Verdict(BaseModel):
    """What came of it."""

    sunny: bool


def test_structured_output_of_an_agent_never_reaches_the_conversation(hub, server):
    from qwen_conv.offline import CallTool

    def script(context, request):
        if any(tool["name"] == "Verdict" for tool in request.get("tools") or ()):
            return CallTool("Verdict", {"sunny": True})
        return scripted(context, request)

    server.script = script
    memory = memory_on(hub, "Memory")
    agent = FunctionAgent(tools=[weather], llm=llm_on(hub), streaming=False, output_cls=Verdict)

    async def whole():
        return await agent.run(user_msg="How is the weather in Rome?", memory=memory)

    assert asyncio.run(whole()).structured_response == {"sunny": True}
    assert server.requests[-1].body["store"] is False
    hub.close()
    assert shapes(server, hub) == [
        "user",
        "assistant",
        "function_call",
        "function_call_output",
        "assistant",
    ]


@pytest.mark.parametrize("way", ["chat", "achat"])
def test_facts_are_extracted_beside_the_conversation(hub, server, way):
    llm = llm_on(hub)
    memory = Memory.from_defaults(
        session_id=KEY,
        chat_store=QwenConvAsyncChatStore(conversations=hub),
        token_limit=60,
        token_flush_size=10,
        memory_blocks=[FactExtractionMemoryBlock(llm=llm, max_facts=5)],
    )
    engine = SimpleChatEngine.from_defaults(llm=llm, memory=memory)
    for number in range(8):
        ask(engine, way, f"Question number {number}, what is it about?")
    turns = [request.body for request in server.requests if request.path == "/responses"]
    attached = [turn for turn in turns if "conversation" in turn]
    assert len(attached) == 8
    assert len(turns) > 8
    assert all(turn["store"] is False for turn in turns if "conversation" not in turn)
    assert len(server.items(conversation(hub))) == len(memory.get_all()) == 16
    assert len(memory.get()) < 16  # the rest is archived


def test_what_a_memory_puts_into_the_question_is_shown_to_the_model_and_not_kept(hub, server):
    memory = Memory.from_defaults(
        session_id=KEY,
        chat_store=QwenConvAsyncChatStore(conversations=hub),
        memory_blocks=[StaticMemoryBlock(static_content="The user is Bob.")],
        insert_method=InsertMethod.USER,
    )
    engine = SimpleChatEngine.from_defaults(llm=llm_on(hub), memory=memory)
    for question in QUESTIONS[:2]:
        engine.chat(question)
    turns = [request.body for request in server.requests if request.path == "/responses"]
    assert all("The user is Bob." in str(turn["input"]) for turn in turns)
    hub.close()
    assert said(server, conversation(hub))[::2] == [f"user: {one}" for one in QUESTIONS[:2]]
    assert spoken(memory.get_all()) == said(server, conversation(hub))


def test_what_a_memory_puts_into_the_system_prompt_goes_into_the_instructions(hub, server):
    memory = Memory.from_defaults(
        session_id=KEY,
        chat_store=QwenConvAsyncChatStore(conversations=hub),
        memory_blocks=[StaticMemoryBlock(static_content="The user is Bob.")],
    )
    engine = SimpleChatEngine.from_defaults(llm=llm_on(hub), memory=memory)
    for question in QUESTIONS[:2]:
        engine.chat(question)
    assert asked(server) == ["POST /conversations", "POST /responses", "POST /responses"]
    assert "The user is Bob." in server.requests[-1].body["instructions"]
    assert server.requests[-1].body["input"] == QUESTIONS[1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_given_history_replaces_what_is_there_and_the_chat_goes_on(hub, server, kind):
    engine = made("SimpleChatEngine", "chat", llm_on(hub), memory_on(hub, kind))
    engine.chat("Old question?")
    given = [
        ChatMessage(role="user", content="My name is Bob."),
        ChatMessage(role="assistant", content="Hello, Bob."),
    ]
    engine.chat("What is my name?", chat_history=given)
    hub.close()
    held = said(server, conversation(hub))
    assert held[:3] == ["user: My name is Bob.", "assistant: Hello, Bob.", "user: What is my name?"]
    assert held == spoken(engine.chat_history)
    before = len(server.requests)
    engine.chat("And now?")
    assert asked(server)[before:] == ["POST /responses"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_reset_engine_begins_anew(hub, server, kind):
    engine = made("SimpleChatEngine", "chat", llm_on(hub), memory_on(hub, kind))
    engine.chat("Old question?")
    first = conversation(hub)
    engine.reset()
    assert engine.chat_history == []
    assert server.items(first) == []
    engine.chat("New question?")
    assert said(server, conversation(hub))[0] == "user: New question?"
    assert len(engine.chat_history) == 2


def test_two_sessions_on_one_llm_never_see_each_other(hub, server):
    llm = llm_on(hub)
    engines = {
        key: made("SimpleChatEngine", "chat", llm, memory_on(hub, "Memory", key))
        for key in ("alice", "bob")
    }
    for question in ("Hi", "Hi", "Who am I?"):  # the same words, to be told apart all the same
        for engine in engines.values():
            engine.chat(question)
    for key in engines:
        held = said(server, conversation(hub, key))
        assert held[::2] == ["user: Hi", "user: Hi", "user: Who am I?"]
        assert len(held) == 6
    assert asked(server).count("POST /responses") == 6


def test_a_reference_of_one_hub_selects_nothing_on_another(hub, server):
    from conftest import another_process

    memory = memory_on(hub, "Memory")
    engine = made("SimpleChatEngine", "chat", llm_on(another_process(server)), memory)
    engine.chat("Hi")
    turn = next(request.body for request in server.requests if request.path == "/responses")
    assert "conversation" not in turn
    hub.close()
    assert said(server, conversation(hub)) == spoken(memory.get_all())
