"""benchmarks/checkpoint.py on the tiny model: what it prints, and that it leaves nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import checkpoint


def test_it_prints_seconds_held_and_in_all_and_a_gigabyte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--folder", str(tmp_path), "--saves", "2", "--step-s", "0.01", "+stage=1"]
    monkeypatch.setattr("sys.argv", ["checkpoint.py", *words])
    checkpoint.main()
    head, *saves = capsys.readouterr().out.splitlines()
    assert head.startswith("ddp on 1 x cpu: ") and len(saves) == 2
    for number, line in enumerate(saves, start=1):
        match = re.fullmatch(
            rf"save {number}: steps held ([\d.]+) s \(snapshot ([\d.]+) s, .*\), [\d.]+ s/GB; "
            r"written after ([\d.]+) s, [\d.]+ s/GB",
            line,
        )
        assert match, line
        held_s, snapshot_s, written_s = map(float, match.groups())
        assert 0 <= snapshot_s <= held_s <= written_s + 0.01
    assert not list(tmp_path.iterdir())
