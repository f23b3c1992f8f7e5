"""The answers of DPG-Bench's scorer, from its own file and from JSON lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from janus_train.errors import UserError
from janus_train.evaluate.benchmarks.drawing.dpg_answers import read_answers
from janus_train.evaluate.benchmarks.drawing.dpg_prompts import DpgPrompt, read_dpg
from tests.evaluate.benchmarks.drawing.dpg_data import ROWS, write_csv
from tests.evaluate.benchmarks.drawing.geneval_data import write_lines

BOXES = ("(0, 0, 64, 64)", "(64, 0, 128, 64)", "(0, 64, 64, 128)", "(64, 64, 128, 128)")
CAT = ("is there a cat?", "is the cat black?", "is it on a mat, and asleep?")


@pytest.fixture
def prompts(tmp_path: Path) -> dict[str, DpgPrompt]:
    write_csv(tmp_path)
    return read_dpg(tmp_path).prompts


def detail(path: Path, *lines: str) -> Path:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def test_the_scripts_own_file_is_read(tmp_path: Path, prompts: dict[str, DpgPrompt]) -> None:
    answers = (("yes", "no", "yes"), ("no", "no", "no"), ("yes", "yes", "yes"), ("yes", "yes", "a mat, yes"))
    lines = [
        f"/far, away/images/cat.png, {box}, {question}, {answer}"
        for box, of_image in zip(BOXES, answers, strict=True)
        for question, answer in zip(CAT, of_image, strict=True)
    ]
    read = read_answers(detail(tmp_path / "x_detail.txt", *lines), prompts)
    assert read.incomplete == ()
    assert read.complete == {
        "cat": {
            0: {1: True, 2: False, 3: True},
            1: {1: False, 2: False, 3: False},
            2: {1: True, 2: True, 3: True},
            3: {1: True, 2: True, 3: False},  # only the word yes alone is yes
        }
    }


def test_json_lines_say_the_same(tmp_path: Path, prompts: dict[str, DpgPrompt]) -> None:
    lines = [{"prompt": "dog", "image": n, "question": 1, "answer": "yes" if n else "no"} for n in range(4)]
    read = read_answers(write_lines(tmp_path / "answers.jsonl", lines), prompts)
    assert read.complete == {"dog": {0: {1: False}, 1: {1: True}, 2: {1: True}, 3: {1: True}}}


def test_a_prompt_with_an_image_that_was_not_asked_everything_is_incomplete(
    tmp_path: Path, prompts: dict[str, DpgPrompt]
) -> None:
    lines = [f"cat.png, {BOXES[0]}, {question}, yes" for question in CAT]
    lines += [f"cat.png, {BOXES[1]}, {CAT[0]}, yes", f"dog.png, {BOXES[0]}, is there a dog?, no"]
    read = read_answers(detail(tmp_path / "x_detail.txt", *lines), prompts)
    assert read.incomplete == ("cat",) and list(read.complete) == ["dog"]


def test_questions_of_the_same_words_or_beginning_are_told_apart(tmp_path: Path) -> None:
    rows = [
        ["cat", "A cat.", "", "1", "0", "entity - whole (cat)", "is it black"],
        ["cat", "A cat.", "", "2", "0", "entity - whole (cat)", "is it black, and round"],
        ["cat", "A cat.", "", "3", "0", "other - text (cat)", "is it black"],
    ]
    write_csv(tmp_path, rows)
    lines = (
        f"cat.png, {BOXES[0]}, {text}"
        for text in ("is it black, yes", "is it black, and round, yes", "is it black, no")
    )
    read = read_answers(detail(tmp_path / "x_detail.txt", *lines), read_dpg(tmp_path).prompts)
    assert read.complete == {"cat": {0: {1: True, 2: True, 3: False}}}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("cat.png, yes", "is not IMAGE, .LEFT, TOP, RIGHT, BOTTOM., QUESTION, ANSWER"),
        (f"horse.png, {BOXES[0]}, is there a horse?, yes", "there is no prompt 'horse'"),
        (f"dog.png, {BOXES[0]}, is there a cat?, yes", "dog has no such question"),
        (f"dog.png, {BOXES[1]}, is there a dog?, no", "question 1 about image 1 of dog is answered twice"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, prompts: dict[str, DpgPrompt], line: str, message: str) -> None:
    path = detail(tmp_path / "x_detail.txt", f"dog.png, {BOXES[1]}, is there a dog?, yes", line)
    with pytest.raises(UserError, match=rf"x_detail\.txt: line 2.*{message}"):
        read_answers(path, prompts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": 7}, "there is no prompt 7"),
        ({"image": 4}, "image is 4, not a number from 0 to 3"),
        ({"image": True}, "image is True"),
        ({"question": 9}, "dog has no question 9"),
        ({"answer": True}, "answer is True, not a text"),
        ({}, "question 1 about image 0 of dog is answered twice"),
    ],
)
def test_a_broken_object_is_named(
    tmp_path: Path, prompts: dict[str, DpgPrompt], change: dict[str, Any], message: str
) -> None:
    line = {"prompt": "dog", "image": 0, "question": 1, "answer": "yes"}
    with pytest.raises(UserError, match=rf"answers\.jsonl: line 2: {message}"):
        read_answers(write_lines(tmp_path / "answers.jsonl", [line, line | change]), prompts)


def test_files_that_are_missing_or_without_questions_are_one_line(
    tmp_path: Path, prompts: dict[str, DpgPrompt]
) -> None:
    with pytest.raises(UserError, match=r"there is no such file; give the _detail\.txt"):
        read_answers(tmp_path / "none.txt", prompts)
    with pytest.raises(UserError, match="is empty"):
        read_answers(detail(tmp_path / "empty.txt", ""), prompts)
    bare = {"dog": DpgPrompt("dog", ROWS[3][1], ())}
    with pytest.raises(UserError, match="dog has no questions in the data"):
        read_answers(detail(tmp_path / "x.txt", f"dog.png, {BOXES[0]}, is there a dog?, yes"), bare)
