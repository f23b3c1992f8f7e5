"""What the parts of an evaluation share."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Progress = Callable[[str, int, int], None]
"""Told (what is being done, how many are done, of how many)."""


@dataclass(frozen=True)
class Options:
    """How to evaluate."""

    num_prompts: int
    num_questions: int
    seed: int
    guidance: float
    temperature: float
    """0: the likeliest code each time."""
    num_dialogues: int = 100
    batch_size: int = 64


def counter(report: Progress, what: str, total: int) -> Callable[[int], None]:
    """Tells ``report`` the sum of what it is told."""
    done = 0

    def count(new: int) -> None:
        nonlocal done
        done += new
        report(what, done, total)

    return count


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
