"""Options, the question with them, and which option an answer means."""

from __future__ import annotations

import pytest

from janus_train.errors import UserError
from janus_train.evaluate.benchmarks.choices import choice_prompt, expected_letter, letter_of, options_of
from janus_train.evaluate.benchmarks.tables import Row
from tests.evaluate.benchmarks.making import short_protocol

OPTIONS = {"A": "a cat", "B": "a black cat", "C": "Vitamin D", "D": "two"}


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(B)", "B"),
        ("B.", "B"),
        ("B. a black cat", "B"),
        ("The answer is C.", "C"),
        ("A is correct", "A"),
        ("Option A, because of its ears.", "A"),
        ("A man is holding it", None),  # a word, no letter
        ("A or B", None),  # a tie is no answer
        ("E", None),  # no option
        ("a black cat", "B"),
        ("It is a black cat, I think.", "B"),  # "a cat" is not in it, and would be part of it
        ("a cat and two dogs", None),  # two options
        ("Vitamin D", "C"),  # the text of C, not the letter D
        ("twofold", None),
        ("I don't know", None),
        ("", None),
    ],
)
def test_the_letter_of_an_answer(answer: str, letter: str | None) -> None:
    assert letter_of(answer, OPTIONS) == letter


def test_a_text_inside_another_one_that_is_named_does_not_count() -> None:
    assert letter_of("I see a black cat here", {"A": "cat", "B": "black cat"}) == "B"
    assert letter_of("two", {"A": "two", "B": "Two."}) is None  # the same text twice


def row(**values: str) -> Row:
    return Row({"question": "Which?", **values}, (), "t.tsv: row 2")


def test_options_stand_in_columns_of_either_name() -> None:
    assert options_of(row(A="x", B="y", D="never read")) == {"A": "x", "B": "y"}
    assert options_of(row(choice_a="x", choice_b="y", choice_c="z")) == {"A": "x", "B": "y", "C": "z"}
    with pytest.raises(UserError, match="row 2: there are no options A and B"):
        options_of(row(A="x"))


def test_the_expected_letter_is_an_option() -> None:
    options = {"A": "x", "B": "y"}
    assert expected_letter(row(answer=" b "), options) == "B"
    with pytest.raises(UserError, match="row 2: the answer is 'C', the options are A, B"):
        expected_letter(row(answer="C"), options)
    with pytest.raises(UserError, match="row 2: there is no answer"):
        expected_letter(row(), options)


def test_the_question_is_that_of_deepseeks_adapter() -> None:
    request = "Answer with the option's letter from the given choices directly."
    assert choice_prompt("mmbench", row(hint="Look."), {"A": "x", "B": "{y}"}, short_protocol()) == (
        f"\nHint: Look.\nWhich?\nA. x\nB. {{y}}\n\n{request}"
    )
    assert choice_prompt("seed", row(), {"A": "x", "B": "y"}, short_protocol()) == f"\nWhich?\nA. x\nB. y\n\n{request}"
