"""The examples run as they stand."""

from functools import partial

from conftest import asked, run_example

run = partial(run_example, "history.py")
TOLD = """\
human  Alice is 20 years old, and her hobbies are music and chess.
ai     Nice to meet Alice.
human  How old is Alice?
ai     Alice is 20 years old, and her hobbies are music and chess.
human  What are her hobbies?
ai     Alice is 20 years old, and her hobbies are music and chess.
"""


def test_the_chain_with_a_history_runs_without_a_key():
    assert run() == TOLD


def test_it_costs_a_reading_and_a_turn_per_question_and_leaves_nothing(server):
    assert run(DASHSCOPE_API_KEY="any", DASHSCOPE_BASE_URL=server.base_url) == TOLD
    requests = asked(server)
    assert requests[2:6] == ["GET /conversations/*/items", "POST /responses"] * 2
    assert requests[-1] == "DELETE /conversations/*"
