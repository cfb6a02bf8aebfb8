"""`make demo`: what its users see, and that nothing is left of it."""

import re
from functools import partial

from conftest import asked, run_example

demo = partial(run_example, "alice.py")


def test_without_a_key_it_talks_to_the_offline_server():
    assert "No DASHSCOPE_API_KEY: the offline server answers." in demo()


def test_two_processes_hold_one_conversation_with_a_request_a_turn(server):
    told = demo(DASHSCOPE_API_KEY="any", DASHSCOPE_BASE_URL=server.base_url)
    pairs = re.findall(r"Q  (.*)\n  A  (.*)\n     requests: (.*), bytes up: (\d+)", told)
    answers = [(question, answer, requests) for question, answer, requests, _ in pairs]
    hobbies = "She is 20 years old, and her hobbies are music and chess."
    assert answers == [
        ("How old is Alice?", hobbies, "1 (POST)"),
        ("What are her hobbies?", hobbies, "1 (POST)"),
        ("Who is her best friend?", "Alice's best friend is Bob.", "2 (GET, POST)"),
        (
            "Where was she born?",
            "Alice, a gentle and resilient woman, was born in Singapore.",
            "2 (GET, POST)",
        ),
    ]
    turns = [request for request in server.requests if request.path.endswith("/responses")]
    assert [int(sent) for *_, sent in pairs] == [request.body_bytes for request in turns]
    assert all(request.body["stream"] for request in turns)
    listed = re.findall(r"^  (system|user|assistant) +(.*)$", told, re.MULTILINE)
    assert len(listed) == 6 + 10
    assert listed[-8:] == [
        said
        for question, answer, _ in answers
        for said in (("user", question), ("assistant", answer))
    ]


def test_it_leaves_nothing_behind(server):
    told = demo(DASHSCOPE_API_KEY="any", DASHSCOPE_BASE_URL=server.base_url)
    (conversation_id,) = set(re.findall(r"conv_\w+", told))
    assert server.items(conversation_id) == []
    requests = asked(server)
    assert requests.count("DELETE /responses/*") == requests.count("POST /responses") == 4
    assert requests[-1] == "DELETE /conversations/*"
