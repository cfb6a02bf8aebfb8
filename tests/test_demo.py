"""`make demo`: what its users see, and that nothing is left of it."""

import re
from functools import partial

import pytest
from conftest import asked, run_example
from test_examples import left_on

from qwen_conv.offline import OfflineServer

demo = partial(run_example, "alice.py")

HOBBIES = "She is 20 years old, and her hobbies are music and chess."
FRIEND = "Alice's best friend is Bob."
BIRTH = "Alice, a gentle and resilient woman, was born in Singapore."
TOLD = [
    ("How old is Alice?", HOBBIES, "1 (POST)"),
    ("What are her hobbies?", HOBBIES, "1 (POST)"),
    ("Who is her best friend?", FRIEND, "2 (GET, POST)"),
    ("Where was she born?", BIRTH, "2 (GET, POST)"),
    ("Who is Bob?", FRIEND, "3 (GET, GET, POST)"),
    ("Does she play chess?", HOBBIES, "1 (POST)"),
]
"""Question, answer and requests: two of each process, the last one LlamaIndex's."""


@pytest.fixture(scope="module")
def shown():
    """What it prints with a key, and the server that it talked to."""
    with OfflineServer() as server:
        yield demo(DASHSCOPE_API_KEY="any", DASHSCOPE_BASE_URL=server.base_url), server


def test_without_a_key_it_talks_to_the_offline_server():
    assert "No DASHSCOPE_API_KEY: the offline server answers." in demo()


def test_three_processes_hold_one_conversation_and_each_turn_sends_its_question(shown):
    told, server = shown
    pairs = re.findall(r"Q  (.*)\n  A  (.*)\n     requests: (.*), bytes up: (\d+)", told)
    assert [(question, answer, requests) for question, answer, requests, _ in pairs] == TOLD
    turns = [request for request in server.requests if request.path.endswith("/responses")]
    assert [int(sent) for *_, sent in pairs] == [request.body_bytes for request in turns]
    assert [request.body["input"] for request in turns] == [question for question, *_ in TOLD]
    assert all(request.body["stream"] for request in turns)


def test_each_process_shows_what_the_conversation_holds_and_nothing_is_there_twice(shown):
    told, _ = shown
    listed = re.findall(r"^  (system|user|assistant) +(.*)$", told, re.MULTILINE)
    assert len(listed) == 6 + 10 + 14
    assert listed[-12:] == [
        said for question, answer, _ in TOLD for said in (("user", question), ("assistant", answer))
    ]
    assert re.findall(r"messages in memory: (\d+)", told) == ["12", "14"]


def test_it_leaves_nothing_behind(shown):
    told, server = shown
    assert len(set(re.findall(r"conv_\w+", told))) == 1
    assert left_on(server) == []
    requests = asked(server)
    assert requests.count("DELETE /responses/*") == requests.count("POST /responses") == 6
    assert requests[-1] == "DELETE /conversations/*"
