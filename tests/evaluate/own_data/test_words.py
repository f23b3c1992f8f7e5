"""Short answers are compared as words, by values computed by hand."""

from __future__ import annotations

import pytest

from janus_train.evaluate.own_data.words import answer_words, contains, f1, is_exact, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A Red, red apple!", ["a", "red", "red", "apple"]),
        ("It's 3.5 % (or -2), 1,000 at 10:30.", ["it's", "3.5", "or", "-2", "1,000", "at", "10:30"]),
        ("3-5", ["3", "5"]),
        ("state-of-the-art_model", ["state", "of", "the", "art", "model"]),
        ("红色的2只猫 cats", ["红", "色", "的", "2", "只", "猫", "cats"]),
        ("ＲＥＤ　Straße", ["red", "strasse"]),
        ("W2 and 5kg", ["w2", "and", "5", "kg"]),
        ("", []),
        ("+ !", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_articles_count_only_where_nothing_else_is_said() -> None:
    assert answer_words("The red one") == ["red", "one"]
    assert answer_words("A.") == ["a"] and answer_words("+") == ["+"] and answer_words(" ") == []


@pytest.mark.parametrize(
    ("answer", "truths", "exact", "within", "score"),
    [
        ("Red.", ["red"], True, True, 1.0),
        ("The colour is red", ["red"], False, True, 2 * 1 / (3 + 1)),
        ("a big red dog", ["big dog"], False, False, 2 * 2 / (3 + 2)),
        ("red red", ["red"], False, True, 2 * 1 / (2 + 1)),
        ("blue", ["red", "dark blue"], False, False, 2 * 1 / (1 + 2)),
        ("红色。", ["红色"], True, True, 1.0),
        ("红的", ["红色"], False, False, 0.5),
        ("scarlet", ["car"], False, False, 0.0),
        ("35", ["3.5"], False, False, 0.0),
        ("A", ["B"], False, False, 0.0),
        ("", ["red"], False, False, 0.0),
        ("-", ["+"], False, False, 0.0),
        ("+", ["+"], True, True, 1.0),
    ],
)
def test_an_answer_and_the_true_ones(answer: str, truths: list[str], exact: bool, within: bool, score: float) -> None:
    assert is_exact(answer, truths) is exact
    assert contains(answer, truths) is within
    assert f1(answer, truths) == pytest.approx(score)
