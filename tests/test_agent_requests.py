"""What each pattern of an agent sends: the table of docs/agents.md, row by row."""

import pytest
from agents import Driven, Model, agent_on
from conftest import MODEL, another_process, asked
from langchain.agents.middleware import HumanInTheLoopMiddleware, SummarizationMiddleware
from langchain_core.messages import RemoveMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from langchain_qwen_conv import ChatQwenConv, QwenConvMiddleware
from qwen_conv import flows
from qwen_conv.offline import OfflineServer

LETTERS = {
    "POST /conversations": "C",
    "POST /responses": "R",
    "GET /conversations/*/items": "G",
    "GET /conversations/*": "G",
}
APPROVE = Command(resume={"decisions": [{"type": "approve"}]})
REJECT = Command(resume={"decisions": [{"type": "reject", "message": "No."}]})


@pytest.fixture
def server():
    with OfflineServer(Model()) as server:
        yield server


def letters(server):
    """What was sent since this was last asked."""
    told = " ".join(LETTERS[request] for request in asked(server))
    server.requests.clear()
    return told


@pytest.fixture
def sends(server):
    """What a step of an agent sends."""

    def sends(driven, given, config=None):
        server.requests.clear()
        driven.ask(given, config)
        return letters(server)

    return sends


def removed(driven, place):
    gone = [RemoveMessage(one.id) for one in driven.messages[place]]
    driven.agent.update_state(driven.config, {"messages": gone})


def test_questions_and_tools(hub, sends):
    driven = Driven(agent_on(hub))
    assert sends(driven, "one") == "C R"
    assert sends(driven, "two") == "R"
    assert sends(driven, "weather in Paris and Rome") == "R R"


def test_another_process(server, hub, sends):
    saver = InMemorySaver()
    first, second = (
        Driven(agent_on(each, checkpointer=saver)) for each in (hub, another_process(server))
    )
    first.ask("one")
    assert sends(second, "two") == "G R"
    assert sends(second, "three") == "R"
    assert sends(first, "four") == "G R"


def test_decisions_of_a_human(hub, sends):
    human = HumanInTheLoopMiddleware(interrupt_on={"weather": True})
    driven = Driven(agent_on(hub, human))
    assert sends(driven, "weather in Paris") == "C R"
    assert sends(driven, APPROVE) == "R"
    assert sends(driven, "weather in Rome") == "R"
    assert sends(driven, REJECT) == "R"
    assert sends(driven, "weather in Oslo") == "R"
    assert sends(driven, "never mind") == "R G R"


def test_a_question_instead_of_a_decision_where_open_calls_are_accepted():
    with OfflineServer(Model(), unanswered_call="accepted") as server:
        human = HumanInTheLoopMiddleware(interrupt_on={"weather": True})
        driven = Driven(agent_on(another_process(server), human))
        driven.ask("weather in Paris")
        server.requests.clear()
        driven.ask("never mind")
        assert letters(server) == "R"


def test_going_back(hub, sends):
    driven = Driven(agent_on(hub))
    driven.ask("one")
    fork = driven.agent.get_state(driven.config).config
    assert sends(driven, "two", fork) == "G R"
    assert sends(driven, "two, otherwise", fork) == "G G C R"
    assert sends(driven, "three") == "R"


def test_edits(hub, sends):
    driven = Driven(agent_on(hub))
    for text in ("one", "two", "three"):
        driven.ask(text)
    edited = driven.messages[0].model_copy(update={"content": "edited"})
    driven.agent.update_state(driven.config, {"messages": [edited]})
    assert sends(driven, "four") == "C R"
    assert sends(driven, "five") == "R"
    removed(driven, slice(2, 4))
    assert sends(driven, "six") == "C R"
    removed(driven, slice(-2, None))
    assert sends(driven, "seven") == "G C R"


def test_a_summary(hub, sends):
    chat = ChatQwenConv(model=MODEL, conversations=hub)
    summarizer = SummarizationMiddleware(chat, trigger=("messages", 4), keep=("messages", 2))
    driven = Driven(agent_on(hub, summarizer, model=chat))
    for text in ("one", "two"):
        driven.ask(text)
    assert sends(driven, "three") == "R C R"


@pytest.mark.parametrize(("on_trimmed", "told"), [("keep", "R"), ("rebase", "C R")])
def test_older_messages_that_were_dropped(hub, sends, on_trimmed, told):
    driven = Driven(agent_on(hub, ours=QwenConvMiddleware(on_trimmed=on_trimmed)))
    for text in ("one", "two"):
        driven.ask(text)
    removed(driven, slice(2))
    assert sends(driven, "three") == told


def test_seven_days(server, hub, sends):
    driven = Driven(agent_on(hub))
    driven.ask("one")
    server.clock.advance(days=8)
    assert sends(driven, "two") == "C R"


def test_a_deleted_conversation(server, hub, sends):
    saver = InMemorySaver()
    driven = Driven(agent_on(hub, checkpointer=saver))
    driven.ask("one")
    another_process(server).run(flows.delete, driven.conversation)
    assert sends(driven, "two") == "R G C R"
    another_process(server).run(flows.delete, driven.conversation)
    elsewhere = Driven(agent_on(another_process(server), checkpointer=saver))
    assert sends(elsewhere, "three") == "G G C R"
