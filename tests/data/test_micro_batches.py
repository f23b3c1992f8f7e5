"""A step's micro-batches are made by a thread, one ahead of the one in use."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest

from janus_train.data.batch import Batch
from janus_train.data.micro_batches import MicroBatches
from janus_train.data.types import Row

ROWS = [Row(number, [], {}) for number in range(6)]
WAIT_S = 20


def numbers(rows: Sequence[Row]) -> Batch:
    return cast(Batch, [row.stream for row in rows])


def test_they_are_the_rows_in_order() -> None:
    with ThreadPoolExecutor(1) as executor:
        batches = MicroBatches(ROWS, 2, numbers, executor)
        assert len(batches) == 3 and cast(Any, list(batches)) == [[0, 1], [2, 3], [4, 5]]
        assert batches.wait_s >= 0


def test_the_first_is_made_before_it_is_asked_for_and_never_more_than_one_ahead() -> None:
    made = [threading.Event() for _ in range(3)]

    def make(rows: Sequence[Row]) -> Batch:
        made[rows[0].stream // 2].set()
        return numbers(rows)

    with ThreadPoolExecutor(1) as executor:
        batches = iter(MicroBatches(ROWS, 2, make, executor))
        assert made[0].wait(WAIT_S) and not made[1].is_set()
        next(batches)
        assert made[1].wait(WAIT_S) and not made[2].wait(0.05)


def test_an_error_reaches_the_one_who_asks() -> None:
    def fail(rows: Sequence[Row]) -> Batch:
        raise ValueError("rows 0")

    with ThreadPoolExecutor(1) as executor:
        batches = MicroBatches(ROWS, 2, fail, executor)
        with pytest.raises(ValueError, match="rows 0"):
            list(batches)
