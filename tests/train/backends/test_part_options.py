"""Layers of parts that train, and rates and weight decay by part: every backend trains as one process does.

Two processes do all runs, one after the other; the last of them resume each other's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from janus_train.model.parts import is_named, part_of
from janus_train.train.run import run
from tests.helpers import config_of, read_lines
from tests.processes import serving
from tests.train.backend_worker import run_cases
from tests.train.conftest import SMALL

TOLERANCE = 1e-5
BF16_SHARE = 0.05
"""Of how far a part has moved, as roots of mean squares: single elements may be a whole step apart, because AdamW divides a
gradient by its own size."""
TRAIN_PARTS = (
    "understanding_encoder.layers.1-",
    "generation_adaptor",
    "image_head",
    "language_model.layers.1-2",
    "language_model.lm_head",
)
OWN = (
    "understanding_encoder: {learning_rate: 3e-4, weight_decay: 0.5}",
    "language_model: {learning_rate: 5e-4}",
    "image_head: {weight_decay: 0.0}",
)
BACKENDS = ("zero2", "zero3", "fsdp2", "zero3_offload")
CHAIN = ("ddp", "zero3", "fsdp2", "zero1", "zero2")
"""Each does a step and resumes where the one before it was; a single process does the last step."""


def overrides(base: Path, folder: Path, steps: int, precision: str = "fp32", micro_rows: int = 1) -> list[str]:
    optim = ["optim.eps=1e-6", "optim.weight_decay=0.1", f"optim.parts={{{','.join(OWN)}}}"]
    optim += ["optim.schedule=wsd", "optim.decay_steps=2", "optim.min_lr_ratio=0.1", "optim.warmup_steps=1"]
    rows = ["batch.rows_per_step=4", f"batch.micro_rows={micro_rows}", f"precision={precision}"]
    return [
        "+stage=3",
        f"init_from={base}",
        *SMALL,
        *rows,
        *optim,
        f"train_parts=[{','.join(TRAIN_PARTS)}]",
        "run.ema=0.9",
        f"run.steps={steps}",
        "run.log_every=99",
        f"output_dir={folder}",
    ]


def chain_overrides(base: Path, folder: Path, step: int) -> list[str]:
    planned = [f"run.planned_steps={len(CHAIN) + 1}", "run.checkpoint_every=1", "run.keep_checkpoints=1"]
    return [*overrides(base, folder / "chain", step), *planned]


@pytest.fixture(scope="module")
def done(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """The base and the folder in which each run has its own, done."""
    folder = tmp_path_factory.mktemp("part_options")
    cases: list[dict[str, Any]] = []
    for name, precision in [*((b, "fp32") for b in BACKENDS), ("zero2", "bf16"), ("fsdp2", "bf16")]:
        words = overrides(random_base, folder / f"{name}-{precision}", 3, precision)
        cases.append({"name": f"{name}-{precision}", "kind": "run", "backend": name, "overrides": words})
    for step, backend in enumerate(CHAIN, start=1):
        words = chain_overrides(random_base, folder, step)
        cases.append({"name": f"chain-{step}", "kind": "run", "backend": backend, "overrides": words})
    with serving(run_cases, cases, world_size=2, log=folder / "log", OMP_NUM_THREADS="1") as ranks:
        ready = wait(ranks, timeout=900)
        assert ready, "the processes hang"
        results = ranks[0].recv()
    errors = [f"{name}: {result['error']}" for name, result in results.items() if "error" in result]
    assert not errors, "\n".join(errors)
    for precision in ("fp32", "bf16"):
        run(config_of(*overrides(random_base, folder / f"one-{precision}", 3, precision, micro_rows=4)))
    yield random_base, folder


def assert_same(folder: Path, reference: Path, tolerance: float) -> None:
    here, there = (read_lines(path / "metrics.jsonl") for path in (folder, reference))
    for one, other in zip(here, there, strict=True):
        assert one["batch_digest"] == other["batch_digest"]
        assert one["loss"] == pytest.approx(other["loss"], abs=10 * tolerance)
        rates = {key: value for key, value in other.items() if key.startswith("learning_rate")}
        assert len(rates) == 3 and {key: one[key] for key in rates} == rates
    for file in ("final/model.safetensors", "ema/model.safetensors"):
        weights, expected = load_file(folder / file), load_file(reference / file)
        apart = {name: (weights[name] - expected[name]).abs().max().item() for name in expected}
        worst = max(apart, key=lambda name: apart[name])
        print(f"{folder.name}/{file}: weights within {apart[worst]:.1e}")
        assert weights.keys() == expected.keys() and apart[worst] < tolerance, (file, worst, apart[worst])


@pytest.mark.parametrize("backend", BACKENDS)
def test_as_one_process(done: tuple[Path, Path], backend: str) -> None:
    base, folder = done
    assert_same(folder / f"{backend}-fp32", folder / "one-fp32", TOLERANCE)
    before, after = (load_file(p / "model.safetensors") for p in (base, folder / f"{backend}-fp32/final"))
    for name, tensor in before.items():
        assert tensor.equal(after[name]) != is_named(name, TRAIN_PARTS), name


@pytest.mark.parametrize("backend", ["zero2", "fsdp2"])
def test_as_one_process_in_bf16(done: tuple[Path, Path], backend: str) -> None:
    """Frozen layers have the bytes of the start, though they are kept in bf16 meanwhile."""
    base, folder = done
    finals = (base, folder / f"{backend}-bf16/final", folder / "one-bf16/final")
    before, after, expected = (load_file(path / "model.safetensors") for path in finals)
    squares = {name.partition(".")[0]: [0.0, 0.0] for name in TRAIN_PARTS}
    for name, tensor in before.items():
        if is_named(name, TRAIN_PARTS):
            square = squares[part_of(name)]
            square[0] += float((after[name] - expected[name]).square().sum())
            square[1] += float((tensor - expected[name]).square().sum())
        else:
            assert tensor.equal(after[name]), name
    shares = {part: math.sqrt(apart / moved) for part, (apart, moved) in squares.items()}
    print(f"{backend}: apart by these shares of how far parts moved: {shares}")
    assert max(shares.values()) < BF16_SHARE


def test_checkpoints_hold_what_trains_whatever_the_groups(done: tuple[Path, Path]) -> None:
    """No frozen layer has optimiser state; ranks save what trains once together."""
    base, folder = done
    names = {name for name in load_file(base / "model.safetensors") if is_named(name, TRAIN_PARTS)}
    for backend in BACKENDS:
        checkpoint = folder / f"{backend}-fp32/checkpoints/step-000003"
        assert json.loads((checkpoint / "state.json").read_text())["shapes"].keys() == names
        stored = {key for path in checkpoint.glob("rank-*.safetensors") for key in load_file(path)}
        kinds = ("weight", "exp_avg", "exp_avg_sq", "ema")
        assert stored == {f"{kind}/{name}" for kind in kinds for name in names}, backend


def test_any_backend_resumes_from_any_other(done: tuple[Path, Path]) -> None:
    base, folder = done
    chain = run(config_of(*chain_overrides(base, folder, len(CHAIN) + 1)))
    whole = run(config_of(*overrides(base, folder / "whole", len(CHAIN) + 1, micro_rows=4)))
    assert_same(chain, whole, TOLERANCE)
