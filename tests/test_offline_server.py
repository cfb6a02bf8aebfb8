"""The offline server holds to the documents, seen through plain HTTP and through the SDK."""

import json
import re
import sqlite3
import urllib.error
import urllib.parse
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


def refused(answer, status=400, code="InvalidParameter"):
    """Whether an answer, as `called` returns it, is the flat envelope of a refusal."""
    got, told = answer
    assert (got, told["code"]) == (status, code), told
    assert set(told) == {"request_id", "code", "message"}
    assert uuid.UUID(told["request_id"])
    return told["message"]


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
    [{str(i): "v" for i in range(17)}, {"k" * 65: "v"}, {"k": "v" * 513}, {"k": 1}, ["k"], [], 0],
)
def test_metadata_over_its_limits_is_refused(server, conversation, metadata):
    for path in ("/conversations", f"/conversations/{conversation}"):
        refused(called(server, "POST", path, {"metadata": metadata}))
    assert called(server, "GET", f"/conversations/{conversation}")[1]["metadata"] == {}


def test_metadata_at_its_limits_is_kept(server):
    metadata = {f"{i:064}": "v" * 512 for i in range(16)}
    assert called(server, "POST", "/conversations", {"metadata": metadata})[1]["metadata"] == (
        metadata
    )


@pytest.mark.parametrize("body", [[1], "x", 0, False, []])
def test_a_body_that_is_no_object_is_refused(server, conversation, body):
    for path in ("/conversations", f"/conversations/{conversation}", "/responses"):
        refused(called(server, "POST", path, body))
    refused(called(server, "POST", f"/conversations/{conversation}/items", body))
    assert server.items(conversation) == []


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
        0,
        {},
        ["hi"],
        [None],
        [message("x"), "hi"],
        [message("x", ["x"])],
        [message("x", None)],
        [{**message("x"), "type": ["message"]}],
        [{"type": "message", "role": "user"}],
        [message(5)],
        [message({})],
        [message([])],
        [message(["x"])],
        [message([{"text": "x"}])],
        [message([{"type": "input_text"}])],
        [message([{"type": "input_text", "text": 5}])],
        [message([{"type": "input_text", "text": "x"}, {"type": "input_text", "text": None}])],
        [message([{"type": "input_image"}])],
    ],
)
def test_items_that_the_documents_do_not_allow_are_refused(server, conversation, items):
    refused(called(server, "POST", f"/conversations/{conversation}/items", {"items": items}))
    assert server.items(conversation) == []
    if items:  # a conversation may begin without any
        refused(called(server, "POST", "/conversations", {"items": items}))


def test_what_no_document_names_in_an_item_is_ignored(server, conversation):
    part = {"type": "input_text", "text": "x", "bogus": 1}
    body = {"items": [{**message([part]), "bogus": 1}], "bogus": [1]}
    assert called(server, "POST", f"/conversations/{conversation}/items", body)[0] == 200


@pytest.mark.parametrize(
    "raw",
    [
        rb"{",
        b"\xff",
        b"[" * 100_000,
        rb'{"metadata": {"k": "\ud83d"}}',
        rb'{"items": [{"type": "message", "role": "user", "content": "\ud83d"}]}',
        rb'{"items": [{"type": "message", "role": "user", "content": "x"}], "bogus": "\udca9"}',
        rb'{"bogus": NaN}',
        rb'{"bogus": 1e999}',
    ],
)
def test_a_body_that_is_no_json_or_holds_half_of_a_character_is_refused(server, conversation, raw):
    for path in ("/conversations", f"/conversations/{conversation}/items", "/responses"):
        refused(called(server, "POST", path, raw=raw))
    assert server.items(conversation) == []


def test_half_of_a_character_in_a_turn_is_refused_and_not_stored(server, conversation):
    body = {"model": MODEL, "input": "PUT", "conversation": conversation}
    raw = json.dumps(body).encode().replace(b"PUT", rb"\ud83d")
    assert "half of a character" in refused(called(server, "POST", "/responses", raw=raw))
    assert server.items(conversation) == []
    whole = json.dumps({**body, "input": "\U0001f4a9"}).encode()
    assert rb"\ud83d\udca9" in whole
    assert called(server, "POST", "/responses", raw=whole)[0] == 200


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
    assert page(f"?order=asc&limit=100&after={told['last_id']}")[0] == [*range(1, 40)]
    path = f"/conversations/{conversation}/items"
    refused(called(server, "GET", f"{path}?after=msg_unknown"), 404)


@pytest.mark.parametrize("limit", ["0", "101", "-1", "x", "", "1.0", "²", "٣", "9" * 5000])
def test_a_page_has_1_to_100_items(server, conversation, limit):
    query = urllib.parse.urlencode({"limit": limit})
    refused(called(server, "GET", f"/conversations/{conversation}/items?{query}"))
    refused(called(server, "GET", f"/conversations/{conversation}/items?order=up"))


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
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/input_items")):
        refused(called(server, method, f"/responses/{response.id}{path}"), 404)


def test_the_input_items_of_a_chain_are_all_that_the_model_was_shown(server, sdk):
    first = sdk.responses.create(model=MODEL, input="one")
    second = sdk.responses.create(model=MODEL, input="two", previous_response_id=first.id)
    path = f"/responses/{second.id}/input_items"
    texts = [
        [item["content"][0]["text"] for item in called(server, "GET", path + query)[1]["data"]]
        for query in ("", "?order=asc", "?limit=1")
    ]
    shown = ["one", first.output_text, "two"]
    assert texts == [shown[::-1], shown, ["two"]]
    last = called(server, "GET", f"{path}?limit=1")[1]
    assert last["has_more"]
    behind = called(server, "GET", f"{path}?after={last['last_id']}")[1]["data"]
    assert [item["content"][0]["text"] for item in behind] == shown[1::-1]
    refused(called(server, "GET", f"{path}?after=msg_unknown"), 404)


def test_a_conversation_is_named_as_a_text_or_as_an_object(server, conversation):
    for named in (conversation, {"id": conversation}):
        body = {"model": MODEL, "input": "x", "conversation": named}
        assert called(server, "POST", "/responses", body)[0] == 200
    assert len(server.items(conversation)) == 4


def test_conversation_and_previous_response_exclude_each_other_in_the_documents_words(
    server, conversation
):
    body = {"model": MODEL, "input": "x", "conversation": conversation, "previous_response_id": "r"}
    status, told = called(server, "POST", "/responses", body)
    assert (status, told["code"]) == (400, "InvalidParameter")
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
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, r'"function", "name"'),
        (
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
            r'"function", "name"',
        ),
        ({"tool_choice": "required"}, "exactly one tool"),
        ({"tool_choice": "required", "tools": [{"type": "web_search"}] * 2}, "exactly one tool"),
        ({"conversation": "conv_unknown"}, "not found"),
        ({"previous_response_id": "unknown"}, "Not found previous_response_id: unknown"),
    ],
)
def test_requests_are_refused_as_the_service_refuses_them(server, wrong, says):
    body = {"model": MODEL, "input": "hi", **wrong}
    status, told = called(server, "POST", "/responses", body)
    assert status in {400, 404}
    assert re.search(says, told["message"])
    assert uuid.UUID(told["request_id"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"input": [1]},
        {"input": {}},
        {"input": [{}]},
        {"input": None},
        {"input": 5},
        {"input": [{"type": ["x"]}]},
        {"input": [{"role": "user"}]},
        {"input": [{"content": "x"}]},
        {"input": [message(["x"])]},
        {"input": [message("x", "wizard")]},
        {"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]},
        {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": {}}]},
        {"input": [{"type": "function_call_output", "output": "x"}]},
        {"input": [{"type": "function_call_output", "call_id": ["c"], "output": "x"}]},
        {"input": [{"type": "function_call_output", "call_id": "c", "output": {"a": 1}}]},
        {"input": [{"type": "reasoning", "summary": ["x"]}, message("x")]},
        {"instructions": 5},
        {"temperature": "hot"},
        {"temperature": True},
        {"top_p": []},
        {"max_output_tokens": "20"},
        {"max_output_tokens": 20.5},
        {"reasoning": "high"},
        {"reasoning": {"effort": 1}},
        {"tools": "x"},
        {"tools": ["x"]},
        {"tools": [{"name": "f"}]},
        {"tools": [{"type": "function"}]},
        {"tools": [{"type": "function", "name": "no spaces"}]},
        {"tool_choice": 5},
        {"tool_choice": "f"},
        {"conversation": 5},
        {"conversation": {}},
        {"conversation": ""},
        {"previous_response_id": 5},
        {"stream": "yes"},
    ],
)
def test_a_turn_of_the_wrong_types_is_refused_and_not_stored(server, conversation, wrong):
    body = {"model": MODEL, "input": "hi", "conversation": conversation, **wrong}
    refused(called(server, "POST", "/responses", body))
    if "stream" not in wrong:
        streamed = http(server, "POST", "/responses", {**body, "stream": True})[2].decode()
        assert streamed.startswith("id:1\nevent:response.failed\n")
    assert server.items(conversation) == []


def test_every_item_that_the_documents_name_is_taken_as_input(server):
    image = {"type": "input_image", "image_url": "https://example.com/a.png"}
    body = {
        "model": MODEL,
        "instructions": "Be brief.",
        "input": [
            {"role": "developer", "content": "x"},
            {"role": "user", "content": [{"type": "input_text", "text": "x"}, image]},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "x"}]},
            {"type": "web_search_call", "id": "msg_1", "status": "completed", "action": {}},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "x"},
        ],
        "tools": [{"type": "function", "name": "f", "parameters": {}}, {"type": "bogus_tool"}],
        "tool_choice": {
            "type": "allowed_tools",
            "mode": "required",
            "tools": [{"type": "function", "name": "f"}],
        },
        "temperature": 1,
        "top_p": None,
        "reasoning": {"effort": "none", "summary": "BOGUS"},
    }
    status, told = called(server, "POST", "/responses", body)
    assert (status, told["usage"]["input_tokens"]) == (200, 8)


def test_parameters_that_no_document_names_are_ignored(server):
    body = {"model": MODEL, "input": "hi", "bogus": 1, "text": {"format": {"type": "BOGUS"}}}
    assert called(server, "POST", "/responses", body)[0] == 200


def test_a_long_answer_is_cut_and_says_so(server):
    server.script = lambda _context, _request: "word " * 40
    body = {"model": MODEL, "input": "hi", "max_output_tokens": 16}
    _, told = called(server, "POST", "/responses", body)
    assert told["status"] == "incomplete"
    assert len(told["output"][0]["content"][0]["text"].split()) == 16


def test_a_created_call_names_its_id():
    with OfflineServer(other_items="accepted") as server:
        client = openai.OpenAI(api_key="any", base_url=server.base_url)
        call = {"type": "function_call", "name": "f", "arguments": "{}"}
        created = client.conversations.create()
        with pytest.raises(openai.BadRequestError, match="call_id"):
            client.conversations.items.create(created.id, items=[call])


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


def test_where_only_messages_are_kept_a_tools_result_finds_no_call():
    with OfflineServer(stored_items="messages") as server:
        conversation = called(server, "POST", "/conversations")[1]["id"]
        server.script = lambda _context, _request: CallTool("f", {}, "call_1")
        body = {"model": MODEL, "conversation": conversation, "input": "hi"}
        assert called(server, "POST", "/responses", body)[0] == 200
        result = [{"type": "function_call_output", "call_id": "call_1", "output": "x"}]
        told = refused(called(server, "POST", "/responses", {**body, "input": result}))
        assert told.startswith("No tool call found")


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
    event, rest = told.decode().split("\n\n")
    assert rest == ""
    last = json.loads(event.rsplit("data:", 1)[1])
    assert (last["type"], last["sequence_number"]) == ("response.failed", 0)
    assert last["response"]["status"] == "failed"
    assert last["response"]["error"]["code"] == "InvalidParameter"


def test_the_sdk_reads_the_stream(sdk):
    with sdk.responses.create(model=MODEL, input="The sky is blue.", stream=True) as events:
        text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == "I was told nothing about that."


def cut(server, conversation):
    """Begins to read a long stream and goes away; when the conversation is free again."""
    body = {"model": MODEL, "conversation": conversation, "input": "hi", "stream": True}
    request = urllib.request.Request(  # noqa: S310 - loopback
        f"{server.base_url}/responses", json.dumps(body).encode(), {"Authorization": "Bearer any"}
    )
    with urllib.request.urlopen(request) as stream:  # noqa: S310
        stream.readline()
    server.script = lambda _context, _request: "ok"
    body = {**body, "input": "next", "stream": False}
    for _ in range(1000):  # the server notices a little later
        status, told = called(server, "POST", "/responses", body)
        if status == 200:
            return
        assert told["code"] == "conversation_locked"
    raise AssertionError("it stays locked")


@pytest.mark.parametrize(
    ("switch", "stored"), [("stored", ["hi", "word " * 20_000]), ("not_stored", [])]
)
def test_a_stream_that_is_cut_is_stored_as_the_switch_says(switch, stored):
    with OfflineServer(lambda _context, _request: "word " * 20_000, cut_stream=switch) as server:
        conversation = called(server, "POST", "/conversations")[1]["id"]
        cut(server, conversation)
        texts = [item["content"][0]["text"] for item in server.items(conversation)]
    assert texts == [*stored, "next", "ok"]


def test_a_stream_that_is_cut_before_it_fails_stores_no_answer(server, conversation):
    server.script = lambda _context, _request: ["word " * 20_000, Fail("sorry", after=19_000)]
    cut(server, conversation)
    assert len(server.items(conversation)) == 2


# --- Around ----------------------------------------------------------------------------------


def test_a_key_is_asked_for_and_any_will_do_unless_some_are_named(server):
    status, told = called(server, "POST", "/conversations", {}, key=None)
    assert (status, told["code"]) == (401, "InvalidApiKey")
    with OfflineServer(api_keys=["right"]) as strict:
        assert called(strict, "POST", "/conversations", {}, key="right")[0] == 200
        status, told = called(strict, "POST", "/conversations", {}, key="wrong")
        assert (status, told["message"]) == (401, "Invalid API-key provided.")


def test_other_paths_and_methods_are_refused_as_the_service_does(server):
    told = refused(called(server, "GET", "/responses"), 405, "Method Not Allowed")
    assert told == "Method 'GET' is not allowed for '/compatible-mode/v1/responses'."
    told = refused(called(server, "POST", "/responses/bogus/sub", {}), 404, "Not Found")
    assert told == "Not support"


@pytest.mark.parametrize("method", ["PUT", "PATCH", "OPTIONS", "TRACE", "BREW"])
def test_no_method_and_no_path_falls_out_of_the_envelope(server, conversation, method):
    for path in ("/conversations", f"/conversations/{conversation}", "/responses"):
        refused(called(server, method, path), 405, "Method Not Allowed")
    for path in ("/bogus", "/conversations/", "/conversations//items"):
        refused(called(server, method, path), 404, "Not Found")
    root = server.base_url.removesuffix("/compatible-mode/v1")
    refused(called(server, method, "/", base=root), 404, "Not Found")


def fails(_context, _request):
    raise RuntimeError("a bug of the script")


@pytest.mark.parametrize(
    "script",
    [fails, lambda _context, _request: None, lambda _context, _request: CallTool("f", {"a": {1}})],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_what_nobody_foresaw_becomes_an_envelope_and_leaves_no_lock(
    server, conversation, script, streamed
):
    server.script = script
    body = {"model": MODEL, "conversation": conversation, "input": "hi", "stream": streamed}
    for _ in range(2):
        told = refused(called(server, "POST", "/responses", body), 500, "InternalError")
    assert "Error: " in told
    assert server.items(conversation) == []


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
