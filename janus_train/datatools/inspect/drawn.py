"""The rows that a run's steps would be trained on, drawn as training draws them, but on one process and without a model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from janus_train.config import Config
from janus_train.data.encode import Encoder
from janus_train.data.loader import RowLoader, make_encoder, open_mixture, open_recipe, streams_of
from janus_train.data.recipe import Recipe
from janus_train.data.types import Row
from janus_train.interop.processor import load_tokenizer
from janus_train.train.initial_weights import find_start
from janus_train.train.run_dir import RunDir, State


@dataclass(frozen=True)
class Drawn:
    """A run's data, opened."""

    config: Config
    recipe: Recipe
    encoder: Encoder
    start: Path
    """The folder that the run would start from: its tokenizer is the one in use."""

    def steps(self, first: int, number: int) -> Iterator[tuple[int, list[Row]]]:
        """(step, its rows in the order of the streams) for ``number`` steps from step ``first``, which counts from 1.

        Steps before ``first`` are drawn too: a stream knows where it stands only by what it has drawn.
        """
        sampler, packer = open_mixture(self.config, self.recipe, self.encoder)
        streams = streams_of(0, 1, self.config.batch.rows_per_step)
        workers = min(self.config.data.num_workers, len(os.sched_getaffinity(0)))
        numbered = enumerate(RowLoader(sampler, packer, streams, num_workers=workers), 1)
        return islice(numbered, first - 1, first - 1 + number)


def open_drawn(config: Config) -> Drawn:
    """Open what ``config``'s run would read. Raises `UserError` naming what is missing or damaged; writes nothing."""
    recipe = open_recipe(config)
    start = start_folder(config)
    return Drawn(config, recipe, make_encoder(config, load_tokenizer(start)), start)


def start_folder(config: Config) -> Path:
    """Where the run would take its weights and tokenizer from, by the trainer's own rule."""
    folder = RunDir(config, {})
    there = folder.manifest().get("stage")
    states: dict[Any, State] = {config.stage: "resume", config.stage - 1: "next_stage"}
    return find_start(config, folder, states.get(there, "new")).folder


def line(step: int, row: Row) -> dict[str, Any]:
    """A row as the JSON line that scripts read."""
    samples = [
        {"source": d.reference.source, "kind": d.kind, "key": d.reference.key, "tokens": len(d)} for d in row.documents
    ]
    return {"step": step, "row": row.stream, "digest": row.digest, "samples": samples}
