"""Answers on disk: one file in the end, whatever wrote it and whenever it was killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from janus_train.errors import UserError
from janus_train.evaluate.benchmarks.answers import AnswerFile, merge
from tests.helpers import read_lines

KEYS = ["c", "a", "b"]


def test_the_files_of_all_processes_become_one_in_the_order_of_the_data(tmp_path: Path) -> None:
    for rank, key in ((0, "b"), (1, "a"), (12, "c")):
        file = AnswerFile(tmp_path, rank)
        file.append([{"key": key, "answer": str(rank)}])
        file.close()
    assert list(merge(tmp_path, KEYS)) == ["c", "a", "b"]
    assert [line["answer"] for line in read_lines(tmp_path / "answers.jsonl")] == ["12", "1", "0"]
    assert [path.name for path in tmp_path.iterdir()] == ["answers.jsonl"]


def test_a_line_that_a_kill_cut_off_is_answered_again(tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_text('{"key": "a"}\n{"key": "b", "ans')
    assert list(merge(tmp_path, KEYS)) == ["a"]
    file = AnswerFile(tmp_path, 0)
    file.append([{"key": "b"}])
    file.close()
    assert list(merge(tmp_path, KEYS)) == ["a", "b"]


def test_nothing_answered_yet_is_an_empty_file(tmp_path: Path) -> None:
    assert merge(tmp_path, KEYS) == {}
    assert (tmp_path / "answers.jsonl").read_text() == ""


def test_answers_to_other_questions_are_refused(tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_text('{"key": "z"}\n')
    with pytest.raises(UserError, match=r"answers\.jsonl has an answer to 'z', which is no question of this task"):
        merge(tmp_path, KEYS)
