"""The options of an evaluation, and how it reports its progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Progress = Callable[[str, int, int], None]
"""Called with (phase, number of items done, total number of items)."""


@dataclass(frozen=True)
class EvaluationOptions:
    """Options of all evaluations. An evaluation ignores those that do not apply, for example if it generates no images."""

    num_prompts: int
    num_questions: int
    seed: int
    guidance: float
    temperature: float
    """0 takes the most likely code each time."""
    batch_size: int = 64


def counter(report: Progress, phase: str, total: int) -> Callable[[int], None]:
    """Returns a function that adds up its arguments and reports the sum of ``phase`` to ``report``."""
    num_done = 0

    def count(num_new: int) -> None:
        nonlocal num_done
        num_done += num_new
        report(phase, num_done, total)

    return count
