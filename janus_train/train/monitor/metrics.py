"""One line per step: metrics.jsonl always, trackers if configured, a progress bar on a terminal, else plain lines."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from janus_train.config import Config
from janus_train.data.types import KINDS
from janus_train.jsonl import JsonLinesFile, Line
from janus_train.model.loss_totals import LossTotals
from janus_train.text import duration
from janus_train.train.distributed.step_sync import RowsReport
from janus_train.train.monitor.loss_spikes import finite_or_none
from janus_train.train.monitor.trackers import Trackers
from janus_train.train.optim import LearningRates

logger = logging.getLogger(__name__)


def rows_metrics(rows: RowsReport, row_tokens: int) -> dict[str, Any]:
    """The metrics of a step's rows over all ranks; ``fill`` is the share of the rows' tokens that are used."""
    return {
        **{f"samples/{kind}": rows.samples[kind] for kind in KINDS},
        **{f"tokens/{kind}": rows.tokens[kind] for kind in KINDS},
        "tokens": rows.num_tokens,
        "fill": rows.num_tokens / (len(rows.digests) * row_tokens),
        "flops": rows.flops,
        "quarantined": len(rows.quarantined_samples),
        "held_out": rows.num_held_out,
        "batch_digest": rows.digest,
    }


def loss_metrics(losses: LossTotals | None, grad_norm: float, applied: bool) -> dict[str, Any]:
    """The step's losses over all ranks; None for a value that is not finite or was not computed."""
    by_kind = losses.by_kind if losses else dict.fromkeys(KINDS)
    return {
        "loss": finite_or_none(losses.mean) if losses else None,
        **{f"loss/{kind}": finite_or_none(by_kind[kind]) for kind in KINDS},
        "loss_tokens": sum(losses.counts.values()) if losses else 0,
        "grad_norm": finite_or_none(grad_norm),
        "applied": applied,
    }


def rate_metrics(rates: LearningRates) -> dict[str, float]:
    """The learning rate, and those of the parts that have their own."""
    return {"learning_rate" if part is None else f"learning_rate/{part}": rate for part, rate in rates.items()}


def validation_line(metrics: Mapping[str, Any]) -> str:
    """The line of a step's validation in the log."""
    names = {"validation/loss": "validation loss"}
    names |= {"validation_ema/loss": "of the average"} if "validation_ema/loss" in metrics else {}
    names |= {key: key.removeprefix("validation/") for key in metrics if key.startswith("validation/loss/")}
    losses = "  ".join(
        f"{name} {'-' if metrics[key] is None else f'{metrics[key]:.3f}'}" for key, name in names.items()
    )
    seconds = metrics["validation/seconds"]
    return f"step {metrics['step']}: {losses}  on {metrics['validation/samples']:,} held-out samples in {seconds:.1f} s"


class MetricsLog:
    """Writes the run's metrics; it exists on the main process only."""

    def __init__(self, config: Config, path: Path, first_step: int, console: Console):
        self._config = config
        self._file = JsonLinesFile(path)
        self._trackers = Trackers(config.logging, path.parent)
        self._first_step, self._start = first_step, time.monotonic()
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("stage {task.fields[stage]}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[losses]}", markup=False),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=console,
            )
            self._task = self._bar.add_task(
                "", total=config.run.steps, completed=first_step - 1, stage=config.stage, losses=""
            )
            self._bar.start()

    def step(self, metrics: dict[str, Any]) -> None:
        """Write one step's metrics. Raises `UserError` if metrics.jsonl, the record of the run, cannot be written."""
        self._file.append(metrics)
        self._trackers.log(metrics)
        if "validation/loss" in metrics:
            logger.info(validation_line(metrics))
        loss = "-" if metrics["loss"] is None else f"{metrics['loss']:.3f}"
        losses = "  ".join(f"{k} {v:.3f}" for k, v in metrics.items() if k.startswith("loss/") and v is not None)
        step, steps = metrics["step"], self._config.run.steps
        if self._bar is not None:
            self._bar.update(self._task, completed=step, losses=f"loss {loss}  {losses}")
        elif step % self._config.run.log_every == 0 or step == steps:
            logger.info(
                f"stage {self._config.stage}  step {step}/{steps}  loss {loss}  {losses}  "
                f"lr {metrics['learning_rate']:.2e}  {metrics['tokens_per_s']:.0f} tokens/s{self._time_left(step)}"
            )

    def preview(self, step: int, images: Image.Image | None, answers: Sequence[Line]) -> None:
        """Send a preview to the trackers."""
        self._trackers.log_preview(step, images, answers)

    def _time_left(self, step: int) -> str:
        """The end of a plain line: the time that the remaining steps take if they are as fast as this process's so far."""
        steps_left = self._config.run.steps - step
        if not steps_left:
            return ""
        seconds_per_step = (time.monotonic() - self._start) / (step - self._first_step + 1)
        return f"  {duration(steps_left * seconds_per_step)} left"

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._file.close()
        self._trackers.close()
