"""W&B without a key and without a host, TensorBoard, and what goes wrong in them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from PIL import Image

from janus_train.config import LoggingConfig, Tracker
from janus_train.train.distributed.context import Distributed
from janus_train.train.monitor import trackers
from janus_train.train.monitor.trackers import Trackers
from tests.helpers import config_of
from tests.processes import free_port

Warned = Callable[[], list[str]]
STEPS = [{"step": step, "loss": 3.0 / step, "applied": True, "rank_data_s": [0.1]} for step in (1, 2)]


def options(*trackers: str) -> LoggingConfig:
    return LoggingConfig(trackers=trackers, project="test")  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of the person who runs the tests; Accelerate's state is there."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DISABLED", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path))
    Distributed(config_of("+stage=1"))


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    return lambda: [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def use(logging: LoggingConfig, folder: Path) -> None:
    """Two steps."""
    trackers = Trackers(logging, folder)
    for step in STEPS:
        trackers.log(step)
    trackers.close()


def test_the_names_are_those_that_accelerate_knows() -> None:
    assert set(get_args(Tracker)) == set(LOGGER_TYPE_TO_CLASS)


def test_a_resumed_run_keeps_its_wandb_run(tmp_path: Path, warned: Warned) -> None:
    for _ in range(2):
        use(options("wandb"), tmp_path)
    # offline-run-TIME-ID, and -1 behind it for two within a second
    ids = {path.name.split("-")[3] for path in tmp_path.glob("wandb/offline-run-*")}
    assert ids == {json.loads((tmp_path / "trackers.json").read_text())["wandb"]}


def test_a_tracker_whose_package_is_not_there_costs_a_warning(
    tmp_path: Path, warned: Warned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    use(options("mlflow", "tensorboard"), tmp_path)
    assert len(warned()) == 1 and warned()[0].startswith("mlflow could not be started")
    assert list((tmp_path / "tensorboard").rglob("events*"))


def test_without_a_key_wandb_logs_offline_and_asks_nothing(tmp_path: Path, warned: Warned) -> None:
    use(options("wandb"), tmp_path)
    assert len(warned()) == 1 and warned()[0].startswith("W&B logs offline: `wandb sync ")
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))


@pytest.mark.parametrize("setting", ["WANDB_DISABLED=true", "WANDB_DISABLED=1", "WANDB_MODE=disabled"])
def test_wandb_that_the_environment_turns_off_is_off_with_a_line(
    tmp_path: Path, warned: Warned, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, setting: str
) -> None:
    caplog.set_level("INFO", logger="janus_train")
    monkeypatch.setenv(*setting.split("="))
    monkeypatch.setitem(sys.modules, "wandb", None)  # it is not even imported
    use(options("wandb", "tensorboard"), tmp_path)
    assert warned() == []
    said = f"W&B is off: {setting} is set in the environment; metrics.jsonl is the record"
    assert [record.getMessage() for record in caplog.records] == [said]
    assert not (tmp_path / "wandb").exists() and list((tmp_path / "tensorboard").rglob("events*"))


def test_wandb_disabled_false_disables_nothing(tmp_path: Path, warned: Warned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_DISABLED", "false")
    use(options("wandb"), tmp_path)
    assert list(tmp_path.glob("wandb/offline-run-*"))


@pytest.mark.parametrize("key_is_tried", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_host_that_does_not_answer_costs_bounded_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warned: Warned, key_is_tried: bool
) -> None:
    """Of some 30 s, W&B's own tries to reach the host, trying the key takes two thirds."""
    monkeypatch.setattr(trackers, "WANDB_INIT_S", 3)
    if not key_is_tried:
        monkeypatch.setattr(trackers, "_has_wandb_key", lambda: True)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{free_port()}")
    began = time.monotonic()
    use(options("wandb"), tmp_path)
    assert time.monotonic() - began < 60
    [line] = warned()
    assert line.startswith("W&B could not be started") and "\n" not in line
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))


def test_tensorboard_gets_the_numbers(tmp_path: Path, warned: Warned) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    use(options("tensorboard"), tmp_path)
    assert warned() == []
    events = EventAccumulator(str(tmp_path / "tensorboard/test"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 3.0), (2, 1.5)]
    assert "rank_data_s" not in events.Tags()["scalars"]


ANSWERS = [{"question": "Left | right?", "answer": "Left.", "expected": "Right.", "image": "samples/question-1.png"}]


def test_tensorboard_gets_previews_and_answers(tmp_path: Path, warned: Warned) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trackers = Trackers(options("tensorboard"), tmp_path)
    for step in (10, 20):
        trackers.log_preview(step, Image.new("RGB", (8, 6), (200, 10, 10)), ANSWERS)
    trackers.log_preview(30, None, [])
    trackers.close()
    assert warned() == []
    events = EventAccumulator(str(tmp_path / "tensorboard/test"))
    events.Reload()
    images = events.Images("previews")
    assert [(each.step, each.width, each.height) for each in images] == [(10, 8, 6), (20, 8, 6)]
    [first, _] = events.Tensors("answers/text_summary")
    said = first.tensor_proto.string_val[0].decode()
    assert said.splitlines() == ["question | answer | expected", "--- | --- | ---", "Left \\| right? | Left. | Right."]


def test_wandb_gets_previews_and_answers(tmp_path: Path, warned: Warned) -> None:
    trackers = Trackers(options("wandb"), tmp_path)
    trackers.log_preview(10, Image.new("RGB", (8, 6), (200, 10, 10)), ANSWERS)
    trackers.log({"step": 10, "loss": 1.0})
    trackers.close()
    assert len(warned()) == 1 and warned()[0].startswith("W&B logs offline")
    [table] = tmp_path.glob("wandb/offline-run-*/files/media/table/answers*.json")
    values = json.loads(table.read_text())
    assert values["columns"] == ["question", "answer", "expected"]
    assert values["data"] == [["Left | right?", "Left.", "Right."]]
    [image] = tmp_path.glob("wandb/offline-run-*/files/media/images/previews*.png")
    with Image.open(image) as opened:
        assert opened.size == (8, 6)


def test_one_that_fails_later_is_given_up_with_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warned: Warned
) -> None:
    started = Trackers(options("tensorboard"), tmp_path)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    [tracker] = started._trackers
    monkeypatch.setattr(tracker, "log", fail)
    for step in STEPS:
        started.log(step)
    started.close()
    assert warned() == [
        "tensorboard is disabled after an error (No space left on device); metrics.jsonl is still written"
    ]
