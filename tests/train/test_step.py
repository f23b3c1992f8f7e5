"""The train step: one denominator, whatever the accumulation; no update from what is not finite."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoTokenizer, JanusForConditionalGeneration

from janus_train.config import Config
from janus_train.data.batch import Batch, collate
from janus_train.data.encode import Encoder
from janus_train.data.packing.best_fit import BestFitPacker
from janus_train.data.recipe import Recipe
from janus_train.data.streams import DocumentSampler, Stream
from janus_train.data.types import Row
from janus_train.model.attention import packed
from janus_train.model.janus import PackedJanus
from janus_train.model.losses import LossSums
from janus_train.model.parts import part_of, set_trainable
from janus_train.train.backends import Backend, make_backend
from janus_train.train.distributed.context import Distributed
from janus_train.train.optim import learning_rates
from janus_train.train.step import StepResult, train_step
from tests.helpers import config_of

MODEL = config_of("+stage=2").model
IMAGES = (MODEL.tokens_per_image, MODEL.image_size)
"""Tokens and pixels of the tiny model's images."""


@pytest.fixture
def config(small: Callable[..., Config]) -> Config:
    return small(2, "batch.rows_per_step=16", "batch.micro_rows=16")


@pytest.fixture
def janus(random_base: Path) -> JanusForConditionalGeneration:
    return JanusForConditionalGeneration.from_pretrained(random_base)


@pytest.fixture
def rows(config: Config, random_base: Path) -> list[Row]:
    """16 rows of stage 2."""
    assert config.data.recipe
    recipe = Recipe(config.data.recipe, config.ratio, IMAGES[1])
    encoder = Encoder(AutoTokenizer.from_pretrained(random_base), *IMAGES, "")
    sampler = DocumentSampler(
        recipe, encoder, seed=0, num_streams=16, row_tokens=256, guidance_dropout=0.1, first_sentence=0.25
    )
    return [next(Stream(v, sampler, BestFitPacker(256, recipe.shares, 2))) for v in range(16)]


def step(backend: Backend, micro_batches: list[Batch], gradient_clip: float) -> StepResult:
    return train_step(backend, micro_batches, sum(batch.num_loss_tokens for batch in micro_batches), gradient_clip)


def updated(
    janus: JanusForConditionalGeneration, rows: list[Row], config: Config, micro_rows: int, steps: int = 2
) -> dict[str, torch.Tensor]:
    """The weights after some steps over the same rows."""
    janus = copy.deepcopy(janus)
    set_trainable(janus, config.train_parts)
    backend = make_backend(janus, config, Distributed(config))
    micro_batches = [collate(rows[i : i + micro_rows], *IMAGES) for i in range(0, len(rows), micro_rows)]
    for _ in range(steps):
        assert step(backend, micro_batches, config.optim.gradient_clip).applied
    return dict(janus.state_dict())


def test_accumulation_does_not_change_the_update(
    janus: JanusForConditionalGeneration, rows: list[Row], config: Config
) -> None:
    """1 x 16 rows and 4 x 4 rows, though the four have different numbers of loss tokens.

    Compared by gradients' effect through SGD-like scale: AdamW's first steps divide by the gradient's own size, so that
    rounding in near-zero gradients would be blown up to a whole learning rate.
    """
    counts = [collate(rows[i : i + 4], *IMAGES).num_loss_tokens for i in range(0, 16, 4)]
    assert len(set(counts)) > 1
    config = config.model_copy(update={"optim": config.optim.model_copy(update={"eps": 1e-3})})
    whole, parts = updated(janus, rows, config, 16), updated(janus, rows, config, 4)
    before = janus.state_dict()
    moved = max((whole[n] - before[n]).abs().max().item() for n in whole)
    apart = max((whole[n] - parts[n]).abs().max().item() for n in whole)
    assert moved > 1e-4 and apart < 1e-6


def test_a_mean_over_micro_batches_would_be_noticed(
    janus: JanusForConditionalGeneration, rows: list[Row], config: Config
) -> None:
    """The naive mean of micro-batch means differs here by far more than the tolerance above."""
    model = PackedJanus(copy.deepcopy(janus))
    with torch.no_grad():
        sums = [
            (float(s.total), s.num_total) for s in (model(collate(rows[i : i + 4], *IMAGES)) for i in range(0, 16, 4))
        ]
    right = sum(s for s, _ in sums) / sum(n for _, n in sums)
    naive = sum(s / n for s, n in sums) / len(sums)
    assert abs(right - naive) > 1e-4


def test_what_is_not_finite_is_not_applied(
    janus: JanusForConditionalGeneration, rows: list[Row], config: Config
) -> None:
    with torch.no_grad():
        janus.model.language_model.norm.weight[0] = float("inf")
    set_trainable(janus, config.train_parts)
    before = {n: t.clone() for n, t in janus.state_dict().items()}
    backend = make_backend(janus, config, Distributed(config))
    result = step(backend, [collate(rows[:2], *IMAGES)], 1.0)
    assert not result.applied and not backend.optimizer.state
    assert all(torch.equal(before[n], t) for n, t in janus.state_dict().items())


def test_a_loss_that_is_not_finite_spoils_its_gradients_so_that_every_rank_knows(
    janus: JanusForConditionalGeneration, rows: list[Row], config: Config
) -> None:
    """Finite gradients beside an infinite loss would be applied on the ranks that do not see the loss."""
    set_trainable(janus, config.train_parts)
    backend = make_backend(janus, config, Distributed(config))
    forward = backend.model.forward

    def infinite(batch: Batch) -> LossSums:
        sums = forward(batch)
        return sums._replace(total=sums.total + math.inf)

    backend.model.forward = infinite  # type: ignore[method-assign]
    result = step(backend, [collate(rows[:2], *IMAGES)], 1.0)
    assert not result.applied and not math.isfinite(result.grad_norm) and not backend.optimizer.state


def test_gradients_are_clipped(janus: JanusForConditionalGeneration, rows: list[Row], config: Config) -> None:
    set_trainable(janus, config.train_parts)
    backend = make_backend(janus, config, Distributed(config))
    result = step(backend, [collate(rows[:2], *IMAGES)], 1e-3)
    norm = torch.stack([p.grad.norm() for p in janus.parameters() if p.grad is not None]).norm()
    assert result.grad_norm > 1e-2 and float(norm) == pytest.approx(1e-3, rel=1e-3)


def test_the_next_rows_are_fetched_between_the_backward_pass_and_the_update(
    janus: JanusForConditionalGeneration, rows: list[Row], config: Config
) -> None:
    set_trainable(janus, config.train_parts)
    backend = make_backend(janus, config, Distributed(config))
    weight = janus.model.language_model.norm.weight
    backend.set_learning_rates({None: 1e-3})
    before, seen = weight.detach().clone(), list[bool]()

    def look() -> None:
        seen.append(weight.grad is not None and torch.equal(weight, before))

    train_step(backend, [collate(rows[:2], *IMAGES), collate(rows[2:4], *IMAGES)], 100, 1.0, meanwhile=look)
    assert seen == [True] and not torch.equal(weight, before)


class Reads(TorchDispatchMode):
    """Lets tensors of the meta device, which have no data, stand for a GPU's: a read of one is noted and gives ones."""

    def __init__(self, events: list[str]):
        super().__init__()
        self._events = events

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = function._schema.name.removeprefix("aten::")
        if args and isinstance(args[0], torch.Tensor) and args[0].is_meta:
            if name == "_local_scalar_dense":
                self._events.append("waits for a number")
                return 1.0
            if name == "_to_copy" and torch.device(kwargs.get("device") or "meta").type == "cpu":
                self._events.append("copies behind" if kwargs.get("non_blocking") else "waits for a copy")
                return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        return function(*args, **kwargs)


def test_a_step_waits_for_the_device_once_and_after_the_next_rows_are_fetched(
    janus: JanusForConditionalGeneration, rows: list[Row], config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On tensors without data, where anything that needs a value (nonzero, a mask as index, ``if tensor``) fails."""
    monkeypatch.setattr(packed, "_attend_by_group", packed._attend_varlen)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # knows no such device
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    set_trainable(janus, config.train_parts)
    batches = [collate(rows[:2], *IMAGES), collate(rows[2:5], *IMAGES)]
    group = SimpleNamespace(backend="ddp", device=torch.device("meta"), world_size=1, autocast=nullcontext)
    backend = make_backend(janus, config, cast(Distributed, group))
    events: list[str] = []
    backend.optimizer.step = lambda: events.append("updates")  # type: ignore[assignment, method-assign]
    with Reads(events):
        train_step(backend, batches, 100, 1.0, meanwhile=lambda: events.append("fetches"))
    assert events == ["copies behind", "fetches", "waits for a number", "updates"]


def test_optimizer_holds_what_trains_alone(
    janus: JanusForConditionalGeneration, rows: list[Row], config: Config
) -> None:
    set_trainable(janus, ["image_head"])
    backend = make_backend(janus, config, Distributed(config))
    step(backend, [collate(rows[:2], *IMAGES)], 1.0)
    assert set(backend.optimizer.state) == set(janus.model.generation_head.parameters())


@pytest.mark.parametrize(("step", "rate"), [(1, 0.1), (5, 0.5), (10, 1.0), (11, 1.0), (100, 1.0)])
def test_constant_schedule_after_linear_warm_up(config: Config, step: int, rate: float) -> None:
    optim = config.optim.model_copy(update={"learning_rate": 1.0, "warmup_steps": 10, "schedule": "constant"})
    assert learning_rates(step, optim, 100)[None] == pytest.approx(rate)


@pytest.mark.parametrize(("step", "rate"), [(10, 1.0), (55, 0.5), (100, 0.0), (120, 0.0)])
def test_cosine_schedule(config: Config, step: int, rate: float) -> None:
    optim = config.optim.model_copy(update={"learning_rate": 1.0, "warmup_steps": 10, "schedule": "cosine"})
    assert learning_rates(step, optim, 100)[None] == pytest.approx(rate, abs=1e-9)


def test_no_warm_up_begins_at_the_full_rate(config: Config) -> None:
    optim = config.optim.model_copy(update={"learning_rate": 4e-5, "warmup_steps": 0, "schedule": "constant"})
    assert learning_rates(1, optim, 100)[None] == 4e-5


def test_parts_with_their_own_options_have_groups_of_their_own(
    janus: JanusForConditionalGeneration, small: Callable[..., Config]
) -> None:
    """A rate of its own scales with the schedule; a decay of its own alone follows the others' rate."""
    own = "{language_model: {learning_rate: 1e-5}, image_head: {weight_decay: 0.3}}"
    config = small(2, "optim.weight_decay=0.1", "optim.warmup_steps=4", "optim.schedule=constant", f"optim.parts={own}")
    set_trainable(janus, config.train_parts)
    backend = make_backend(janus, config, Distributed(config))
    rates = learning_rates(2, config.optim, 100)
    assert rates == {None: config.optim.learning_rate / 2, "language_model": 0.5e-5}
    backend.set_learning_rates(rates)
    groups = {group["part"]: group for group in backend.optimizer.param_groups}
    assert {part: (group["lr"], group["weight_decay"]) for part, group in groups.items()} == {
        None: (config.optim.learning_rate / 2, 0.1),
        "language_model": (0.5e-5, 0.1),
        "image_head": (config.optim.learning_rate / 2, 0.3),
    }
    owners = {id(parameter): part for part, group in groups.items() for parameter in group["params"]}
    for name, parameter in janus.named_parameters():
        if parameter.requires_grad:
            assert owners.pop(id(parameter)) == (part if (part := part_of(name)) in config.optim.parts else None), name
    assert not owners


def test_a_part_with_its_own_rate_moves_as_far_as_that_rate(
    janus: JanusForConditionalGeneration, rows: list[Row], small: Callable[..., Config]
) -> None:
    """AdamW's first step is as long as the rate, whatever the gradient."""
    config = small(2, "optim.learning_rate=1e-3", "optim.parts={image_head: {learning_rate: 1e-5}}")
    set_trainable(janus, config.train_parts)
    before = {name: tensor.clone() for name, tensor in janus.state_dict().items()}
    backend = make_backend(janus, config, Distributed(config))
    backend.set_learning_rates({None: 1e-3, "image_head": 1e-5})
    assert step(backend, [collate(rows[:2], *IMAGES)], 1.0).applied
    longest = dict.fromkeys(("language_model", "image_head"), 0.0)
    for name, tensor in janus.state_dict().items():
        if (part := part_of(name)) in longest:
            longest[part] = max(longest[part], float((tensor - before[name]).abs().max()))
    assert longest == pytest.approx({"language_model": 1e-3, "image_head": 1e-5}, rel=1e-2)


def test_gradients_stop_below_the_lowest_layer_that_trains(
    janus: JanusForConditionalGeneration, rows: list[Row], config: Config
) -> None:
    """Nothing below it has a graph, and what is frozen above it has no gradients of its own."""
    set_trainable(janus, ["language_model.layers.1", "language_model.layers.3"])
    layers = janus.model.language_model.layers
    has_graph = {}
    for number, layer in enumerate(layers):
        layer.register_forward_hook(
            lambda _, __, output, number=number: has_graph.update({number: output.requires_grad})
        )
    backend = make_backend(janus, config, Distributed(config))
    assert step(backend, [collate(rows[:2], *IMAGES)], 1.0).applied
    assert has_graph == {0: False, 1: True, 2: True, 3: True}
    trained = {id(parameter) for number in (1, 3) for parameter in layers[number].parameters()}
    assert {id(p) for p in janus.parameters() if p.grad is not None} == trained
    assert {id(p) for p in backend.optimizer.state} == trained
