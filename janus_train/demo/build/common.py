"""Shared by the modules that pretrain the base: the data, batches of images, the schedule, the progress line."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange
from PIL import Image

from janus_train.demo.objects import embedded_shards
from janus_train.demo.scenes import Scene, load_library, render, sample_scene

SHARDS = embedded_shards()
ENDLESS = 10**9  # length of a source that is read in order


@dataclass
class Schedule:
    """Warm-up, then a cosine down to a thirtieth of ``peak``."""

    peak: float
    steps: int
    warmup: int = 50

    def __call__(self, step: int) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.peak * min(1.0, (step + 1) / self.warmup) * (0.97 * cosine + 0.03)

    def apply(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = self(step) * group.get("scale", 1.0)


class Progress:
    """Prints a line every few steps: part, step, time, figures."""

    def __init__(self, part: str, steps: int, every: int = 100):
        self.part, self.steps, self.every, self.start = part, steps, every, time.monotonic()

    def __call__(self, step: int, **figures: float) -> None:
        if (step + 1) % self.every == 0 or step + 1 == self.steps:
            text = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
            print(f"{self.part} {step + 1}/{self.steps}  {self.seconds:.0f} s  {text}", flush=True)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start


def to_tensor(images: list[Image.Image]) -> torch.Tensor:
    """uint8 (N, 3, S, S)."""
    return rearrange(torch.from_numpy(np.stack([np.asarray(p) for p in images])), "n h w c -> n c h w")


def to_float(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 -> float32 in -1..1, as the trainer feeds both encoders."""
    return pixels.float().div(127.5).sub(1.0)


def scenes(split: str, seed: int, count: int, size: int) -> tuple[list[Scene], torch.Tensor]:
    """Sample ``count`` scenes of a split and their images, uint8 (count, 3, S, S)."""
    library = load_library(tuple(SHARDS))
    rng = np.random.default_rng(seed)
    sampled_scenes = [sample_scene(library, rng, split) for _ in range(count)]
    return sampled_scenes, to_tensor([render(scene, library, size) for scene in sampled_scenes])


Figures = dict[str, Any]
"""The results of a part for the base's README."""
