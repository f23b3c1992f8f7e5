"""Lines of scorers and detectors come with their place; what is no object is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from janus_train.errors import UserError
from janus_train.evaluate.benchmarks.drawing.json_lines import numbered_objects


def test_blank_lines_count_but_do_not_come(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 2}', encoding="utf-8-sig")
    assert list(numbered_objects(path, "")) == [(f"{path}: line 1", {"a": 1}), (f"{path}: line 3", {"a": 2})]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty; give another"),
        (b" \n\n", "is empty; give another"),
        (b'{"a": 1}\n{"a": ', "line 2 is not valid JSON"),
        (b'{"a": 1}\n\n7\n', "line 3 is not a JSON object"),
        (b'{"a": "\xe9"}', "line 1 is not UTF-8"),
    ],
)
def test_a_broken_file_is_one_line(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(data)
    with pytest.raises(UserError, match=message):
        list(numbered_objects(path, "give another"))


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.jsonl: there is no such file; give another"):
        list(numbered_objects(tmp_path / "none.jsonl", "give another"))
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        list(numbered_objects(tmp_path, "give another"))
