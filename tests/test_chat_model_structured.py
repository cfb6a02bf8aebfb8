"""Structured output on a bound model: by a tool call, and the conversation goes on behind it."""

import asyncio

import pytest
from conftest import MODEL, another_process, said
from langchain_core.messages import AIMessage, HumanMessage
from pydantic import BaseModel, ValidationError
from typing_extensions import TypedDict

from langchain_qwen_conv import ChatQwenConv
from qwen_conv.offline import CallTool, OfflineServer

CALLED = {"name": "Bob", "age": 20}


class Person(BaseModel):
    """A person."""

    name: str
    age: int


class PersonDict(TypedDict):
    """A person."""

    name: str
    age: int


PERSON_SCHEMA = {
    "title": "Person",
    "description": "A person.",
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}
SCHEMAS = {"pydantic": Person, "TypedDict": PersonDict, "JSON schema": PERSON_SCHEMA}


def script(context, request):
    tools = request.get("tools")
    return CallTool(tools[0]["name"], CALLED) if tools else "He is 20."


@pytest.fixture(params=["invoke", "ainvoke", "stream", "astream"])
def run(request):
    """Runs a chain in one of the four ways; what a stream ends with."""

    async def last(pieces):
        return [piece async for piece in pieces][-1]

    return {
        "invoke": lambda chain, given: chain.invoke(given),
        "ainvoke": lambda chain, given: asyncio.run(chain.ainvoke(given)),
        "stream": lambda chain, given: [*chain.stream(given)][-1],
        "astream": lambda chain, given: asyncio.run(last(chain.astream(given))),
    }[request.param]


@pytest.fixture
def chat(server, hub):
    server.script = script
    return ChatQwenConv(model=MODEL, conversations=hub, session_id="alice")


@pytest.mark.parametrize("kind", SCHEMAS)
def test_an_object_comes_in_the_form_that_was_asked_for(server, chat, run, kind):
    found = run(chat.with_structured_output(SCHEMAS[kind]), "Bob is 20.")
    assert found == (Person(**CALLED) if kind == "pydantic" else CALLED)
    (body,) = [one.body for one in server.requests if one.path == "/responses"]
    assert body["tool_choice"] == "required"
    assert "text" not in body


@pytest.mark.parametrize("kind", SCHEMAS)
def test_with_include_raw_the_answer_comes_beside_it(chat, kind):
    found = chat.with_structured_output(SCHEMAS[kind], include_raw=True).invoke("Bob is 20.")
    assert isinstance(found["raw"], AIMessage)
    assert found["raw"].response_metadata["decision"] == "attached"
    assert found["parsed"] == (Person(**CALLED) if kind == "pydantic" else CALLED)
    assert found["parsing_error"] is None


def test_what_does_not_fit_is_told_and_with_include_raw_kept(server, chat):
    server.script = lambda *_: CallTool("Person", {"name": "Bob", "age": "unknown"})
    with pytest.raises(ValidationError):
        chat.with_structured_output(Person).invoke("Bob is old.")
    found = chat.with_structured_output(Person, include_raw=True).invoke("Bob is old.")
    assert found["parsed"] is None
    assert found["parsing_error"] is not None


@pytest.mark.parametrize("stored_items", ["all", "messages"])
@pytest.mark.parametrize("process", ["this", "another"])
def test_the_conversation_goes_on_and_holds_question_and_answer(run, stored_items, process):
    with OfflineServer(script, stored_items=stored_items) as server:
        hub = another_process(server)
        chat = ChatQwenConv(model=MODEL, conversations=hub, session_id="alice")
        found = chat.with_structured_output(Person, include_raw=True).invoke("Bob is 20.")
        if process == "another":
            hub = another_process(server, registry=hub.registry)
            chat = ChatQwenConv(model=MODEL, conversations=hub, session_id="alice")
        messages = [HumanMessage("Bob is 20."), found["raw"], HumanMessage("How old is he?")]
        run(chat, messages)
        conversation = hub.registry.get(hub.session("alice")).conversation_id
        assert said(server, conversation)[-2:] == ["user: How old is he?", "assistant: He is 20."]
        kinds = [item["type"] for item in server.items(conversation)]
        assert kinds.count("function_call") == (1 if stored_items == "all" else 0)
        run(chat, "And now?")
        assert said(server, conversation)[-2:] == ["user: And now?", "assistant: He is 20."]


# --- What else a turn can carry ---------------------------------------------------------------

SEEN = [
    {"type": "text", "text": "What is this?"},
    {"type": "image", "url": "https://example.com/a.png"},
    {"type": "image", "base64": "aGk=", "mime_type": "image/png"},
    {"type": "audio", "base64": "aGk=", "mime_type": "audio/wav"},
    {"type": "video", "url": "https://example.com/a.mp4"},
    {"type": "file", "url": "https://example.com/a.pdf"},
]
SENT = [
    {"type": "input_text", "text": "What is this?"},
    {"type": "input_image", "image_url": "https://example.com/a.png"},
    {"type": "input_image", "image_url": "data:image/png;base64,aGk="},
    {"type": "input_audio", "data": "aGk=", "format": "wav"},
    {"type": "input_video", "video_url": "https://example.com/a.mp4"},
    {"type": "input_file", "file_url": "https://example.com/a.pdf"},
]


def test_pictures_sounds_and_files_are_sent_once_and_shown_ever_after(server, chat, take):
    messages = [HumanMessage(SEEN)]
    messages.append(take(chat, messages))
    messages.append(HumanMessage("Are you sure?"))
    take(chat, messages)
    first, second = [one.body["input"] for one in server.requests if one.path == "/responses"]
    assert first[0]["content"] == SENT
    assert second == "Are you sure?"
    conversation = messages[1].response_metadata["conversation_id"]
    assert server.items(conversation)[0]["content"] == SENT


def test_the_session_cache_is_asked_for_by_a_header(server, take):
    chat = ChatQwenConv(
        model=MODEL,
        api_key="any",
        base_url=server.base_url,
        default_headers={"x-dashscope-session-cache": "enable"},
    )
    take(chat, "hi")
    assert server.requests[-1].headers["x-dashscope-session-cache"] == "enable"
