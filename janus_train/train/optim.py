"""AdamW over the trainable parameters, and the learning rate as a pure function of the step.

There is no scheduler object: Accelerate's prepared schedulers advance once per process in every step, so a warm-up of
600 steps would take 600 / num_processes.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from janus_train.config import OptimConfig


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Make AdamW for the trainable parameters; the others have no optimiser state.

    There is a parameter group for each type of weights, bf16 first: DeepSpeed flattens a group into one tensor, and takes
    the first group's type for that of the model.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [[p for p in trainable if p.dtype == dtype] for dtype in (torch.bfloat16, torch.float32)]
    assert sum(map(len, groups)) == len(trainable), "weights are bf16 or fp32"
    return torch.optim.AdamW(
        [{"params": group} for group in groups if group],
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )


def learning_rate(step: int, config: OptimConfig, planned_steps: int) -> float:
    """The learning rate of step ``step`` (from 1): linear warm-up, then constant or cosine to 0."""
    if step <= config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - config.warmup_steps) / max(1, planned_steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
