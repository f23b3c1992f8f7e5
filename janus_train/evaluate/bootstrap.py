"""Means with their 95 % intervals, bootstrapped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

NUM_RESAMPLES = 2000
_CHUNK = 1 << 22
"""Resampled values that are in memory at once."""


def mean(values: Sequence[float], seed: int = 0) -> dict[str, Any]:
    """The mean as n, mean and the ends of its percentile bootstrap interval; of no values all are None.

    The same values and ``seed`` give the same interval.
    """
    if not len(values):
        return {"n": 0, "mean": None, "low": None, "high": None}
    array = np.asarray(values, np.float64)
    rng, means = np.random.default_rng(seed), []
    resamples_at_once = max(1, _CHUNK // len(array))
    for start in range(0, NUM_RESAMPLES, resamples_at_once):
        number = min(resamples_at_once, NUM_RESAMPLES - start)
        means.append(array[rng.integers(len(array), size=(number, len(array)))].mean(axis=1))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return {"n": len(array), "mean": float(array.mean()), "low": float(low), "high": float(high)}
