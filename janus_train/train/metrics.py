"""A line a step: metrics.jsonl always, W&B and TensorBoard if asked, a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from janus_train.config import Config
from janus_train.data.sample import KINDS, Row
from janus_train.jsonl import append_json_lines
from janus_train.train.distributed import Distributed
from janus_train.train.step import StepResult
from janus_train.train.trackers import Trackers


def batch_metrics(rows: Sequence[Row], row_tokens: int, flops: float, distributed: Distributed) -> dict[str, float]:
    """Counts over all ranks: ``samples/<kind>``, ``tokens/<kind>``, ``tokens``, ``fill`` (share of the rows used), and
    ``flops``, the sum of the ranks' useful ones."""
    samples, tokens = [0.0] * len(KINDS), [0.0] * len(KINDS)
    for row in rows:
        for document in row.documents:
            samples[KINDS.index(document.kind)] += document.share
            tokens[KINDS.index(document.kind)] += len(document)
    *sums, num_rows, flops = distributed.sum([*samples, *tokens, float(len(rows)), flops])
    total = sum(sums[len(KINDS) :])
    # a text that was cut over rows counts in each by its share
    found: dict[str, float] = {f"samples/{kind}": round(sums[i], 4) for i, kind in enumerate(KINDS)}
    found |= {f"tokens/{kind}": int(sums[i + len(KINDS)]) for i, kind in enumerate(KINDS)}
    return found | {"tokens": int(total), "fill": total / (num_rows * row_tokens), "flops": flops}


def step_metrics(result: StepResult) -> dict[str, Any]:
    """What is not finite is None."""
    return {
        "loss": finite_or_none(result.loss),
        **{f"loss/{kind}": finite_or_none(loss) for kind, loss in result.loss_by_kind.items()},
        "loss_tokens": result.num_loss_tokens,
        "grad_norm": finite_or_none(result.grad_norm),
        "applied": result.applied,
    }


def finite_or_none(value: float | None) -> float | None:
    """JSON has no NaN."""
    return value if value is not None and math.isfinite(value) else None


class Log:
    """Writes the run's metrics, on the main process; on others every method does nothing."""

    def __init__(self, config: Config, path: Path, first_step: int, distributed: Distributed):
        self._active = distributed.is_main
        if not self._active:
            return
        self._config = config
        self._path = path
        self._console = Console(stderr=True)
        self._trackers = Trackers(config.logging, path.parent, lambda line: self.say(f"warning: {line}"))
        self._bar: Progress | None = None
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("stage {task.fields[stage]}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[losses]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task(
                "", total=config.run.steps, completed=first_step - 1, stage=config.stage, losses=""
            )
            self._bar.start()

    def step(self, metrics: dict[str, Any]) -> None:
        if not self._active:
            return
        append_json_lines(self._path, [metrics])
        self._trackers.log(metrics)
        loss = "-" if metrics["loss"] is None else f"{metrics['loss']:.3f}"
        losses = "  ".join(f"{k} {v:.3f}" for k, v in metrics.items() if k.startswith("loss/") and v is not None)
        if self._bar is not None:
            self._bar.update(self._task, completed=metrics["step"], losses=f"loss {loss}  {losses}")
        elif metrics["step"] % self._config.run.log_every == 0 or metrics["step"] == self._config.run.steps:
            self._console.print(
                f"stage {self._config.stage}  step {metrics['step']}/{self._config.run.steps}  loss {loss}  "
                f"{losses}  lr {metrics['learning_rate']:.2e}  {metrics['tokens_per_s']:.0f} tokens/s",
                highlight=False,
                soft_wrap=True,
            )

    def say(self, message: str) -> None:
        """A line for the person who watches."""
        if self._active:
            self._console.print(message, highlight=False, soft_wrap=True)

    def close(self) -> None:
        if not self._active:
            return
        if self._bar is not None:
            self._bar.stop()
        self._trackers.close()
