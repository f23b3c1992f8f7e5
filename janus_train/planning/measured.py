"""What benchmarks/train.py has measured, for a plan to build on instead of an assumption."""

from __future__ import annotations

import json
from pathlib import Path

from janus_train.paths import ROOT
from janus_train.planning.gpus import GPU

RESULTS = ROOT / "benchmarks/train.jsonl"


def measured_mfu(card: GPU, model: str, stage: int, results: Path = RESULTS) -> float | None:
    """The newest share of peak measured with this card, model and stage; None if there is none."""
    if not results.is_file():
        return None
    newest = None
    for line in results.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if (entry["card"], entry["model"], entry["stage"], entry["mode"]) == (card.name, model, stage, "ours"):
            newest = entry["mfu"]
    return newest
