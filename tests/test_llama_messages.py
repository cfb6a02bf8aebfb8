"""LlamaIndex's messages and the core's items: a mirrored pair, and what it refuses aloud."""

import io
import json
from base64 import b64encode
from collections import OrderedDict
from threading import Lock
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.base.llms.types import (
    AudioBlock,
    CacheControl,
    CachePoint,
    ChatMessage,
    CitableBlock,
    CitationBlock,
    DocumentBlock,
    ImageBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
    VideoBlock,
)

from llamaindex_qwen_conv.messages import (
    copied,
    from_core,
    instructions,
    is_system,
    key,
    to_core,
)
from qwen_conv.errors import NotRepresentableError, UsageError
from qwen_conv.items import (
    FunctionCall,
    FunctionOutput,
    Image,
    Message,
    OtherItem,
    OtherPart,
    Reasoning,
    Refusal,
    Text,
    fingerprints,
    from_wire,
    said_together,
)
from qwen_conv.local import Entry, key_of

PNG = b"\x89PNG\r\n\x1a\n and so on"
PNG_URI = f"data:image/png;base64,{b64encode(PNG).decode()}"
WAV = b"RIFF\x24\x00\x00\x00WAVEfmt and so on"
WAV_64 = b64encode(WAV).decode()
CACHE = CachePoint(cache_control=CacheControl(type="ephemeral"))

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
some_words = words.filter(bool)
ids = st.text("abc123_", min_size=1, max_size=8)
names = st.text("abcdef_", min_size=1, max_size=10)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
arguments = st.dictionaries(words, values, max_size=3)
urls = st.sampled_from(
    [
        "https://example.com/a.png",
        "https://a",
        "HTTPS://A.example:443/x/../y",
        "no address",
        "ftp://x",
    ]
)
data_uris = st.one_of(
    st.binary(max_size=20).map(lambda data: f"data:image/png;base64,{b64encode(data).decode()}"),
    st.sampled_from(
        ["data:image/png;base64,AB==", "data:;base64,AAAA", "data:text/plain,x", "data:"]
    ),
)


# --- Laws -------------------------------------------------------------------------------------

texts = st.builds(Text, words)
calls = st.builds(
    FunctionCall,
    ids,
    names,
    arguments.map(json.dumps)
    | st.sampled_from(["", "{", '{"a": 1e999}', '{"a": NaN}', "[1]", "2"]),
)
answers = st.tuples(
    st.lists(st.builds(Reasoning, words), max_size=2),
    st.lists(
        st.builds(
            lambda *said: Message("assistant", said), texts | st.builds(Refusal, words), texts
        ),
        max_size=2,
    ),
    st.lists(calls, max_size=2, unique_by=lambda call: call.call_id),
).map(lambda parts: [item for part in parts for item in part])
shown = st.one_of(
    st.builds(Image, urls | data_uris, st.none() | st.just("low")),
    st.builds(OtherPart, urls.map(lambda url: {"type": "input_audio", "audio_url": url})),
    st.just(OtherPart({"type": "input_audio", "data": WAV_64, "format": "wav"})),
    st.builds(OtherPart, urls.map(lambda url: {"type": "input_video", "video_url": url})),
    st.builds(OtherPart, urls.map(lambda url: {"type": "input_video", "video_url": url, "fps": 2})),
    st.builds(OtherPart, urls.map(lambda url: {"type": "input_file", "file_url": url})),
)
told = st.one_of(
    st.tuples(st.builds(Text, some_words), st.lists(texts | shown, max_size=3)).map(
        lambda parts: [Message("user", (parts[0], *parts[1]))]
    ),
    st.builds(Message.of, st.sampled_from(["system", "developer"]), some_words).map(
        lambda one: [one]
    ),
    st.builds(FunctionOutput, ids, words).map(lambda one: [one]),
)


@given(answers | told)
def test_what_items_say_they_say_after_a_visit_to_llama_index(items):
    assert fingerprints(to_core(from_core(items))) == fingerprints(items)


@given(answers)
def test_an_answer_says_the_same_if_an_engine_keeps_only_its_content(items):
    """As `ContextChatEngine` does, which puts a message of `str(response)` into the memory."""
    message = from_core(items)
    spoken = [item for item in items if isinstance(item, Message)]
    again = ChatMessage(message.content, role="assistant")
    assert fingerprints(to_core(again)) == fingerprints(spoken)


def test_a_stored_conversation_comes_back_message_by_message():
    items = [
        Message.of("system", "be kind"),
        Message("user", (Text("look"), Image(PNG_URI))),
        Reasoning("hm"),
        Message.of("assistant", "I ask"),
        FunctionCall("c", "f", '{"a": 1}'),
        FunctionOutput("c", "42"),
        Message.of("assistant", "It is 42."),
    ]
    assert [from_core(group) for group in said_together(items)] == [
        ChatMessage("be kind", role="system"),
        ChatMessage([TextBlock(text="look"), ImageBlock(image=PNG)]),
        ChatMessage(
            [
                ThinkingBlock(content="hm"),
                TextBlock(text="I ask"),
                ToolCallBlock(tool_call_id="c", tool_name="f", tool_kwargs={"a": 1}),
            ],
            role="assistant",
        ),
        ChatMessage("42", role="tool", additional_kwargs={"tool_call_id": "c"}),
        ChatMessage("It is 42.", role="assistant"),
    ]


blocks = st.one_of(
    st.builds(TextBlock, text=words),
    st.builds(ThinkingBlock, content=words),
    st.just(CACHE),
    st.builds(CitableBlock, title=words, source=words, content=words),
)
media = st.one_of(
    st.builds(
        ImageBlock, url=st.just("https://example.com/a.png"), detail=st.none() | st.just("low")
    ),
    st.just(ImageBlock(image=PNG)),
    st.just(AudioBlock(audio=WAV)),
    st.builds(
        VideoBlock, url=st.just("https://example.com/a.mp4"), fps=st.none() | st.integers(1, 9)
    ),
    st.just(DocumentBlock(url="https://example.com/a.pdf")),
)
call_blocks = st.builds(
    ToolCallBlock, tool_call_id=ids, tool_name=names, tool_kwargs=arguments | st.just("{")
)
extras = st.dictionaries(words.filter(lambda name: name != "tool_calls"), values, max_size=2)


def with_words(found):
    """Blocks that say something: an empty message is refused."""
    return any(isinstance(block, TextBlock) and block.text for block in found)


messages = st.one_of(
    st.builds(
        ChatMessage,
        st.lists(blocks | media, min_size=1, max_size=4).filter(with_words),
        role=st.just("user"),
        additional_kwargs=extras,
    ),
    st.builds(
        ChatMessage,
        st.lists(st.builds(TextBlock, text=words) | blocks, max_size=4).filter(with_words),
        role=st.sampled_from(["user", "system", "developer"]),
        additional_kwargs=extras,
    ),
    st.builds(
        ChatMessage,
        st.lists(blocks | call_blocks, max_size=4),
        role=st.sampled_from(["assistant", "chatbot", "model"]),
        additional_kwargs=extras,
    ),
    st.builds(
        ChatMessage,
        st.lists(blocks, max_size=3),
        role=st.sampled_from(["tool", "function"]),
        additional_kwargs=st.builds(lambda call_id: {"tool_call_id": call_id}, ids),
    ),
)


@given(messages)
def test_the_quick_key_is_the_slow_one(message):
    assert key(message) == key_of(to_core(message))


@given(messages, messages)
def test_two_messages_have_one_key_only_if_they_say_the_same(one, other):
    assert (key(one) == key(other)) == (key_of(to_core(one)) == key_of(to_core(other)))


@given(messages)
def test_a_message_says_the_same_after_a_visit_to_a_database(message):
    again = ChatMessage.model_validate_json(message.model_dump_json())
    assert to_core(again) == to_core(message)
    assert key(again) == key(message)


@given(answers | told)
def test_what_comes_of_items_can_be_dumped(items):
    message = from_core(items)
    assert message.model_dump(mode="json")["role"] == message.role.value


@given(messages)
def test_a_copy_is_equal_and_is_dumped_the_same(message):
    copy = copied(message)
    assert copy == message
    assert copy.model_dump() == message.model_dump()
    assert copy.model_dump(exclude_unset=True) == message.model_dump(exclude_unset=True)


@given(messages)
def test_a_copy_shares_nothing_that_can_be_changed(message):
    before = message.model_copy(deep=True)
    copy = copied(message)
    copy.role = MessageRole.SYSTEM
    spoiled(copy.additional_kwargs)
    for block in copy.blocks:
        match block:
            case TextBlock():
                block.text += "!"
            case ThinkingBlock():
                block.additional_information["x"] = 1
            case ToolCallBlock(tool_kwargs=dict()):
                spoiled(block.tool_kwargs)
            case CitableBlock():
                block.content.clear()
    copy.blocks.append(TextBlock(text="more"))
    assert message == before


def spoiled(value):
    """Changes everything in a piece of JSON that can be changed."""
    match value:
        case dict():
            for one in value.values():
                spoiled(one)
            value["spoiled"] = True
        case list():
            for one in value:
                spoiled(one)
            value.append("spoiled")


# --- Forms ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "parts"),
    [
        (TextBlock(text="x"), [Text("x")]),
        (ImageBlock(url="https://a.example/i.png"), [Image("https://a.example/i.png")]),
        (
            ImageBlock(url="https://a.example/i", detail="low"),
            [Image("https://a.example/i", "low")],
        ),
        (ImageBlock(url=PNG_URI), [Image(PNG_URI)]),
        (ImageBlock(image=PNG), [Image(PNG_URI)]),
        (ImageBlock(image=b64encode(PNG), detail="high"), [Image(PNG_URI, "high")]),
        (ImageBlock(image=io.BytesIO(PNG)), [Image(PNG_URI)]),
        (
            ImageBlock(image=b"AAAA", image_mimetype="image/bmp"),
            [Image("data:image/bmp;base64,AAAA")],
        ),
        (
            AudioBlock(url="https://a.example/s"),
            [OtherPart({"type": "input_audio", "audio_url": "https://a.example/s"})],
        ),
        (
            AudioBlock(audio=WAV),
            [OtherPart({"type": "input_audio", "data": WAV_64, "format": "wav"})],
        ),
        (
            AudioBlock(audio=io.BytesIO(WAV)),
            [OtherPart({"type": "input_audio", "data": WAV_64, "format": "wav"})],
        ),
        (
            AudioBlock(audio=b"AAAA", format="mp3"),
            [OtherPart({"type": "input_audio", "data": "AAAA", "format": "mp3"})],
        ),
        (
            VideoBlock(url="https://a.example/v"),
            [OtherPart({"type": "input_video", "video_url": "https://a.example/v"})],
        ),
        (
            VideoBlock(url="https://a.example/v", fps=2),
            [OtherPart({"type": "input_video", "video_url": "https://a.example/v", "fps": 2})],
        ),
        (
            DocumentBlock(url="https://a.example/d"),
            [OtherPart({"type": "input_file", "file_url": "https://a.example/d"})],
        ),
        (
            CitableBlock(title="t", source="s", content=[TextBlock(text="x"), TextBlock(text="y")]),
            [Text("x"), Text("y")],
        ),
        (
            CitationBlock(title="t", source="s", cited_content="x", additional_location_info={}),
            [Text("x")],
        ),
        (ThinkingBlock(content="hm"), []),
        (CACHE, []),
    ],
)
def test_every_kind_of_block_that_the_service_takes_is_sent(block, parts):
    message = ChatMessage([TextBlock(text="look"), block])
    assert to_core(message) == (Message("user", (Text("look"), *parts)),)


def test_an_image_is_what_llama_index_makes_of_it_where_that_knows_its_kind():
    block = ImageBlock(image=PNG)
    assert to_core(ChatMessage([block])) == (Message("user", (Image(block.inline_url()),)),)


def test_files_are_read_from_their_path(tmp_path):
    picture, sound = tmp_path / "a.png", tmp_path / "a.wav"
    picture.write_bytes(PNG)
    sound.write_bytes(WAV)
    message = ChatMessage([ImageBlock(path=picture), AudioBlock(path=sound)])
    wav = OtherPart({"type": "input_audio", "data": WAV_64, "format": "wav"})
    assert to_core(message) == (Message("user", (Image(PNG_URI), wav)),)


def test_an_open_file_can_be_read_more_than_once():
    message = ChatMessage([ImageBlock(image=io.BytesIO(PNG))])
    assert to_core(message) == to_core(message)


CHAT_CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
OBJECT_CALL = SimpleNamespace(id="c", function=SimpleNamespace(name="f", arguments='{"a": 1}'))
RESPONSES_CALL = {"id": "fc_1", "call_id": "c", "name": "f", "arguments": '{"a": 1}'}
BLOCK_CALL = ToolCallBlock(tool_call_id="c", tool_name="f", tool_kwargs={"a": 1})
CALL = FunctionCall("c", "f", '{"a": 1}')


@pytest.mark.parametrize(
    ("message", "items"),
    [
        (ChatMessage("x"), (Message.of("user", "x"),)),
        (ChatMessage("x", role="system"), (Message.of("system", "x"),)),
        (ChatMessage("x", role="developer"), (Message.of("developer", "x"),)),
        (ChatMessage("x", role="assistant"), (Message.of("assistant", "x"),)),
        (ChatMessage("x", role="chatbot"), (Message.of("assistant", "x"),)),
        (ChatMessage("x", role="model"), (Message.of("assistant", "x"),)),
        (
            ChatMessage("x", role="tool", additional_kwargs={"tool_call_id": "c"}),
            (FunctionOutput("c", "x"),),
        ),
        (
            ChatMessage("x", role="function", additional_kwargs={"tool_call_id": "c"}),
            (FunctionOutput("c", "x"),),
        ),
        (
            ChatMessage([], role="tool", additional_kwargs={"tool_call_id": "c"}),
            (FunctionOutput("c", ""),),
        ),
        (ChatMessage("", role="assistant"), ()),
        (ChatMessage([], role="assistant"), ()),
        (ChatMessage([ThinkingBlock(content="hm"), TextBlock(text="")], role="assistant"), ()),
        (ChatMessage([TextBlock(text=""), TextBlock(text="")], role="assistant"), ()),
        (
            ChatMessage([BLOCK_CALL, TextBlock(text="x")], role="assistant"),
            (Message.of("assistant", "x"), CALL),
        ),
        (
            ChatMessage(
                [ToolCallBlock(tool_call_id="c", tool_name="f", tool_kwargs="{")], role="assistant"
            ),
            (FunctionCall("c", "f", "{"),),
        ),
        (
            ChatMessage([ToolCallBlock(tool_call_id="c", tool_name="f")], role="assistant"),
            (FunctionCall("c", "f", "{}"),),
        ),
        (ChatMessage("", role="assistant", additional_kwargs={"tool_calls": [CHAT_CALL]}), (CALL,)),
        (
            ChatMessage("", role="assistant", additional_kwargs={"tool_calls": [OBJECT_CALL]}),
            (CALL,),
        ),
        (
            ChatMessage("", role="assistant", additional_kwargs={"tool_calls": [RESPONSES_CALL]}),
            (CALL,),
        ),
        (ChatMessage("", role="assistant", additional_kwargs={"tool_calls": None}), ()),
    ],
)
def test_messages_of_every_kind_are_mapped(message, items):
    assert to_core(message) == items
    assert key(message) == key_of(items)


@pytest.mark.parametrize("legacy", [CHAT_CALL, OBJECT_CALL, RESPONSES_CALL])
def test_a_call_that_is_there_in_both_forms_is_sent_once(legacy):
    other = {**CHAT_CALL, "id": "d"}
    message = ChatMessage(
        [BLOCK_CALL], role="assistant", additional_kwargs={"tool_calls": [legacy, other]}
    )
    assert to_core(message) == (CALL, FunctionCall("d", "f", '{"a": 1}'))


@pytest.mark.parametrize("role", ["assistant", "system", "developer"])
def test_texts_are_joined_as_llama_index_shows_them(role):
    message = ChatMessage([TextBlock(text="a"), TextBlock(text=""), TextBlock(text="b")], role=role)
    (item,) = to_core(message)
    assert item == Message.of(role, message.content)


def test_a_tools_texts_are_joined_likewise():
    message = ChatMessage(
        [TextBlock(text="a"), TextBlock(text="b")],
        role="tool",
        additional_kwargs={"tool_call_id": "c"},
    )
    assert to_core(message) == (FunctionOutput("c", message.content),)


def test_a_users_texts_stay_parts():
    message = ChatMessage([TextBlock(text="a"), TextBlock(text="b")])
    assert to_core(message) == (Message("user", (Text("a"), Text("b"))),)


@pytest.mark.parametrize(
    ("role", "is_one"),
    [("system", True), ("developer", True), ("user", False), ("assistant", False), ("tool", False)],
)
def test_a_system_prompt_is_known_by_its_role(role, is_one):
    assert is_system(ChatMessage("x", role=role)) is is_one


def test_instructions_are_the_texts_with_blank_lines_between():
    messages = [ChatMessage("a", role="system"), ChatMessage("b", role="developer")]
    assert instructions(messages) == "a\n\nb"


# --- What a message shows ---------------------------------------------------------------------


def test_a_call_that_was_cut_off_keeps_its_words_and_never_becomes_a_call_without_arguments():
    (block,) = from_core([FunctionCall("c", "f", '{"amount": 5')]).blocks
    assert block == ToolCallBlock(tool_call_id="c", tool_name="f", tool_kwargs='{"amount": 5')


@pytest.mark.parametrize("items", [[], [Reasoning("hm")], [Message.of("assistant", "")]])
def test_an_answer_that_says_nothing_has_a_content_that_is_no_none(items):
    assert from_core(items).content == ""


def test_citations_are_shown_and_not_sent_back():
    cited = {"type": "url_citation", "url": "https://a"}
    message = from_core([Message("assistant", (Text("x", (cited,)),))])
    assert message.additional_kwargs == {"annotations": [cited]}
    assert to_core(message) == (Message.of("assistant", "x"),)


def test_a_refusal_is_said_and_marked():
    message = from_core([Message("assistant", (Refusal("no"),))])
    assert (message.content, message.additional_kwargs) == ("no", {"refusal": "no"})


SEARCH = {"type": "web_search_call", "id": "ws_1", "status": "completed"}
SOUND = {"type": "output_audio", "data": "AA"}
PICTURE = {"type": "input_image", "image_url": "https://a"}


@pytest.mark.parametrize(
    ("item", "shown"),
    [
        (OtherItem(SEARCH), SEARCH),
        (Message("assistant", (OtherPart(SOUND),)), SOUND),
        (Message("assistant", (Image("https://a"),)), PICTURE),
        (Message("critic", (Text("x"),)), {"type": "message", "role": "critic", "content": "x"}),
        (FunctionOutput("c", "x"), {"type": "function_call_output", "call_id": "c", "output": "x"}),
    ],
)
def test_what_an_answer_has_no_block_for_is_shown_and_not_sent_back(item, shown):
    message = from_core([item, Message.of("assistant", "x")])
    assert message.additional_kwargs == {"output_items": [shown]}
    assert to_core(message) == (Message.of("assistant", "x"),)
    assert key(message) == key_of(to_core(message))


@pytest.mark.parametrize(
    ("wire", "kind"),
    [
        ({"type": "hologram", "of": "x"}, "hologram"),
        ({"type": "input_image", "file_id": "f"}, "input_image"),
        ({"type": "input_audio", "data": "no base64", "format": "wav"}, "input_audio"),
        ({"type": "input_audio", "data": "", "format": "wav"}, "input_audio"),
        ({"type": "input_audio", "audio_url": "https://a", "more": 1}, "input_audio"),
        ({"type": "input_video", "video_url": "https://a", "fps": 0.5}, "input_video"),
        ({"type": "input_file", "file_url": ""}, "input_file"),
    ],
)
def test_what_a_user_said_is_never_sent_in_part(wire, kind):
    message = from_core(
        [from_wire({"role": "user", "content": [{"type": "input_text", "text": "x"}, wire]})]
    )
    assert (message.content, message.additional_kwargs) == ("x", {"output_items": [wire]})
    with pytest.raises(NotRepresentableError, match=kind):
        to_core(message)
    with pytest.raises(NotRepresentableError, match=kind):
        key(message)


@pytest.mark.parametrize(
    "url", ["https://a", "HTTPS://A.example", "not an address", "https://\ud83d"]
)
@pytest.mark.parametrize("kind", ["image", "audio", "video"])
def test_an_address_is_kept_letter_by_letter(url, kind):
    part = (
        Image(url) if kind == "image" else OtherPart({"type": f"input_{kind}", f"{kind}_url": url})
    )
    item = Message("user", (part,))
    assert to_core(from_core([item])) == (item,)


# --- What is refused --------------------------------------------------------------------------


def user(block):
    return ChatMessage([TextBlock(text="x"), block])


def assistant(block):
    return ChatMessage([TextBlock(text="x"), block], role="assistant")


def tool(block):
    return ChatMessage([block], role="tool", additional_kwargs={"tool_call_id": "c"})


A_PICTURE = ImageBlock(url="https://a.example/i.png")


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (user(VideoBlock(video=b"AAAA")), "'video' block.*url"),
        (user(DocumentBlock(data=b"AAAA")), "'document' block.*TextBlock"),
        (user(DocumentBlock(path="a.pdf")), "'document' block"),
        (user(ImageBlock(image=b"no picture at all")), "'image' block.*image_mimetype"),
        (user(ImageBlock()), "'image' block.*cannot be read"),
        (user(ImageBlock(image=io.BytesIO(b""))), "'image' block.*zero bytes"),
        (user(ImageBlock(image=io.StringIO("x"))), "'image' block.*'rb'"),
        (user(AudioBlock(audio=b"no sound at all")), "'audio' block.*format"),
        (user(AudioBlock()), "'audio' block"),
        (user(VideoBlock()), "'video' block"),
        (user(BLOCK_CALL), "'tool_call' block.*assistant"),
        (user(CitableBlock(title="t", source="s", content=[A_PICTURE])), "'citable' block.*text"),
        (
            user(
                CitationBlock(
                    title="t", source="s", cited_content=A_PICTURE, additional_location_info={}
                )
            ),
            "'citation' block.*text",
        ),
        (assistant(A_PICTURE), "assistant message.*'image' block.*text and tool calls"),
        (assistant(AudioBlock(audio=WAV)), "'audio' block"),
        (tool(A_PICTURE), "tool message.*'image' block.*only text"),
        (tool(BLOCK_CALL), "'tool_call' block"),
        (ChatMessage([A_PICTURE], role="system"), "system message.*'image' block.*only text"),
        (ChatMessage("x", role="tool"), "tool message.*tool_call_id"),
        (
            ChatMessage("x", role="function", additional_kwargs={"name": "f"}),
            "function message.*tool_call_id",
        ),
        (ChatMessage("x", role="tool", additional_kwargs={"tool_call_id": 5}), "tool_call_id"),
        (ChatMessage(""), "empty"),
        (ChatMessage([]), "empty"),
        (ChatMessage([ThinkingBlock(content="hm")]), "empty"),
        (ChatMessage("", role="system"), "empty"),
        (assistant(ToolCallBlock(tool_name="f", tool_kwargs={})), "'f' has no id"),
        (
            assistant(
                ToolCallBlock(tool_call_id="c", tool_name="f", tool_kwargs={"a": float("nan")})
            ),
            "JSON",
        ),
        (assistant(ToolCallBlock(tool_call_id="c", tool_name="f", tool_kwargs={"a": {1}})), "JSON"),
        (
            ChatMessage(
                "", role="assistant", additional_kwargs={"tool_calls": [{**CHAT_CALL, "id": None}]}
            ),
            "'f' has no id",
        ),
        (
            ChatMessage(
                "",
                role="assistant",
                additional_kwargs={"tool_calls": [{"id": "c", "name": "f", "input": {}}]},
            ),
            "ToolCallBlock",
        ),
        (
            ChatMessage("", role="assistant", additional_kwargs={"tool_calls": ["f()"]}),
            "ToolCallBlock",
        ),
        (ChatMessage("", role="assistant", additional_kwargs={"tool_calls": True}), "ToolCall"),
        (ChatMessage("x", role="assistant", additional_kwargs={"tool_calls": "f()"}), "ToolCall"),
    ],
)
def test_what_the_wire_has_no_place_for_is_refused_aloud(message, says):
    with pytest.raises(NotRepresentableError, match=says):
        to_core(message)
    with pytest.raises(NotRepresentableError, match=says):
        key(message)


def test_a_refusal_names_the_model_where_it_is_known():
    with pytest.raises(NotRepresentableError, match=r"'image' block.*qwen3\.6-plus"):
        to_core(assistant(A_PICTURE), "qwen3.6-plus")
    with pytest.raises(NotRepresentableError, match=r"'image' block.*qwen3\.6-plus"):
        instructions([ChatMessage([A_PICTURE], role="system")], "qwen3.6-plus")


def test_a_file_that_is_gone_is_named(tmp_path):
    path = tmp_path / "gone.png"
    path.write_bytes(PNG)
    message = user(ImageBlock(path=path))
    path.unlink()
    with pytest.raises(NotRepresentableError, match=r"gone\.png"):
        to_core(message)


def test_a_role_that_llama_index_does_not_know_is_refused():
    message = ChatMessage("x")
    message.role = "wizard"
    with pytest.raises(NotRepresentableError, match="'wizard'"):
        to_core(message)


@pytest.mark.parametrize(
    "message",
    [
        ChatMessage("x"),
        ChatMessage("x", role="tool", additional_kwargs={"tool_call_id": "c"}),
        ChatMessage([BLOCK_CALL], role="assistant"),
        ChatMessage(
            [ToolCallBlock(tool_call_id="c", tool_name="f", tool_kwargs={"a": "x"})],
            role="assistant",
        ),
    ],
)
def test_half_a_character_is_refused_wherever_it_stands(message):
    for block in message.blocks:  # LlamaIndex takes none when a block is made
        if isinstance(block, TextBlock):
            block.text = "a\ud800b"
        else:
            block.tool_kwargs = {"a": "\ud83d"}
    with pytest.raises(NotRepresentableError, match="half of a character"):
        Entry(to_core(message))


# --- Copies -----------------------------------------------------------------------------------


class Carrying(dict):
    """A dict with something at its side, as a store may mark a message with."""

    def __init__(self, *args, ref=None):
        super().__init__(*args)
        self.ref = ref


@pytest.mark.parametrize("content", ["x", [TextBlock(text="x"), ThinkingBlock(content="hm")]])
@pytest.mark.parametrize("extra", [{}, {"a": [1]}, {"a": {1, 2}}])
def test_what_a_dict_of_its_own_kind_carries_is_left_with_the_original(content, extra):
    message = ChatMessage(content)
    message.additional_kwargs = Carrying(extra, ref=Lock())
    copy = copied(message)
    assert copy == message
    assert type(copy.additional_kwargs) is dict
    assert type(message.additional_kwargs) is Carrying


@pytest.mark.parametrize(
    "value",
    [{"a": {1: [2]}}, OrderedDict(a=[1]), ({"a": 1},), {1}, {"a": TextBlock(text="x")}, b"x"],
)
def test_what_is_not_json_is_copied_too(value):
    message = ChatMessage("x", additional_kwargs={"v": value})
    copy = copied(message)
    assert copy == message
    assert type(copy.additional_kwargs["v"]) is type(value)
    assert copy.additional_kwargs["v"] is not value or isinstance(value, bytes)


class Marked(ChatMessage):
    """A message of a kind of its own."""

    mark: list[int]


def test_a_message_of_a_kind_of_its_own_stays_one():
    message = Marked(content="x", mark=[1])
    copy = copied(message)
    assert copy == message
    assert type(copy) is Marked
    assert copy.mark is not message.mark


def test_what_cannot_be_copied_is_refused_aloud():
    with pytest.raises(UsageError, match=r"user message.*cannot be copied"):
        copied(ChatMessage("x", additional_kwargs={"lock": Lock()}))
