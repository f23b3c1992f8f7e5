"""The schedules are those of transformers' functions, step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_cosine_with_min_lr_schedule_with_warmup,
    get_linear_schedule_with_warmup,
    get_wsd_schedule,
)

from janus_train.config import DecayType, Schedule
from janus_train.train.optim import learning_rates
from janus_train.train.schedules import DECAYS, SCHEDULES
from tests.helpers import config_of

STEPS, WARMUP, PEAK = 60, 12, 3e-4


def rates_of_transformers(make: Callable[..., Any], **options: Any) -> list[float]:
    """The rates of the steps 1 to STEPS: transformers counts from 0, where the rate is 0."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    schedule = make(optimizer, num_warmup_steps=WARMUP, **options)
    rates = []
    for _ in range(STEPS):
        optimizer.step()
        schedule.step()
        rates.append(schedule.get_last_lr()[0])
    return rates


def rates(*overrides: str, steps: int = STEPS) -> list[float]:
    optim = config_of(
        "+stage=3",
        f"run.steps={STEPS}",
        f"optim.learning_rate={PEAK}",
        f"optim.warmup_steps={WARMUP}",
        *(f"optim.{override}" for override in overrides),
    ).optim
    return [learning_rates(step, optim, STEPS)[None] for step in range(1, steps + 1)]


@pytest.mark.parametrize(
    ("overrides", "make", "options"),
    [
        (["schedule=constant"], get_constant_schedule_with_warmup, {}),
        (["schedule=linear"], get_linear_schedule_with_warmup, {"num_training_steps": STEPS}),
        (["schedule=cosine"], get_cosine_schedule_with_warmup, {"num_training_steps": STEPS}),
        (
            ["schedule=cosine", "min_lr_ratio=0.1"],
            get_cosine_with_min_lr_schedule_with_warmup,
            {"num_training_steps": STEPS, "min_lr_rate": 0.1},
        ),
        *(
            (
                ["schedule=wsd", f"decay_steps={steps}", f"decay_type={decay}"],
                get_wsd_schedule,
                {"num_training_steps": STEPS, "num_decay_steps": 15, "decay_type": decay},
            )
            for decay in get_args(DecayType)
            for steps in (15, 0.25)
        ),
    ],
)
def test_they_are_transformers(overrides: list[str], make: Callable[..., Any], options: dict[str, Any]) -> None:
    assert rates(*overrides) == pytest.approx(rates_of_transformers(make, **options), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("decay", get_args(DecayType))
def test_wsd_to_a_share_of_its_peak_is_transformers_after_the_warm_up(decay: DecayType) -> None:
    """transformers begins the warm-up at that share, all of ours at 0."""
    ours = rates("schedule=wsd", "decay_steps=20", f"decay_type={decay}", "min_lr_ratio=0.2")
    options = {"num_training_steps": STEPS, "num_decay_steps": 20, "decay_type": decay, "min_lr_ratio": 0.2}
    theirs = rates_of_transformers(get_wsd_schedule, **options)
    assert ours[WARMUP - 1 :] == pytest.approx(theirs[WARMUP - 1 :], rel=1e-9)
    assert ours[: WARMUP - 1] == pytest.approx([PEAK * step / WARMUP for step in range(1, WARMUP)])
    assert ours[STEPS - 20 - 1] == PEAK > ours[STEPS - 20] and ours[-1] == pytest.approx(0.2 * PEAK)


def test_linear_falls_to_a_share_of_its_peak() -> None:
    ours = rates("schedule=linear", "min_lr_ratio=0.5")
    assert ours[WARMUP - 1] == PEAK and ours[-1] == pytest.approx(PEAK / 2)
    assert ours[(STEPS + WARMUP) // 2 - 1] == pytest.approx(0.75 * PEAK)


def test_after_the_planned_steps_the_lowest_rate_stays() -> None:
    for name in ("linear", "cosine", "wsd"):
        more = ["decay_steps=0.1"] if name == "wsd" else []
        assert rates(f"schedule={name}", "min_lr_ratio=0.1", *more, steps=STEPS + 5)[-6:] == pytest.approx(
            6 * [PEAK / 10]
        )


def test_a_longer_wsd_is_the_same_before_its_decay() -> None:
    """So a run can resume there with more steps; a cosine would be another one from its beginning."""
    optim = config_of("+stage=3", "optim.warmup_steps=5", "optim.schedule=wsd", "optim.decay_steps=10").optim
    short, long = ([learning_rates(step, optim, planned)[None] for step in range(1, 51)] for planned in (40, 60))
    assert short[:30] == long[:30] and short[30] < long[30] == long[49] > short[49] == 0
    cosine = optim.model_copy(update={"schedule": "cosine"})
    assert learning_rates(10, cosine, 40)[None] < learning_rates(10, cosine, 60)[None]


def test_each_name_of_the_configuration_has_its_schedule() -> None:
    assert set(SCHEDULES) == set(get_args(Schedule)) and set(DECAYS) == set(get_args(DecayType))
