"""Figures of evaluations in a run's folder: those of the exported model, and no others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from janus_train.errors import UserError
from janus_train.interop.figures import Figure, figures_of

OWN = {
    "evaluation": "own_data",
    "manifest": {"model": "outputs/mine/final"},
    "losses": {"loss": 1.5, "targets": 900, "by_kind": {"text": {"loss": 2.5, "targets": 100}}},
    "answers": {"all": {"n": 40, "exact": {"percent": 62.5}, "contains": {"percent": 75.0}, "f1": {"mean": 0.7}}},
    "captions": {},
}
DEMO = {
    "model": "outputs/demo/stage3/final",
    "measures": [{"group": "generation", "label": "all right", "percent": 96.0, "n": 200}],
}
BENCHMARKS = {
    "tasks": {
        "pope": {
            "title": "POPE",
            "headline": {"name": "accuracy", "group": "", "value": 87.4},
            "manifest": {"model": "outputs/mine/final", "num_samples": 9000},
        },
        "mmvet": {"title": "MM-Vet", "headline": None, "manifest": {"model": "outputs/mine/final", "num_samples": 218}},
    }
}


def write(folder: Path, values: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(values))


def test_figures_of_this_model(tmp_path) -> None:
    write(tmp_path / "evaluation", OWN)
    write(tmp_path / "benchmarks", BENCHMARKS)
    assert figures_of(tmp_path, "final") == [
        Figure("loss on held-out data (targets)", "1.5000", 900),
        Figure("loss on held-out data, text (targets)", "2.5000", 100),
        Figure("answers: exact", "62.5 %", 40),
        Figure("answers: contain a true one", "75.0 %", 40),
        Figure("answers: F1 of words", "0.700", 40),
        Figure("POPE, accuracy", "87.4", 9000),
    ]
    assert figures_of(tmp_path, "ema") == []


def test_figures_of_the_demonstration(tmp_path) -> None:
    write(tmp_path / "evaluation", DEMO)
    assert figures_of(tmp_path, "final") == [Figure("generation: all right", "96.0 %", 200)]
    assert figures_of(tmp_path, "best") == [] and figures_of(tmp_path / "none", "final") == []


@pytest.mark.parametrize(
    "values", [{}, {"evaluation": "own_data"}, {"tasks": {"x": {}}}, {"measures": 5, "model": "final"}]
)
def test_a_damaged_file_is_one_line(tmp_path, values) -> None:
    write(tmp_path / "evaluation", values)
    with pytest.raises(UserError, match=r"results\.json does not hold the figures of an evaluation: move it away"):
        figures_of(tmp_path, "final")
