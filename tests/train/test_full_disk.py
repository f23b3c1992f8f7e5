"""A disk that fills up and a folder that is deleted while a run is at work: one line each, and nothing half written."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from janus_train.config import Config
from janus_train.errors import UserError
from janus_train.jsonl import append_json_lines, read_json_lines
from janus_train.train import monitor, trainer
from janus_train.train import run as loop
from janus_train.train.run import run
from tests.helpers import fill

Small = Callable[..., Config]


def full(*_: object, **__: object) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def before(
    monkeypatch: pytest.MonkeyPatch, module: object, name: str, action: Callable[[], object], call: int = 1
) -> None:
    """``action`` happens right before the given call of a function."""
    real, calls = getattr(module, name), [0]

    def wrapped(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            action()
        return real(*arguments, **options)

    monkeypatch.setattr(module, name, wrapped)


def test_metrics_that_find_no_room_end_the_run_with_a_line(
    small: Small, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before(monkeypatch, trainer, "train_step", lambda: fill(small_disk, free_blocks=0), call=2)
    with pytest.raises(UserError, match=r"metrics\.jsonl cannot be written: No space left on device$"):
        run(small(2, "run.steps=30", "run.sample_every=5", f"output_dir={small_disk / 'run'}"))
    text = (small_disk / "run/metrics.jsonl").read_bytes()
    assert text.endswith(b"\n") and [json.loads(line)["step"] for line in text.splitlines()][:1] == [1]


def test_lines_are_added_all_or_none(small_disk: Path) -> None:
    path = small_disk / "quarantine.jsonl"
    append_json_lines(path, [{"key": "first"}])
    fill(small_disk, free_blocks=1)
    with pytest.raises(UserError, match=r"quarantine\.jsonl cannot be written: No space left on device"):
        append_json_lines(path, [{"key": "x" * 1000} for _ in range(100)])
    assert path.read_bytes() == b'{"key": "first"}\n'


def test_a_preview_or_report_that_cannot_be_written_ends_no_run(
    small: Small, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(monitor, "write_previews", full)
    folder = run(small(2, "run.steps=2", "run.sample_every=2"), write_report=full)
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warned == [
        "step 2: its preview could not be written ([Errno 28] No space left on device); training continues",
        f"the report could not be written ([Errno 28] No space left on device): janus-train report {folder} writes it",
    ]
    assert (folder / "final/config.json").is_file()


def test_a_final_model_that_finds_no_room_is_a_line_and_is_written_by_the_next_start(
    small: Small, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(1, "run.steps=2", "run.checkpoint_every=2", f"output_dir={small_disk / 'run'}")
    with monkeypatch.context() as patched:
        before(patched, loop, "write_results", lambda: fill(small_disk, free_blocks=64))
        with pytest.raises(UserError, match=r"cannot be written: No space left on device: make room and run the same"):
            run(config)
    assert not (small_disk / "run/final").exists() and not list((small_disk / "run").glob(".*"))
    (small_disk / "ballast").unlink()
    assert (run(config) / "final/config.json").is_file()
    assert [line["step"] for line in read_json_lines(small_disk / "run/metrics.jsonl")] == [1, 2]


@pytest.mark.parametrize("every", [0, 1])
def test_a_folder_deleted_in_a_step_is_noticed_in_that_step(
    small: Small, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, every: int
) -> None:
    """Nothing creates it again, with checkpoints and previews or without."""
    before(monkeypatch, trainer, "train_step", lambda: shutil.rmtree(tmp_path / "run"), call=2)
    with pytest.raises(UserError, match=r"metrics\.jsonl was deleted or replaced while it was written"):
        run(small(2, "run.steps=5", f"run.checkpoint_every={every}", f"run.sample_every={every}"))
    assert not (tmp_path / "run").exists()


def test_a_folder_deleted_after_the_last_step_gets_no_model(
    small: Small, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before(monkeypatch, loop, "write_results", lambda: shutil.rmtree(tmp_path / "run"))
    with pytest.raises(UserError, match="was deleted or moved during the run"):
        run(small(2, "run.steps=1"))
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_in_a_folder_with_brackets_in_its_path(
    small: Small, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """For rich, ``[/x]`` closes a tag that was never opened."""
    where = f"output_dir='{tmp_path}/run[/x]'"
    config = [
        small(2, f"run.steps={steps}", "run.planned_steps=2", "run.checkpoint_every=1", where) for steps in (1, 2, 2)
    ]
    folders = {run(one) for one in config}
    assert folders == {tmp_path / "run[/x]"}
    said = capfd.readouterr().err
    assert f"starts from its checkpoint {tmp_path}/run[/x]/checkpoints/step-000001" in said
    assert f"{tmp_path}/run[/x] is finished at step 2" in said
