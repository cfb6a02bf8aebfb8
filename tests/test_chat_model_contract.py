"""What LangChain asks of an integration besides turns."""

import asyncio

import pytest
from conftest import KEY, MODEL
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.load import dumpd, dumps, load
from langchain_core.messages import HumanMessage
from langchain_core.prompts import (
    ChatPromptTemplate,
    HumanMessagePromptTemplate,
    PromptTemplate,
)
from langchain_core.runnables import RunnableSequence

from langchain_qwen_conv import ChatQwenConv, __version__


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("DASHSCOPE_API_KEY", KEY)
    monkeypatch.delenv("DASHSCOPE_BASE_URL", raising=False)


def test_settings_come_from_arguments_or_the_environment(monkeypatch):
    monkeypatch.setenv("DASHSCOPE_BASE_URL", "https://example.com/v1")
    chat = ChatQwenConv(model=MODEL)
    assert chat.api_key.get_secret_value() == KEY
    assert chat.base_url == "https://example.com/v1"
    chat = ChatQwenConv(model=MODEL, api_key="another", region="cn-beijing")
    assert chat.api_key.get_secret_value() == "another"
    assert chat.base_url == "https://dashscope.aliyuncs.com/compatible-mode/v1"


def test_the_usual_other_names_are_taken():
    chat = ChatQwenConv(model_name=MODEL, request_timeout=3, stop_sequences=["x"])
    assert (chat.model, chat.timeout, chat.stop) == (MODEL, 3, ["x"])


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
def test_a_model_survives_being_written_down_without_its_key():
    chat = ChatQwenConv(
        model=MODEL, conversation_id="conv_1", temperature=0.5, extra_body={"enable_thinking": True}
    )
    text = dumps(chat)
    assert KEY not in text
    again = read_back(chat)
    assert type(again) is ChatQwenConv
    for name in ("model", "conversation_id", "temperature", "extra_body", "base_url", "api_key"):
        assert getattr(again, name) == getattr(chat, name)


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
def test_a_chain_with_the_model_survives_being_written_down():
    chain = ChatPromptTemplate.from_messages([("human", "{q}")]) | ChatQwenConv(model=MODEL)
    again = read_back(chain)
    assert again.first == chain.first
    assert again.last.model == MODEL


def read_back(written):
    return load(
        dumpd(written),
        secrets_map={"DASHSCOPE_API_KEY": KEY},
        allowed_objects=[
            ChatQwenConv,
            RunnableSequence,
            ChatPromptTemplate,
            HumanMessagePromptTemplate,
            PromptTemplate,
        ],
        valid_namespaces=["langchain_qwen_conv"],
    )


def test_tracing_is_told_provider_model_and_settings():
    chat = ChatQwenConv(model=MODEL, temperature=0.5, max_tokens=100, stop=["x"])
    assert chat._get_ls_params() == {
        "ls_provider": "qwen",
        "ls_model_type": "chat",
        "ls_model_name": MODEL,
        "ls_temperature": 0.5,
        "ls_max_tokens": 100,
        "ls_stop": ["x"],
    }
    told = chat._get_ls_params(stop=["y"], model="qwen3-max", temperature=1.0)
    assert (told["ls_model_name"], told["ls_temperature"]) == ("qwen3-max", 1.0)
    assert told["ls_stop"] == ["y"]
    assert KEY not in str(chat._get_invocation_params())


def test_the_package_tells_its_version():
    assert ChatQwenConv(model=MODEL).metadata["lc_versions"]["qwen-conv"] == __version__


@pytest.mark.parametrize(
    ("model", "tokens"),
    [("qwen3.6-plus", 800_000), ("qwen3-max-2026-01-23", 209_715), ("qwen3.5-flash", 89_000)],
)
def test_a_known_model_has_a_profile(model, tokens):
    profile = ChatQwenConv(model=model).profile
    assert profile["max_input_tokens"] == tokens
    assert profile["tool_calling"] is True


def test_an_unknown_model_has_none_and_one_can_be_given():
    assert ChatQwenConv(model="qwen-of-tomorrow").profile is None
    assert ChatQwenConv(model="x", profile={"max_input_tokens": 5}).profile == {
        "max_input_tokens": 5
    }


class Listener(BaseCallbackHandler):
    def __init__(self):
        self.tokens, self.ends = [], []

    def on_llm_new_token(self, token, **_):
        self.tokens.append(token)

    def on_llm_end(self, response, **_):
        self.ends.append(response.generations[0][0].message)


def test_callbacks_hear_every_token_and_the_end(server, chat):
    listener = Listener()
    config = {"callbacks": [listener]}
    for _ in chat.stream("The sky is blue.", config):
        pass
    assert "".join(listener.tokens) == listener.ends[0].text
    assert listener.ends[0].response_metadata["decision"] == "stateless"


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
def test_streamed_events_of_the_newest_kind_tell_text_usage_and_stamp(server, chat):
    stream = chat.stream_events([HumanMessage("The sky is blue.")], version="v3", session_id="v3")
    message = stream.output
    assert message.text
    assert message.usage_metadata["total_tokens"] > 0
    assert message.response_metadata["stamp"]["item_ids"]

    async def asynchronously():
        stream = await chat.astream_events([HumanMessage("Is it?")], version="v3", session_id="v3")
        return await stream.output

    assert asyncio.run(asynchronously()).response_metadata["decision"] == "attached"


def test_it_is_a_chat_model_and_nothing_of_another_vendor():
    assert [kind.__module__.split(".")[0] for kind in ChatQwenConv.__mro__[:3]] == [
        "langchain_qwen_conv",
        "langchain_qwen_conv",
        "langchain_core",
    ]
    assert issubclass(ChatQwenConv, BaseChatModel)
