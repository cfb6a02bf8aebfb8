"""What the tests of agents share: a scripted model, agents, and what both sides say was said.

A module that imports `model` and `way` has the model on its server, and all four ways.
"""

import asyncio
import json

import pytest
from conftest import MODEL
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver

from langchain_qwen_conv import ChatQwenConv, QwenConvMiddleware
from qwen_conv.offline.responder import CallTool, Say, Think, text_of

WAYS = ("invoke", "stream", "ainvoke", "astream")


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"It is sunny in {city}."


class Model:
    """A scripted model that notes what it is shown.

    It calls a tool for every city that a question about the weather names, thinks before it says
    anything, and otherwise tells how many messages it was shown.
    """

    def __init__(self):
        self.shown = []

    def __call__(self, context, request):
        self.shown.append(transcript(context))
        last = context[-1]
        text = text_of(last) if last.get("type", "message") == "message" else ""
        thought = Think(f"I was shown {len(context)} items.")
        if "weather" in text and last["role"] == "user":
            cities = text.removeprefix("weather in ").split(" and ")
            calls = [
                CallTool("weather", {"city": city}, f"call_{len(self.shown)}_{number}")
                for number, city in enumerate(cities)
            ]
            return [thought, *calls]
        return [thought, Say(f"answer {len(self.shown)}")]


@pytest.fixture
def model(server):
    server.script = Model()
    return server.script


@pytest.fixture(params=WAYS)
def way(request):
    return request.param


def transcript(items):
    """What items on the wire say, without system prompts and thoughts."""
    said = []
    for item in items:
        match item.get("type", "message"):
            case "message" if item["role"] not in {"system", "developer"}:
                said.append((item["role"], text_of(item)))
            case "function_call":
                said.append(("call", item["call_id"], item["name"], json.loads(item["arguments"])))
            case "function_call_output":
                said.append(("result", item["call_id"], item["output"]))
    return said


def local_transcript(messages):
    """What messages of LangChain say, in the same words; results beside their calls."""
    said, results = [], {}
    for message in messages:
        if isinstance(message, ToolMessage):
            results[message.tool_call_id] = ("result", message.tool_call_id, message.text)
    for message in messages:
        match message:
            case HumanMessage():
                said.append(("user", message.text))
            case AIMessage():
                if message.text:
                    said.append(("assistant", message.text))
                for call in message.tool_calls:
                    said.append(("call", call["id"], call["name"], call["args"]))
                    if call["id"] in results:
                        said.append(results[call["id"]])
            case SystemMessage():
                said.append(("system", message.text))
    return said


def settled(said):
    """A transcript with each result directly behind its call, however it travelled."""
    results = {one[1]: one for one in said if one[0] == "result"}
    placed = []
    for one in said:
        if one[0] == "result":
            continue
        placed.append(one)
        if one[0] == "call" and one[1] in results:
            placed.append(results[one[1]])
    return placed


class Driven:
    """An agent whose thread is driven in one of the four ways."""

    def __init__(self, agent, way="invoke", thread="1", **configurable):
        self.agent, self.way = agent, way
        self.config = {"configurable": {"thread_id": thread, **configurable}}

    def ask(self, given, config=None):
        """Runs the agent; a text is a question."""
        given = {"messages": [HumanMessage(given)]} if isinstance(given, str) else given
        config = config or self.config
        match self.way:
            case "invoke":
                self.agent.invoke(given, config)
            case "stream":
                [*self.agent.stream(given, config, stream_mode="messages")]
            case "ainvoke":
                asyncio.run(self.agent.ainvoke(given, config))
            case "astream":
                asyncio.run(self._astream(given, config))
        return self.messages

    async def _astream(self, given, config):
        async for _ in self.agent.astream(given, config, stream_mode="messages"):
            pass

    @property
    def state(self):
        return self.agent.get_state(self.config).values

    @property
    def messages(self):
        return self.state["messages"]

    @property
    def conversation(self):
        return self.state.get("qwen_conversation_id")


def agent_on(hub, *middleware, tools=(weather,), model=None, checkpointer=None, ours=None, **more):
    """An agent with this middleware, and ours as the last."""
    return create_agent(
        model or ChatQwenConv(model=MODEL, conversations=hub),
        tools=[*tools],
        middleware=[*middleware, ours or QwenConvMiddleware()],
        checkpointer=checkpointer or InMemorySaver(),
        **more,
    )
