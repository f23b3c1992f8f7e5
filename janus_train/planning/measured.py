"""The MFU that benchmarks/train.py has measured, for a plan to use instead of an assumption."""

from __future__ import annotations

from pathlib import Path

from janus_train.jsonl import read_json_lines
from janus_train.paths import ROOT
from janus_train.planning.gpus import GPU

RESULTS = ROOT / "benchmarks/train.jsonl"


def measured_mfu(gpu: GPU, model: str, stage: int, results: Path = RESULTS) -> float | None:
    """The newest measured share of peak of this GPU, model and stage; None if there is none."""
    newest = None
    for entry in read_json_lines(results):
        if (entry["card"], entry["model"], entry["stage"], entry["mode"]) == (gpu.name, model, stage, "ours"):
            newest = entry["mfu"]
    return newest
