"""DPG-Bench's prompts and questions are read as published."""

from __future__ import annotations

from pathlib import Path

import pytest

from janus_train.errors import UserError
from janus_train.evaluate.benchmarks.drawing.dpg_prompts import Question, read_dpg
from tests.evaluate.benchmarks.drawing.dpg_data import ROWS, TEXTS, write_csv, write_texts


def test_prompts_of_the_folder_get_the_questions_of_the_table(tmp_path: Path) -> None:
    write_texts(tmp_path)
    write_csv(tmp_path)
    data = read_dpg(tmp_path)
    assert {key: prompt.text for key, prompt in data.prompts.items()} == TEXTS
    assert data.prompts["cat"].questions == (
        Question(1, (), "entity - whole", "is there a cat?"),
        Question(2, (1,), "attribute - color", "is the cat black?"),
        Question(3, (1, 2), "relation - spatial", "is it on a mat, and asleep?"),
    )
    assert [each.wide_category for each in data.prompts["cat"].questions] == ["entity", "attribute", "relation"]
    assert not data.notes and data.table == tmp_path / "dpg_bench.csv"


def test_either_is_enough_to_draw(tmp_path: Path) -> None:
    write_texts(tmp_path / "texts")
    assert all(not prompt.questions for prompt in read_dpg(tmp_path / "texts").prompts.values())
    write_csv(tmp_path / "table")
    assert {key: prompt.text for key, prompt in read_dpg(tmp_path / "table").prompts.items()} == TEXTS
    with pytest.raises(UserError, match=r"has neither prompts/\*.txt nor dpg_bench.csv"):
        read_dpg(tmp_path)


def test_what_only_one_of_them_has_is_said(tmp_path: Path) -> None:
    write_texts(tmp_path, {"cat": TEXTS["cat"], "new": "A new one."})
    write_csv(tmp_path)
    data = read_dpg(tmp_path)
    assert sorted(data.prompts) == ["cat", "new"]
    assert data.notes == (
        "1 prompts have no questions in dpg_bench.csv, for example new",
        "1 items of dpg_bench.csv have no file in prompts, for example dog",
    )


def test_a_second_heading_is_passed_over_and_said(tmp_path: Path) -> None:
    write_csv(tmp_path, [["id", "words", "", "number", "", "tuple", "question"], *ROWS])
    data = read_dpg(tmp_path)
    assert data.notes == ("the first row of dpg_bench.csv is no question and was passed over",)
    assert sum(len(prompt.questions) for prompt in data.prompts.values()) == len(ROWS)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (0, "../cat", "row 3: '../cat' cannot name a file"),
        (0, "", "row 3: '' cannot name a file"),
        (1, " ", "row 3: it has no text"),
        (3, "two", r"row 3: proposition_id and dependency are not numbers: \('two', '1'\)"),
        (4, "1;2", "row 3: proposition_id and dependency are not numbers"),
        (4, "9", "cat: question 2 depends on 9, which the item does not have"),
        (3, "1", "cat: two of its questions have one proposition_id"),
        (5, "", "row 3 has no tuple"),
        (6, " ", "row 3 has no question_natural_language"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, column: int, value: str, message: str) -> None:
    rows = [list(row) for row in ROWS]
    rows[1][column] = value
    write_csv(tmp_path, rows)
    with pytest.raises(UserError, match=rf"dpg_bench\.csv: {message}") as error:
        read_dpg(tmp_path)
    assert "\n" not in str(error.value)


def test_other_broken_files_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "dpg_bench.csv").write_text("item_id,text\n1,a\n")
    with pytest.raises(UserError, match="has no column proposition_id"):
        read_dpg(tmp_path)
    write_csv(tmp_path, [ROWS[0][:4]])
    with pytest.raises(UserError, match="row 2 has too few fields"):
        read_dpg(tmp_path)
    write_texts(tmp_path, {"cat": " "})
    with pytest.raises(UserError, match=r"cat\.txt is empty"):
        read_dpg(tmp_path)
