"""AdamW over the trainable parameters, and the learning rates as a pure function of the step.

There is no scheduler object: Accelerate's prepared schedulers advance once per process in every step, so a warm-up of
600 steps would take 600 / num_processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from janus_train.config import OptimConfig, Part
from janus_train.model.parts import part_of
from janus_train.train.schedules import SCHEDULES

LearningRates = Mapping[Part | None, float]
"""The learning rates of a step: of the parts that have their own, and with the key None of all others."""


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Make AdamW for the trainable parameters; the others have no optimiser state.

    There is a parameter group for each type of weights, bf16 first: DeepSpeed flattens a group into one tensor, and takes
    the first group's type for that of the model. Each part of ``config.parts`` has groups of its own; checkpoints go by
    the parameters' names and do not know of groups.
    """
    groups: dict[tuple[bool, Part | None], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.dtype in (torch.bfloat16, torch.float32), "weights are bf16 or fp32"
            part = _part_with_options(name, config)
            group = groups.setdefault((parameter.dtype == torch.float32, part), _options(part, config))
            group["params"].append(parameter)
    return torch.optim.AdamW(
        [groups[key] for key in sorted(groups, key=lambda key: (key[0], key[1] or ""))],
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )


def _part_with_options(name: str, config: OptimConfig) -> Part | None:
    """The part of a parameter if it has options of its own; ``name`` is that in the model that a backend trains."""
    if not config.parts:
        return None
    part = part_of(name.partition("janus.")[2])
    return part if part in config.parts else None


def _options(part: Part | None, config: OptimConfig) -> dict[str, Any]:
    """An empty parameter group."""
    own = config.parts[part].weight_decay if part is not None else None
    return {"params": [], "part": part, "weight_decay": config.weight_decay if own is None else own}


def learning_rates(step: int, config: OptimConfig, planned_steps: int) -> LearningRates:
    """The learning rates of step ``step`` (from 1): linear warm-up, then the schedule, which falls by ``planned_steps``.

    A part's own rate has the same warm-up and schedule.
    """
    peaks: dict[Part | None, float] = {None: config.learning_rate}
    peaks |= {part: own.learning_rate for part, own in config.parts.items() if own.learning_rate is not None}
    if step <= config.warmup_steps:
        return {part: peak * step / config.warmup_steps for part, peak in peaks.items()}
    share = SCHEDULES[config.schedule](step - config.warmup_steps, planned_steps - config.warmup_steps, config)
    share = config.min_lr_ratio + (1 - config.min_lr_ratio) * share
    return {part: peak * share for part, peak in peaks.items()}


def set_learning_rates(optimizer: torch.optim.Optimizer, rates: LearningRates) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rates.get(group["part"], rates[None])
