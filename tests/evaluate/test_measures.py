"""Shares and their intervals."""

from __future__ import annotations

import pytest

from janus_train.evaluate.measures import interval, share


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),  # by the formula in Wilson 1927, computed apart
    [(90, 100, 82.56, 94.48), (0, 20, 0.0, 16.11), (20, 20, 83.89, 100.0), (1, 825, 0.02, 0.68)],
)
def test_wilson_interval(right, n, low, high):
    assert interval(right, n) == pytest.approx((low, high), abs=0.01)


def test_the_share_of_nothing_is_unknown():
    assert share([]) == {"n": 0, "right": 0, "percent": 0.0, "low": 0.0, "high": 100.0}


def test_a_share_has_its_counts_and_interval():
    low, high = interval(1, 4)
    assert share([True, False, False, False]) == {"n": 4, "right": 1, "percent": 25.0, "low": low, "high": high}
