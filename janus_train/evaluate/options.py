"""How to evaluate, and how an evaluation tells how far it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Progress = Callable[[str, int, int], None]
"""Told (what is being done, how many are done, of how many)."""


@dataclass(frozen=True)
class EvaluationOptions:
    """How to evaluate. An evaluation that generates no images, for example, has no use for some of them."""

    num_prompts: int
    num_questions: int
    seed: int
    guidance: float
    temperature: float
    """0: the likeliest code each time."""
    batch_size: int = 64


def counter(report: Progress, what: str, total: int) -> Callable[[int], None]:
    """Tells ``report`` the sum of what it is told."""
    done = 0

    def count(new: int) -> None:
        nonlocal done
        done += new
        report(what, done, total)

    return count
