"""A text ends before a stop word, in whatever pieces it comes."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qwen_conv.stops import Stop

letters = st.text("ab<|>", max_size=30)
stop_words = st.lists(st.text("ab<|>", min_size=1, max_size=4), max_size=3)


def passed(pieces, words):
    stop = Stop(words)
    return "".join([*[stop.feed(piece) for piece in pieces], stop.rest()])


def expected(text, words):
    return text[: min([text.find(word) for word in words if word in text], default=len(text))]


@given(st.lists(letters, max_size=8), stop_words)
@example(["<", "|end", "|>"], ["<|end|>"])
@example(["aab", "b"], ["abb"])
def test_the_text_ends_before_the_first_word(pieces, words):
    whole = expected("".join(pieces), words)
    assert passed(pieces, words) == whole or any(word in whole for word in words)
    assert not any(word in passed(pieces, words) for word in words)


@given(letters, stop_words)
def test_a_text_that_comes_whole_ends_before_the_first_word(text, words):
    assert passed([text], words) == expected(text, words)


@given(st.lists(letters, max_size=8))
def test_without_words_every_piece_passes_as_it_came(pieces):
    stop = Stop([])
    assert [stop.feed(piece) for piece in pieces] == pieces
    assert stop.rest() == ""


def test_a_piece_that_cannot_begin_a_word_is_passed_on_at_once():
    stop = Stop(["Observation:"])
    assert stop.feed("Thought. Obs") == "Thought. "
    assert stop.feed("ess") == "Obsess"


@pytest.mark.parametrize("pieces", [["a stop b"], ["a st", "op b"], list("a stop b")])
def test_nothing_passes_after_the_word(pieces):
    stop = Stop(["stop"])
    assert "".join(stop.feed(piece) for piece in pieces) + stop.rest() == "a "
    assert stop.reached
