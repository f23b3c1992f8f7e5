"""``mfu`` and ``mfu_6n`` in the metrics."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from janus_train.config import Config
from janus_train.datatools.inspect.drawn import open_run_data
from janus_train.planning.flops import total_flops
from janus_train.planning.parameters import parameter_counts
from janus_train.planning.workload import workload_of
from janus_train.train.distributed.context import Distributed
from janus_train.train.monitor import mfu
from janus_train.train.monitor.mfu import MFU
from janus_train.train.run import run
from tests.helpers import read_lines

Small = Callable[..., Config]


def test_a_runs_lines_hold_the_shares_of_its_rows(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two micro-batches per step; the rows are those that ``inspect`` draws, the peak is a round number."""
    monkeypatch.setattr(mfu, "peak_flops", lambda *_: 1e12)
    config = small(1, "run.steps=2", "batch.micro_rows=1")
    lines = read_lines(run(config) / "metrics.jsonl")
    for line, (_, rows) in zip(lines, open_run_data(config).steps(1, 2), strict=True):
        useful = total_flops(config.model, config.train_parts, workload_of(d for row in rows for d in row.documents))
        assert line["flops"] == pytest.approx(useful)
        assert line["mfu"] == pytest.approx(useful / 1e12 / line["step_s"])
        six_n = 6 * parameter_counts(config.model)["language_model"] * line["tokens"]
        assert line["mfu_6n"] == pytest.approx(six_n / 1e12 / line["step_s"])


def test_without_a_known_peak_there_is_no_share(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mfu, "peak_flops", lambda *_: None)
    config = small(2)
    assert MFU(config, Distributed(config)).shares(1e9, 100, 1.0) == {"mfu": None, "mfu_6n": None}


def test_one_unknown_device_among_several_leaves_no_peak(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four processes as `Distributed.sum` shows them: the sum of three peaks would say too much."""
    config = small(2)
    distributed = Distributed(config)
    monkeypatch.setattr(distributed, "sum", lambda values: [3e12, 1.0] if values[1] else [4e12, 0.0])
    for mine, peak in ((None, None), (1e12, 4e12)):
        monkeypatch.setattr(mfu, "peak_flops", lambda *_, mine=mine: mine)
        assert MFU(config, distributed).peak == peak
