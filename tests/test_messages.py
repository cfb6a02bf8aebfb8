"""LangChain's messages and the core's items: a mirrored pair, and what it refuses aloud."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
    messages_from_dict,
    messages_to_dict,
)
from langchain_openai.chat_models.base import _construct_responses_api_input

from langchain_qwen_conv import messages as mapping
from langchain_qwen_conv.messages import from_core, to_core
from qwen_conv.errors import NotRepresentableError
from qwen_conv.items import (
    FunctionCall,
    FunctionOutput,
    Image,
    Message,
    OtherPart,
    Reasoning,
    Text,
    fingerprints,
    to_wire,
)
from qwen_conv.local import key_of

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
ids = st.text("abc123_", min_size=1, max_size=8)
names = st.text("abcdef_", min_size=1, max_size=10)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
arguments = st.dictionaries(words, values, max_size=3)
calls = st.builds(FunctionCall, ids, names, arguments.map(json.dumps))
answers = st.tuples(
    st.lists(st.builds(Reasoning, words), max_size=1),
    st.lists(words.map(lambda text: Message.of("assistant", text)), max_size=2),
    st.lists(calls, max_size=2, unique_by=lambda call: call.call_id),
).map(lambda parts: [item for part in parts for item in part])

text_blocks = words.map(lambda text: {"type": "text", "text": text})
image_blocks = st.sampled_from(
    [
        {"type": "image", "url": "https://example.com/a.png"},
        {"type": "image", "base64": "AAAA", "mime_type": "image/png"},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
    ]
)
tool_calls = st.lists(
    st.fixed_dictionaries(
        {"name": names, "args": arguments, "id": ids, "type": st.just("tool_call")}
    ),
    max_size=2,
    unique_by=lambda call: call["id"],
)
some_words = words.filter(bool)
some_blocks = st.tuples(st.lists(text_blocks, max_size=2), image_blocks).map(
    lambda b: [*b[0], b[1]]
)
langchain_messages = st.one_of(
    st.builds(HumanMessage, some_words | some_blocks),
    st.builds(SystemMessage, some_words),
    st.builds(AIMessage, words | st.lists(text_blocks, max_size=3), tool_calls=tool_calls),
    st.builds(ToolMessage, words, tool_call_id=ids),
)


# --- Laws -------------------------------------------------------------------------------------


@given(answers)
def test_an_answer_says_the_same_after_a_visit_to_langchain(items):
    assert fingerprints(to_core(AIMessage(**from_core(items)))) == fingerprints(items)


@given(answers)
def test_an_answer_and_its_standard_blocks_say_the_same(items):
    message = AIMessage(**from_core(items))
    in_blocks = AIMessage(content=message.content_blocks, tool_calls=message.tool_calls)
    assert fingerprints(to_core(in_blocks)) == fingerprints(items)


@given(langchain_messages)
def test_a_message_says_the_same_after_a_visit_to_a_database(message):
    (again,) = messages_from_dict(messages_to_dict([message]))
    assert to_core(again) == to_core(message)


@given(langchain_messages)
def test_the_quick_key_is_the_slow_one(message):
    assert mapping.keys([message]) == (key_of(to_core(message)),)


@given(langchain_messages, langchain_messages)
def test_two_messages_have_one_key_only_if_they_say_the_same(one, other):
    same_key = len(set(mapping.keys([one, other]))) == 1
    assert same_key == (key_of(to_core(one)) == key_of(to_core(other)))


@given(langchain_messages)
def test_the_mapping_is_that_of_langchain_openai_but_for_its_form(message):
    """A differential test: theirs makes a message of each text of an answer, and leaves out
    what is empty; what is said, by whom and in which order, is the same."""
    theirs = [_plain(item) for item in _construct_responses_api_input([message])]
    ours = [_plain(to_wire(item)) for item in to_core(message)]
    assert _joined(ours) == _joined(theirs)


def _joined(items):
    texts = [part for item in items if item[0] == "message" for part in item[2]]
    roles = {item[1] for item in items if item[0] == "message" and item[2]}
    return roles, texts, [item for item in items if item[0] != "message"]


def _plain(wire):
    """An item without what only the form differs in."""
    match wire.get("type", "message"):
        case "message":
            content = wire["content"]
            parts = [content] if isinstance(content, str) else [*map(_plain_part, content)]
            # Theirs leaves empty texts out of lists, and writes out a missing image detail.
            return ("message", wire["role"], [part for part in parts if part])
        case "function_call":
            return ("function_call", wire["call_id"], wire["name"], json.loads(wire["arguments"]))
        case "function_call_output":
            output = wire["output"]
            text = output if isinstance(output, str) else "".join(o["text"] for o in output)
            return ("function_call_output", wire["call_id"], text)


def _plain_part(part):
    return part.get("text") if "text" in part else part.get("image_url")


# --- Forms ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "part"),
    [
        ({"type": "text", "text": "x"}, Text("x")),
        ("x", Text("x")),
        ({"type": "image", "url": "https://a"}, Image("https://a")),
        ({"type": "image_url", "image_url": "https://a"}, Image("https://a")),
        (
            {"type": "image_url", "image_url": {"url": "https://a", "detail": "low"}},
            Image("https://a", "low"),
        ),
        (
            {"type": "image", "base64": "AA", "mime_type": "image/png"},
            Image("data:image/png;base64,AA"),
        ),
        (
            {"type": "audio", "base64": "AA", "mime_type": "audio/wav"},
            OtherPart({"type": "input_audio", "data": "AA", "format": "wav"}),
        ),
        (
            {"type": "audio", "url": "https://a"},
            OtherPart({"type": "input_audio", "audio_url": "https://a"}),
        ),
        (
            {"type": "video", "url": "https://v"},
            OtherPart({"type": "input_video", "video_url": "https://v"}),
        ),
        (
            {"type": "file", "url": "https://f"},
            OtherPart({"type": "input_file", "file_url": "https://f"}),
        ),
        ({"type": "input_image", "image_url": "https://a"}, Image("https://a")),
        (
            {"type": "input_video", "video_url": "https://v", "fps": 2},
            OtherPart({"type": "input_video", "video_url": "https://v", "fps": 2}),
        ),
    ],
)
def test_every_kind_of_block_that_the_service_takes_is_sent(block, part):
    assert to_core(HumanMessage([block])) == (Message("user", (part,)),)


@pytest.mark.parametrize(
    ("message", "items"),
    [
        (SystemMessage("x"), (Message.of("system", "x"),)),
        (
            SystemMessage("x", additional_kwargs={"__openai_role__": "developer"}),
            (Message.of("developer", "x"),),
        ),
        (ChatMessage("x", role="user"), (Message.of("user", "x"),)),
        (AIMessage(""), ()),
        (AIMessageChunk("x"), (Message.of("assistant", "x"),)),
        (
            ToolMessage([{"type": "text", "text": "x"}], tool_call_id="c"),
            (FunctionOutput("c", "x"),),
        ),
        (
            AIMessage([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "x"}]),
            (Message.of("assistant", "x"),),
        ),
        (
            AIMessage(
                [{"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}}],
                tool_calls=[{"name": "f", "args": {"a": 1}, "id": "c"}],
            ),
            (FunctionCall("c", "f", '{"a": 1}'),),
        ),
        (
            AIMessage(
                "", invalid_tool_calls=[{"name": "f", "args": "{", "id": "c", "error": None}]
            ),
            (FunctionCall("c", "f", "{"),),
        ),
    ],
)
def test_messages_of_every_kind_are_mapped(message, items):
    assert to_core(message) == items


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (
            HumanMessage([{"type": "file", "base64": "AA", "mime_type": "application/pdf"}]),
            "'file'",
        ),
        (HumanMessage([{"type": "image", "file_id": "f"}]), "'image'"),
        (HumanMessage([{"type": "hologram"}]), "HumanMessage"),
        (AIMessage([{"type": "image", "url": "https://a"}]), "text and tool calls"),
        (ToolMessage([{"type": "image", "url": "https://a"}], tool_call_id="c"), "only text"),
        (SystemMessage([{"type": "image", "url": "https://a"}]), "only text"),
        (FunctionMessage("x", name="f"), "ToolMessage"),
        (ChatMessage("x", role="wizard"), "HumanMessage"),
        (RemoveMessage(id="x"), "RemoveMessage"),
        (AIMessage("", tool_calls=[{"name": "f", "args": {}, "id": None}]), "no id"),
        (
            AIMessage("", tool_calls=[{"name": "f", "args": {"a": float("nan")}, "id": "c"}]),
            "JSON",
        ),
        (AIMessage("", tool_calls=[{"name": "f", "args": {"a": {1}}, "id": "c"}]), "JSON"),
    ],
)
def test_what_the_wire_has_no_place_for_is_refused_aloud(message, says):
    with pytest.raises(NotRepresentableError, match=says):
        to_core(message)


@pytest.mark.parametrize(
    "message",
    [
        HumanMessage("\ud83d"),
        AIMessage("\udc00"),
        ToolMessage("a\ud800b", tool_call_id="c"),
        AIMessage("", tool_calls=[{"name": "f", "args": {"a": "\ud83d"}, "id": "c"}]),
        HumanMessage([{"type": "image", "url": "https://\ud83d"}]),
    ],
)
def test_half_a_character_is_refused_wherever_it_stands(message):
    with pytest.raises(NotRepresentableError, match="half of a character"):
        mapping.to_entry(message)
