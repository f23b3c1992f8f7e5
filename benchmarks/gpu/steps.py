"""The steps, most valuable first, and what their runs' metrics say once they are done."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from janus_train.paths import ROOT

RUNS = Path(tempfile.gettempdir()) / "janus_train_gpu_runs"
"""Where the training runs of the steps go."""
REFERENCE = Path(__file__).with_name("cpu_metrics.jsonl")
"""The metrics of `REFERENCE_RUN` in fp32 on a CPU; ``python -m benchmarks.gpu.reference`` makes them."""
REFERENCE_RUN = ("+stage=2", "run.planned_steps=20", "run.checkpoint_every=10", "run.sample_every=0")
_LAUNCH = (sys.executable, "-m", "accelerate.commands.launch", "--quiet")
_GPU_TESTS = (
    "tests/model/attention/test_attention.py",
    "tests/model/test_no_waiting.py",
    "tests/infer/test_decoding.py",
    "tests/model/test_fast_paths.py",
)

Result = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """One process with its own limit."""

    command: tuple[str, ...]
    limit_s: float
    answers: str
    """The question that it answers."""
    afterwards: Callable[[], list[Result]] = field(default=list)
    """Reads further results from what its run has written."""


def train_command(name: str, *overrides: str, launch: str | None = None) -> tuple[str, ...]:
    """A run of the embedded demonstration in its own folder, as a user starts one."""
    options = ("--config_file", str(ROOT / f"launch/accelerate/{launch}.yaml")) if launch else ()
    limits = ("run.timeout_s=120", "run.first_step_timeout_s=200")
    run = ("train.py", *REFERENCE_RUN, f"output_dir={RUNS / name}", *limits, *overrides)
    return (*_LAUNCH, *options, "--num_processes", "1", *run)


def module_command(name: str, *words: str) -> tuple[str, ...]:
    return (sys.executable, "-m", f"benchmarks.gpu.{name}", *words)


def compare(runs: str, metrics: list[Result], expected: list[Result]) -> Result:
    """Whether two runs saw the same batches, and how far their losses are apart."""
    pairs = [(ours, theirs) for ours, theirs in zip(metrics, expected, strict=False) if theirs["loss"]]
    differences = [abs(ours["loss"] - theirs["loss"]) / theirs["loss"] for ours, theirs in pairs]
    return {
        "what": runs,
        "steps": len(pairs),
        "same_batches": bool(pairs) and all(a["batch_digest"] == b["batch_digest"] for a, b in pairs),
        "largest_loss_difference": max(differences, default=None),
    }


def metrics_of(path: Path) -> list[Result]:
    """The lines of a metrics file that are steps; none if there is no file."""
    if not path.is_file():
        return []
    return [line for line in map(json.loads, path.read_text().splitlines()) if "batch_digest" in line]


def _metrics(name: str) -> list[Result]:
    return metrics_of(RUNS / name / "metrics.jsonl")


def _end_to_end() -> list[Result]:
    metrics = _metrics("end_to_end")
    rates = [line["tokens_per_s"] for line in metrics[5:]]
    return [
        compare("bf16 here with fp32 on a CPU", metrics, metrics_of(REFERENCE)),
        {
            "what": "the run",
            "tokens_per_s": statistics.median(rates) if rates else None,
            "has_final_model": (RUNS / "end_to_end/final/config.json").is_file(),
        },
    ]


def _resumed() -> list[Result]:
    return [compare("stopped and gone on, with not stopped", _metrics("resumed"), _metrics("end_to_end"))]


def _previews() -> list[Result]:
    return [{"what": "previews", "images": len(list((RUNS / "preview").rglob("*.png")))}]


def _sharded(launch: str) -> Step:
    command = train_command(launch, "run.steps=3", "precision=bf16", "run.checkpoint_every=0", launch=launch)
    return Step(
        command,
        60,
        f"{launch} trains on the batches of a CPU's run",
        lambda: [compare(f"{launch} in bf16 with fp32 on a CPU", _metrics(launch), metrics_of(REFERENCE))],
    )


def _run(name: str, steps: int) -> tuple[str, ...]:
    return train_command(name, f"run.steps={steps}", "precision=bf16", "data.num_workers=2")


STEPS: dict[str, Step] = {
    "ceilings": Step(module_command("ceilings"), 60, "versions, and what this card can do at most"),
    "stage2": Step(
        module_command("training", "2", "ours, not compiled;naive;ours"),
        170,
        "the 1B's stage 2: tokens per second, MFU and memory, beside the usual implementation",
    ),
    "end_to_end": Step(_run("end_to_end", 20), 90, "a run trains on the batches of a CPU's run", _end_to_end),
    "generation": Step(module_command("generation"), 100, "images per second with the 1B"),
    "tests": Step(
        (sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-n", "4", "-p", "no:cacheprovider", *_GPU_TESTS),
        110,
        "the tests that need a GPU",
    ),
    "preview": Step(
        train_command("preview", "run.steps=1", "run.sample_every=1", "run.checkpoint_every=0", "precision=bf16"),
        90,
        "a bf16 run draws its previews",
        _previews,
    ),
    "fsdp2": _sharded("fsdp2"),
    "zero1": _sharded("zero1"),
    "stop": Step(_run("resumed", 10), 60, "a run stops at step 10"),
    "resume": Step(
        _run("resumed", 20),
        60,
        "and goes on as if it had not",
        _resumed,
    ),
    "kernels": Step(module_command("kernels"), 60, "the attention kernel and the VQ tokenizer"),
    "quickstart": Step(
        (*_LAUNCH, "train.py", "+stage=1", "run.steps=2", f"output_dir={RUNS / 'quickstart'}"),
        60,
        "the first command of the README",
    ),
    "stage3": Step(module_command("training", "3", "ours"), 90, "the 1B's stage 3"),
    "stage1": Step(module_command("training", "1", "ours"), 90, "the 1B's stage 1"),
    "waits": Step(module_command("waits"), 120, "where a step's time goes"),
    "zero3": _sharded("zero3"),
}
