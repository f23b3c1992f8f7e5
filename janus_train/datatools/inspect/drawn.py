"""Reads the rows that a run's steps would be trained on. In: a configuration. Out: the rows of each step.

The rows are sampled exactly as in training, but in one process and without a model.
"""

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
from janus_train.interop.model_folder import open_folder
from janus_train.train.initial_weights import find_start
from janus_train.train.run_dir import RunDir, State


@dataclass(frozen=True)
class RunData:
    """The opened data of a run."""

    config: Config
    recipe: Recipe
    encoder: Encoder
    start: Path
    """The folder that the run would start from, whose tokenizer is used."""

    def steps(self, first_step: int, num_steps: int) -> Iterator[tuple[int, list[Row]]]:
        """(step, its rows in the order of the streams) for ``num_steps`` steps from ``first_step``, which counts from 1.

        Earlier steps are sampled too, because the state of a stream depends on all its earlier rows.
        """
        sampler, packer = open_mixture(self.config, self.recipe, self.encoder)
        streams = streams_of(0, 1, self.config.batch.rows_per_step)
        workers = min(self.config.data.num_workers, len(os.sched_getaffinity(0)))
        numbered_steps = enumerate(RowLoader(sampler, packer, streams, num_workers=workers), 1)
        return islice(numbered_steps, first_step - 1, first_step - 1 + num_steps)


def open_run_data(config: Config) -> RunData:
    """Open the data that a run would read. Writes nothing. Raises `UserError` naming what is missing or damaged."""
    recipe = open_recipe(config)
    start = start_folder(config)
    folder = open_folder(start)
    folder.check_tokenizer(config.model.text.vocab_size)
    return RunData(config, recipe, make_encoder(config, folder.tokenizer), start)


def start_folder(config: Config) -> Path:
    """The folder from which the run would load weights and tokenizer, by the trainer's own rule."""
    folder = RunDir(config, {})
    stage = folder.manifest().get("stage")
    states: dict[Any, State] = {config.stage: "resume", config.stage - 1: "next_stage"}
    return find_start(config, folder, states.get(stage, "new")).folder


def line(step: int, row: Row) -> dict[str, Any]:
    """A row as the values of a JSON line for scripts."""
    samples = [
        {"source": d.reference.source, "kind": d.kind, "key": d.reference.key, "tokens": len(d)} for d in row.documents
    ]
    return {"step": step, "row": row.stream, "digest": row.digest, "samples": samples}
