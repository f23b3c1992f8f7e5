"""MMMU's reading of letters and of open answers, and its two layouts."""

from __future__ import annotations

from pathlib import Path

import pytest

from janus_train.errors import UserError
from janus_train.evaluate.benchmarks.questions import content
from janus_train.evaluate.benchmarks.registry import get_tasks
from janus_train.evaluate.benchmarks.tables import read_rows
from janus_train.evaluate.benchmarks.tasks.mmmu import Mmmu, is_open_answer, open_answers, read_letter
from tests.evaluate.benchmarks.making import base64_png, png, short_protocol, write_parquet, write_tsv

OPTIONS = {"A": "$6", "B": "$7 per unit", "C": "the price", "D": "none of them"}


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("(B) and not (C), so (B)", "B"),  # the last in brackets
        ("(A) looks like B ", "A"),  # brackets before spaces
        ("A or B or C here", "C"),  # the last between spaces
        ("I think it is $7 per unit here", "B"),  # the text, in an answer of more than five words
        ("it is $7 per unit", None),  # five words
        ("b", None),  # letters are capitals
        ("", None),  # the authors' evaluation would take one at random
    ],
)
def test_the_letter_that_stands_last(answer: str, letter: str | None) -> None:
    assert read_letter(answer, OPTIONS) == letter


@pytest.mark.parametrize(
    ("answer", "expected", "is_right"),
    [
        ("3.5", ["3.5"], True),
        ("The answer is 3.50 m", ["3.5"], True),
        ("x = 1,234", ["1234"], True),
        ("It is 0.333333", ["1/3", "0.33"], True),  # rounded to two places
        ("It is 0.338", ["0.33"], False),
        ("1.5e3", ["1500"], True),
        ("It is 13", ["3"], False),  # a number is not found inside another
        ("Therefore it is the Red Sea.", ["red sea"], True),
        ("The sea", ["red sea"], False),
        ("It is a box", ["a"], True),  # a single letter with a space beside it
        ("banana", ["a"], False),
        ("", ["3"], False),
    ],
)
def test_an_open_answer_contains_an_expected_one(answer: str, expected: list[str], is_right: bool) -> None:
    assert is_open_answer(answer, expected) == is_right


def test_what_an_answer_says_is_the_shortest_end_of_each_line_and_the_numbers_in_it() -> None:
    assert open_answers("So the result is 12 apples\nx = 4") == {"12 apples", 12.0, 4.0}
    assert open_answers("Twelve apples.") == {"twelve apples"}
    assert open_answers("2 + 2 = 4\nIt is done") == {"done"}  # an equals sign counts in the last line alone


def test_scores_are_by_subject() -> None:
    lines = [
        {"category": "Art", "options": OPTIONS, "expected": "A", "answer": "A"},
        {"category": "Art", "options": OPTIONS, "expected": "A", "answer": "no idea"},
        {"category": "Math", "expected": ["4"], "answer": "x = 4"},
    ]
    result = Mmmu().score(lines, Path())
    assert {score.group: (score.right, score.n) for score in result.scores} == {
        "": (2, 3),
        "Art": (1, 2),
        "Math": (1, 1),
    }
    assert result.num_unparsed == 1


HUB = [
    {
        "id": "validation_Art_1",
        "question": "Is <image 2> like <image 1>?",
        "options": "['yes', 'only <image 1>']",
        "answer": "B",
        "image_1": {"bytes": png(0), "path": "a.png"},
        "image_2": {"bytes": png(1), "path": "b.png"},
    },
    {
        "id": "validation_Math_2",
        "question": "How many? <image 1>",
        "options": "[]",
        "answer": "['4', 'four']",
        "image_1": {"bytes": png(2), "path": "c.png"},
        "image_2": None,
    },
    {
        "id": "dev_Art_1",
        "question": "Not asked",
        "options": "['a', 'b']",
        "answer": "A",
        "image_1": {"bytes": png(3), "path": "d"},
    },
]
TSV = [
    {
        "index": 1,
        "id": "validation_Art_1",
        "question": HUB[0]["question"],
        "A": "yes",
        "B": "only <image 1>",
        "answer": "B",
        "image": str([base64_png(0), base64_png(1)]),
        "category": "Art",
        "split": "validation",
    },
    {
        "index": 2,
        "id": "validation_Math_2",
        "question": HUB[1]["question"],
        "answer": "['4', 'four']",
        "image": base64_png(2),
        "category": "Math",
        "split": "validation",
    },
    {"index": 3, "id": "dev_Art_1", "question": "Not asked", "answer": "A", "image": base64_png(3), "split": "dev"},
]


@pytest.mark.parametrize("protocol", ["deepseek", "pro"])
def test_both_published_layouts_ask_the_same_and_leave_out_the_dev_set(tmp_path: Path, protocol: str) -> None:
    [mmmu] = get_tasks("mmmu")
    write_tsv(tmp_path / "tsv/MMMU_DEV_VAL.tsv", TSV)
    write_parquet(tmp_path / "hub/mmmu/Art/validation-00000-of-00001.parquet", HUB)
    opened = [mmmu.open(tmp_path / layout, short_protocol(protocol)) for layout in ("tsv", "hub")]
    assert [task.keys for task in opened] == [["validation_Art_1", "validation_Math_2"]] * 2
    assert opened[0].prompts_digest == opened[1].prompts_digest


def test_images_stand_where_question_and_options_name_them(tmp_path: Path) -> None:
    rows = read_rows([write_parquet(tmp_path / "m.parquet", HUB)])
    first, second = Mmmu().questions(rows[:2], short_protocol("pro"))
    text, images = content(first, short_protocol("pro"))
    request = "Answer with the option's letter from the given choices directly."
    place = "<image_placeholder>"
    assert text == f"\nIs {place} like {place}?\nA. yes\nB. only {place}\n\n{request}"
    assert images == (first.images[1], first.images[0], first.images[0])
    assert first.facts["category"] == "Art" and first.facts["expected"] == "B"
    assert second.text == "\nHow many? <image 1>\nAnswer the question directly."
    assert second.facts == {"category": "Math", "expected": ["4", "four"]}


def test_options_that_are_not_a_list_are_one_line(tmp_path: Path) -> None:
    rows = read_rows([write_parquet(tmp_path / "m.parquet", [HUB[0] | {"options": "[yes"}])])
    with pytest.raises(UserError, match=r"row 1: the options '\[yes' are not a list"):
        Mmmu().questions(rows, short_protocol())
