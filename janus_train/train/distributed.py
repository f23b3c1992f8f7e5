"""The process group as the trainer needs it: who am I, sums over all ranks, and one mind on what to do next.

Accelerate starts the group and wraps the model. What it would decide for us (how the loss is divided, who deals the
data, how the schedule counts) it is not asked for: see facts.md, trap 13.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from janus_train.config import Config


class Distributed:
    """Accelerate, narrowed down."""

    def __init__(self, config: Config):
        trackers = [name for name in ("wandb", "tensorboard") if getattr(config.logging, name)]
        self.accelerator = Accelerator(
            mixed_precision="bf16" if config.precision == "bf16" else "no",
            log_with=trackers or None,
            project_dir=config.output_dir,
        )
        if self.device.type == "cpu":
            self._use_all_cores(config.run.cpu_threads)

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def rank(self) -> int:
        return self.accelerator.process_index

    @property
    def world_size(self) -> int:
        return self.accelerator.num_processes

    @property
    def is_main(self) -> bool:
        return self.accelerator.is_main_process

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model on its device, with gradients averaged over ranks on backward if there are several."""
        return self.accelerator.prepare_model(model.to(self.device))

    def sum(self, values: list[float]) -> list[float]:
        """Element-wise sums over all ranks."""
        if self.world_size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(tensor)
        return tensor.tolist()

    def gather(self, items: list[Any]) -> list[Any]:
        """All ranks' items, rank after rank."""
        return list(gather_object(items))

    def barrier(self) -> None:
        self.accelerator.wait_for_everyone()

    @contextmanager
    def accumulate(self, model: nn.Module, last: bool) -> Iterator[None]:
        """Inside, gradients stay on their rank unless this is the step's last micro-batch."""
        if last:
            yield
        else:
            with self.accelerator.no_sync(model):
                yield

    def _use_all_cores(self, threads: int | None) -> None:
        """``accelerate launch`` sets OMP_NUM_THREADS to 1 where it finds no GPU: take this process's share of the cores."""
        here = int(os.environ.get("LOCAL_WORLD_SIZE", self.world_size))
        torch.set_num_threads(threads or max(1, len(os.sched_getaffinity(0)) // here))
