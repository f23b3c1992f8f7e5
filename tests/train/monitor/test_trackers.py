"""W&B without a key and without a host, TensorBoard, and what goes wrong in them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from janus_train.config import LoggingConfig
from janus_train.train.distributed.context import Distributed
from janus_train.train.monitor import trackers
from janus_train.train.monitor.trackers import Trackers
from tests.helpers import config_of
from tests.processes import free_port

STEPS = [{"step": step, "loss": 3.0 / step, "applied": True, "rank_data_s": [0.1]} for step in (1, 2)]


def options(wandb: bool = False, tensorboard: bool = False) -> LoggingConfig:
    return LoggingConfig(wandb=wandb, tensorboard=tensorboard, project="test")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of the person who runs the tests; Accelerate's state is there."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path))
    Distributed(config_of("+stage=1"))


def use(logging: LoggingConfig, folder: Path) -> list[str]:
    """Two steps; what was warned of."""
    warned: list[str] = []
    started = Trackers(logging, folder, warned.append)
    for step in STEPS:
        started.log(step)
    started.close()
    return warned


def test_without_a_key_wandb_logs_offline_and_asks_nothing(tmp_path: Path) -> None:
    warned = use(options(wandb=True), tmp_path)
    assert len(warned) == 1 and warned[0].startswith("W&B logs offline: `wandb sync ")
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))


def test_a_host_that_does_not_answer_costs_bounded_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "WANDB_INIT_S", 3)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{free_port()}")
    began = time.monotonic()
    warned = use(options(wandb=True), tmp_path)
    assert time.monotonic() - began < 60
    assert len(warned) == 1 and warned[0].startswith("W&B could not be started") and "\n" not in warned[0]
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))


def test_tensorboard_gets_the_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert use(options(tensorboard=True), tmp_path) == []
    events = EventAccumulator(str(tmp_path / "tensorboard/test"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 3.0), (2, 1.5)]
    assert "rank_data_s" not in events.Tags()["scalars"]


def test_one_that_fails_later_is_given_up_with_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warned: list[str] = []
    started = Trackers(options(tensorboard=True), tmp_path, warned.append)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    [tracker] = started._started
    monkeypatch.setattr(tracker, "log", fail)
    for step in STEPS:
        started.log(step)
    started.close()
    assert warned == ["tensorboard is given up (No space left on device); metrics.jsonl goes on"]
