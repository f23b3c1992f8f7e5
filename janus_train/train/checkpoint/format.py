"""Checkpoints: one format for every backend and any number of ranks.

    checkpoints/step-000100/  rank-00000.safetensors ...  shards of the trained parameters: fp32 weights, AdamW's moments
                              state.json                  step, the streams' states, the parameters' shapes
                              manifest.json               schema, step, ranks, recipe, sizes and digests of the others

A folder is a checkpoint only if it has a manifest and every file matches it: `saver` writes the manifest last, `store`
checks it. A rank's file holds that rank's shards, each flat: ``weight/NAME``, ``exp_avg/NAME``, ``exp_avg_sq/NAME`` and,
if the run keeps an average of the weights, ``ema/NAME``, and in its metadata the element where each begins. To load, a rank reads the stretches it needs from the files that have
them. So checkpoints resume under any other backend and number of processes, and no rank holds more than its own share.

The frozen parts are not saved: a resumed run takes them from where it started, and the run's manifest has their
digests.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from janus_train.errors import UserError
from janus_train.files import file_sha256, sync, write_json
from janus_train.train.backends import Backend, ParameterShard
from janus_train.train.backends.average import AVERAGE
from janus_train.train.checkpoint.store import MANIFEST, STATE, Checkpoint, Entries, unreadable_error


def rank_file(rank: int) -> str:
    return f"rank-{rank:05d}.safetensors"


def state_of(step: int, backend: Backend, streams: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The contents of state.json."""
    return {
        "step": step,
        "optimizer_steps": backend.optimizer_steps,
        "shapes": backend.shapes,
        "streams": streams,
        "torch_rng": base64.b64encode(torch.get_rng_state().numpy().tobytes()).decode(),
    }


def tensors_of(shards: list[ParameterShard]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of a rank's file, and its metadata."""
    tensors = {}
    for shard in shards:
        tensors[f"weight/{shard.name}"] = shard.weight
        tensors |= {f"{key}/{shard.name}": moment for key, moment in shard.moments.items()}
    return tensors, {"starts": json.dumps({shard.name: shard.start for shard in shards})}


def load(checkpoint: Checkpoint, backend: Backend) -> dict[int, dict[str, Any]]:
    """Load the checkpoint's weights and moments into the backend; returns the streams' states by number.

    Raises `UserError` on all ranks if any of them cannot read it, or if its tensors are not those that train.
    """
    with backend.distributed.raise_on_all_ranks():
        state = _fill_all(checkpoint, backend)
    if state["optimizer_steps"]:
        backend.set_optimizer_steps(state["optimizer_steps"])
    backend.sync_model_weights()
    torch.set_rng_state(torch.frombuffer(bytearray(base64.b64decode(state["torch_rng"])), dtype=torch.uint8))
    return {int(stream): stream_state for stream, stream_state in state["streams"].items()}


def _fill_all(checkpoint: Checkpoint, backend: Backend) -> dict[str, Any]:
    """Fill this rank's shards; returns the contents of state.json."""
    path = checkpoint.folder / STATE
    try:
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _refuse_other_shapes(checkpoint, backend, state)
        if state["optimizer_steps"]:
            backend.init_optimizer_state()
        shards = backend.local_shards()
        num_missing = {id(shard): shard.weight.numel() for shard in shards}
        for path in sorted(checkpoint.folder.glob("rank-*.safetensors")):
            for shard, count in _fill(path, shards):
                num_missing[id(shard)] -= count
    except OSError as error:
        raise unreadable_error(path, error) from None
    except SafetensorError as error:
        raise UserError(f"checkpoint {path} cannot be read ({error}): nothing was changed") from None
    assert not any(num_missing.values()), f"{checkpoint.folder} does not cover all trained parameters"
    return state


def _refuse_other_shapes(checkpoint: Checkpoint, backend: Backend, state: dict[str, Any]) -> None:
    shapes = {name: tuple(shape) for name, shape in state["shapes"].items()}
    if shapes != backend.shapes:
        names = sorted(
            name for name in shapes.keys() | backend.shapes.keys() if shapes.get(name) != backend.shapes.get(name)
        )
        raise UserError(
            f"{checkpoint.folder}: {len(names)} trained tensors differ from the configured train_parts, the first is {names[0]}"
        )


@torch.no_grad()
def _fill(path: Path, shards: list[ParameterShard]) -> Iterator[tuple[ParameterShard, int]]:
    """Copy the file's elements into ``shards``; yields each shard that got any, with their number."""
    with safe_open(path, framework="pt") as file:
        starts: dict[str, int] = json.loads(file.metadata()["starts"])
        names = set(file.keys())
        for shard in shards:
            if shard.name not in starts:
                continue
            offset = starts[shard.name]
            weight = file.get_slice(f"weight/{shard.name}")
            start, stop = max(shard.start, offset), min(shard.stop, offset + weight.get_shape()[0])
            if start >= stop:
                continue
            target = shard.narrow(start, stop)
            target.weight.copy_(weight[start - offset : stop - offset])
            for key, moment in target.moments.items():
                # an average that the checkpoint does not have starts at its weights
                stored = "weight" if key == AVERAGE and f"{key}/{shard.name}" not in names else key
                moment.copy_(file.get_slice(f"{stored}/{shard.name}")[start - offset : stop - offset])
            yield shard, stop - start


def write_files(staging: Path, rank: int, shards: list[ParameterShard], state: dict[str, Any] | None) -> Entries:
    """Write a rank's shards, and ``state`` unless it is None; the files are synced to the disk on return."""
    names = [rank_file(rank)]
    tensors, metadata = tensors_of(shards)
    save_file(tensors, staging / names[0], metadata)
    del tensors, shards[:]
    sync(staging / names[0])
    if state is not None:
        names.append(STATE)
        write_json(staging / STATE, state)
    return {name: {"size": (staging / name).stat().st_size, "sha256": file_sha256(staging / name)} for name in names}


def write_manifest(staging: Path, manifest: dict[str, Any]) -> None:
    write_json(staging / MANIFEST, manifest)
