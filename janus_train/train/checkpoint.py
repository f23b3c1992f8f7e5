"""Checkpoints: one format for every backend and any number of ranks.

    checkpoints/step-000100/  rank-00000.safetensors ...  pieces of the trained parameters: fp32 weights, AdamW's moments
                              state.json                  step, the streams' states, the parameters' shapes
                              manifest.json               schema, step, ranks, recipe, sizes and digests of the others

A folder is a checkpoint only if its manifest is there and every file is what the manifest says (`saver` writes it last).
A rank's file holds what that rank owned, each piece flat: ``weight/NAME``, ``exp_avg/NAME``, ``exp_avg_sq/NAME``, and
in its metadata where each begins. Whoever loads reads the stretches that it needs from whichever files have them: so
any backend at any world size goes on from any other, and no rank holds more than its own share.

The frozen parts are not stored again: a resume takes them from where the run started, and the run's manifest has their
digests.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from janus_train.errors import UserError
from janus_train.files import file_sha256
from janus_train.train.backends import Backend, Piece
from janus_train.train.distributed import Distributed

SCHEMA = 2
MANIFEST, STATE = "manifest.json", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """A valid checkpoint on disk."""

    folder: Path
    step: int


def folder_of(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:06d}"


def rank_file(rank: int) -> str:
    return f"rank-{rank:05d}.safetensors"


def newest(run: Path, distributed: Distributed | None = None) -> Checkpoint | None:
    """The newest valid checkpoint of the run; the ranks share the reading. Raises `UserError` for one of another schema."""
    for folder in sorted((run / "checkpoints").glob("step-*"), reverse=True):
        step = _valid(folder, distributed)
        if step is not None:
            return Checkpoint(folder, step)
    return None


def _valid(folder: Path, distributed: Distributed | None) -> int | None:
    """The step of a folder that is what its manifest says, else None; the same on all ranks."""
    rank, ranks = (distributed.rank, distributed.world_size) if distributed else (0, 1)
    manifest = _manifest(folder)
    files = sorted(manifest["files"].items()) if manifest else []
    bad = manifest is None or any(not _is_as_written(folder / name, entry) for name, entry in files[rank::ranks])
    any_bad = distributed.sum([float(bad)])[0] > 0 if distributed else bad
    return None if any_bad or manifest is None else int(manifest["step"])


def _manifest(folder: Path) -> dict[str, Any] | None:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        schema, _, _ = manifest["schema"], int(manifest["step"]), manifest["files"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if schema != SCHEMA:
        newer = "a newer" if schema > SCHEMA else "the older"
        raise UserError(
            f"{folder} is of checkpoint schema {schema}, this version reads schema {SCHEMA}: go on with {newer} janus_train, "
            "or begin a new run in another output_dir"
        )
    return manifest


def _is_as_written(path: Path, entry: dict[str, Any]) -> bool:
    try:
        return path.stat().st_size == entry["size"] and file_sha256(path) == entry["sha256"]
    except OSError:
        return False


def state_of(step: int, backend: Backend, streams: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What state.json holds."""
    return {
        "step": step,
        "optimizer_steps": backend.optimizer_steps,
        "shapes": backend.shapes,
        "streams": streams,
        "torch_rng": base64.b64encode(torch.get_rng_state().numpy().tobytes()).decode(),
    }


def tensors_of(pieces: list[Piece]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """What a rank's file holds, and its metadata."""
    tensors = {}
    for piece in pieces:
        tensors[f"weight/{piece.name}"] = piece.weight
        tensors |= {f"{key}/{piece.name}": moment for key, moment in piece.moments.items()}
    return tensors, {"starts": json.dumps({piece.name: piece.start for piece in pieces})}


def load(checkpoint: Checkpoint, backend: Backend) -> dict[int, dict[str, Any]]:
    """Put the checkpoint's weights and moments in place; returns the streams' states, by number."""
    state = json.loads((checkpoint.folder / STATE).read_text(encoding="utf-8"))
    shapes = {name: tuple(shape) for name, shape in state["shapes"].items()}
    if shapes != backend.shapes:
        odd = sorted(
            name for name in shapes.keys() | backend.shapes.keys() if shapes.get(name) != backend.shapes.get(name)
        )
        raise UserError(
            f"{checkpoint.folder}: {len(odd)} trained tensors differ from the configured train_parts, the first is {odd[0]}"
        )
    if state["optimizer_steps"]:
        backend.make_moments()
    pieces = backend.held()
    missing = {id(piece): piece.weight.numel() for piece in pieces}
    for path in sorted(checkpoint.folder.glob("rank-*.safetensors")):
        for piece, count in _fill(path, pieces):
            missing[id(piece)] -= count
    assert not any(missing.values()), f"{checkpoint.folder} does not cover what it says it holds"
    if state["optimizer_steps"]:
        backend.set_optimizer_steps(state["optimizer_steps"])
    backend.publish()
    torch.set_rng_state(torch.frombuffer(bytearray(base64.b64decode(state["torch_rng"])), dtype=torch.uint8))
    return {int(stream): kept for stream, kept in state["streams"].items()}


@torch.no_grad()
def _fill(path: Path, pieces: list[Piece]) -> Iterator[tuple[Piece, int]]:
    """Copy into ``pieces`` what the file at ``path`` has of them; yields each piece and how many elements that were."""
    with safe_open(path, framework="pt") as file:
        starts: dict[str, int] = json.loads(file.metadata()["starts"])
        for piece in pieces:
            if piece.name not in starts:
                continue
            offset = starts[piece.name]
            stored = file.get_slice(f"weight/{piece.name}")
            start, stop = max(piece.start, offset), min(piece.stop, offset + stored.get_shape()[0])
            if start >= stop:
                continue
            here = piece.narrow(start, stop)
            here.weight.copy_(stored[start - offset : stop - offset])
            for key, moment in here.moments.items():
                moment.copy_(file.get_slice(f"{key}/{piece.name}")[start - offset : stop - offset])
            yield piece, stop - start
