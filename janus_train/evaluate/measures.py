"""Shares of right judgements and their confidence intervals, for all evaluations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

Z95 = 1.959964
"""Two-sided 95 % point of the normal distribution."""


def interval(num_right: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, in percent: honest for small n and for shares near 0 and 1."""
    if n == 0:
        return 0.0, 100.0
    share, z2 = num_right / n, Z95 * Z95
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    low, high = 100 * (middle - half), 100 * (middle + half)
    return max(0.0, round(low, 6)), min(100.0, round(high, 6))  # rounded: 0 of n is 0, not 5e-17


def share(judgements: Sequence[bool]) -> dict[str, Any]:
    """The share as n, right, percent and the ends of its interval."""
    n, num_right = len(judgements), sum(judgements)
    low, high = interval(num_right, n)
    return {"n": n, "right": num_right, "percent": 100 * num_right / n if n else 0.0, "low": low, "high": high}
