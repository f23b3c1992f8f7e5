"""Chooses which questions are asked and which prompts are drawn, and in which order, without chance."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from itertools import zip_longest
from typing import Literal, TypeVar

T = TypeVar("T")

Split = Literal["held_out", "all"]
"""Which samples of a recipe are evaluated: those that it holds out, or all."""


def spread(items: Sequence[T], number: int) -> list[T]:
    """Returns at most ``number`` of the items, evenly spread and in their order."""
    number = min(number, len(items))
    return [items[position * len(items) // number] for position in range(number)]


def in_turn(items: Sequence[T], group_of: Callable[[T], Hashable]) -> list[T]:
    """Returns the items so that the first ones come from each group, in the groups' first order."""
    groups: dict[Hashable, list[T]] = {}
    for item in items:
        groups.setdefault(group_of(item), []).append(item)
    turns = zip_longest(*([(item,) for item in group] for group in groups.values()), fillvalue=())
    return [item for turn in turns for place in turn for item in place]
