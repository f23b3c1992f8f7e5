"""A bounded number of items is spread over all, and the first ones come from every group."""

from __future__ import annotations

from janus_train.evaluate.own_data.selection import in_turn, spread


def test_a_bounded_number_is_evenly_spread() -> None:
    assert spread(range(10), 5) == [0, 2, 4, 6, 8]
    assert spread(range(3), 5) == [0, 1, 2]
    assert spread(range(7), 3) == [0, 2, 4]
    assert spread([], 5) == spread(range(3), 0) == []


def test_groups_take_turns() -> None:
    items = ["a1", "a2", "a3", "b1", "c1", "c2"]
    assert in_turn(items, lambda item: item[0]) == ["a1", "b1", "c1", "a2", "c2", "a3"]
    assert in_turn([], len) == []
