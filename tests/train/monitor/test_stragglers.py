"""Which rank is called slow."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from janus_train.train.monitor.stragglers import ForwardTimer, stragglers

times = st.lists(st.floats(0.001, 10), min_size=1, max_size=16)


def test_the_slow_rank_and_how_many_of_its_host() -> None:
    data, compute = [0.1, 0.1, 0.1, 0.1, 0.1, 0.1], [1.0, 1.0, 1.0, 1.0, 2.9, 2.0]
    [line] = stragglers(data, compute, ["a", "a", "a", "b", "b", "b"], ratio=1.5)
    assert line.startswith("slow host b: rank 4 needs 0.100 s for data and 2.900 s for the forward pass, 2.7 times")
    assert line.endswith("2 of its 3 ranks are that slow")


def test_slow_data_counts_and_small_differences_do_not() -> None:
    assert stragglers([2.0, 0.1], [1.0, 1.0], ["a", "b"], 1.5)[0].startswith(
        "slow host a: rank 0 needs 2.000 s for data"
    )
    assert stragglers([0.001, 0.004], [0.0, 0.0], ["a", "b"], 1.5) == []  # 4 times as slow, by 3 ms
    assert stragglers([9.0], [9.0], ["a"], 1.5) == []


@given(times, st.floats(1.1, 5))
def test_only_a_rank_beyond_the_ratio_is_named(compute: list[float], ratio: float) -> None:
    hosts = [f"host{rank}" for rank in range(len(compute))]
    lines = stragglers([0.0] * len(compute), compute, hosts, ratio)
    others = sorted(compute)[:-1]
    beyond = bool(others) and max(compute) > ratio * others[len(others) // 2]
    assert len(lines) <= 1
    if lines:
        assert f"slow host {hosts[compute.index(max(compute))]}:" in lines[0]
        assert max(compute) > ratio * others[(len(others) - 1) // 2]
    elif beyond:
        assert max(compute) - others[(len(others) - 1) // 2] < 0.01 or len(others) % 2 == 0


def test_the_timer_takes_training_passes_of_the_model_inside() -> None:
    class Slow(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch.cat([x] * 1000).exp()
            return x

    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = Slow()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.module(x)

    model = Wrapper()
    timer = ForwardTimer(model, torch.device("cpu"))
    with torch.no_grad():
        model(torch.ones(1000))
    assert timer.take() == 0
    model(torch.ones(1000))
    once = timer.take()
    assert once > 0 and timer.take() == 0
