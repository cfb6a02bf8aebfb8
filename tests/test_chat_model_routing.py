"""Which conversation a call belongs to: what says so, and what never does."""

import asyncio
import pickle

import pytest
from conftest import MODEL, asked, said
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.messages import HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_core.tools import tool
from pydantic import ValidationError

from langchain_qwen_conv import ChatQwenConv
from qwen_conv import QwenConversations, errors, flows
from qwen_conv.offline import OfflineServer
from qwen_conv.registry import MemoryRegistry


@pytest.fixture
def conversation(hub):
    return hub.run(flows.create).id


@pytest.fixture
def other(hub):
    return hub.run(flows.create).id


def selecting(key, value):
    return {"configurable": {key: value}}


def where(answer):
    return answer.response_metadata.get("conversation_id")


# --- What selects -----------------------------------------------------------------------------


def test_a_field_selects(take, chat, hub, conversation):
    bound = ChatQwenConv(model=MODEL, conversations=hub, conversation_id=conversation)
    assert where(take(bound, "hi")) == conversation


def test_a_copy_of_the_model_selects(take, chat, conversation):
    assert where(take(chat.with_conversation(conversation), "hi")) == conversation
    bound = chat.with_conversation(conversation)
    assert where(take(bound.with_conversation(None), "hi")) is None


def test_an_argument_of_the_call_selects(take, chat, conversation):
    assert where(take(chat, "hi", conversation_id=conversation)) == conversation
    assert where(take(chat, "hi", session_id="alice"))


def test_an_argument_stands_above_config_and_field(take, chat, conversation, other):
    bound = chat.with_conversation(other)
    config = selecting("qwen_conversation_id", other)
    assert where(take(bound, "hi", config, conversation_id=conversation)) == conversation
    assert where(take(bound, "hi", config, conversation_id=None)) is None


def test_the_config_of_a_direct_call_selects(take, chat, conversation):
    assert where(take(chat, "hi", selecting("qwen_conversation_id", conversation))) == conversation


def test_the_config_stands_above_the_field(take, chat, conversation, other):
    bound = chat.with_conversation(other)
    assert where(take(bound, "hi", selecting("qwen_conversation_id", conversation))) == conversation


def test_the_config_of_a_chain_selects(take, chat, conversation):
    chain = ChatPromptTemplate.from_messages([("human", "{q}")]) | chat
    config = selecting("qwen_conversation_id", conversation)
    assert where(take(chain, {"q": "hi"}, config)) == conversation


def test_the_config_reaches_a_model_inside_a_function_of_a_chain(server, chat, conversation):
    def ask(question):
        return chat.invoke(question)

    chain = RunnableLambda(ask) | StrOutputParser()
    chain.invoke("hi", selecting("qwen_conversation_id", conversation))
    assert len(said(server, conversation)) == 2


def test_a_session_of_the_config_selects_for_a_model_with_a_hub_or_a_registry(take, server, chat):
    config = selecting("session_id", "alice")
    with_registry = ChatQwenConv(
        model=MODEL, api_key="any", base_url=server.base_url, registry=MemoryRegistry()
    )
    for model in (chat, with_registry):
        first = take(model, "hi", config)
        assert where(first)
        assert where(take(model, "again", config)) == where(first)


def test_the_config_selects_for_streamed_events(server, chat, conversation):
    config = selecting("qwen_conversation_id", conversation)

    async def events():
        return [event async for event in chat.astream_events("hi", config)]

    assert asyncio.run(events())
    assert len(said(server, conversation)) == 2


def test_nothing_that_wraps_the_model_drops_the_conversation(server, chat, conversation):
    def tool(city: str) -> str:
        """A tool."""
        return city

    bound = chat.with_conversation(conversation)
    wrapped = [
        bound.bind_tools([tool]),
        bound.bind(temperature=0.5),
        bound.with_config(tags=["x"]),
        bound.with_retry(),
        bound.with_fallbacks([chat]),
        bound.configurable_fields(temperature=ConfigurableField(id="t")),
    ]
    for one in wrapped:
        assert where(one.invoke("hi")) == conversation
    assert len(said(server, conversation)) == 2 * len(wrapped)


def test_the_conversation_can_be_a_configurable_field(chat, conversation, server):
    model = chat.configurable_fields(conversation_id=ConfigurableField(id="which"))
    assert where(model.invoke("hi", selecting("which", conversation))) == conversation
    assert where(model.invoke("hi")) is None


def test_a_model_remade_by_configurable_fields_keeps_its_hub(server):
    """Its own hub, too: a new one at every call would know nothing of the conversation."""
    chat = ChatQwenConv(
        model=MODEL, api_key="any", base_url=server.base_url, session_id="remade"
    ).configurable_fields(temperature=ConfigurableField(id="t"))
    messages = []
    for _ in range(3):
        messages.append(HumanMessage("hi"))
        messages.append(chat.invoke(messages, selecting("t", 0.5)))
    assert asked(server) == ["POST /conversations"] + ["POST /responses"] * 3


def test_a_bound_model_refuses_to_be_pickled_and_says_why(chat, conversation):
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(chat.with_conversation(conversation))


# --- What never selects -----------------------------------------------------------------------


def test_a_stamp_never_selects(take, chat, conversation):
    question = HumanMessage("hi")
    answer = take(chat.with_conversation(conversation), [question])
    assert where(take(chat, [question, answer, HumanMessage("again")])) is None


@pytest.mark.parametrize(
    "config",
    [
        {"metadata": {"qwen_conversation_id": "conv_1", "session_id": "alice"}},
        {"tags": ["conv_1"]},
        selecting("thread_id", "conv_1"),
        selecting("conversation_id", "conv_1"),
    ],
)
def test_neither_tracing_metadata_nor_a_thread_id_selects(take, chat, config):
    assert where(take(chat, "hi", config)) is None


def test_a_session_of_the_config_is_nothing_to_a_model_without_hub_and_registry(take, server):
    chat = ChatQwenConv(model=MODEL, api_key="any", base_url=server.base_url)
    assert where(take(chat, "hi", selecting("session_id", "alice"))) is None


def test_a_session_of_the_config_is_nothing_to_a_model_on_a_conversation(take, chat, conversation):
    bound = chat.with_conversation(conversation)
    assert where(take(bound, "hi", selecting("session_id", "alice"))) == conversation


# --- What cannot work -------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["", "alice", "conv_a/b", "resp_1"])
def test_what_is_no_conversation_id_is_refused_before_anything_is_sent(take, server, chat, wrong):
    for call in (
        lambda: ChatQwenConv(model=MODEL, api_key="any", conversation_id=wrong),
        lambda: chat.with_conversation(wrong),
        lambda: take(chat, "hi", conversation_id=wrong),
        lambda: take(chat, "hi", selecting("qwen_conversation_id", wrong)),
    ):
        with pytest.raises(ValueError, match="session_id"):
            call()
    assert asked(server) == []


def test_two_things_at_once_are_refused(take, server, chat, conversation):
    server.requests.clear()
    for call in (
        lambda: ChatQwenConv(
            model=MODEL, api_key="any", conversation_id=conversation, session_id="alice"
        ),
        lambda: take(chat, "hi", conversation_id=conversation, session_id="alice"),
        lambda: take(chat, "hi", conversation_id=conversation, previous_response_id="r"),
        lambda: take(chat.with_conversation(conversation), "hi", previous_response_id="r"),
    ):
        with pytest.raises(ValueError, match="conversation_id"):
            call()
    assert asked(server) == []


def test_a_misspelt_setting_is_refused(chat):
    with pytest.raises(ValidationError, match="conversation"):
        ChatQwenConv(model=MODEL, api_key="any", conversation="conv_1")
    with pytest.raises(errors.UsageError, match="'conversation'"):
        chat.invoke("hi", conversation="conv_1")


@pytest.mark.parametrize("status", ["404", "400"])
@pytest.mark.parametrize("deleted", [True, False])
def test_a_conversation_that_is_not_there_is_told_before_the_first_turn(take, deleted, status):
    with OfflineServer(missing_status=status) as server:
        hub = QwenConversations(api_key="any", base_url=server.base_url)
        gone = "conv_unknown"
        if deleted:
            gone = hub.run(flows.create).id
            hub.run(flows.delete, gone)
        chat = ChatQwenConv(model=MODEL, conversations=hub, conversation_id=gone)
        server.requests.clear()
        with pytest.raises(errors.ConversationNotFoundError, match="begin a new one"):
            take(chat, "hi")
        assert asked(server) == ["GET /conversations/*"]


def test_a_response_can_be_followed_by_hand(take, server, chat):
    hidden = chat.invoke("The sky is blue.", extra_body={"store": True})
    answer = take(
        chat, "Is the sky blue?", previous_response_id=hidden.response_metadata["response_id"]
    )
    assert answer.text == "The sky is blue."
    assert answer.response_metadata["decision"] == "chained"
    assert "conversation" not in server.requests[-1].body


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return city


@pytest.mark.parametrize(
    "select",
    [
        lambda chat: chat.bind(session_id="alice"),
        lambda chat: chat.with_config(configurable={"session_id": "alice"}),
        lambda chat: chat.with_config({"configurable": {"session_id": "alice"}}),
    ],
)
def test_what_is_bound_selects_the_conversation_with_tools_too(take, server, chat, select):
    answer = take(select(chat).bind_tools([weather]), "hi")
    assert answer.response_metadata["decision"] == "attached"
    assert take(select(chat), "hi").response_metadata["decision"] == "attached"


@pytest.mark.parametrize(
    "never", [lambda chat: chat.with_conversation(None), lambda chat: chat.bind(session_id=None)]
)
def test_a_model_on_no_conversation_is_moved_by_no_config(take, server, chat, never):
    chain = RunnableLambda(lambda text: text) | never(chat).bind_tools([weather])
    answer = take(chain, "hi", {"configurable": {"session_id": "alice"}})
    assert answer.response_metadata["decision"] == "stateless"


def test_a_session_of_none_leaves_the_models_own(take, server, hub):
    chat = ChatQwenConv(model=MODEL, conversations=hub, session_id="alice")
    answer = take(chat, "hi", {"configurable": {"session_id": None}})
    assert answer.response_metadata["decision"] == "attached"


@pytest.mark.parametrize(
    "choice", ["weather", {"type": "function", "function": {"name": "weather"}}, True]
)
def test_a_choice_of_tool_goes_out_in_the_form_of_the_responses_api(take, server, chat, choice):
    take(chat.bind_tools([weather], tool_choice=choice), "hi")
    assert server.requests[-1].body["tool_choice"] == "required"
    take(chat, "hi", tools=[weather], tool_choice=choice)
    assert server.requests[-1].body["tool_choice"] == "required"
    assert server.requests[-1].body["tools"][0]["name"] == "weather"


# --- Several turns ----------------------------------------------------------------------------


def questions(count):
    return [f"question {number}" for number in range(count)]


def in_order(server, conversation):
    return [line.removeprefix("user: ") for line in said(server, conversation)[::2]]


def test_a_batch_on_one_conversation_is_taken_in_order(server, chat, conversation):
    bound = chat.with_conversation(conversation)
    bound.batch(questions(6))
    assert in_order(server, conversation) == questions(6)
    assert [index for index, _ in bound.batch_as_completed(questions(3))] == [0, 1, 2]


def test_an_asynchronous_batch_on_one_conversation_is_taken_in_order(server, chat, conversation):
    bound = chat.with_conversation(conversation)

    async def batches():
        await bound.abatch(questions(6))
        return [index async for index, _ in bound.abatch_as_completed(questions(3))]

    assert asyncio.run(batches()) == [0, 1, 2]
    assert in_order(server, conversation) == questions(6) + questions(3)


def test_a_batch_stops_at_a_turn_that_fails_unless_it_is_asked_to_go_on(server, chat, conversation):
    bound = chat.with_conversation(conversation)
    with pytest.raises(errors.UsageError):
        bound.batch(["a", "\ud83d", "c"])
    assert in_order(server, conversation) == ["a"]
    answers = bound.batch(["d", "\ud83d", "f"], return_exceptions=True)
    assert [type(answer).__name__ for answer in answers][1] == "NotRepresentableError"
    assert in_order(server, conversation) == ["a", "d", "f"]


def test_a_batch_of_several_sessions_keeps_each_in_order(server, chat, hub):
    configs = [selecting("session_id", name) for name in ("a", "b", "a", "b")]
    answers = chat.batch(questions(4), configs)
    assert in_order(server, where(answers[0])) == ["question 0", "question 2"]
    assert in_order(server, where(answers[1])) == ["question 1", "question 3"]


def test_a_batch_without_conversations_is_an_ordinary_batch(chat):
    assert len(chat.batch(questions(4))) == 4
    assert len(asyncio.run(chat.abatch(questions(4)))) == 4
    assert sorted(index for index, _ in chat.batch_as_completed(questions(4))) == [0, 1, 2, 3]


def test_turns_asked_for_at_once_are_taken_one_after_another(server, chat, conversation):
    """The server refuses a second turn of a conversation while the first is being answered."""

    async def slowly(context, request):
        await asyncio.sleep(0.01)
        return "ok"

    server.script = slowly
    bound = chat.with_conversation(conversation)

    async def at_once():
        await asyncio.gather(*[bound.ainvoke(question) for question in questions(8)])

    asyncio.run(at_once())
    assert in_order(server, conversation) == questions(8)


# --- The cache --------------------------------------------------------------------------------


@pytest.fixture
def cache():
    set_llm_cache(InMemoryCache())
    yield
    set_llm_cache(None)


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_turn_of_a_conversation_never_comes_out_of_a_cache(server, chat, conversation, way):
    bound = chat.with_conversation(conversation)
    for _ in range(3):
        bound.invoke("continue") if way == "sync" else asyncio.run(bound.ainvoke("continue"))
    assert len(said(server, conversation)) == 6


@pytest.mark.usefixtures("cache")
def test_a_stateless_call_may_come_out_of_a_cache(server, chat):
    for _ in range(3):
        chat.invoke("continue")
    assert asked(server) == ["POST /responses"]
