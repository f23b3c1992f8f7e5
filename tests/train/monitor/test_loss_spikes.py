"""Losses that jump, and weights that are not finite."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from janus_train.data.types import Row
from janus_train.errors import UserError
from janus_train.train.backends import Backend, ParameterShard
from janus_train.train.distributed.context import Distributed
from janus_train.train.monitor.loss_spikes import SPIKE_FROM, SPIKE_SIGMAS, BadSteps, SpikeRule, has_finite_weights
from janus_train.train.trainer import Trainer
from tests.helpers import config_of, read_lines


@pytest.fixture
def distributed() -> Distributed:
    return Distributed(config_of("+stage=1"))


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_a_jump_is_written_down_once_and_only_once_it_can_be_told(
    tmp_path: Path, distributed: Distributed, caplog: pytest.LogCaptureFixture
) -> None:
    steps = BadSteps(tmp_path / "bad_steps.jsonl", distributed)
    steps.judge(1, [], 100.0, 1.0, applied=True)  # nothing to compare with yet
    losses = [3.0 + 0.1 * math.sin(step) for step in range(120)]
    for step, loss in enumerate(losses, start=2):
        steps.judge(step, [], loss, 1.0, applied=True)
    assert not messages(caplog)
    steps.judge(122, [], 5.0, 1.0, applied=True)
    [line] = read_lines(tmp_path / "bad_steps.jsonl")
    assert line == {"step": 122, "reason": "spike", "loss": 5.0, "grad_norm": 1.0, "samples": []}
    assert messages(caplog)[0].startswith("step 122: the loss jumps to 5.000, over 3.4")


def test_the_limit_is_the_mean_and_so_many_deviations() -> None:
    rule = SpikeRule()
    for step in range(SPIKE_FROM):
        assert rule.limit() == math.inf
        rule.add(1.0 if step % 2 else 3.0)
    assert rule.limit() == pytest.approx(2.0 + SPIKE_SIGMAS * 1.0)


def test_the_third_in_a_row_ends_the_run_but_not_the_third_in_all(tmp_path: Path, distributed: Distributed) -> None:
    steps = BadSteps(tmp_path / "bad_steps.jsonl", distributed)
    bad, good = (math.nan, math.nan, False), (1.0, 1.0, True)
    for step, outcome in enumerate([bad, bad, good, bad, bad], start=1):
        steps.judge(step, [], *outcome)
    with pytest.raises(UserError, match=r"step 6: 3 steps in a row .*bad_steps\.jsonl"):
        steps.judge(6, [], *bad)
    assert len(read_lines(tmp_path / "bad_steps.jsonl")) == 5


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_rank_knows_weights_that_are_not_finite(value: float) -> None:
    weights = torch.zeros(4)
    shards = [ParameterShard("a", 0, torch.ones(3)), ParameterShard("b", 0, weights)]
    backend = cast(Backend, SimpleNamespace(checkpoint_shards=lambda: shards))
    assert has_finite_weights(backend)
    weights[2] = value
    assert not has_finite_weights(backend)
    assert has_finite_weights(cast(Backend, SimpleNamespace(checkpoint_shards=list))), "a rank that owns nothing"


@pytest.mark.parametrize("bad_ranks", [[], [0], [1], [0, 1]])
def test_nothing_is_saved_if_any_ranks_weights_are_not_finite(bad_ranks: list[int]) -> None:
    """By the one exchange that also brings the streams' states to rank 0."""
    weight = torch.full((2,), math.nan if 0 in bad_ranks else 1.0)
    saved: list[Any] = []
    other = (1 not in bad_ranks, [("1", {"draws": 5})])
    trainer = SimpleNamespace(
        backend=SimpleNamespace(checkpoint_shards=lambda: [ParameterShard("a", 0, weight)]),
        group=SimpleNamespace(gather=lambda mine: [*mine, other]),
        saver=SimpleNamespace(begin=lambda *values: saved.append(values)),
    )
    save = partial(Trainer._save, cast(Trainer, trainer), 7, [Row(0, [], {"draws": 4})])
    if bad_ranks:
        with pytest.raises(UserError, match="step 7: the weights are not finite and are not saved"):
            save()
        assert not saved
    else:
        save()
        assert saved == [(7, {"0": {"draws": 4}, "1": {"draws": 5}}, False)]
