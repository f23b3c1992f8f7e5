"""Experiment trackers, by Accelerate's names. Whatever happens to a tracker, training continues.

In: each step's metrics, and previews. Out: W&B, TensorBoard and others. metrics.jsonl is the record of a run; a tracker that cannot
be started or stops answering is logged as a warning. W&B without a key, or with a host that does not answer within a
minute, writes into the run's folder (``wandb sync`` uploads it later), and a run that is resumed keeps its W&B run.
Nothing here prompts the user or waits without a limit.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from PIL import Image

from janus_train.config import LoggingConfig
from janus_train.files import write_json
from janus_train.jsonl import Line

logger = logging.getLogger(__name__)

WANDB_INIT_S = 60
WANDB_FINISH_S = 120
ANSWER_COLUMNS = ("question", "answer", "expected")
IDS_FILE = "trackers.json"
"""The file in the run's folder with its ids at the trackers."""


class Trackers:
    """The trackers of ``options.trackers`` that could be started; on the main process only."""

    def __init__(self, options: LoggingConfig, run_dir: Path):
        self._trackers: list[GeneralTracker] = []
        for name in dict.fromkeys(options.trackers):
            disabled_by = _wandb_disabled_by() if name == "wandb" else None
            if disabled_by:
                logger.info(f"W&B is off: {disabled_by} is set in the environment; metrics.jsonl is the record")
            elif name == "wandb":
                self._start_wandb(options.project, run_dir)
            else:
                self._start(name, options.project, run_dir)

    def log(self, metrics: dict[str, Any]) -> None:
        """Send the numbers among a step's ``metrics``."""
        numbers = {k: v for k, v in metrics.items() if isinstance(v, (int, float)) and k != "step"}
        self._send(lambda tracker: tracker.log(numbers, step=metrics["step"]))

    def log_preview(self, step: int, images: Image.Image | None, answers: Sequence[Line]) -> None:
        """Send a preview: its grid of images to trackers that show images, its answers to W&B and TensorBoard.

        ``images``: None without preview prompts; ``answers``: {question, answer, expected} each.
        """
        if images is not None:
            self._send(lambda tracker: _send_images(tracker, step, images))
        if answers:
            rows = [[str(line[column]) for column in ANSWER_COLUMNS] for line in answers]
            self._send(lambda tracker: _send_answers(tracker, step, rows))

    def _send(self, send: Callable[[GeneralTracker], None]) -> None:
        for tracker in list(self._trackers):
            try:
                send(tracker)
            except Exception as error:
                self._trackers.remove(tracker)
                logger.warning(f"{tracker.name} is disabled after an error ({error}); metrics.jsonl is still written")

    def close(self) -> None:
        for tracker in self._trackers:
            try:
                tracker.finish()
            except Exception as error:
                logger.warning(f"{tracker.name} could not be closed ({error})")

    def _start(self, name: str, project: str, run_dir: Path, label: str | None = None, **options: Any) -> bool:
        """Start a tracker; returns whether it could be started. ``label`` is its name in warnings."""
        kind: Any = LOGGER_TYPE_TO_CLASS[name]
        if kind.requires_logging_directory:
            options["logging_dir"] = run_dir / name
        try:
            tracker = kind(project, **options)
            tracker.start()
        except Exception as error:  # a tracking service may raise anything
            reason = next(iter(str(error).split("\n")), type(error).__name__)
            logger.warning(f"{label or name} could not be started ({reason}); metrics.jsonl is still written")
            return False
        self._trackers.append(tracker)
        return True

    def _start_wandb(self, project: str, run_dir: Path) -> None:
        mode = os.environ.get("WANDB_MODE") or ("online" if _has_wandb_key() else "offline")
        if mode == "offline":
            logger.warning(f"W&B logs offline: `wandb sync {run_dir}/wandb/offline-run-*` uploads it")
        options = {"dir": str(run_dir), "group": str(run_dir), "id": _run_id(run_dir, "wandb"), "resume": "allow"}
        is_started = self._start("wandb", project, run_dir, "W&B", mode=mode, settings=_wandb_settings(), **options)
        if not is_started and mode == "online":
            _forget_wandb_runs()  # the failed run still holds its id
            self._start("wandb", project, run_dir, "W&B offline", mode="offline", settings=_wandb_settings(), **options)


def _send_images(tracker: Any, step: int, images: Image.Image) -> None:
    if tracker.name == "tensorboard":
        tracker.log_images({"previews": np.asarray(images.convert("RGB"))[None]}, step=step, dataformats="NHWC")
    elif hasattr(tracker, "log_images"):
        tracker.log_images({"previews": [images]}, step=step)


def _send_answers(tracker: Any, step: int, rows: list[list[str]]) -> None:
    if tracker.name == "wandb":
        tracker.log_table("answers", columns=list(ANSWER_COLUMNS), data=rows, step=step)
    elif tracker.name == "tensorboard":  # shows Markdown
        lines = [ANSWER_COLUMNS, ["---"] * len(ANSWER_COLUMNS), *rows]
        table = [" | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in line) for line in lines]
        tracker.log({"answers": "\n".join(table)}, step=step)


def _wandb_disabled_by() -> str | None:
    """The variable, with its value, by which the environment turns W&B off; None if it does not."""
    for name, values in (("WANDB_DISABLED", ("true", "1", "yes", "on")), ("WANDB_MODE", ("disabled",))):
        value = os.environ.get(name, "")
        if value.lower() in values:
            return f"{name}={value}"
    return None


def _run_id(run_dir: Path, tracker: str) -> str:
    """The id of this run at ``tracker``, created at the first start and kept."""
    path = run_dir / IDS_FILE
    try:
        ids: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        ids = {}
    if tracker not in ids:
        ids[tracker] = secrets.token_hex(4)
        write_json(path, ids)
    return ids[tracker]


def _wandb_settings() -> Any:
    import wandb

    return wandb.Settings(init_timeout=WANDB_INIT_S, finish_timeout=WANDB_FINISH_S, console="off")


def _forget_wandb_runs() -> None:
    import wandb

    wandb.teardown()


def _has_wandb_key() -> bool:
    """Whether W&B has an API key; never prompts on the terminal."""
    import wandb

    try:
        return bool(wandb.login(prompt=False))
    except Exception:  # an invalid key or a host that does not answer: `_start` reports it
        return bool(os.environ.get("WANDB_API_KEY"))
