"""Every backend against one process: real processes over gloo, the same batches, losses and weights.

Two groups for the whole module (two and four processes); the runs that they do are those that pytest has selected.
``pytest -m slow`` adds the combinations that continuous integration leaves out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from janus_train.errors import UserError
from janus_train.model.parts import part_of
from janus_train.train.checkpoint import store
from janus_train.train.distributed.context import Distributed
from janus_train.train.run import run
from tests.helpers import config_of, read_lines
from tests.train.backend_worker import run_in_processes
from tests.train.conftest import SMALL

SHARDED = ("zero1", "zero2", "zero3", "fsdp2")
SEVERAL = ("ddp", *SHARDED)
TOLERANCE = 1e-5
BF16_TOLERANCE = 2e-3
"""Of weights after three steps at rates of 1e-4: AdamW's first steps are as long as the rate, whatever the gradient's size."""


@dataclass(frozen=True)
class Case:
    """A run on some backend, to compare with the same run of one process."""

    backend: str
    world_size: int
    stage: int
    micro_rows: int
    rows: int = 4
    precision: str = "fp32"
    steps: int = 3
    checkpointing: str = "none"

    @property
    def reference(self) -> Case:
        """Without checkpointing of activations, which changes no result."""
        return Case("one", 1, self.stage, self.rows, self.rows, self.precision, self.steps)

    @property
    def name(self) -> str:
        name = f"{self.backend}x{self.world_size}-stage{self.stage}-{self.rows}by{self.micro_rows}-{self.precision}"
        return name + ("" if self.checkpointing == "none" else f"-{self.checkpointing}")

    def overrides(self, base: Path, folder: Path) -> list[str]:
        own = [f"batch.rows_per_step={self.rows}", f"batch.micro_rows={self.micro_rows}", f"precision={self.precision}"]
        # AdamW divides a gradient by its own size: with a smaller eps an element whose gradient is rounding alone moves by
        # a whole learning rate, either way.
        own += [f"run.steps={self.steps}", f"output_dir={folder}", "run.log_every=99", "optim.eps=1e-6"]
        own += [f"memory.activation_checkpointing={self.checkpointing}"]
        return [f"+stage={self.stage}", f"init_from={base}", *SMALL, *own]


def _cases() -> list[Any]:
    quick, slow = [], []
    for backend, stage, micro_rows in product(SEVERAL, (1, 2, 3), (1, 2)):  # two rows a rank: accumulated, or at once
        chosen = backend in ("ddp", "zero3", "fsdp2") and (stage, micro_rows) == (2, 1)
        chosen = chosen or (backend in ("zero3", "fsdp2") and (stage, micro_rows) == (3, 2))
        (quick if chosen else slow).append(Case(backend, 2, stage, micro_rows))
    slow += [Case("ddp", 4, stage, 1, rows) for stage, rows in product((1, 2, 3), (4, 8))]
    quick += [slow.pop(slow.index(Case("ddp", 4, 2, 1, 8))), Case("hsdp", 4, 2, 1, 8)]
    slow += [Case("hsdp", 4, stage, 1, 8) for stage in (1, 3)]
    slow += [Case("hsdp", 4, 3, 1, 8, "bf16"), Case("hsdp", 4, 2, 1, 8, checkpointing="full"), Case("hsdp", 2, 2, 1)]
    quick += [Case("zero3_offload", 2, 2, 1), Case("zero2", 2, 2, 1, precision="bf16")]
    slow += [Case("zero2_offload", 2, 2, 1), *(Case(b, 4, 2, 1) for b in SHARDED)]
    slow += [Case(b, 2, 2, 1, precision="bf16") for b in ("ddp", "zero1", "zero3", "fsdp2")]
    quick += [Case("fsdp2", 2, 2, 1, checkpointing="selective")]
    slow += [Case("zero3", 2, 2, 1, checkpointing="full")]
    slow += [Case(b, 2, s, 1, checkpointing="selective") for b, s in (("ddp", 2), ("zero2", 2), ("zero3", 2), ("zero3", 1))]  # fmt: skip
    slow += [Case(b, 2, s, 1, checkpointing="full") for b, s in (("ddp", 2), ("zero2", 2), ("fsdp2", 2), ("fsdp2", 1))]
    slow += [Case("zero3_offload", 2, 2, 1, checkpointing="full")]
    slow += [Case(b, 2, 2, 1, precision="bf16", checkpointing="full") for b in ("zero3", "fsdp2")]
    return [pytest.param(c, id=c.name) for c in quick] + [
        pytest.param(c, id=c.name, marks=pytest.mark.slow) for c in slow
    ]


CHAIN = [("one", 1), *((b, 2) for b in SEVERAL), *((b, 4) for b in ("ddp", "zero3", "hsdp", "fsdp2")), ("one", 1)]
"""Saved by each and resumed by the next: with one format, any backend resumes from any other."""


class Group:
    """The processes' runs, done on first use and once."""

    def __init__(self, base: Path, folder: Path, cases: list[Case]):
        self.base, self.folder, self._cases = base, folder, cases
        self._done: dict[int, dict[str, Any]] = {}
        self.said: dict[int, str] = {}
        self._references: dict[Case, Path] = {}

    def path(self, case: Case) -> Path:
        """The folder of a case's run, done."""
        if case.backend == "one":
            if case not in self._references:
                self._references[case] = run(config_of(*case.overrides(self.base, self.folder / case.name)))
            return self._references[case]
        self.result(case.world_size, case.name)
        return self.folder / case.name

    def result(self, world_size: int, name: str) -> Any:
        if world_size not in self._done:
            if world_size == 4:
                self.result(2, "chain-1")  # four resume where two have been
            self._done[world_size] = self._start(world_size)
        found = self._done[world_size][name]
        assert "error" not in found, found["error"]
        return found["value"]

    def chain_overrides(self, number: int) -> list[str]:
        backend, world_size = CHAIN[number]
        step = number + 1
        case = Case(backend, world_size, 2, 1, steps=step)
        more = [f"run.planned_steps={len(CHAIN)}", "run.checkpoint_every=1", "run.keep_checkpoints=1"]
        return [*case.overrides(self.base, self.folder / "chain"), *more]

    def _start(self, world_size: int) -> dict[str, Any]:
        cases: list[dict[str, Any]] = []
        chain = [i for i, (_, ranks) in enumerate(CHAIN) if ranks == world_size]
        if world_size == 2:
            run(config_of(*self.chain_overrides(0)))
            for backend in SEVERAL:
                case = Case(backend, 2, 2, 1, checkpointing="full")
                cases.append({"name": f"memory-{backend}", "kind": "memory", "backend": backend, "overrides": case.overrides(self.base, self.folder / "unused")})  # fmt: skip
            fails = [
                *Case("zero2", 2, 1, 2, steps=4).overrides(self.base, self.folder / "fails"),
                "run.checkpoint_every=1",
            ]
            cases.append({"name": "fails", "kind": "run", "backend": "zero2", "overrides": fails, "fails": {"rank": 1, "steps": [2, 3]}})  # fmt: skip
            fatal = [
                *Case("ddp", 2, 1, 2, steps=5).overrides(self.base, self.folder / "fatal"),
                "run.checkpoint_every=1",
            ]
            cases.append({"name": "fatal", "kind": "run", "backend": "ddp", "overrides": fatal, "fails": {"rank": 1, "steps": [2, 3, 4]}})  # fmt: skip
            cases.append({"name": "indivisible", "kind": "run", "backend": "ddp", "overrides": [*fatal, f"output_dir={self.folder / 'indivisible'}", "batch.rows_per_step=9", "batch.micro_rows=1"]})  # fmt: skip
        cases += [
            {"name": f"chain-{i}", "kind": "run", "backend": CHAIN[i][0], "overrides": self.chain_overrides(i)}
            for i in chain
        ]
        if world_size == 4:
            case = Case("hsdp", 4, 2, 1, 8, checkpointing="full")
            cases.append({"name": "memory-hsdp", "kind": "memory", "backend": "hsdp", "overrides": case.overrides(self.base, self.folder / "unused")})  # fmt: skip
        mine = [c for c in self._cases if c.world_size == world_size]
        for case in sorted(mine, key=lambda c: c.precision, reverse=True):
            cases.append({"name": case.name, "kind": "run", "backend": case.backend, "overrides": case.overrides(self.base, self.folder / case.name)})  # fmt: skip
        log = self.folder / f"log-{world_size}"
        results, self.said[world_size] = run_in_processes(cases, world_size, log)
        return results


@pytest.fixture(scope="module")
def group(request: pytest.FixtureRequest, random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Group:
    selected = [item for item in request.session.items if item.path == request.path]
    cases = [item.callspec.params["case"] for item in selected if "case" in getattr(item, "callspec", _NONE).params]  # type: ignore[attr-defined]
    return Group(random_base, tmp_path_factory.mktemp("backends"), cases)


class _NONE:
    params: dict[str, Any] = {}  # noqa: RUF012


def steps_of(folder: Path) -> list[dict[str, Any]]:
    return read_lines(folder / "metrics.jsonl")


def assert_same_training(folder: Path, reference: Path, tolerance: float, loss_tolerance: float) -> None:
    here, there = steps_of(folder), steps_of(reference)
    assert [line["batch_digest"] for line in here] == [line["batch_digest"] for line in there]
    for one, other in zip(here, there, strict=True):
        for key in ("loss", "loss/text", "loss/understanding", "loss/generation"):
            assert one[key] == pytest.approx(other[key], abs=loss_tolerance), (one["step"], key)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=10 * loss_tolerance, abs=loss_tolerance)
    weights, expected = (load_file(f / "final/model.safetensors") for f in (folder, reference))
    assert weights.keys() == expected.keys()
    apart = {name: (weights[name] - expected[name]).abs().max().item() for name in expected}
    worst = max(apart, key=lambda name: apart[name])
    assert apart[worst] < tolerance, (worst, apart[worst])
    print(f"{folder.name}: weights within {apart[worst]:.1e}")


@pytest.mark.parametrize("case", _cases())
def test_as_one_process(group: Group, case: Case) -> None:
    exact = case.precision == "fp32"
    folder, reference = group.path(case), group.path(case.reference)
    assert_same_training(folder, reference, TOLERANCE if exact else BF16_TOLERANCE, TOLERANCE if exact else 2e-2)
    # What is frozen has the bytes of the base, after whatever sharding and gathering.
    config = config_of(*case.overrides(group.base, folder))
    before, after = load_file(group.base / "model.safetensors"), load_file(folder / "final/model.safetensors")
    for name, tensor in before.items():
        assert tensor.equal(after[name]) == (part_of(name) not in config.train_parts), name
    parts, expected_parts = (json.loads((path / "manifest.json").read_text())["parts"] for path in (folder, reference))
    assert parts == expected_parts
    manifest = json.loads((folder / f"checkpoints/step-{case.steps:06d}/manifest.json").read_text())
    assert manifest["world_size"] == case.world_size


def test_any_backend_resumes_from_any_other(group: Group) -> None:
    """One step each, saved by one and resumed by the next, with other numbers of processes too."""
    group.result(4, f"chain-{len(CHAIN) - 2}")
    folder = run(config_of(*group.chain_overrides(len(CHAIN) - 1)))
    whole = Case("one", 1, 2, 4, steps=len(CHAIN))
    assert_same_training(folder, group.path(whole), TOLERANCE, TOLERANCE)
    assert [p.name for p in (folder / "checkpoints").iterdir()] == [f"step-{len(CHAIN):06d}"]


@pytest.mark.parametrize("backend", [*SEVERAL, "hsdp"])
def test_memory_of_a_rank_is_what_the_backend_promises(group: Group, backend: str) -> None:
    """fp32, bytes per rank for W = 2: what is frozen costs its weights alone, sharded where weights are.

    HSDP has two nodes of two ranks, and each element of a node's shards is saved by one of them.
    """
    found = group.result(4 if backend == "hsdp" else 2, f"memory-{backend}")
    config = config_of(*Case(backend, 2, 2, 1).overrides(group.base, group.folder / "unused"))
    sizes = {name: tensor.numel() for name, tensor in load_file(group.base / "model.safetensors").items()}
    trained = sum(n for name, n in sizes.items() if part_of(name) in config.train_parts)
    encoder = sum(n for name, n in sizes.items() if part_of(name) == "generation_encoder")
    others = sum(sizes.values()) - encoder
    expected = {
        "ddp": (4 * (others + encoder), 4 * trained, 8 * trained),
        # whole weights to compute with, and a fp32 copy of the stretch that is updated
        "zero1": (4 * (others + encoder) + 2 * trained, 4 * trained, 4 * trained),
        "zero2": (4 * (others + encoder) + 2 * trained, 2 * trained, 4 * trained),
        "zero3": (2 * others + 4 * encoder + 2 * trained, 2 * trained, 4 * trained),
        "fsdp2": (2 * others + 4 * encoder, 2 * trained, 4 * trained),
        "hsdp": (2 * others + 4 * encoder, 2 * trained, 4 * trained),
    }[backend]
    measured = (found["parameters"], found["gradients"], found["optimizer"])
    print(f"{backend}: measured {measured}, by arithmetic {expected} (parameters, gradients, optimizer)")
    assert measured == pytest.approx(expected, rel=0.05)  # padding, small tensors that ZeRO-3 keeps whole, buckets
    assert found["frozen_gradients"] == 0
    # two steps of two micro-batches, every layer forward and once more on the way back: checkpointing is at work there
    assert found["layer_passes"] == 2 * 2 * config.model.text.num_hidden_layers * 2
    assert found["owned_by_all"] == trained and found["pieces_with_moments"] == found["pieces"]


def test_a_rank_that_cannot_write_makes_all_give_the_save_up(group: Group) -> None:
    group.result(2, "fails")
    folder = group.folder / "fails"
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["step-000001", "step-000004"]
    warning = "warning: the checkpoint of step 2 could not be written: [Errno 28] No space left"
    assert group.said[2].count(warning) == 2  # once in this run and once in the next test's, not once per rank
    assert (folder / "final").is_dir() and len(steps_of(folder)) == 4


def test_three_saves_that_fail_end_the_run(group: Group) -> None:
    with pytest.raises(AssertionError, match=r"the checkpoint of step 4 could not be written.*3 in a row failed"):
        group.result(2, "fatal")
    found = store.newest_checkpoint(group.folder / "fatal")
    assert found is not None and found.step == 1 and not (group.folder / "fatal/final").exists()


def test_rows_that_the_processes_cannot_share(group: Group) -> None:
    with pytest.raises(AssertionError, match="rows_per_step 9 cannot be shared by 2 processes: use 1, 3, 9"):
        group.result(2, "indivisible")
    assert not (group.folder / "indivisible").exists()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed needs a launcher"),
        ({"ACCELERATE_USE_FSDP": "true"}, "asks for FSDP 1: set fsdp_version: 2"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, "FSDP needs a launcher"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"}, "zero3_offload.yaml"),
        (
            {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_SHARDING_STRATEGY": "SHARD_GRAD_OP"},
            "fsdp_sharding_strategy: SHARD_GRAD_OP is not supported: choose FULL_SHARD, or HYBRID_SHARD",
        ),
        (
            {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "ACCELERATE_USE_PARALLELISM_CONFIG": "true"},
            "parallelism_config is not supported: launch/accelerate/hsdp.yaml",
        ),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "Megatron-LM is not supported"),
    ],
)
def test_a_backend_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message) as error:
        Distributed(config_of("+stage=1"))
    assert "\n" not in str(error.value)


def test_deepspeed_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setattr("janus_train.train.distributed.context.find_spec", lambda name: None)
    with pytest.raises(UserError, match="DeepSpeed, which is not installed: pip install deepspeed"):
        Distributed(config_of("+stage=1"))
