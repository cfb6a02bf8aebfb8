"""Threads that are forked, edited, interrupted or summarized: the model is shown what they say."""

import pytest
from agents import Driven, Model, agent_on, local_transcript, model, settled, transcript, way
from conftest import MODEL, another_process, asked
from langchain.agents.middleware import (
    AgentMiddleware,
    ClearToolUsesEdit,
    ContextEditingMiddleware,
    HumanInTheLoopMiddleware,
    SummarizationMiddleware,
)
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph.message import REMOVE_ALL_MESSAGES
from langgraph.types import Command

from langchain_qwen_conv import ChatQwenConv, QwenConvMiddleware
from qwen_conv import errors
from qwen_conv.offline import OfflineServer


def is_exact(driven, model):
    """Whether the model was shown exactly what the thread says, and the conversation holds it."""
    assert settled(model.shown[-1]) == local_transcript(driven.messages[:-1])
    return True


def held(server, driven):
    return settled(transcript(server.items(driven.conversation)))


# --- Forks and edits --------------------------------------------------------------------------


@pytest.mark.parametrize("question", ["three, otherwise", "three"])
@pytest.mark.parametrize("process", ["this", "another"])
def test_a_thread_that_goes_on_from_an_older_checkpoint(server, hub, model, way, question, process):
    """As it is asked something else there, or the same again."""
    saver = InMemorySaver()
    driven = Driven(agent_on(hub, checkpointer=saver), way)
    for text in ("one", "weather in Paris", "three"):
        driven.ask(text)
    before, stored = driven.conversation, held(server, driven)
    older = next(
        state
        for state in driven.agent.get_state_history(driven.config)
        if len(state.values["messages"]) == 6 and not state.next
    )
    if process == "another":
        driven = Driven(agent_on(another_process(server), checkpointer=saver), way)
    driven.ask(question, older.config)
    assert [one.text for one in driven.messages if one.type == "human"][-1] == question
    assert is_exact(driven, model)
    assert driven.conversation != before
    assert held(server, driven) == local_transcript(driven.messages)
    assert transcript(server.items(before)) == stored
    server.requests.clear()
    driven.ask("go on")
    assert asked(server) == ["POST /responses"]
    assert is_exact(driven, model)


def test_each_branch_of_a_thread_keeps_its_conversation(server, hub, model, way):
    driven = Driven(agent_on(hub), way)
    driven.ask("one")
    fork = driven.agent.get_state(driven.config).config
    driven.ask("two")
    branch, conversation = driven.agent.get_state(driven.config).config, driven.conversation
    driven.ask("two, otherwise", fork)
    other = driven.agent.get_state(driven.config).config
    assert driven.conversation != conversation
    server.requests.clear()
    driven.ask("three", branch)
    assert is_exact(driven, model)
    assert driven.conversation == conversation
    driven.ask("three, otherwise", other)
    assert is_exact(driven, model)
    assert asked(server) == ["GET /conversations/*/items", "POST /responses"] * 2


def test_a_thread_that_another_process_went_on_with_is_forked_in_the_first(server, hub, model, way):
    """What the first process knows of the conversation's end is old by then."""
    saver = InMemorySaver()
    first = Driven(agent_on(hub, checkpointer=saver), way)
    first.ask("one")
    fork = first.agent.get_state(first.config).config
    Driven(agent_on(another_process(server), checkpointer=saver), way).ask("two")
    first.ask("two, otherwise", fork)
    assert is_exact(first, model)
    server.requests.clear()
    first.ask("weather in Paris", first.agent.get_state(first.config).config)
    assert is_exact(first, model)
    assert asked(server) == ["GET /conversations/*/items", "POST /responses"] * 2


def test_a_named_checkpoint_before_the_tools_is_gone_back_to_behind_another_process(
    server, hub, model, way
):
    saver = InMemorySaver()
    both = [
        Driven(agent_on(one, checkpointer=saver, interrupt_before=["tools"]), way)
        for one in (hub, another_process(server))
    ]
    both[0].ask("weather in Paris")
    before_the_tools = both[0].agent.get_state(both[0].config).config
    both[1].ask(None, both[1].config)
    both[1].ask("and now?")
    both[0].ask(None, before_the_tools)
    assert is_exact(both[0], model)


@pytest.mark.parametrize("place", [0, 1, 2, 5])
def test_a_message_of_the_thread_is_edited(server, hub, model, way, place):
    driven = Driven(agent_on(hub), way)
    for text in ("one", "weather in Paris"):
        driven.ask(text)
    edited = driven.messages[place].model_copy(update={"content": "edited"})
    driven.agent.update_state(driven.config, {"messages": [edited]})
    driven.ask("what now?")
    assert "edited" in [one.text for one in driven.messages]
    assert is_exact(driven, model)
    assert held(server, driven) == local_transcript(driven.messages)


def test_the_first_message_is_asked_otherwise(server, hub, model, way):
    """The list is then one new message: it must not land behind what it replaces."""
    driven = Driven(agent_on(hub), way)
    driven.ask("one")
    first, conversation = driven.messages[0], driven.conversation
    driven.agent.update_state(driven.config, {"messages": [RemoveMessage(REMOVE_ALL_MESSAGES)]})
    driven.ask({"messages": [HumanMessage("uno", id=first.id)]})
    assert is_exact(driven, model)
    assert driven.conversation != conversation


def test_messages_are_removed_from_the_middle(server, hub, model, way):
    driven = Driven(agent_on(hub), way)
    for text in ("one", "two", "three"):
        driven.ask(text)
    gone = [RemoveMessage(one.id) for one in driven.messages[2:4]]
    driven.agent.update_state(driven.config, {"messages": gone})
    driven.ask("four")
    assert is_exact(driven, model)


@pytest.mark.parametrize("policy", ["raise", "stateless", "ignore"])
def test_a_fork_where_something_else_than_a_new_conversation_was_asked_for(
    server, hub, model, way, policy
):
    driven = Driven(agent_on(hub, ours=QwenConvMiddleware(on_divergence=policy)), way)
    driven.ask("one")
    fork, conversation = driven.agent.get_state(driven.config).config, driven.conversation
    driven.ask("two")
    stored = held(server, driven)
    if policy == "raise":
        with pytest.raises(errors.DivergedError):
            driven.ask("two, otherwise", fork)
        assert held(server, driven) == stored
        return
    driven.ask("two, otherwise", fork)
    assert driven.conversation == conversation
    if policy == "stateless":
        assert is_exact(driven, model)
        assert held(server, driven) == stored
    else:
        assert model.shown[-1] == [*stored, ("user", "two, otherwise")]


# --- What is not shown any more ---------------------------------------------------------------


def drop_older(driven, keep):
    gone = [RemoveMessage(one.id) for one in driven.messages[:-keep]]
    driven.agent.update_state(driven.config, {"messages": gone})


@pytest.mark.parametrize("process", ["this", "another"])
def test_older_messages_that_were_dropped_stay_in_the_conversation(
    server, hub, model, way, process
):
    saver = InMemorySaver()
    driven = Driven(agent_on(hub, checkpointer=saver), way)
    for text in ("one", "weather in Paris", "three"):
        driven.ask(text)
    whole, conversation = local_transcript(driven.messages), driven.conversation
    drop_older(driven, 2)
    if process == "another":
        driven = Driven(agent_on(another_process(server), checkpointer=saver), way)
    server.requests.clear()
    driven.ask("four")
    assert settled(model.shown[-1]) == [*whole, ("user", "four")]
    assert driven.conversation == conversation
    assert asked(server)[-1:] == ["POST /responses"]
    assert asked(server).count("POST /responses") == 1


@pytest.mark.parametrize("process", ["this", "another"])
def test_they_are_not_shown_any_more_if_that_is_asked_for(server, hub, model, way, process):
    saver = InMemorySaver()
    ours = QwenConvMiddleware(on_trimmed="rebase")
    driven = Driven(agent_on(hub, checkpointer=saver, ours=ours), way)
    for text in ("one", "two", "three"):
        driven.ask(text)
    assert asked(server) == ["POST /conversations"] + ["POST /responses"] * 3
    for text in ("four", "five"):
        drop_older(driven, 2)
        if process == "another":
            driven = Driven(agent_on(another_process(server), checkpointer=saver, ours=ours), way)
        conversation = driven.conversation
        driven.ask(text)
        assert is_exact(driven, model)
        assert driven.conversation != conversation
    server.requests.clear()
    driven.ask("six")
    assert is_exact(driven, model)
    assert asked(server) == ["POST /responses"]


def test_a_policy_for_dropped_messages_that_is_changed_holds_from_then_on(server, hub, model, way):
    saver = InMemorySaver()
    driven = Driven(agent_on(hub, checkpointer=saver), way)
    for text in ("one", "two"):
        driven.ask(text)
    drop_older(driven, 2)
    driven.ask("three")
    assert ("user", "one") in model.shown[-1]
    ours = QwenConvMiddleware(on_trimmed="rebase")
    driven = Driven(agent_on(hub, checkpointer=saver, ours=ours), way)
    driven.ask("four")
    assert is_exact(driven, model)


def test_after_a_summary_the_model_is_shown_that_and_the_rest(server, hub, model, way):
    """The summary is asked for on no conversation, by the very model of the agent."""
    chat = ChatQwenConv(model=MODEL, conversations=hub)
    summarizer = SummarizationMiddleware(chat, trigger=("messages", 12), keep=("messages", 2))
    driven = Driven(agent_on(hub, summarizer, model=chat), way)
    for number in range(6):
        driven.ask(f"question {number} is as long as it is, so that it counts")
    before = driven.messages[-1].usage_metadata["input_tokens"]
    conversation = driven.conversation
    driven.ask("what now?")
    assert len(driven.messages) < 6
    assert driven.messages[-1].usage_metadata["input_tokens"] < before
    assert is_exact(driven, model)
    assert driven.conversation != conversation
    assert held(server, driven) == local_transcript(driven.messages)
    bodies = [one.body for one in server.requests if one.path == "/responses"]
    assert [body["store"] for body in bodies if "conversation" not in body] == [False]


def test_results_that_are_cleared_from_what_is_sent_are_not_shown(server, hub, model, way):
    edit = ContextEditingMiddleware(edits=[ClearToolUsesEdit(trigger=1, keep=0)])
    driven = Driven(agent_on(hub, edit), way)
    driven.ask("weather in Paris")
    driven.ask("and now?")
    driven.ask("and then?")
    results = [one[2] for one in model.shown[-1] if one[0] == "result"]
    assert results == ["[cleared]"]
    assert [one[0] for one in settled(model.shown[-1])] == [
        one[0] for one in local_transcript(driven.messages[:-1])
    ]


# --- Interrupts -------------------------------------------------------------------------------


def asking(hub, way, saver=None):
    human = HumanInTheLoopMiddleware(interrupt_on={"weather": True})
    return Driven(agent_on(hub, human, checkpointer=saver or InMemorySaver()), way)


def decide(*decisions):
    return Command(resume={"decisions": [*decisions]})


@pytest.mark.parametrize("process", ["this", "another"])
def test_an_interrupted_call_that_is_approved(server, hub, model, way, process):
    saver = InMemorySaver()
    driven = asking(hub, way, saver)
    driven.ask("one")
    driven.ask("weather in Paris")
    if process == "another":
        driven = asking(another_process(server), way, saver)
    driven.ask(decide({"type": "approve"}))
    assert driven.messages[-2].text == "It is sunny in Paris."
    assert is_exact(driven, model)
    assert held(server, driven) == local_transcript(driven.messages)


def test_an_interrupted_call_that_is_edited(server, hub, model, way):
    driven = asking(hub, way)
    driven.ask("weather in Paris")
    edited = {"name": "weather", "args": {"city": "Rome"}}
    driven.ask(decide({"type": "edit", "edited_action": edited}))
    assert driven.messages[-2].text.endswith("It is sunny in Rome.")
    assert is_exact(driven, model)
    assert held(server, driven) == local_transcript(driven.messages)


def test_an_interrupted_call_that_is_rejected(server, hub, model, way):
    driven = asking(hub, way)
    driven.ask("weather in Paris and Rome")
    driven.ask(decide({"type": "reject", "message": "No."}, {"type": "approve"}))
    assert is_exact(driven, model)
    driven.ask("what now?")
    assert is_exact(driven, model)


@pytest.mark.parametrize("stored_items", ["all", "messages"])
@pytest.mark.parametrize("unanswered_call", ["refused", "accepted"])
def test_a_question_instead_of_a_decision(way, stored_items, unanswered_call):
    """The call stays unanswered: the service is told so if it asks."""
    model = Model()
    with OfflineServer(model, stored_items=stored_items, unanswered_call=unanswered_call) as server:
        driven = asking(another_process(server), way)
        driven.ask("weather in Paris and Rome")
        driven.ask("never mind")
        driven.ask("how are you?")
        assert [one for one in model.shown[-1] if one[0] in {"user", "assistant"}] == [
            ("user", "weather in Paris and Rome"),
            ("user", "never mind"),
            ("assistant", driven.messages[-3].text),
            ("user", "how are you?"),
        ]
        if stored_items == "all":
            outputs = [one[2] for one in model.shown[-1] if one[0] == "result"]
            assert outputs == (["Not executed."] * 2 if unanswered_call == "refused" else [])


class BrokenToolError(Exception):
    pass


class BrokenTools(AgentMiddleware):
    """Every tool fails, and the run with it."""

    def wrap_tool_call(self, request, handler):
        raise BrokenToolError

    async def awrap_tool_call(self, request, handler):
        raise BrokenToolError


def test_a_turn_that_is_cut_between_a_call_and_its_result(server, hub, model, way):
    """The tool fails: the run ends there, and the next one begins with another question."""
    saver = InMemorySaver()
    with pytest.raises(BrokenToolError):
        Driven(agent_on(hub, BrokenTools(), checkpointer=saver), way).ask("weather in Paris")
    driven = Driven(agent_on(hub, checkpointer=saver), way)
    driven.ask("never mind")
    assert isinstance(driven.messages[-1], AIMessage)
    assert model.shown[-1][-1] == ("user", "never mind")
    assert ("result", "call_1_0", "Not executed.") in model.shown[-1]


# --- Seven days -------------------------------------------------------------------------------


def test_a_thread_that_slept_for_eight_days_is_told_again(server, hub, model, way):
    driven = Driven(agent_on(hub), way)
    driven.ask("weather in Paris")
    conversation = driven.conversation
    server.clock.advance(days=8)
    driven.ask("and now?")
    assert is_exact(driven, model)
    assert driven.conversation != conversation
