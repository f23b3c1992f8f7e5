"""POPE's five measures, by split and over all, against answers whose measures are counted by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from janus_train.errors import UserError
from janus_train.evaluate.benchmarks.tables import read_rows
from janus_train.evaluate.benchmarks.tasks.pope import Pope
from tests.evaluate.benchmarks.making import pope_rows, short_protocol, write_tsv

ANSWERS = [  # splits, expected, answer
    (["random"], "yes", "Yes"),
    (["random"], "yes", "Yes, there is."),
    (["random"], "yes", "There is nothing."),  # neither yes nor no
    (["random"], "no", "yes"),
    (["random"], "no", "No."),
    (["popular"], "no", "No, yes"),  # both
    (["popular", "adversarial"], "yes", "no"),
]


def scores_of(answers) -> dict[tuple[str, str], float]:
    lines = [
        {"key": str(n), "splits": splits, "expected": expected, "answer": answer}
        for n, (splits, expected, answer) in enumerate(answers)
    ]
    result = Pope().score(lines, Path())
    return {(score.group, score.name): score.value for score in result.scores} | {
        ("", "unparsed"): result.num_unparsed,
        ("", "headline"): result.headline.value if result.headline else None,
    }


def test_the_measures_are_those_counted_by_hand() -> None:
    scores = scores_of(ANSWERS)
    # random: 2 hits, 3 answers yes, 3 expected yes, 3 of 5 right
    assert scores["random", "accuracy"] == pytest.approx(60)
    assert scores["random", "precision"] == pytest.approx(200 / 3)
    assert scores["random", "recall"] == pytest.approx(200 / 3)
    assert scores["random", "F1"] == pytest.approx(200 / 3)
    assert scores["random", "share of yes"] == pytest.approx(60)  # of the answers; 3 of 5 are expected by chance too
    # popular: no answer yes; one yes expected; none right
    assert [scores["popular", name] for name in ("accuracy", "precision", "recall", "F1", "share of yes")] == [0] * 5
    # over all: the row of two splits counts twice: 3 of 8 right, 3 answers yes, 2 hits, 5 expected yes
    assert scores["", "accuracy"] == pytest.approx(100 * 3 / 8)
    assert scores["", "precision"] == pytest.approx(200 / 3)
    assert scores["", "recall"] == pytest.approx(40)
    assert scores["", "F1"] == pytest.approx(50)  # 2 * (2/3) * (2/5) / (2/3 + 2/5)
    assert scores["", "unparsed"] == 2
    assert scores["", "headline"] == scores["random", "F1"]


def test_the_share_of_yes_is_that_of_the_answers_not_of_the_truth() -> None:
    assert scores_of([(["random"], "no", "yes")] * 4)["random", "share of yes"] == 100


def test_without_the_random_split_there_is_nothing_to_compare_with_the_papers() -> None:
    assert scores_of([(["popular"], "no", "no")])["", "headline"] is None


def test_the_trailing_request_is_taken_off_and_a_row_may_stand_for_two_splits(tmp_path: Path) -> None:
    rows = read_rows([write_tsv(tmp_path / "POPE.tsv", pope_rows())])
    questions = Pope().questions(rows, short_protocol())
    assert questions[3].text == (
        "\nIs there a dog number 3 in the image?\nAnswer the question using a single word or phrase."
    )
    assert questions[3].facts == {"splits": ["random", "popular"], "expected": "no"}
    assert questions[3].images == questions[0].images


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "maybe"}, "row 3: the answer is 'maybe', yes or no was expected"),
        ({"category": "rare"}, "row 3: the category is 'rare', one of random, popular, adversarial was expected"),
        ({"category": ""}, "row 3: there is no category"),
    ],
)
def test_a_wrong_row_is_one_line(tmp_path: Path, change: dict[str, str], message: str) -> None:
    rows = pope_rows()
    rows[1] |= change
    with pytest.raises(UserError, match=message):
        Pope().questions(read_rows([write_tsv(tmp_path / "POPE.tsv", rows)]), short_protocol())
