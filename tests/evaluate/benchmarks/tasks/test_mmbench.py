"""MMBench, vanilla and circular, against answers that are counted by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from janus_train.errors import UserError
from janus_train.evaluate.benchmarks.registry import get_tasks
from janus_train.evaluate.benchmarks.tables import read_rows
from janus_train.evaluate.benchmarks.tasks.mmbench import CircularMMBench, MMBench
from tests.evaluate.benchmarks.making import base64_png, short_protocol, write_tsv

TEXTS = ["red", "green", "blue"]


def row(index: int, rotation: int = 0, answer: int = 1) -> dict[str, object]:
    """A question with three options, of which number ``answer`` is right, ``rotation`` places further down."""
    moved = TEXTS[-rotation:] + TEXTS[:-rotation] if rotation else TEXTS
    return {
        "index": index + 1_000_000 * rotation,
        "question": "Which colour?",
        **dict(zip("ABC", moved, strict=True)),
        "answer": "ABC"[(answer + rotation) % 3],
        "category": "colours",
        "image": str(index) if rotation else base64_png(index),
    }


FILE = [row(4), row(4, 1), row(4, 2), row(5, 0, 0), row(5, 1, 0), row(5, 2, 0)]


def open_task(name: str, folder: Path, rows: list[dict[str, object]]):
    write_tsv(folder / "MMBench_DEV_EN.tsv", rows)
    [task] = get_tasks(name)
    return task.open(folder, short_protocol())


def test_vanilla_leaves_the_rotations_out_and_says_so(tmp_path: Path) -> None:
    task = open_task("mmbench", tmp_path, FILE)
    assert task.keys == ["4", "5"]
    lines = [
        {"key": "4", "category": "a", "options": dict(zip("ABC", TEXTS, strict=True)), "expected": "B", "answer": "B"},
        {"key": "5", "category": "b", "options": dict(zip("ABC", TEXTS, strict=True)), "expected": "A", "answer": "no"},
    ]
    result = task.score(lines, tmp_path)
    assert result.headline.value == 50.0 and result.num_unparsed == 1
    assert {score.group: score.value for score in result.scores} == {"": 50.0, "a": 100.0, "b": 0.0}
    assert result.note == "MMBench dev (en): 4 rows of other parts were left out."


def test_a_missing_letter_is_wrong_every_time() -> None:
    lines = [
        {
            "key": str(n),
            "category": "",
            "options": dict(zip("ABC", TEXTS, strict=True)),
            "expected": "A",
            "answer": "hm",
        }
        for n in range(200)
    ]
    result = MMBench().score(lines, Path())
    assert result.headline.right == 0 and result.num_unparsed == 200


def test_circular_asks_the_files_rotations_with_the_first_ones_image(tmp_path: Path) -> None:
    questions = CircularMMBench().questions(read_rows([write_tsv(tmp_path / "m.tsv", FILE)]), short_protocol())
    assert [question.key for question in questions] == ["4", "1000004", "2000004", "5", "1000005", "2000005"]
    assert [question.facts["expected"] for question in questions] == ["B", "C", "A", "A", "B", "C"]
    assert questions[1].images == questions[0].images


def test_rotations_that_are_not_in_the_file_are_those_that_would_be(tmp_path: Path) -> None:
    there, made = (
        CircularMMBench().questions(read_rows([write_tsv(tmp_path / "m.tsv", rows)]), short_protocol())
        for rows in (FILE, [row(4), row(5, 0, 0)])
    )
    assert [(q.key, q.text, q.facts) for q in made] == [(q.key, q.text, q.facts) for q in there]


def test_circular_counts_a_question_only_if_all_its_rotations_are_right() -> None:
    def line(key: int, answer: str) -> dict[str, object]:
        options = dict(zip("ABC", TEXTS, strict=True))
        return {"key": str(key), "category": "c", "options": options, "expected": "B", "answer": answer}

    lines = [line(1_000_001, "B"), line(1, "B"), line(2_000_001, "B.")]  # in any order
    lines += [line(2, "B"), line(1_000_002, "B"), line(2_000_002, "C")]  # one is wrong
    lines += [line(3, "A"), line(1_000_003, "B"), line(2_000_003, "B")]  # the vanilla one is wrong
    result = CircularMMBench().score(lines, Path())
    scores = {(score.name, score.group): score.right for score in result.scores}
    assert scores["circular accuracy", ""] == 1 and scores["vanilla accuracy", ""] == 2
    assert result.headline.name == "circular accuracy" and result.headline.n == 3


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (FILE[:2], "row 2: 2 rotations are there, 3 options need as many"),
        ([row(4) | {"index": "four"}], "row 2: the index is 'four', a whole number was expected"),
        ([row(4) | {"answer": "D"}], "row 2: the answer is 'D', the options are A, B, C"),
    ],
)
def test_a_wrong_row_is_one_line(tmp_path: Path, rows: list[dict[str, object]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_task("mmbench_circular", tmp_path, rows)
