"""The numbers of the API are checked before anything is sent, and every message says what to do."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_conv import errors, limits
from qwen_conv.calls import CreateConversation, CreateItems, CreateResponse, ListItems, RetrieveItem
from qwen_conv.items import FunctionCall, Message

HELLO = Message.of("user", "hi")


def test_sixteen_metadata_pairs_of_the_full_size_are_taken():
    limits.checked_metadata({str(i).ljust(64, "k"): "v" * 512 for i in range(16)})


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({str(i): "v" for i in range(17)}, "at most 16 pairs, not 17"),
        ({"k" * 65: "v"}, "65 characters"),
        ({"": "v"}, "0 characters"),
        ({"k": "v" * 513}, "513 characters"),
        ({"k": 1}, "goes to a int"),
        ({"k": "\ud83d"}, "lone surrogate"),
    ],
)
def test_other_metadata_is_refused_with_the_reason(metadata, says):
    with pytest.raises(errors.UsageError, match=says):
        CreateConversation(metadata=metadata)


def test_a_request_carries_twenty_items_and_no_more():
    CreateItems("conv_1", (HELLO,) * 20)
    with pytest.raises(errors.UsageError, match="not 21"):
        CreateItems("conv_1", (HELLO,) * 21)
    with pytest.raises(errors.UsageError, match="not 0"):
        CreateItems("conv_1", ())


def test_only_messages_can_be_created():
    with pytest.raises(errors.UsageError, match="FunctionCall"):
        CreateItems("conv_1", (FunctionCall("c", "f", "{}"),))


@pytest.mark.parametrize(
    "given", ["", "alice", "conv_", "conv_a/../b", "conv_a b", "msg_1", None, 7]
)
def test_what_is_no_conversation_id_never_enters_a_path(given):
    with pytest.raises(errors.UsageError, match="session_id"):
        ListItems(given)


@pytest.mark.parametrize("given", ["", "a/b", "a?b", "../x", "..", "a%2fb", "a b", "a\n", None])
def test_what_is_no_item_id_never_enters_a_path(given):
    with pytest.raises(errors.UsageError, match="as the service returned it"):
        RetrieveItem("conv_1", given)


@pytest.mark.parametrize("given", ["msg_1", "msg:1==", "é", "1.0"])
def test_any_other_id_is_taken_as_the_service_gave_it_and_quoted(given):
    path = RetrieveItem("conv_1", given).path
    assert path == f"/conversations/conv_1/items/{quote(given, safe='')}"


@pytest.mark.parametrize("limit", [0, -1, 101])
def test_a_page_has_1_to_100_items(limit):
    with pytest.raises(errors.UsageError, match="1 to 100"):
        ListItems("conv_1", limit=limit)


def test_a_turn_follows_a_conversation_or_a_response_not_both():
    with pytest.raises(errors.UsageError, match="not both"):
        CreateResponse("m", (HELLO,), conversation_id="conv_1", previous_response_id="r")


@given(st.floats(min_value=0, max_value=2, exclude_max=True))
def test_a_temperature_from_0_to_below_2_is_taken(value):
    limits.checked_sampling(temperature=value)


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": 2},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"top_p": 1.01},
        {"max_output_tokens": 15},
        {"stop": "word"},
        {"stop": [""]},
        {"stop": [1]},
    ],
)
def test_other_values_are_refused(values):
    with pytest.raises(errors.UsageError):
        limits.checked_sampling(**values)


@pytest.mark.parametrize(
    "url",
    [
        "https://dashscope-intl.aliyuncs.com/compatible-mode/v1/",
        "http://127.0.0.1:8000/v1",
        "http://localhost/v1",
        "http://[::1]:80/v1",
    ],
)
def test_an_encrypted_or_local_base_url_is_taken(url):
    assert limits.checked_base_url(url) == url.rstrip("/")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("dashscope.aliyuncs.com", "no base URL"),
        ("ftp://x/y", "no base URL"),
        ("http://example.com/v1", "unencrypted"),
        ("http://127.0.0.1.example.com/v1", "unencrypted"),
        ("https://user:secret@example.com/v1", "user or a password"),
    ],
)
def test_other_base_urls_are_refused(url, says):
    with pytest.raises(errors.UsageError, match=says) as raised:
        limits.checked_base_url(url)
    assert "secret" not in str(raised.value)


def test_plain_http_to_another_machine_can_be_asked_for():
    assert limits.checked_base_url("http://10.0.0.1/v1", allow_plain_http=True)
