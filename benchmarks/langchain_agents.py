"""What an agent of LangChain sends, whose thread is kept by a checkpointer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver

from benchmarks.figures import Exactly, Row, Target, each
from benchmarks.names import OURS, WHOLE_LIST
from benchmarks.traffic import Relay, Traffic, relayed
from benchmarks.workload import ANSWER, KEY, MODEL, QUESTION
from langchain_qwen_conv import ChatQwenConv, QwenConvMiddleware
from qwen_conv.offline import CallTool, OfflineServer, Say, Think
from qwen_conv.offline.responder import text_of

EVERY = 3
"""Every so many turns the agent calls its tool."""

CALLS = f"Look it up. {QUESTION}"
"""The question for which it does."""


@tool
def look_up(place: str) -> str:
    """What is known of a place."""
    return f"{place}: {ANSWER}"


def scripted(context: Sequence[Mapping[str, Any]], _request: Mapping[str, Any]) -> Any:
    """Thinks, and calls the tool if it is told to, or answers."""
    is_told = context[-1]["type"] == "message" and text_of(context[-1]) == CALLS
    call = CallTool("look_up", {"place": "the island"}, f"call_{len(context)}")
    return [Think(QUESTION), call if is_told else Say(ANSWER)]


def agents(_base_url: str, work: Any) -> Iterator[Row]:
    """Requests and bytes up of a thread, and what is kept of it; creating is counted as well."""
    turns = work.agent_turns
    calling = len(range(0, turns, EVERY))
    which = f"an agent's {turns} turns, {calling} with a tool"
    requests = Exactly(turns + calling + 1)
    less = Target(0.1, WHOLE_LIST)
    with OfflineServer(scripted) as server, relayed(server.base_url) as relay:
        plain = _agents(relay.base_url)
        found = {name: _counted(relay, agent, turns) for name, agent in plain.items()}
        thread = plain[OURS].get_state(THREAD).values
        kept = {OURS: [len(server.items(thread["qwen_conversation_id"]))]}
        prompted = {
            name: _counted(relay, agent, turns)
            for name, agent in _agents(relay.base_url, system_prompt=QUESTION).items()
        }
    yield Row(f"requests, {which}", "", each(found, "requests"), requests, ABSENT)
    yield Row(f"bytes up, bodies, {which}", "B", each(found, "body"), less, ABSENT)
    yield Row(f"bytes up, with headers, {which}", "B", each(found, "total"), None, ABSENT)
    title = f"bytes up, bodies, {which}, with a system prompt"
    yield Row(title, "B", each(prompted, "body"), None, ABSENT)
    yield Row(f"items kept, {which}", "", kept, Exactly(3 * (turns + calling)), ABSENT)


ABSENT = "An agent: the others know nothing of agents."


def _agents(base_url: str, **more: Any) -> dict[str, Any]:
    """Our agent, and the stock one."""
    service: Any = {"model": MODEL, "base_url": base_url, "api_key": KEY}
    ours = ChatQwenConv(**service)
    stock = ChatOpenAI(use_responses_api=True, **service)
    around = {OURS: (ours, [QwenConvMiddleware()]), WHOLE_LIST: (stock, [])}
    return {
        name: create_agent(
            model, [look_up], middleware=middleware, checkpointer=InMemorySaver(), **more
        )
        for name, (model, middleware) in around.items()
    }


THREAD: Any = {"configurable": {"thread_id": "1"}}


def _counted(relay: Relay, agent: Any, turns: int) -> list[Traffic]:
    for turn in range(turns):
        question = QUESTION if turn % EVERY else CALLS
        agent.invoke({"messages": question}, THREAD)
    return [relay.taken()]
