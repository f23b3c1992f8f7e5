"""run.profile writes one trace of the steps that it names, and changes nothing else."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from janus_train.config import Config, ProfileConfig
from janus_train.train.monitor.profile import StepProfiler
from janus_train.train.run import run
from tests.helpers import read_lines

NUMBERS = ("loss", "grad_norm", "learning_rate", "batch_digest")


def numbers(folder: Path) -> list[list[Any]]:
    return [[line[name] for name in NUMBERS] for line in read_lines(folder / "metrics.jsonl")]


def test_a_run_writes_a_trace_and_trains_as_without(small: Callable[..., Config], tmp_path: Path) -> None:
    common = ("run.steps=3", "data.num_workers=0")
    plain = run(small(2, f"output_dir={tmp_path / 'plain'}", *common))
    traced = run(small(2, f"output_dir={tmp_path / 'traced'}", "run.profile={wait: 1, warmup: 0, active: 1}", *common))
    assert numbers(traced) == numbers(plain)
    assert not (plain / "profile").exists()
    [trace] = (traced / "profile").iterdir()
    assert trace.name == "steps-2-2.json.gz"
    with gzip.open(trace) as file:
        events = json.load(file)["traceEvents"]
    names = [event.get("name") for event in events]
    assert "aten::mm" in names and names.count("Optimizer.step#AdamW.step") == 1


def test_a_run_that_ends_before_says_that_there_is_no_trace(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    profiler = StepProfiler(ProfileConfig(wait=1, warmup=1, active=2), tmp_path / "profile", first_step=11)
    for step in (11, 12, 13):
        profiler.step(step)
    profiler.close()
    assert "before step 14" in caplog.text and not (tmp_path / "profile").exists()


def test_a_trace_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "profile").write_text("a file, where the folder should be")
    profiler = StepProfiler(ProfileConfig(wait=0, warmup=0, active=1), tmp_path / "profile", first_step=1)
    profiler.step(1)
    profiler.step(2)
    profiler.close()
    assert caplog.text.count("training continues") == 1
