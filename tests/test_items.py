"""The core's values: what goes over the wire comes back as it went."""

from hypothesis import given
from hypothesis import strategies as st

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
    input_to_wire,
    to_wire,
)

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
urls = st.sampled_from(["https://example.com/a.png", "data:image/png;base64,AAAA"])
citations = st.lists(
    st.fixed_dictionaries({"type": st.just("url_citation"), "url": urls}), max_size=2
)
parts = st.one_of(
    st.builds(Text, words, citations.map(tuple)),
    st.builds(Image, urls, st.sampled_from([None, "low"])),
    st.builds(Refusal, words),
    st.builds(OtherPart, st.fixed_dictionaries({"type": st.just("input_audio"), "data": words})),
)
messages = st.builds(
    Message,
    st.sampled_from(["user", "assistant", "system", "developer"]),
    st.lists(parts, max_size=4).map(tuple),
)
items = st.one_of(
    messages,
    st.builds(FunctionCall, words, words, words),
    st.builds(FunctionOutput, words, words),
    st.builds(Reasoning, words),
    st.builds(
        OtherItem, st.fixed_dictionaries({"type": st.just("web_search_call"), "status": words})
    ),
)


@given(items)
def test_every_item_comes_back_from_the_wire_as_it_went(item):
    assert from_wire(to_wire(item)) == item


@given(items)
def test_what_an_item_says_survives_the_wire(item):
    assert fingerprints([from_wire(to_wire(item))]) == fingerprints([item])


def test_a_plain_text_content_is_read_like_a_part():
    as_text = from_wire({"type": "message", "role": "user", "content": "hi", "id": "msg_1"})
    as_part = from_wire(
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}
    )
    assert as_text == as_part == Message.of("user", "hi")
    assert as_text.id == "msg_1"


def test_an_unknown_item_is_kept_as_it_came():
    wire = {"type": "web_extractor_call", "id": "msg_7", "urls": ["https://example.com"]}
    assert to_wire(from_wire(wire)) == wire


def test_a_single_question_goes_out_as_plain_text():
    assert input_to_wire([Message.of("user", "How old is Alice?")]) == "How old is Alice?"


def test_several_messages_go_out_as_a_list_without_their_type():
    assert input_to_wire([Message.of("user", "a"), Message.of("assistant", "b")]) == [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
    ]


def test_texts_of_one_answer_say_the_same_in_one_part_in_two_or_in_two_messages():
    whole = [Message.of("assistant", "ab")]
    parts = [Message("assistant", (Text("a"), Text("b")))]
    split = [Message.of("assistant", "a"), Reasoning("hm"), Message.of("assistant", "b")]
    assert fingerprints(whole) == fingerprints(parts) == fingerprints(split)


def test_an_answers_text_and_call_say_the_same_in_either_order():
    call = FunctionCall("c1", "f", '{"a": 1, "b": 2}')
    again = FunctionCall("c1", "f", '{"b":2,"a":1}')
    text = Message.of("assistant", "let me see")
    assert fingerprints([text, call]) == fingerprints([again, text])


@given(words.filter(bool), words.filter(bool))
def test_different_texts_say_different_things(one, other):
    same = fingerprints([Message.of("user", one)]) == fingerprints([Message.of("user", other)])
    assert same == (one == other)


@given(words.filter(bool))
def test_who_says_it_is_part_of_what_is_said(text):
    said = {fingerprints([Message.of(role, text)]) for role in ("user", "assistant", "system")}
    assert len(said) == 3
