"""Means come with intervals that are computed apart here."""

from __future__ import annotations

import math

import numpy as np
import pytest

from janus_train.evaluate.bootstrap import mean


def test_a_means_interval_is_about_that_of_the_normal_distribution_and_always_the_same() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, size=400).tolist()
    result = mean(values)
    half = 1.96 * np.std(values) / math.sqrt(400)
    assert result["n"] == 400 and result["mean"] == pytest.approx(np.mean(values))
    assert result["low"] == pytest.approx(np.mean(values) - half, abs=0.04)
    assert result["high"] == pytest.approx(np.mean(values) + half, abs=0.04)
    assert mean(values) == result != mean(values, seed=1)


def test_a_mean_of_equal_values_and_of_none() -> None:
    assert mean([0.5] * 3) == {"n": 3, "mean": 0.5, "low": 0.5, "high": 0.5}
    assert mean([]) == {"n": 0, "mean": None, "low": None, "high": None}
