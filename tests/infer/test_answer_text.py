"""Pieces of an answer are never taken back, and together they are the answer up to its stop sequence."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from janus_train.infer.answer_text import AnswerText


def tokens_of(encoder, text):
    return encoder.ids(text)


def pieces(encoder, tokens, stop=()):
    """The pieces of `add` and of `rest`, and the answer's object after them."""
    text = AnswerText(encoder, stop)
    added = []
    for token in tokens:
        added.append(text.add(token))
        if text.has_ended:
            break
    return [*added, text.rest()], text


def cut(text, stop):
    """What should come: the text before the first stop sequence, without spaces around it."""
    text = text.lstrip()
    return text[: min([place for place in map(text.find, stop) if place >= 0], default=len(text))].rstrip()


@pytest.mark.parametrize(
    ("text", "stop"),
    [
        ("One, two, three", ()),
        ("  One, two \n", ()),
        ("苹果是红色的。 An apple", ()),
        ("One, two, three", ("two",)),
        ("One, two, three", ("three", "t")),
        ("One\n\nTwo", ("\n",)),
        ("One, two", (", three",)),
        ("One, t", (", two",)),
        ("aaab", ("aab",)),
        ("苹果是红色的", ("红",)),
        ("stop", ("stop",)),
    ],
)
def test_the_answer_ends_before_its_stop_sequence(encoder, text, stop):
    came, answer = pieces(encoder, tokens_of(encoder, text), stop)
    assert "".join(came) == cut(text, stop)
    assert answer.has_ended == any(s in text.lstrip() for s in stop)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(text=st.text("ab \né", max_size=20), stop=st.lists(st.text("ab \n", min_size=1, max_size=3), max_size=1))
def test_so_it_does_for_any_text_and_sequence(encoder, text, stop):
    came, _ = pieces(encoder, tokens_of(encoder, text), stop)
    assert "".join(came) == cut(text, stop)


def test_nothing_comes_that_may_become_a_stop_sequence(encoder):
    text = AnswerText(encoder, [" two"])
    came = [text.add(token) for token in encoder.ids("One") + encoder.ids(" t")]
    assert "".join(came) == "One"
    assert text.add(encoder.ids("x")[0]) == " tx"


def test_eos_ends_it_and_counts(encoder):
    tokens = encoder.ids("One")
    came, answer = pieces(encoder, [*tokens, encoder.special.eos, *tokens])
    assert "".join(came) == "One" and answer.has_ended and answer.num_tokens == len(tokens) + 1
