"""The examples run as they stand."""

import importlib
from functools import partial
from pathlib import Path
from subprocess import CalledProcessError

import pytest
from conftest import always, asked, run_example

from qwen_conv.offline import CallTool, Fail

EXAMPLES = Path(__file__).parent.parent / "examples"
HISTORY = """\
human  Alice is 20 years old, and her hobbies are music and chess.
ai     Nice to meet Alice.
human  How old is Alice?
ai     Alice is 20 years old, and her hobbies are music and chess.
human  What are her hobbies?
ai     Alice is 20 years old, and her hobbies are music and chess.
"""
ENGINE = """\
user       Alice is 20 years old, and her hobbies are music and chess.
assistant  Nice to meet Alice.
user       How old is Alice?
assistant  Alice is 20 years old, and her hobbies are music and chess.
user       What are her hobbies?
assistant  Alice is 20 years old, and her hobbies are music and chess.
"""
AGENT = """\
user       How is the weather in Singapore?
assistant  weather({'city': 'Singapore'})
tool       In Singapore: sunny, 31 degrees.
assistant  In Singapore: sunny, 31 degrees.
user       And in Oslo?
assistant  weather({'city': 'Oslo'})
tool       In Oslo: snow, 3 degrees below zero.
assistant  In Oslo: snow, 3 degrees below zero.
"""
SINGAPORE = """\
ai     weather({'city': 'Singapore'})
tool   In Singapore: sunny, 31 degrees.
ai     In Singapore: sunny, 31 degrees.
"""
OSLO = """\
ai     weather({'city': 'Oslo'})
tool   In Oslo: snow, 3 degrees below zero.
ai     In Oslo: snow, 3 degrees below zero.
"""
ASKED = f"human  How is the weather in Singapore?\n{SINGAPORE}"
LANGCHAIN_AGENT = f"{ASKED}human  Is it colder in Oslo?\n{OSLO}"
RESPONSES = f"{ASKED}human  And in Oslo?\n{OSLO}"
APPROVAL = f"""\
{ASKED}human  And in Oslo?
ai     weather({{'city': 'Oslo'}})
tool   User rejected the tool call for `weather` with reason: Nobody goes to Oslo.
ai     User rejected the tool call for `weather` with reason: Nobody goes to Oslo.
human  But if I went to Oslo?
ai     weather({{'city': 'Oslo'}})
human  Never mind.
ai     Have a good journey.
"""
FORKS = f"""\
human  Is it hot in Singapore?
{SINGAPORE}human  I stay here.
ai     Have a good journey.
human  I stay here all the same.
ai     Have a good journey.
Branches: 3, conversations: 3.
"""
SUMMARY = """\
human  Here is a summary of the conversation to date:

The user travels to Singapore, where it is sunny.
ai     Have a good journey.
human  What else?
ai     Have a good journey.
Fewer tokens than before.
"""
STRUCTURED = """\
{"city": "Oslo", "degrees": -3}
{"city": "Oslo", "degrees": -3}
"""
AGENTS = [
    ("agent.py", LANGCHAIN_AGENT),
    ("agent_approval.py", APPROVAL),
    ("agent_forks.py", FORKS),
    ("agent_summary.py", SUMMARY),
    ("agent_structured.py", STRUCTURED),
    ("agent_responses.py", RESPONSES),
]


def left_on(server):
    """The ids of all that a server holds."""
    every = "select id from conversations union select id from items union select id from responses"
    return [found for (found,) in server._store._run(every)]


@pytest.fixture
def run(server):
    """Runs an example on the server, as with a key."""
    return partial(run_example, DASHSCOPE_API_KEY="any", DASHSCOPE_BASE_URL=server.base_url)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("history.py", HISTORY),
        ("llamaindex_engine.py", ENGINE),
        ("llamaindex_agent.py", AGENT),
        AGENTS[0],  # the others connect in the same way
    ],
)
def test_an_example_runs_without_a_key(name, told):
    assert run_example(name) == told


def test_the_chain_costs_a_reading_and_a_turn_per_question_and_leaves_nothing(run, server):
    assert run("history.py") == HISTORY
    requests = asked(server)
    assert requests[2:6] == ["GET /conversations/*/items", "POST /responses"] * 2
    assert requests[-1] == "DELETE /conversations/*"


def test_an_engine_costs_a_request_per_question_whatever_its_memory_is(run, server):
    assert run("llamaindex_engine.py") == ENGINE
    assert asked(server)[:4] == [
        "POST /conversations",
        "POST /responses",
        "POST /responses",
        "GET /conversations/*/items",  # and now it is deleted
    ]
    assert [turn.body["input"] for turn in server.requests[1:3]] == [
        "How old is Alice?",
        "What are her hobbies?",
    ]
    assert left_on(server) == []


def test_an_agent_costs_a_request_a_step_and_sends_what_is_new_in_it(run, server):
    server.script = calling_once
    run("llamaindex_agent.py")
    requests = asked(server)
    assert requests[:5] == ["POST /conversations"] + ["POST /responses"] * 4
    assert requests.count("POST /responses") == 4
    sent = [turn.body["input"] for turn in server.requests[1:5]]
    assert sent[::2] == ["How is the weather in Singapore?", "And in Oslo?"]
    assert [[item["type"] for item in results] for results in sent[1::2]] == [
        ["function_call_output"]
    ] * 2
    assert left_on(server) == []


def calling_once(context, _request):
    """A model that calls the tool, and then is content."""
    if context[-1]["type"] == "function_call_output":
        return "So it is."
    return CallTool("weather", {"city": "Rome"})


def test_an_example_that_fails_leaves_nothing_either(run, server):
    server.script = always(Fail("The model is tired."))
    for name in ("llamaindex_engine.py", "llamaindex_agent.py"):
        with pytest.raises(CalledProcessError) as failed:
            run(name)
        assert "The model is tired." in failed.value.stderr
    assert left_on(server) == []


@pytest.mark.parametrize(("name", "told"), AGENTS)
def test_an_agent_leaves_nothing_on_the_server(run, server, monkeypatch, name, told):
    monkeypatch.syspath_prepend(EXAMPLES)
    server.script = importlib.import_module("agent_travel").pretended
    assert run(name) == told
    assert left_on(server) == []


def test_an_agent_of_langchain_costs_a_request_a_step(run, server):
    server.script = calling_once
    run("agent.py")
    assert asked(server)[:5] == ["POST /conversations"] + ["POST /responses"] * 4
    sent = [turn.body["input"] for turn in server.requests[1:5]]
    assert sent[::2] == ["How is the weather in Singapore?", "Is it colder in Oslo?"]
    assert [len(results) for results in sent[1::2]] == [1, 1]
