"""The line of a step on what is no terminal: losses, rate, and the time that the remaining steps take."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from janus_train.train.monitor import metrics as module
from janus_train.train.monitor.metrics import MetricsLog
from tests.helpers import config_of, read_lines


def step_metrics(step: int) -> dict[str, Any]:
    losses = {"loss": 2.5, "loss/understanding": 1.25, "loss/text": None, "loss/generation": 3.0}
    return {"step": step, **losses, "learning_rate": 1e-4, "tokens_per_s": 1234.0}


def test_a_plain_line_says_the_time_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A resumed run measures its own steps: 2 steps in 20 s, and 6 are left."""
    now = 1000.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    config = config_of("+stage=2", "run.steps=10", "run.log_every=1")
    log = MetricsLog(config, tmp_path / "metrics.jsonl", 3, Console(file=io.StringIO()))
    with caplog.at_level(logging.INFO, "janus_train"):
        now = 1010.0
        log.step(step_metrics(3))
        now = 1020.0
        log.step(step_metrics(4))
        log.step(step_metrics(10))
    log.close()
    lines = [record.getMessage() for record in caplog.records]
    assert lines[1] == (
        "stage 2  step 4/10  loss 2.500  loss/understanding 1.250  loss/generation 3.000  "
        "lr 1.00e-04  1234 tokens/s  60 s left"
    )
    assert lines[2].endswith("tokens/s")
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [3, 4, 10]
