"""One exchange per step, and what comes of it on every rank."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import pytest

from janus_train.config import Config
from janus_train.data.types import KINDS
from janus_train.model.loss_totals import LossTotals
from janus_train.train.distributed.context import Distributed
from janus_train.train.distributed.step_sync import RowsReport, StepReport, StepSync
from janus_train.train.run import run


def exchanged(*reports: tuple[StepReport, RowsReport]) -> Any:
    """What the ranks with these reports agree on."""
    group = cast(Distributed, SimpleNamespace(gather=lambda mine: list(reports)))
    return StepSync(group).exchange(*reports[0])


def losses(value: float, count: int) -> LossTotals:
    return LossTotals(dict.fromkeys(KINDS, value), dict.fromkeys(KINDS, count))


def test_a_step_takes_one_exchange_and_no_other_collective(
    small: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted over a run's steps; saving and the end of the run have some of their own."""
    calls: list[str] = []

    def counted(name: str) -> Callable[..., Any]:
        method = getattr(Distributed, name)

        def call(self: Distributed, *values: Any) -> Any:
            calls.append(name)
            return method(self, *values)

        return call

    for name in ("sum", "gather", "barrier"):
        monkeypatch.setattr(Distributed, name, counted(name))
    marks: list[int] = []
    exchange = StepSync.exchange

    def marked(self: StepSync, *reports: Any) -> Any:
        marks.append(len(calls))
        return exchange(self, *reports)

    monkeypatch.setattr(StepSync, "exchange", marked)
    run(small(2, "run.steps=5", "run.rank_times_every=2"))
    assert len(marks) == 6  # once before the first step
    assert [later - earlier for earlier, later in pairwise(marks)] == [1] * 5
    assert all(calls[mark] == "gather" for mark in marks)


def test_losses_counts_and_digests_are_those_of_all_ranks() -> None:
    rows = [
        RowsReport(["a", "b"], 10, {"text": 1.5, "understanding": 0, "generation": 0}, dict.fromkeys(KINDS, 7), 1.0),
        RowsReport(["c"], 20, {"text": 0.5, "understanding": 2, "generation": 0}, dict.fromkeys(KINDS, 1), 2.0),
    ]
    summary = exchanged((StepReport(losses(3.0, 2)), rows[0]), (StepReport(losses(1.0, 0)), rows[1]))
    assert summary.losses.mean == 4.0 / 2 and summary.losses.counts == dict.fromkeys(KINDS, 2)
    assert summary.rows.digests == ["a", "b", "c"] and summary.rows.num_loss_tokens == 30
    assert summary.rows.samples == {"text": 2.0, "understanding": 2, "generation": 0}
    assert summary.rows.num_tokens == 24 and summary.rows.flops == 3.0


def test_a_signal_or_an_error_on_one_rank_is_every_ranks() -> None:
    calm, asked = StepReport(), StepReport(signal=15, host="node7")
    summary = exchanged((calm, RowsReport()), (asked, RowsReport(error="shard x is damaged")))
    assert summary.stop_signal == "SIGTERM (to rank 1 on node7)"
    assert summary.rows.error == "shard x is damaged"
    assert exchanged((calm, RowsReport())).stop_signal is None


def test_a_save_counts_once_every_rank_has_written() -> None:
    assert not exchanged((StepReport(), RowsReport()), (StepReport(save_written=False), RowsReport())).save_written
    assert exchanged((StepReport(), RowsReport()), (StepReport(), RowsReport())).save_written


def test_sources_that_only_one_rank_has_met_are_counted() -> None:
    first = RowsReport(num_drawn=Counter(a=3), num_bad=Counter(a=1))
    second = RowsReport(num_drawn=Counter(a=2, b=5))
    rows = exchanged((StepReport(), first), (StepReport(), second)).rows
    assert rows.num_drawn == Counter(a=5, b=5) and rows.num_bad == Counter(a=1)
