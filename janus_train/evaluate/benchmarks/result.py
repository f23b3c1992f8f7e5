"""What a benchmark results in: scores with their intervals, and the papers' figures beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from janus_train.evaluate.measures import interval


@dataclass(frozen=True)
class Score:
    """One number. A share of ``n`` samples has a Wilson interval; a score on another scale has none."""

    name: str
    value: float
    """In percent, or in the benchmark's own points."""
    group: str = ""
    """The category or split; empty: over all."""
    n: int = 0
    right: int | None = None
    low: float | None = None
    high: float | None = None


def share_of(name: str, right: int, n: int, group: str = "") -> Score:
    """The share of ``right`` among ``n`` in percent with its 95 % interval; 0 of 0 is 0 with the interval 0 to 100."""
    low, high = interval(right, n)
    return Score(name, 100 * right / n if n else 0.0, group, n, right, low, high)


def shares_by(name: str, judgements: Sequence[tuple[str, bool]]) -> list[Score]:
    """`share_of` over all, then of each group in alphabetical order. ``judgements``: (group, whether it is right)."""
    scores = [share_of(name, sum(right for _, right in judgements), len(judgements))]
    for group in sorted({group for group, _ in judgements if group}):
        of_group = [right for own_group, right in judgements if own_group == group]
        scores.append(share_of(name, sum(of_group), len(of_group), group))
    return scores


@dataclass(frozen=True)
class Result:
    """The scores of one benchmark."""

    scores: tuple[Score, ...]
    headline: Score | None
    """The score that the papers print; None if something outside of this project has to judge."""
    num_unparsed: int = 0
    """Answers in which the rule found no answer; they count as wrong."""
    note: str = ""
    """What remains to be done, for example which file to give to which judge."""
    commands: tuple[str, ...] = ()
    """Commands for an environment of the judge's own, printed below the table."""
    judged_by: dict[str, Any] = field(default_factory=dict)
    """What judged outside of this project: files with their digests, models."""

    def values(self) -> dict[str, Any]:
        """The result as JSON values."""
        return asdict(self) | {"scores": [asdict(score) for score in self.scores]}


@dataclass(frozen=True)
class Published:
    """A benchmark's figures in the papers, on the scale of the headline; None where there is none."""

    janus_1_3b: float | None
    janus_pro_1b: float | None
    janus_pro_7b: float | None
    source: str


PRO_TABLE = "Janus-Pro technical report (arXiv:2501.17811)"
"""Prints the figures of Janus-1.3B too."""
