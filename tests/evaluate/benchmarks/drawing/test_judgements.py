"""The scorer's file is kept with the images, one at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from janus_train.errors import UserError
from janus_train.evaluate.benchmarks.drawing.judgements import keep_judgements, kept_judgements


def test_the_last_file_is_kept_whatever_its_ending(tmp_path: Path) -> None:
    folder = tmp_path / "task"
    folder.mkdir()
    assert kept_judgements(folder) is None
    for name, text in (("a.jsonl", "1"), ("b_detail.txt", "2"), ("c.txt", "3")):
        (tmp_path / name).write_text(text)
        keep_judgements(tmp_path / name, folder)
        kept = kept_judgements(folder)
        assert kept is not None and kept.read_text() == text and len(list(folder.iterdir())) == 1
    assert kept.suffix == ".txt"
    with pytest.raises(UserError, match=r"--score .* cannot be read: Is a directory"):
        keep_judgements(tmp_path, folder)
