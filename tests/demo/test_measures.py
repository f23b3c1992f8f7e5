"""Shares and their intervals."""

from __future__ import annotations

import pytest

from janus_train.demo.measures import commonest, interval, measure, share


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),  # by the formula in Wilson 1927, computed apart
    [(90, 100, 82.56, 94.48), (0, 20, 0.0, 16.11), (20, 20, 83.89, 100.0), (1, 825, 0.02, 0.68)],
)
def test_wilson_interval(right, n, low, high):
    assert interval(right, n) == pytest.approx((low, high), abs=0.01)


def test_nothing_measured():
    assert share([]) == {"n": 0, "right": 0, "percent": 0.0, "low": 0.0, "high": 100.0}
    assert measure("background", "generation", [], 12.5)["reached"] is False


def test_commonest_answer():
    assert commonest(["a", "b", "a", "c"]) == 50.0
    assert commonest([]) == 0.0


def test_reached_by_percent_and_by_times_chance():
    assert measure("background", "generation", [True] * 9 + [False], 12.5)["reached"] is True
    assert measure("background", "generation", [True] * 8 + [False] * 2, 12.5)["reached"] is False
    result = measure("object", "generation", [True] + [False] * 49, 0.125)
    assert result["percent"] == 2.0 and result["times_chance"] == 16.0 and result["reached"] is True
    assert measure("object", "generation", [True] + [False] * 99, 0.125)["reached"] is False
    assert "reached" not in measure("count", "generation", [True], 40.0)
