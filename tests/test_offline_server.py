"""The offline server holds to the documents, seen through plain HTTP and through the SDK."""

import json
import re
import sqlite3
import urllib.error
import urllib.request
import uuid
from datetime import UTC, datetime

import openai
import pytest

from qwen_conv.offline import CallTool, Fail, OfflineServer, Think

MODEL = "qwen3.6-plus"
ALICE = (
    "Alice, a gentle and resilient woman, was born in Singapore. She is 20 years old, and her "
    "hobbies are music and chess."
)


@pytest.fixture
def sdk(server):
    with openai.OpenAI(api_key="any", base_url=server.base_url, max_retries=0) as client:
        yield client


def http(server, method, path, body=None, *, key="any", raw=None, base=None):
    """One plain HTTP request: status, headers, body."""
    data = raw if raw is not None else json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(  # noqa: S310 - loopback
        (base or server.base_url) + path, data, method=method
    )
    if key:
        request.add_header("Authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def called(server, method, path, body=None, **kwargs):
    status, _, told = http(server, method, path, body, **kwargs)
    return status, json.loads(told)


def message(text, role="user"):
    return {"type": "message", "role": role, "content": text}


@pytest.fixture
def conversation(server):
    return called(server, "POST", "/conversations", {})[1]["id"]


# --- Conversations ----------------------------------------------------------------------------


def test_a_conversation_is_created_with_or_without_a_body(server):
    for raw in (b"", b"{}"):
        status, _, told = http(server, "POST", "/conversations", raw=raw)
        assert status == 200
        assert json.loads(told)["object"] == "conversation"


def test_a_conversations_time_counts_milliseconds_and_a_responses_seconds(server):
    now = datetime.now(UTC).timestamp()
    _, conversation = called(server, "POST", "/conversations", {"metadata": {"topic": "demo"}})
    assert conversation["metadata"] == {"topic": "demo"}
    assert abs(conversation["created_at"] / 1000 - now) < 60
    _, response = called(server, "POST", "/responses", {"model": MODEL, "input": "hi"})
    assert abs(response["created_at"] - now) < 60
    listed = called(server, "GET", f"/responses/{response['id']}/input_items")[1]
    assert abs(listed["created_at"] / 1000 - now) < 60


def test_an_update_replaces_all_metadata(server, conversation):
    called(server, "POST", f"/conversations/{conversation}", {"metadata": {"a": "1", "b": "2"}})
    _, told = called(server, "POST", f"/conversations/{conversation}", {"metadata": {"c": "3"}})
    assert told["metadata"] == {"c": "3"}
    assert called(server, "POST", f"/conversations/{conversation}", {})[0] == 400


@pytest.mark.parametrize(
    "metadata",
    [{str(i): "v" for i in range(17)}, {"k" * 65: "v"}, {"k": "v" * 513}, {"k": 1}, ["k"]],
)
def test_metadata_over_its_limits_is_refused(server, metadata):
    status, told = called(server, "POST", "/conversations", {"metadata": metadata})
    assert (status, told["code"]) == (400, "InvalidParameter")


def test_created_items_come_back_as_a_list_without_object(server, conversation):
    items = [message("Alice's major is teacher education"), message("I see.", "assistant")]
    status, told = called(server, "POST", f"/conversations/{conversation}/items", {"items": items})
    assert status == 200
    assert set(told) == {"data", "first_id", "has_more", "last_id"}
    first, second = told["data"]
    assert first["content"] == [{"type": "input_text", "text": items[0]["content"]}]
    assert second["content"][0]["type"] == "output_text"
    assert (first["role"], first["status"], first["type"]) == ("user", "completed", "message")
    assert (told["first_id"], told["last_id"]) == (first["id"], second["id"])
    assert uuid.UUID(first["id"].removeprefix("msg_"))


@pytest.mark.parametrize(
    "items",
    [
        [message("x")] * 21,
        [],
        [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}],
        [{"role": "user", "content": "x"}],
        [message("x", "wizard")],
        [message("")],
        "x",
    ],
)
def test_items_that_the_documents_do_not_allow_are_refused(server, conversation, items):
    status, _ = called(server, "POST", f"/conversations/{conversation}/items", {"items": items})
    assert status == 400
    assert server.items(conversation) == []


def test_items_are_listed_newest_first_twenty_a_page_unless_asked_otherwise(server, conversation):
    for start in (0, 20):
        items = [message(str(number)) for number in range(start, start + 20)]
        called(server, "POST", f"/conversations/{conversation}/items", {"items": items})

    def page(query=""):
        told = called(server, "GET", f"/conversations/{conversation}/items{query}")[1]
        assert told["object"] == "list"
        return [int(item["content"][0]["text"]) for item in told["data"]], told

    numbers, told = page()
    assert (numbers, told["has_more"]) == ([*range(39, 19, -1)], True)
    numbers, told = page(f"?after={told['last_id']}")
    assert (numbers, told["has_more"]) == ([*range(19, -1, -1)], False)
    assert page("?order=asc&limit=3")[0] == [0, 1, 2]
    assert page("?order=asc&limit=100")[0] == [*range(40)]
    for wrong in ("limit=0", "limit=101", "limit=x", "order=up", "after=msg_unknown"):
        assert called(server, "GET", f"/conversations/{conversation}/items?{wrong}")[0] in {
            400,
            404,
        }


def test_items_are_retrieved_and_deleted_one_by_one(server, conversation):
    body = {"items": [message("a"), message("b")]}
    told = called(server, "POST", f"/conversations/{conversation}/items", body)[1]
    path = f"/conversations/{conversation}/items/{told['first_id']}"
    assert called(server, "GET", path) == (200, told["data"][0])
    assert called(server, "DELETE", path) == (
        200,
        {"deleted": True, "id": told["first_id"], "object": "conversation.item.deleted"},
    )
    assert called(server, "GET", path)[0] == called(server, "DELETE", path)[0] == 404


def test_a_deleted_conversation_is_gone(server, conversation):
    assert called(server, "DELETE", f"/conversations/{conversation}") == (
        200,
        {"deleted": True, "id": conversation, "object": "conversation.deleted"},
    )
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/items")):
        status, told = called(server, method, f"/conversations/{conversation}{path}")
        assert (status, told["message"]) == (
            404,
            f"Conversation with id '{conversation}' not found.",
        )


# --- Responses --------------------------------------------------------------------------------


def test_the_documents_first_example(sdk):
    conversation = sdk.conversations.create(items=[message(ALICE, "system")])
    answers = [
        sdk.responses.create(conversation=conversation.id, model=MODEL, input=question).output_text
        for question in ("How old is Alice?", "What are her hobbies?")
    ]
    assert answers == ["She is 20 years old, and her hobbies are music and chess."] * 2
    items = sdk.conversations.items.list(conversation.id, order="asc")
    assert [item.role for item in items] == ["system", "user", "assistant", "user", "assistant"]


def test_a_chain_of_responses_keeps_its_context_but_not_its_instructions(server, sdk):
    contexts = []

    def script(context, request):
        contexts.append([item["content"][0]["text"] for item in context])
        return "ok"

    server.script = script
    first = sdk.responses.create(model=MODEL, input="one", instructions="Be brief.")
    sdk.responses.create(model=MODEL, input="two", previous_response_id=first.id)
    assert contexts == [["Be brief.", "one"], ["one", "ok", "two"]]
    assert uuid.UUID(first.id)


def test_a_response_that_was_not_stored_cannot_be_followed_or_found(sdk):
    hidden = sdk.responses.create(model=MODEL, input="one", store=False)
    with pytest.raises(openai.BadRequestError, match="Not found previous_response_id"):
        sdk.responses.create(model=MODEL, input="two", previous_response_id=hidden.id)
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve(hidden.id)


def test_a_stored_response_is_retrieved_listed_and_deleted(server, sdk):
    response = sdk.responses.create(model=MODEL, input="one")
    assert sdk.responses.retrieve(response.id).output_text == response.output_text
    (item,) = sdk.responses.input_items.list(response.id)
    assert item.content[0].text == "one"
    assert called(server, "DELETE", f"/responses/{response.id}") == (
        200,
        {"deleted": True, "id": response.id},
    )
    assert called(server, "GET", f"/responses/{response.id}")[0] == 404


def test_conversation_and_previous_response_exclude_each_other_in_the_documents_words(
    server, conversation
):
    body = {"model": MODEL, "input": "x", "conversation": conversation, "previous_response_id": "r"}
    status, told = called(server, "POST", "/responses", body)
    assert status == 400
    assert told["message"] == (
        "Mutually exclusive parameters: Ensure you are only providing one of: "
        "previous_response_id or conversation."
    )


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"model": "gpt-4"}, "Unsupported model: 'gpt-4'"),
        ({"model": None}, "Unsupported model"),
        ({"input": ""}, "empty"),
        ({"input": []}, "empty"),
        ({"temperature": 2}, r"\[0,2\)"),
        ({"top_p": 0}, r"\(0,1\]"),
        ({"max_output_tokens": 15}, "greater than or equal to 16"),
        ({"store": "yes"}, "Must be a boolean"),
        ({"reasoning": {"effort": "bogus"}}, "Supported values"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "openai-compatible"),
        ({"conversation": "conv_unknown"}, "not found"),
    ],
)
def test_requests_are_refused_as_the_service_refuses_them(server, wrong, says):
    body = {"model": MODEL, "input": "hi", **wrong}
    status, told = called(server, "POST", "/responses", body)
    assert status in {400, 404}
    assert re.search(says, told["message"])
    assert uuid.UUID(told["request_id"])


def test_parameters_that_no_document_names_are_ignored(server):
    body = {"model": MODEL, "input": "hi", "bogus": 1, "text": {"format": {"type": "BOGUS"}}}
    assert called(server, "POST", "/responses", body)[0] == 200


def test_a_long_answer_is_cut_and_says_so(server):
    server.script = lambda _context, _request: "word " * 40
    body = {"model": MODEL, "input": "hi", "max_output_tokens": 16}
    _, told = called(server, "POST", "/responses", body)
    assert told["status"] == "incomplete"
    assert len(told["output"][0]["content"][0]["text"].split()) == 16


def test_an_unanswered_call_bars_the_next_turn_and_an_unknown_result_too(server, conversation):
    server.script = lambda _context, _request: CallTool("f", {}, "call_1")
    body = {"model": MODEL, "conversation": conversation, "input": "hi"}
    assert called(server, "POST", "/responses", body)[0] == 200
    status, told = called(server, "POST", "/responses", body)
    assert (status, "call_1" in told["message"]) == (400, True)
    unknown = [{"type": "function_call_output", "call_id": "call_2", "output": "x"}]
    assert called(server, "POST", "/responses", {**body, "input": unknown})[0] == 400
    server.script = lambda _context, _request: "ok"
    result = [{"type": "function_call_output", "call_id": "call_1", "output": "x"}]
    assert called(server, "POST", "/responses", {**body, "input": result})[0] == 200


def test_a_failed_turn_stores_nothing(server, conversation):
    server.script = lambda _context, _request: Fail("sorry")
    body = {"model": MODEL, "conversation": conversation, "input": "hi"}
    assert called(server, "POST", "/responses", body)[0] == 500
    assert called(server, "POST", "/responses", body)[0] == 500, "it is locked"
    assert server.items(conversation) == []


def test_items_and_responses_live_for_seven_days(server, sdk, conversation):
    response = sdk.responses.create(model=MODEL, input="one", conversation=conversation)
    server.clock.advance(days=6.9)
    sdk.responses.create(model=MODEL, input="two", conversation=conversation)
    server.clock.advance(days=0.2)
    texts = [item.content[0].text for item in sdk.conversations.items.list(conversation)]
    assert "one" not in texts
    assert "two" in texts
    assert sdk.conversations.retrieve(conversation).id == conversation
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve(response.id)
    with pytest.raises(openai.BadRequestError, match="Not found"):
        sdk.responses.create(model=MODEL, input="x", previous_response_id=response.id)


# --- Streams ----------------------------------------------------------------------------------


def test_events_are_framed_as_documented(server):
    body = {"model": MODEL, "input": "The sky is blue.", "stream": True}
    status, headers, told = http(server, "POST", "/responses", body)
    assert status == 200
    assert headers["Content-Type"] == "text/event-stream;charset=UTF-8"
    blocks = told.decode().strip().split("\n\n")
    kinds = []
    for number, block in enumerate(blocks):
        identity, kind, comment, data = block.split("\n")
        event = json.loads(data.removeprefix("data:"))
        assert identity == f"id:{number + 1}"
        assert kind == f"event:{event['type']}"
        assert comment == ":HTTP_STATUS/200"
        assert event["sequence_number"] == number
        kinds.append(event["type"].removeprefix("response."))
    assert [kind for i, kind in enumerate(kinds) if i == 0 or kind != kinds[i - 1]] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert b"[DONE]" not in told


def test_reasoning_streams_as_the_service_names_it(server):
    server.script = lambda _context, _request: [Think("let me see"), "ok"]
    body = {"model": MODEL, "input": "hi", "stream": True}
    told = http(server, "POST", "/responses", body)[2].decode()
    assert told.count("event:response.reasoning_text.delta") == 3
    assert "reasoning_summary" not in told


def test_an_error_of_a_streamed_request_comes_over_http_200(server):
    body = {"model": "gpt-4", "input": "hi", "stream": True}
    status, _, told = http(server, "POST", "/responses", body)
    assert status == 200
    last = json.loads(told.decode().strip().rsplit("data:", 1)[1])
    assert last["type"] == "response.failed"
    assert last["response"]["status"] == "failed"
    assert last["response"]["error"]["code"] == "InvalidParameter"


def test_the_sdk_reads_the_stream(sdk):
    with sdk.responses.create(model=MODEL, input="The sky is blue.", stream=True) as events:
        text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == "I was told nothing about that."


# --- Around ----------------------------------------------------------------------------------


def test_a_key_is_asked_for_and_any_will_do_unless_some_are_named(server):
    status, told = called(server, "POST", "/conversations", {}, key=None)
    assert (status, told["code"]) == (401, "InvalidApiKey")
    with OfflineServer(api_keys=["right"]) as strict:
        assert called(strict, "POST", "/conversations", {}, key="right")[0] == 200
        status, told = called(strict, "POST", "/conversations", {}, key="wrong")
        assert (status, told["message"]) == (401, "Invalid API-key provided.")


def test_other_paths_and_methods_are_refused_as_the_service_does(server):
    status, told = called(server, "GET", "/responses")
    assert (status, told["code"]) == (405, "Method Not Allowed")
    status, told = called(server, "POST", "/responses/bogus/sub", {})
    assert (status, told["code"], told["message"]) == (404, "Not Found", "Not support")
    assert called(server, "POST", "/conversations", raw=b"{")[0] == 400


def test_the_older_path_leads_to_the_same_conversations(server, conversation):
    base = server.base_url.replace(
        "/compatible-mode/v1", "/api/v2/apps/protocols/compatible-mode/v1"
    )
    assert called(server, "GET", f"/conversations/{conversation}", base=base)[0] == 200


def test_requests_are_remembered_without_the_key(server):
    called(server, "POST", "/conversations", {"metadata": {"a": "b"}}, key="sk-secret")
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/conversations")
    assert request.body == {"metadata": {"a": "b"}}
    assert request.body_bytes == len(b'{"metadata": {"a": "b"}}')
    assert "sk-secret" not in str(request)


def test_the_state_can_be_kept_in_a_file(tmp_path):
    path = tmp_path / "state.db"
    with OfflineServer(path=path) as server:
        made = called(server, "POST", "/conversations", {"items": [message("hi")]})[1]["id"]
    with OfflineServer(path=path) as server:
        (item,) = called(server, "GET", f"/conversations/{made}/items")[1]["data"]
        assert item["content"][0]["text"] == "hi"
    with sqlite3.connect(path) as state:
        assert state.execute("select count(*) from items").fetchone() == (1,)
    state.close()


@pytest.mark.parametrize(
    ("told", "question", "answer"),
    [
        (
            ALICE,
            "Where was Alice born?",
            "Alice, a gentle and resilient woman, was born in Singapore.",
        ),
        ("Alice's best friend is Bob", "Who is her best friend?", "Alice's best friend is Bob"),
        ("Is it? It is.", "Is it?", "It is."),
        ("The sky is blue.", "Why?", "I was told nothing about that."),
    ],
)
def test_the_responder_quotes_the_sentence_that_shares_most_with_the_question(
    server, told, question, answer
):
    body = {"model": MODEL, "input": [message(told), message(question)]}
    (item,) = called(server, "POST", "/responses", body)[1]["output"]
    assert item["content"][0]["text"] == answer


def test_a_client_that_goes_away_leaves_no_lock_behind(server, sdk, conversation):
    server.script = lambda _context, _request: "word " * 2000
    stream = sdk.responses.create(model=MODEL, input="hi", conversation=conversation, stream=True)
    next(iter(stream))
    stream.close()
    server.script = lambda _context, _request: "ok"
    for _ in range(1000):  # the server notices a little later
        try:
            answer = sdk.responses.create(model=MODEL, input="hi", conversation=conversation)
        except openai.BadRequestError as error:
            assert error.code == "conversation_locked"  # noqa: PT017
        else:
            break
    assert answer.output_text == "ok"
