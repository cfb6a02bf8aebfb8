"""Whoever else is in an agent: what asks a model beside it, and the middleware around it."""

import pytest
from agents import (
    WAYS,
    Driven,
    Model,
    agent_on,
    local_transcript,
    model,
    settled,
    transcript,
    way,
    weather,
)
from conftest import MODEL, asked
from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    LLMToolSelectorMiddleware,
    ModelCallLimitMiddleware,
    ModelFallbackMiddleware,
    ModelRetryMiddleware,
)
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from pydantic import BaseModel

from langchain_qwen_conv import ChatQwenConv, QwenConvMiddleware
from qwen_conv import errors
from qwen_conv.offline.responder import CallTool, Fail


@pytest.fixture
def chat(hub):
    return ChatQwenConv(model=MODEL, conversations=hub)


def turns(server):
    """The requests for answers, those of the conversation and those of none."""
    bodies = [one.body for one in server.requests if one.path == "/responses"]
    return (
        [body for body in bodies if "conversation" in body],
        [body for body in bodies if "conversation" not in body],
    )


def is_exact(server, driven):
    stored = settled(transcript(server.items(driven.conversation)))
    return stored == local_transcript(driven.messages)


# --- Who stays on no conversation -------------------------------------------------------------


def test_a_tool_that_asks_the_agents_own_model(server, model, chat, hub, way):
    @tool
    def weather(city: str) -> str:
        """The weather in a city."""
        return chat.invoke(f"Is it warm in {city}?").text

    driven = Driven(agent_on(hub, tools=[weather], model=chat), way, session_id="alice")
    driven.ask("weather in Paris")
    of_thread, of_none = turns(server)
    assert (len(of_thread), len(of_none)) == (2, 1)
    assert of_none[0]["store"] is False
    assert is_exact(server, driven)


@pytest.mark.parametrize("has_ours", [True, False])
def test_a_sub_agent_that_a_tool_runs(server, model, chat, hub, way, has_ours):
    sub = create_agent(chat, middleware=[QwenConvMiddleware()] if has_ours else [])

    @tool
    def weather(city: str) -> str:
        """The weather in a city."""
        return sub.invoke({"messages": f"How warm is {city}?"})["messages"][-1].text

    driven = Driven(agent_on(hub, tools=[weather], model=chat), way)
    driven.ask("weather in Paris")
    of_thread, of_none = turns(server)
    assert len({body["conversation"] for body in of_thread}) == (2 if has_ours else 1)
    assert len(of_none) == (0 if has_ours else 1)
    assert is_exact(server, driven)


@pytest.mark.parametrize("place", ["before", "behind"])
def test_a_tool_selector_that_asks_the_agents_own_model(server, model, chat, hub, way, place):
    def script(context, request):
        names = [one["name"] for one in request.get("tools", ())]
        if "ToolSelectionResponse" in names:
            return CallTool("ToolSelectionResponse", {"tools": ["weather"]})
        return model(context, request)

    server.script = script
    selector = LLMToolSelectorMiddleware(max_tools=1)
    around = [selector, QwenConvMiddleware()]
    agent = create_agent(
        chat,
        tools=[weather, other],
        middleware=around if place == "before" else around[::-1],
        checkpointer=InMemorySaver(),
    )
    driven = Driven(agent, way)
    driven.ask("weather in Paris")
    of_thread, of_none = turns(server)
    assert (len(of_thread), len(of_none)) == (2, 2)
    assert is_exact(server, driven)


@tool
def other(text: str) -> str:
    """Something else."""
    return text


@pytest.mark.parametrize(
    "configurable", [{"session_id": "alice"}, {"qwen_conversation_id": "conv_1"}]
)
def test_no_config_selects_a_conversation_inside_a_graph(server, model, chat, configurable):
    graph = StateGraph(MessagesState)
    graph.add_node("one", lambda state: {"messages": [chat.invoke(state["messages"])]})
    graph.add_edge(START, "one")
    graph.compile().invoke({"messages": "hi"}, {"configurable": configurable})
    assert asked(server) == ["POST /responses"]
    assert turns(server)[0] == []


def test_a_model_that_is_bound_goes_on_with_its_conversation_inside_a_graph(server, model, hub):
    bound = ChatQwenConv(model=MODEL, conversations=hub, session_id="alice")
    agent = create_agent(bound, tools=[weather], checkpointer=InMemorySaver())
    driven = Driven(agent)
    for text in ("weather in Paris", "and now?"):
        driven.ask(text)
    assert asked(server) == ["POST /conversations"] + ["POST /responses"] * 3
    conversation = hub.registry.get(hub.session("alice")).conversation_id
    assert transcript(server.items(conversation)) == local_transcript(driven.messages)


def test_a_model_of_another_vendor_takes_its_turns_without_us(server, model, chat, hub, caplog):
    vendor = GenericFakeChatModel(messages=iter([AIMessage("bonjour")] * 2))

    class EveryOther(AgentMiddleware):
        def wrap_model_call(self, request, handler):
            if "French" in request.messages[-1].text:
                request = request.override(model=vendor)
            return handler(request)

    agent = agent_on(hub, EveryOther(), model=chat, tools=[])
    driven = Driven(agent)
    for text in ("one", "in French", "three"):
        driven.ask(text)
    assert settled(model.shown[-1]) == local_transcript(driven.messages[:-1])
    assert is_exact(server, driven)
    assert [one.message for one in caplog.records if "GenericFakeChatModel" in one.message] == [
        "the agent's model is a GenericFakeChatModel: it is asked on no conversation"
    ]


# --- Middleware around ours -------------------------------------------------------------------


@pytest.mark.parametrize("place", ["before", "behind"])
def test_a_call_that_is_tried_again(server, model, chat, hub, way, place):
    """A turn is not known to have failed by its error: the service may have stored it."""
    chat.max_retries = 0  # that is for the middleware to do
    retry = ModelRetryMiddleware(
        max_retries=2, initial_delay=0, jitter=False, retry_on=(errors.QwenConvError,)
    )
    around = [retry, QwenConvMiddleware()]
    agent = create_agent(
        chat,
        tools=[weather],
        middleware=around if place == "before" else around[::-1],
        checkpointer=InMemorySaver(),
    )
    driven = Driven(agent, way)
    failures = [Fail("down"), Fail("down")]

    def script(context, request):
        if "weather" in str(request["input"]) and failures:
            return failures.pop()
        return model(context, request)

    server.script = script
    for text in ("one", "weather in Paris", "three"):
        driven.ask(text)
    assert failures == []
    assert is_exact(server, driven)
    assert settled(model.shown[-1]) == local_transcript(driven.messages[:-1])


@pytest.mark.parametrize("place", ["before", "behind"])
def test_a_fallback_to_another_model_of_ours(server, model, hub, way, place):
    first = ChatQwenConv(model="qwen3.5-flash", conversations=hub, max_retries=0)
    second = ChatQwenConv(model=MODEL, conversations=hub)

    def script(context, request):
        return Fail("down") if request["model"] != MODEL else model(context, request)

    server.script = script
    fallback = ModelFallbackMiddleware(second)
    around = [fallback, QwenConvMiddleware()]
    agent = create_agent(
        first,
        tools=[weather],
        middleware=around if place == "before" else around[::-1],
        checkpointer=InMemorySaver(),
    )
    driven = Driven(agent, way)
    for text in ("one", "weather in Paris"):
        driven.ask(text)
    assert is_exact(server, driven)


def test_a_limit_of_calls_ends_the_run_and_the_thread_goes_on(server, model, hub, way):
    limit = ModelCallLimitMiddleware(run_limit=1, exit_behavior="end")
    driven = Driven(agent_on(hub, limit), way)
    driven.ask("weather in Paris")
    driven.ask("what now?")
    assert settled(model.shown[-1]) == local_transcript(driven.messages[:-1])
    assert is_exact(server, driven)


# --- The rest of what an agent can be given ---------------------------------------------------


class Forecast(BaseModel):
    """A forecast."""

    city: str


def test_a_structured_response(server, model, chat, hub, way):
    def script(context, request):
        said = model(context, request)
        if context[-1].get("type") == "function_call_output":
            return CallTool("Forecast", {"city": "Paris"})
        return said

    server.script = script
    driven = Driven(agent_on(hub, model=chat, response_format=Forecast), way)
    driven.ask("weather in Paris")
    assert driven.state["structured_response"] == Forecast(city="Paris")
    driven.ask("weather in Rome")
    assert settled(model.shown[-1]) == local_transcript(driven.messages[:-2])
    assert asked(server) == ["POST /conversations"] + ["POST /responses"] * 4


def test_a_rate_limiter_and_callbacks(server, model, hub, way):
    class Seen(BaseCallbackHandler):
        def __init__(self):
            self.begun, self.ended = [], []

        def on_chat_model_start(self, serialized, messages, **kwargs):
            self.begun.append((len(messages[0]), kwargs["invocation_params"]))

        def on_llm_end(self, response, **kwargs):
            self.ended.append(response.generations[0][0].message.response_metadata["decision"])

    seen = Seen()
    limiter = InMemoryRateLimiter(requests_per_second=1_000, check_every_n_seconds=0.001)
    chat = ChatQwenConv(model=MODEL, conversations=hub, rate_limiter=limiter, callbacks=[seen])
    driven = Driven(agent_on(hub, model=chat), way)
    driven.ask("weather in Paris")
    assert is_exact(server, driven)
    assert [count for count, _ in seen.begun] == [1, 3]
    assert not any("agent_thread" in params for _, params in seen.begun)
    assert seen.ended == ["attached", "attached"]


def test_settings_of_the_model_go_with_every_turn(server, model, hub, way):
    chat = ChatQwenConv(
        model=MODEL, conversations=hub, extra_body={"enable_search": True}, temperature=0.5
    )
    driven = Driven(agent_on(hub, model=chat), way)
    driven.ask("weather in Paris")
    of_thread, _ = turns(server)
    assert [(body["enable_search"], body["temperature"]) for body in of_thread] == [(True, 0.5)] * 2


def test_a_prebuilt_question_is_asked_in_the_users_own_words(server, model, hub, way):
    driven = Driven(agent_on(hub, system_prompt="You are a pirate."), way)
    driven.ask({"messages": [HumanMessage("one"), HumanMessage("two")]})
    assert is_exact(server, driven)
    assert turns(server)[0][0]["instructions"] == "You are a pirate."
