"""A file of prompts in GenEval's layout, of invented prompts: one of each tag."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from janus_train.evaluate.benchmarks.processes import Processes
from janus_train.evaluate.benchmarks.protocol import load_protocol
from janus_train.evaluate.benchmarks.run import BenchmarkOptions, run_benchmarks
from janus_train.evaluate.benchmarks.tasks.geneval import Geneval
from janus_train.infer.load import load_model

LINES: list[dict[str, Any]] = [
    {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a photo of a dog"},
    {
        "tag": "two_object",
        "include": [{"class": "dog", "count": 1}, {"class": "cat", "count": 1}],
        "prompt": "a photo of a dog and a cat",
    },
    {
        "tag": "counting",
        "include": [{"class": "dog", "count": 2}],
        "exclude": [{"class": "dog", "count": 3}],
        "prompt": "a photo of two dogs",
    },
    {"tag": "colors", "include": [{"class": "dog", "count": 1, "color": "red"}], "prompt": "a photo of a red dog"},
    {
        "tag": "position",
        "include": [{"class": "cat", "count": 1}, {"class": "dog", "count": 1, "position": ["left of", 0]}],
        "prompt": "a photo of a dog left of a cat",
    },
    {
        "tag": "color_attr",
        "include": [{"class": "dog", "count": 1, "color": "red"}, {"class": "cat", "count": 1, "color": "blue"}],
        "prompt": "a photo of a red dog and a blue cat",
    },
]


def write_prompts(folder: Path, lines: list[dict[str, Any]] = LINES) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "evaluation_metadata.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def write_lines(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def draw(base: Path, folder: Path, lines: list[dict[str, Any]]) -> Path:
    """The prompts in ``folder``/data, and what the command leaves of them in ``folder``/out; returns ``folder``."""
    data, out, protocol = write_prompts(folder / "data", lines).parent, folder / "out", load_protocol("deepseek")
    opened = {"geneval": Geneval().open(data, protocol)}
    options = BenchmarkOptions(seed=0, batch_size=8, limit=None)
    run_benchmarks(
        load_model(base), [Geneval()], opened, protocol, out, options, Processes(), lambda phase, done, total: None
    )
    return folder
