"""What cannot work is refused before anything is sent, with what to do; nothing secret is told."""

import asyncio
import logging

import pytest
from conftest import KEY, MODEL, ainvoke, another_process, asked, invoke, said
from langchain_core.exceptions import (
    ModelAuthenticationError,
    ModelError,
    ModelInvalidRequestError,
    ModelRateLimitError,
)
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from pydantic import ValidationError

from langchain_qwen_conv import ChatQwenConv
from langchain_qwen_conv import errors as langchain_errors
from qwen_conv import QwenConversations, errors
from qwen_conv.offline import Fail, OfflineServer


def test_a_missing_key_says_where_it_is_looked_for(monkeypatch):
    monkeypatch.delenv("DASHSCOPE_API_KEY", raising=False)
    with pytest.raises(ValueError, match="DASHSCOPE_API_KEY"):
        ChatQwenConv(model=MODEL)


def test_a_key_of_another_region_says_so(take):
    with OfflineServer(api_keys=["another"]) as server:
        chat = ChatQwenConv(model=MODEL, api_key=KEY, base_url=server.base_url)
        with pytest.raises(errors.KeyRefusedError, match="Keys are of one region"):
            take(chat, "hi")


@pytest.mark.parametrize("settings", [{"region": "mars"}, {"base_url": "http://example.com"}])
def test_a_wrong_address_is_refused(settings):
    with pytest.raises(ValueError, match=r"no region|unencrypted"):
        ChatQwenConv(model=MODEL, api_key=KEY, **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"api_key": "another"},
        {"base_url": "https://example.com"},
        {"region": "cn-beijing"},
        {"default_headers": {"x": "y"}},
    ],
)
def test_a_setting_beside_a_hub_that_says_otherwise_is_refused(hub, settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))}: the hub"):
        ChatQwenConv(model=MODEL, conversations=hub, **settings)


@pytest.mark.parametrize("messages", [[], "", [SystemMessage("Be brief.")], [HumanMessage([])]])
@pytest.mark.parametrize("session", [None, "alice"])
def test_empty_input_is_refused(take, server, chat, messages, session):
    with pytest.raises(errors.UsageError, match=r"nothing to send|is empty"):
        take(chat, messages, session_id=session)
    assert asked(server) == []


@pytest.mark.parametrize(
    "messages",
    [
        ["\ud83d"],
        [SystemMessage("\ud83d"), HumanMessage("hi")],
        [HumanMessage("hi"), AIMessage("\ud83d"), HumanMessage("hi")],
        [HumanMessage([{"type": "hologram", "data": "x"}])],
    ],
)
@pytest.mark.parametrize("session", [None, "alice"])
def test_what_cannot_be_sent_is_refused_before_anything_is(take, server, chat, messages, session):
    with pytest.raises(errors.UsageError):
        take(chat, messages, session_id=session)
    assert asked(server) == []


def test_a_conversation_is_not_looked_for_before_the_messages_are(take, server, chat):
    with pytest.raises(errors.NotRepresentableError):
        take(chat, "\ud83d", conversation_id="conv_unknown")
    assert asked(server) == []


def test_rebasing_a_bare_conversation_is_refused(take, server, chat):
    with pytest.raises(errors.UsageError, match="session_id"):
        take(chat, "hi", conversation_id="conv_1", on_divergence="rebase")
    assert asked(server) == []


@pytest.mark.parametrize("given", ["", 0, 7, b"x", ["a"]])
def test_what_cannot_name_a_session_is_refused(take, server, chat, given):
    with pytest.raises(errors.UsageError, match="session_id is"):
        take(chat, "hi", session_id=given)
    assert asked(server) == []


def test_a_way_out_of_a_divergence_that_does_not_exist_is_refused(take, server, chat):
    with pytest.raises(errors.UsageError, match="'rebase', 'raise', 'ignore' or 'stateless'"):
        take(chat, "hi", session_id="alice", on_divergence="fork")
    assert asked(server) == []


@pytest.mark.parametrize(
    "name", ["model", "input", "conversation", "previous_response_id", "instructions", "stream"]
)
def test_what_a_turn_decides_cannot_be_said_in_extra_body(take, server, chat, name):
    with pytest.raises(errors.UsageError, match=f"extra_body holds '{name}'"):
        take(chat, "hi", extra_body={name: "x"})
    assert asked(server) == []


def test_a_missing_key_is_told_when_the_model_is_made(monkeypatch):
    monkeypatch.delenv("DASHSCOPE_API_KEY", raising=False)
    with pytest.raises(errors.MissingKeyError, match="DASHSCOPE_API_KEY"):
        ChatQwenConv(model=MODEL)


@pytest.mark.parametrize("key", ["sk-abc…def", "sk-abc\ndef", "sk abc"])
def test_a_key_that_was_not_copied_whole_is_refused_without_being_shown(key):
    with pytest.raises(errors.UsageError, match="copy it anew") as raised:
        ChatQwenConv(model=MODEL, api_key=key)
    assert key not in str(raised.value)


def test_an_unknown_argument_is_refused(take, server, chat):
    with pytest.raises(errors.UsageError, match="'response_format'"):
        take(chat, "hi", response_format={"type": "json_object"})
    assert asked(server) == []


# --- As LangChain's errors --------------------------------------------------------------------


def test_every_error_of_the_core_is_one_of_langchains_too():
    def below(kind):
        for one in kind.__subclasses__():
            if one.__module__ == "qwen_conv.errors":
                yield one
                yield from below(one)

    abstract = {errors.ServiceError, errors.NoReplyError}
    missing = [
        kind
        for kind in below(errors.QwenConvError)
        if kind not in abstract and kind not in langchain_errors._BOTH
    ]
    assert missing == []
    assert all(issubclass(both, ModelError) for both in langchain_errors._BOTH.values())


@pytest.mark.parametrize(
    ("fail", "core", "langchain", "alone", "in_conversation"),
    [
        (
            Fail("x", "InvalidApiKey", 401),
            errors.KeyRefusedError,
            ModelAuthenticationError,
            False,
            False,
        ),
        (Fail("x", "Throttling", 429), errors.RateLimitedError, ModelRateLimitError, True, True),
        (Fail("x", "InternalError", 500), errors.ServiceFailedError, ModelError, True, False),
        (
            Fail("x", "InvalidParameter", 400),
            errors.RequestRefusedError,
            ModelInvalidRequestError,
            False,
            False,
        ),
    ],
)
def test_langchain_retries_only_what_was_surely_not_stored(
    take, fail, core, langchain, alone, in_conversation
):
    def script(_context, _request):
        return fail

    with OfflineServer(script) as server:
        chat = ChatQwenConv(model=MODEL, api_key=KEY, base_url=server.base_url, max_retries=0)
        for session, retryable in ((None, alone), ("alice", in_conversation)):
            with pytest.raises(core) as raised:
                take(chat, "hi", session_id=session)
            assert isinstance(raised.value, langchain)
            assert raised.value.is_retryable is retryable


def test_a_turn_that_failed_is_sent_again_once_the_conversation_shows_that_it_is_not_there(take):
    with OfflineServer(lambda *_: Fail("x", "InternalError", 500)) as server:
        hub = another_process(server, settle_timeout=0)
        chat = ChatQwenConv(model=MODEL, conversations=hub, max_retries=1)
        with pytest.raises(errors.ServiceFailedError):
            take(chat, "hi", session_id="alice")
        look = "GET /conversations/*/items"
        assert asked(server)[1:] == ["POST /responses", look, look, "POST /responses", look]


@pytest.mark.parametrize("take", [invoke, ainvoke])
def test_the_next_turn_after_one_that_failed_need_not_look(take, server, hub):
    chat = ChatQwenConv(model=MODEL, conversations=hub, session_id="alice")
    messages = [HumanMessage("one")]
    messages.append(take(chat, messages))
    messages.append(HumanMessage("two"))
    works, server.script = server.script, lambda _context, _request: Fail("x")
    with pytest.raises(errors.ServiceFailedError):
        take(chat, messages, max_retries=0)
    server.script = works
    server.requests.clear()
    messages.append(take(chat, messages))
    assert asked(server) == ["POST /responses"]
    assert len(said(server, messages[-1].response_metadata["conversation_id"])) == 4


def test_a_turn_that_waits_for_itself_is_told_so(hub):
    chat = ChatQwenConv(model=MODEL, conversations=hub, session_id="alice")
    open_turn = chat.stream("one two three")
    next(open_turn)
    with pytest.raises(errors.ConversationBusyError):
        chat.invoke("four")
    open_turn.close()

    async def asynchronously():
        open_turn = chat.astream("one two three")
        await anext(open_turn)
        with pytest.raises(errors.ConversationBusyError):
            await chat.ainvoke("four")
        await open_turn.aclose()

    asyncio.run(asynchronously())
    assert chat.invoke("four").text


# --- Secrets ----------------------------------------------------------------------------------


def test_the_key_is_told_nowhere(take, server, caplog):
    caplog.set_level(logging.DEBUG, "qwen_conv")
    hub = QwenConversations(api_key=KEY, base_url=server.base_url)
    chat = ChatQwenConv(model=MODEL, conversations=hub, session_id="alice")
    answer = take(chat, "hi")
    told = [repr(chat), str(chat), chat.model_dump_json(), repr(hub), repr(answer), caplog.text]
    told += [str(server.requests), str(hub.registry.get(hub.session("alice")))]
    assert KEY not in "".join(told)


def test_the_log_tells_what_was_decided_without_content(take, server, hub, caplog):
    caplog.set_level(logging.INFO, "qwen_conv")
    take(ChatQwenConv(model=MODEL, conversations=hub, session_id="alice"), "a private matter")
    (record,) = caplog.records
    assert "turn attached: conversation=conv_" in record.message
    assert "sent=1" in record.message
    assert "private" not in caplog.text


def test_an_error_about_settings_shows_none_of_them():
    with pytest.raises(ValidationError) as raised:
        ChatQwenConv(model=MODEL, api_key={"key": KEY})
    assert KEY not in str(raised.value)
