"""MME's accuracy and accuracy+ per category and their sums, against answers that are counted by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from janus_train.errors import UserError
from janus_train.evaluate.benchmarks.tables import read_rows
from janus_train.evaluate.benchmarks.tasks.mme import CATEGORIES, Mme
from tests.evaluate.benchmarks.making import base64_png, png, short_protocol, write_parquet, write_tsv


def lines_of(category: str, *pairs: tuple[str, str]):
    """Answers to the two questions of each image, of which the first expects yes and the second no."""
    for number, (first, second) in enumerate(pairs):
        for expected, answer in (("yes", first), ("no", second)):
            yield {"category": category, "image": f"{number}.jpg", "expected": expected, "answer": answer}


def result_of(*lines):
    return Mme().score(list(lines), Path())


def by_name(result) -> dict[tuple[str, str], float]:
    return {(score.group, score.name): score.value for score in result.scores}


def test_a_category_adds_the_share_of_answers_and_that_of_whole_images() -> None:
    scores = by_name(result_of(*lines_of("color", ("Yes", "No"), ("yes", "yes"), ("maybe", "no"), ("no", "yes"))))
    assert scores["color", "accuracy"] == 50.0  # 4 of 8
    assert scores["color", "accuracy+"] == 25.0  # 1 of 4 images
    assert scores["color", "score"] == 75.0


def test_always_yes_gets_half_of_the_answers_and_no_image() -> None:
    assert by_name(result_of(*lines_of("count", ("Yes", "Yes"), ("Yes", "Yes"))))["count", "score"] == 50.0


def test_perception_is_the_sum_of_ten_categories_and_2000_at_most() -> None:
    perception = [line for category in CATEGORIES["perception"] for line in lines_of(category, ("Yes", "No"))]
    result = result_of(*perception)
    assert result.headline is not None and result.headline.value == 2000.0
    assert ("", "cognition") not in by_name(result) and "no sum of cognition" in result.note
    # one category at 50 + 0 instead of 200
    changed = [line | {"answer": "Yes"} if line["category"] == "scene" else line for line in perception]
    assert result_of(*changed).headline.value == 1850.0
    cognition = [line for category in CATEGORIES["cognition"] for line in lines_of(category, ("Yes", "No"))]
    assert by_name(result_of(*perception, *cognition))["", "cognition"] == 800.0


def test_the_same_image_name_in_two_categories_is_two_images() -> None:
    scores = by_name(result_of(*lines_of("color", ("Yes", "No")), *lines_of("count", ("No", "No"))))
    assert (scores["color", "accuracy+"], scores["count", "accuracy+"]) == (100.0, 0.0)


def test_unparsed_answers_are_counted() -> None:
    assert result_of(*lines_of("color", ("Perhaps", "No"), ("Yes and no", "No"))).num_unparsed == 2


def rows(n: int = 2) -> list[dict[str, object]]:
    return [
        {
            "index": number,
            "category": "OCR",
            "question": f"Is it {number}? Please answer yes or no.",
            "answer": ["Yes", "No"][number % 2],
            "image_path": f"{number // 2}.jpg",
            "image": base64_png(number // 2),
        }
        for number in range(n)
    ]


def test_both_published_layouts_make_the_same_pairs(tmp_path: Path) -> None:
    hub = [
        {"question_id": f"OCR/{row['image_path']}", "image": {"bytes": png(0), "path": None}, **row_text}
        for row in rows(4)
        for row_text in [{key: row[key] for key in ("category", "question", "answer")}]
    ]
    for path in (write_tsv(tmp_path / "MME.tsv", rows(4)), write_parquet(tmp_path / "m.parquet", hub)):
        questions = Mme().questions(read_rows([path]), short_protocol())
        assert len({question.facts["image"] for question in questions}) == 2
        assert len({question.key for question in questions}) == 4
        assert questions[1].text == (
            "\nIs it 1? Please answer yes or no.\nAnswer the question using a single word or phrase."
        )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (rows(3), r"row 4: OCR/1\.jpg has 1 questions, two were expected"),
        ([row | {"category": "smell"} for row in rows()], "row 2: 'smell' is no category of MME"),
        ([row | {"answer": "2"} for row in rows()], "row 2: the answer is '2', yes or no was expected"),
    ],
)
def test_a_wrong_row_is_one_line(tmp_path: Path, changed: list[dict[str, object]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Mme().questions(read_rows([write_tsv(tmp_path / "MME.tsv", changed)]), short_protocol())
