"""Samples that cannot be used: written down, and too many of them named in true numbers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from janus_train.errors import UserError
from janus_train.jsonl import read_json_lines
from janus_train.train.distributed.step_sync import RowsReport
from janus_train.train.monitor.quarantine import Quarantine


def test_the_end_names_how_many_of_those_drawn(tmp_path: Path) -> None:
    """42 samples could be used, 45 could not: a share of what was met, never more than the whole."""
    line: dict[str, Any] = {"stream": 0, "source": "a", "key": "k\u2028", "reason": "field 'text' is empty"}
    rows = RowsReport(num_drawn=Counter(a=42), num_bad=Counter(a=45), quarantined_samples=[line])
    with pytest.raises(UserError, match=r"cannot be used: a 45 of 87 drawn \(51\.7 %, such as 'k.u2028': field"):
        Quarantine(tmp_path / "q.jsonl", {"a": 40}, max_bad=0.01, writes=True).record(3, rows)
    assert read_json_lines(tmp_path / "q.jsonl") == [{"step": 3, **line}]


def test_the_first_of_each_source_is_said_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = [
        {"stream": 0, "source": source, "key": f"{source}{number}", "reason": "300 tokens do not fit a row of 256"}
        for number in (1, 2)
        for source in "ab"
    ]
    quarantine = Quarantine(tmp_path / "q.jsonl", {"a": 900, "b": 900}, max_bad=0.5, writes=True)
    for step, step_lines in ((8, lines[:1]), (9, lines[1:])):
        quarantine.record(step, RowsReport(num_drawn=Counter(a=9, b=9), quarantined_samples=step_lines))
    assert [record.getMessage() for record in caplog.records] == [
        f"source '{source}': sample '{source}1' cannot be used and is replaced (300 tokens do not fit a row of 256); "
        "q.jsonl lists all"
        for source in "ab"
    ]
    assert len(read_json_lines(tmp_path / "q.jsonl")) == 4
