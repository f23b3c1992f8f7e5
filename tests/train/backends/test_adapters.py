"""LoRA, rsLoRA and DoRA under every backend: the runs of one process, resumed by any other, with the memory of adapters.

One group of two processes does all runs, as for training in full (test_backends.py).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from safetensors.torch import load_file

from janus_train.interop.model_folder import open_folder
from janus_train.model.parts import is_lora, part_of
from janus_train.planning.parameters import adapter_counts
from janus_train.train.backends import zero
from janus_train.train.run import run
from tests.helpers import config_of, read_lines
from tests.train.backend_worker import run_cases, run_in_processes
from tests.train.backends.test_backends import BF16_TOLERANCE, SEVERAL, TOLERANCE, assert_same_training
from tests.train.conftest import SMALL

METHODS = {"lora": (), "rslora": ("peft.use_rslora=true",), "dora": ("peft.use_dora=true",)}
ADAPTERS = (
    "+stage=3",
    *SMALL,
    "+peft=lora",
    "peft.rank=4",
    "peft.alpha=8",
    "peft.parts=[language_model,understanding_encoder]",
    "train_parts=[image_head]",
    "batch.rows_per_step=4",
    "optim.learning_rate=1e-3",
    "optim.eps=1e-6",  # as in test_backends.py
    "run.log_every=99",
)
CHAIN = ("one", "zero3", "fsdp2", "zero1", "ddp", "zero2", "one")
"""Saved by each and resumed by the next."""
MEASURED = ("zero2", "zero3", "fsdp2")
"""The backends whose memory is measured."""


@dataclass(frozen=True)
class Case:
    """A run of three steps, which also previews: ZeRO-3 and FSDP2 draw with a copy of the model that they gather."""

    backend: str
    method: str
    checkpointing: str = "none"
    precision: str = "fp32"

    @property
    def reference(self) -> Case:
        return Case("one", self.method, precision=self.precision)

    @property
    def name(self) -> str:
        return "-".join((self.backend, self.method, self.checkpointing, self.precision))

    @property
    def overrides(self) -> list[str]:
        return [
            *ADAPTERS,
            *METHODS[self.method],
            f"batch.micro_rows={4 if self.backend == 'one' else 1}",
            f"memory.activation_checkpointing={self.checkpointing}",
            f"precision={self.precision}",
            "run.steps=3",
            "run.sample_every=3",
        ]


def chain_overrides(number: int) -> list[str]:
    plan = (f"run.steps={number + 1}", f"run.planned_steps={len(CHAIN)}", "run.checkpoint_every=1", "run.ema=0.5")
    return [*ADAPTERS, *METHODS["dora"], "batch.micro_rows=1", *plan]


def _cases() -> list[Any]:
    quick = [  # the chain below goes through all backends
        Case("zero2", "lora"),
        Case("zero3", "dora", checkpointing="full"),
        Case("fsdp2", "rslora"),
        Case("fsdp2", "dora", checkpointing="selective"),
    ]
    slow = [Case(backend, method) for backend, method in product(SEVERAL, METHODS)]
    slow += [Case(backend, "dora", precision="bf16") for backend in SEVERAL]
    slow += [Case("zero3_offload", "dora"), Case("zero2_offload", "dora")]
    return [pytest.param(c, id=c.name) for c in quick] + [
        pytest.param(c, id=c.name, marks=pytest.mark.slow) for c in slow if c not in quick
    ]


def run_with_everything_sharded(connection: Connection, cases: list[dict[str, Any]]) -> None:
    """`run_cases`; ZeRO-3 would keep the tiny model's weights whole, and show nothing about gathering."""
    options_of = zero.zero_options

    def options(distributed: Any) -> dict[str, Any]:
        values = options_of(distributed)
        return values | ({"stage3_param_persistence_threshold": 0} if values["stage"] == 3 else {})

    with mock.patch.object(zero, "zero_options", options):
        run_cases(connection, cases)


class Group:
    """The runs of the processes that the selected tests need, done on first use and once."""

    def __init__(self, base: Path, folder: Path, cases: list[Case], tests: set[str]):
        self.base, self.folder, self._cases, self._tests = base, folder, cases, tests
        self._references: dict[Case, Path] = {}

    def overrides(self, overrides: list[str], name: str) -> list[str]:
        return [*overrides, f"init_from={self.base}", f"output_dir={self.folder / name}"]

    def run_here(self, overrides: list[str], name: str) -> Path:
        return run(config_of(*self.overrides(overrides, name)))

    def path(self, case: Case) -> Path:
        """The folder of a case's run, done."""
        if case.backend != "one":
            self.result(case.name)
            return self.folder / case.name
        if case not in self._references:
            self._references[case] = self.run_here(case.overrides, case.name)
        return self._references[case]

    def result(self, name: str) -> Any:
        result = self._results[name]
        assert "error" not in result, result["error"]
        return result["value"]

    @cached_property
    def _results(self) -> dict[str, Any]:
        plans = [(case.name, "run", case.backend, case.overrides, case.name) for case in self._cases]
        if test_memory_of_a_rank.__name__ in self._tests:
            plans += [(f"memory-{backend}", "memory", backend, memory_overrides(), "unused") for backend in MEASURED]
        if test_any_backend_resumes_from_any_other.__name__ in self._tests:
            self.run_here(chain_overrides(0), "chain")
            plans += [
                (f"chain-{number}", "run", backend, chain_overrides(number), "chain")
                for number, backend in enumerate(CHAIN)
                if backend != "one"
            ]
        cases = [
            {"name": name, "kind": kind, "backend": backend, "overrides": self.overrides(overrides, folder)}
            for name, kind, backend, overrides, folder in plans
        ]
        return run_in_processes(cases, 2, self.folder / "log", run_with_everything_sharded)[0]


def memory_overrides() -> list[str]:
    return Case("ddp", "dora", checkpointing="full").overrides


@pytest.fixture(scope="module")
def group(request: pytest.FixtureRequest, random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Group:
    selected = [item for item in request.session.items if item.path == request.path]
    cases = [item.callspec.params["case"] for item in selected if "case" in getattr(item, "fixturenames", ())]  # type: ignore[attr-defined]
    tests = {item.originalname for item in selected}  # type: ignore[attr-defined]
    return Group(random_base, tmp_path_factory.mktemp("adapters"), cases, tests)


def assert_same_adapters(folder: Path, reference: Path, tolerance: float, name: str = "adapter") -> None:
    here, there = (load_file(path / name / "adapter_model.safetensors") for path in (folder, reference))
    assert here.keys() == there.keys() and len(here) > 20
    assert max((here[name] - there[name]).abs().max().item() for name in here) < tolerance
    assert all(tensor.any() for name, tensor in here.items() if ".lora_B." in name)  # they were zero


@pytest.mark.parametrize("case", _cases())
def test_as_one_process(group: Group, case: Case) -> None:
    exact = case.precision == "fp32"
    tolerance = TOLERANCE if exact else 2 * BF16_TOLERANCE  # at a higher rate than the other bf16 runs
    folder, reference = group.path(case), group.path(case.reference)
    assert_same_training(folder, reference, tolerance, TOLERANCE if exact else 2e-2)
    assert_same_adapters(folder, reference, tolerance)
    # What has no adapters and does not train has the bytes of the base; the rest has moved far more than the tolerance.
    before, after = load_file(group.base / "model.safetensors"), load_file(folder / "final/model.safetensors")
    adapted = {name.removeprefix("base_model.model.").partition(".lora_")[0] + ".weight" for name in load_file(folder / "adapter/adapter_model.safetensors")}  # fmt: skip
    for name, tensor in before.items():
        changes = part_of(name) == "image_head" or name in adapted
        assert tensor.equal(after[name]) != changes, name
    moved = [(before[name] - after[name]).abs().max().item() for name in adapted]
    assert min(moved) > TOLERANCE and max(moved) > 10 * TOLERANCE, (min(moved), max(moved))
    assert (folder / "samples/step-000003.png").is_file()
    parts, expected_parts = (json.loads((path / "manifest.json").read_text())["parts"] for path in (folder, reference))
    assert parts == expected_parts and parts["language_model"]["adapter"] > 0


def test_any_backend_resumes_from_any_other(group: Group) -> None:
    """DoRA with an average of the weights: one step each; then final/, ema/ and the adapters of both."""
    group.result(f"chain-{len(CHAIN) - 2}")
    folder = group.run_here(chain_overrides(len(CHAIN) - 1), "chain")
    whole = group.run_here(chain_overrides(len(CHAIN) - 1), "whole")
    assert_same_training(folder, whole, TOLERANCE, TOLERANCE)
    assert [line["step"] for line in read_lines(folder / "metrics.jsonl")] == list(range(1, len(CHAIN) + 1))
    for name in ("adapter", "adapter-ema"):
        assert_same_adapters(folder, whole, TOLERANCE, name)
    final, average = (load_file(folder / name / "adapter_model.safetensors") for name in ("adapter", "adapter-ema"))
    assert any(not tensor.equal(average[name]) for name, tensor in final.items())
    # over the base, beside the image head that trained in full, they give the models
    for model, adapter in (("final", "adapter"), ("ema", "adapter-ema")):
        merged = load_file(folder / model / "model.safetensors")
        for name, tensor in open_folder(group.base, [str(folder / adapter)]).tensors():
            assert tensor.equal(merged[name]) == (part_of(name) != "image_head"), name
        assert json.loads((folder / adapter / "training.json").read_text())["step"] == len(CHAIN)


@pytest.mark.parametrize("backend", MEASURED)
def test_memory_of_a_rank(group: Group, backend: str) -> None:
    """fp32, bytes per rank for W = 2: gradients, moments and masters of what trains alone; frozen weights once, or sharded."""
    measured = group.result(f"memory-{backend}")
    config = config_of(*group.overrides(memory_overrides(), "unused"))
    sizes = {name: tensor.numel() for name, tensor in load_file(group.base / "model.safetensors").items()}
    encoder = sum(n for name, n in sizes.items() if part_of(name) == "generation_encoder")
    adapters = sum(adapter_counts(config.model, config.peft).values())
    trained = adapters + sum(n for name, n in sizes.items() if part_of(name) == "image_head")
    others = sum(sizes.values()) - encoder + adapters
    weights = {
        "zero2": 4 * others + 2 * trained,  # masters, in shards
        "zero3": 2 * others + 2 * trained,
        "fsdp2": 2 * others,
    }[backend]
    print(f"{backend}: {measured}, trained {trained}")
    assert measured["parameters"] == pytest.approx(weights + 4 * encoder, rel=0.02)
    assert measured["optimizer"] == pytest.approx(4 * trained, rel=0.05)
    # ZeRO-2 has one larger than a bucket, that of the image head, besides
    assert measured["gradients"] <= (4 if backend == "zero2" else 2.1) * trained
    assert measured["frozen_gradients"] == 0
    assert measured["owned_by_all"] == trained and measured["pieces_with_moments"] == measured["pieces"]


def test_checkpoints_hold_what_trains_alone(group: Group) -> None:
    folder = group.path(Case("one", "dora")) / "checkpoints/step-000003"
    names = {name.split("/")[1] for name in load_file(folder / "rank-00000.safetensors")}
    assert names and all(is_lora(name) or part_of(name) == "image_head" for name in names)
    assert any("magnitude" in name for name in names)
