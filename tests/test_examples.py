"""The examples run as they stand."""

from functools import partial
from subprocess import CalledProcessError

import pytest
from conftest import always, asked, run_example

from qwen_conv.offline import CallTool, Fail

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
    [("history.py", HISTORY), ("llamaindex_engine.py", ENGINE), ("llamaindex_agent.py", AGENT)],
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
