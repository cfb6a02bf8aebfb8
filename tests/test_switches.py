"""Whatever the service does where its documents are silent, a conversation stays exact."""

from dataclasses import fields
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from conftest import MODEL, another_process, said
from langchain_core.messages import (
    HumanMessage,
    SystemMessage,
    messages_from_dict,
    messages_to_dict,
)

from langchain_qwen_conv import ChatQwenConv
from qwen_conv.offline import OfflineServer, Switches
from qwen_conv.offline.switches import table
from qwen_conv.registry import MemoryRegistry

HINTS = get_type_hints(Switches)
OTHERS = [
    (one.name, value)
    for one in fields(Switches)
    for value in get_args(HINTS[one.name])
    if value != one.default
]


@pytest.mark.parametrize(("name", "value"), OTHERS)
def test_ten_turns_in_three_processes_are_stored_once_each(take, name, value):
    registry = MemoryRegistry()
    with OfflineServer(**{name: value}) as server:
        messages = [SystemMessage("Be brief.")]
        for number in range(10):
            if number % 4 == 0:  # another process, which has the list from a database
                hub = another_process(server, registry=registry)
                chat = ChatQwenConv(model=MODEL, conversations=hub, session_id="alice")
                messages = messages_from_dict(messages_to_dict(messages))
            messages.append(HumanMessage(f"question {number}"))
            messages.append(take(chat, messages))
            assert messages[-1].response_metadata["decision"] == "attached"
        stored = said(server, messages[-1].response_metadata["conversation_id"])
    questions = [line for line in stored if line.startswith("user: question")]
    answers = [line for line in stored if line.startswith("assistant")]
    assert questions == [f"user: question {number}" for number in range(10)]
    assert len(answers) == 10


def test_the_table_in_the_docs_is_the_switches():
    docs = Path(__file__).parent.parent / "docs" / "assumptions.md"
    assert table() in docs.read_text("utf-8")


@pytest.mark.parametrize("one", fields(Switches), ids=lambda one: one.name)
def test_every_switch_says_question_evidence_and_consequence(one):
    assert one.default in get_args(HINTS[one.name])
    assert one.metadata["asks"].endswith("?")
    assert one.metadata["evidence"]
    assert one.metadata["otherwise"]


def test_an_unknown_switch_is_refused():
    with pytest.raises(TypeError, match="no_such_switch"):
        OfflineServer(no_such_switch="x")
