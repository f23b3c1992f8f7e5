"""Scores by group, and how they are rounded."""

from __future__ import annotations

import json

import pytest

from janus_train.evaluate.benchmarks.result import Result, Score, share_of, shares_by
from janus_train.evaluate.measures import interval
from janus_train.text import rounded


def test_shares_are_over_all_and_by_group() -> None:
    scores = shares_by("accuracy", [("b", True), ("a", False), ("b", False), ("b", True), ("", True)])
    assert [(score.group, score.right, score.n) for score in scores] == [("", 3, 5), ("a", 0, 1), ("b", 2, 3)]
    assert scores[2].value == pytest.approx(200 / 3)
    assert (scores[2].low, scores[2].high) == interval(2, 3)


def test_a_share_of_nothing_is_zero_and_says_nothing() -> None:
    assert share_of("precision", 0, 0) == Score("precision", 0.0, "", 0, 0, 0.0, 100.0)


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (62.25, 1, "62.3"),
        (62.35, 1, "62.4"),
        (0.25, 1, "0.3"),
        (62.249999, 1, "62.2"),
        (100.0, 1, "100.0"),
        (0.805, 2, "0.81"),
    ],
)
def test_halves_are_rounded_up(value: float, digits: int, text: str) -> None:
    assert rounded(value, digits) == text


def test_a_result_is_json() -> None:
    score = share_of("accuracy", 1, 2)
    values = json.loads(json.dumps(Result((score,), score, 3, "a note").values()))
    assert values["headline"] == values["scores"][0] and values["headline"]["value"] == 50.0
    assert (values["num_unparsed"], values["note"]) == (3, "a note")
