"""The shapes of the learning rate after its warm-up, by the names of ``optim.schedule``.

Each is a function of the step after the warm-up (from 1) and of the number of steps there, and returns a share of the
peak rate between 1 and 0; ``optim.min_lr_ratio`` then lifts the 0. They are those of transformers' functions of the same
names (``get_cosine_schedule_with_warmup``, ``get_wsd_schedule`` ...).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from janus_train.config import DecayType, OptimConfig, Schedule

DECAYS: dict[DecayType, Callable[[float], float]] = {
    "linear": lambda progress: 1 - progress,
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "1-sqrt": lambda progress: 1 - math.sqrt(progress),
}
"""How a rate falls from 1 to 0 while ``progress`` goes from 0 to 1."""


def constant(step: int, num_steps: int, options: OptimConfig) -> float:
    """The peak rate to the end."""
    return 1.0


def linear(step: int, num_steps: int, options: OptimConfig) -> float:
    """A straight line to 0 at the last step."""
    return DECAYS["linear"](_progress(step, num_steps))


def cosine(step: int, num_steps: int, options: OptimConfig) -> float:
    """Half a cosine to 0 at the last step."""
    return DECAYS["cosine"](_progress(step, num_steps))


def wsd(step: int, num_steps: int, options: OptimConfig) -> float:
    """Warm-up, stable, decay (MiniCPM, arXiv 2404.06395): the peak rate, then over the last steps to 0."""
    num_decay_steps = options.num_decay_steps(num_steps + options.warmup_steps)
    return DECAYS[options.decay_type](_progress(step - (num_steps - num_decay_steps), num_decay_steps))


def _progress(step: int, num_steps: int) -> float:
    return min(1.0, max(0.0, step / max(1, num_steps)))


SCHEDULES: dict[Schedule, Callable[[int, int, OptimConfig], float]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "wsd": wsd,
}
"""The table in which a new schedule is registered; its name goes into `config.Schedule` too."""
