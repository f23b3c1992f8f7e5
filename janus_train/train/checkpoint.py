"""Checkpoints: one format for every backend and any number of ranks.

    checkpoints/step-000100/  rank-00000.safetensors ...  pieces of the trained parameters: fp32 weights, AdamW's moments
                              state.json                  step, the streams' states, the parameters' shapes
                              manifest.json               schema, step, ranks, recipe, sizes and digests of the others

A folder is a checkpoint only if its manifest is there and every file is what the manifest says (`saver` writes it last).
What is not is passed over, named, and kept aside as step-NNNNNN.invalid; a file that cannot be read ends the start instead,
for it may be whole (a file server that is away, a permission).
A rank's file holds what that rank owned, each piece flat: ``weight/NAME``, ``exp_avg/NAME``, ``exp_avg_sq/NAME``, and
in its metadata where each begins. Whoever loads reads the stretches that it needs from whichever files have them: so
any backend at any world size goes on from any other, and no rank holds more than its own share.

The frozen parts are not stored again: a resume takes them from where the run started, and the run's manifest has their
digests.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from janus_train.config import UserError
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


@dataclass(frozen=True)
class Invalid:
    """A step's folder that is not what a manifest says, and why."""

    folder: Path
    why: str


@dataclass(frozen=True)
class Search:
    """The newest valid checkpoint of a run, and the newer folders that had to be passed over, the newest first."""

    found: Checkpoint | None = None
    passed_over: tuple[Invalid, ...] = ()


def folder_of(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:06d}"


def rank_file(rank: int) -> str:
    return f"rank-{rank:05d}.safetensors"


def step_folders(run: Path) -> list[Path]:
    """What stands for a step in the run's folder, the oldest first. Raises `UserError` if it cannot be known."""
    checkpoints = run / "checkpoints"
    try:
        names = [path.name for path in checkpoints.iterdir()]
    except OSError as error:
        if _is_absent(checkpoints, error):
            return []
        raise _unreadable(checkpoints, error) from None
    steps = sorted((int(name.removeprefix("step-")), name) for name in names if re.fullmatch(r"step-[0-9]+", name))
    return [checkpoints / name for _, name in steps]


def newest(run: Path, distributed: Distributed | None = None) -> Checkpoint | None:
    """The newest valid checkpoint of the run; see `search`."""
    return search(run, distributed).found


def search(run: Path, distributed: Distributed | None = None) -> Search:
    """Look from the newest back until one is valid; the ranks share the reading and come to the same answer.

    A file that is missing or not what the manifest says makes a checkpoint invalid. One that cannot be read may be
    whole, so it does not: raises `UserError` on all ranks, as for a checkpoint of another schema.
    """
    rank, ranks = (distributed.rank, distributed.world_size) if distributed else (0, 1)
    together = distributed.together if distributed else nullcontext
    with together():
        folders = step_folders(run) if rank == 0 else []
    if distributed:  # the main process's word: on a shared file system another may not see the same yet
        folders = distributed.gather(folders)
    passed_over: list[Invalid] = []
    for folder in reversed(folders):
        with together():
            why = _fault(folder, rank, ranks)
        faults = [one for one in (distributed.gather([why]) if distributed else [why]) if one is not None]
        if not faults:
            return Search(Checkpoint(folder, int(folder.name.removeprefix("step-"))), tuple(passed_over))
        passed_over.append(Invalid(folder, faults[0]))
    return Search(None, tuple(passed_over))


def _fault(folder: Path, rank: int, ranks: int) -> str | None:
    """Why the folder is no valid checkpoint, as far as this rank's share of its files tells; None if it tells nothing.

    Raises `UserError` for a file that cannot be read, and for another schema.
    """
    path = folder / MANIFEST
    try:
        manifest = _manifest(path)
        if manifest["step"] != int(folder.name.removeprefix("step-")):
            return f"its manifest is of step {manifest['step']}"
        for name, size, digest in sorted(manifest["files"])[rank::ranks]:
            path = folder / name
            if path.stat().st_size != size:
                return f"{name} has {path.stat().st_size} bytes, {size} were written"
            if file_sha256(path) != digest:
                return f"{name} has another digest than was written"
    except (NotADirectoryError, IsADirectoryError):
        return f"{path.name} is not a file"
    except OSError as error:
        if _is_absent(path, error):
            return f"{path.name} is missing"
        raise _unreadable(path, error) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{MANIFEST} is damaged"
    return None


def _manifest(path: Path) -> dict[str, Any]:
    """Its ``step``, and ``files`` as (name, size, digest). Raises what a file that is no manifest leads to."""
    values = json.loads(path.read_text(encoding="utf-8"))
    schema = int(values["schema"])
    if schema != SCHEMA:
        newer = "a newer" if schema > SCHEMA else "the older"
        raise UserError(
            f"{path.parent} is of checkpoint schema {schema}, this version reads schema {SCHEMA}: go on with {newer} "
            "janus_train, or begin a new run in another output_dir"
        )
    files = [(str(name), int(entry["size"]), str(entry["sha256"])) for name, entry in values["files"].items()]
    if STATE not in values["files"]:
        raise ValueError(f"{STATE} is not listed")
    return {"step": int(values["step"]), "files": files}


def _is_absent(path: Path, error: OSError) -> bool:
    """Whether ``error`` says that there is no such file, rather than a link (or a folder behind one) that leads nowhere."""
    if not isinstance(error, FileNotFoundError):
        return False
    return not any(_leads_nowhere(place) for place in (path, *path.parents))


def _leads_nowhere(place: Path) -> bool:
    try:
        return place.is_symlink() and not place.exists()
    except OSError:
        return True


def _unreadable(path: Path, error: OSError) -> UserError:
    why = "it is a link to nothing" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
    return UserError(
        f"checkpoint {path} cannot be read ({why}): nothing was changed; make it readable and start the same command "
        "again, or move its folder away to do without it"
    )


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


def load(checkpoint: Checkpoint, backend: Backend, distributed: Distributed) -> dict[int, dict[str, Any]]:
    """Put the checkpoint's weights and moments in place; returns the streams' states, by number.

    Raises `UserError` on all ranks if any cannot read it, or if its tensors are not those that train.
    """
    with distributed.together():
        state = _fill_all(checkpoint, backend)
    if state["optimizer_steps"]:
        backend.set_optimizer_steps(state["optimizer_steps"])
    backend.publish()
    torch.set_rng_state(torch.frombuffer(bytearray(base64.b64decode(state["torch_rng"])), dtype=torch.uint8))
    return {int(stream): kept for stream, kept in state["streams"].items()}


def _fill_all(checkpoint: Checkpoint, backend: Backend) -> dict[str, Any]:
    """Fill what this rank holds; returns what state.json has."""
    path = checkpoint.folder / STATE
    try:
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _refuse_other_shapes(checkpoint, backend, state)
        if state["optimizer_steps"]:
            backend.make_moments()
        pieces = backend.held()
        missing = {id(piece): piece.weight.numel() for piece in pieces}
        for path in sorted(checkpoint.folder.glob("rank-*.safetensors")):
            for piece, count in _fill(path, pieces):
                missing[id(piece)] -= count
    except OSError as error:
        raise _unreadable(path, error) from None
    except SafetensorError as error:
        raise UserError(f"checkpoint {path} cannot be read ({error}): nothing was changed") from None
    assert not any(missing.values()), f"{checkpoint.folder} does not cover what it says it holds"
    return state


def _refuse_other_shapes(checkpoint: Checkpoint, backend: Backend, state: dict[str, Any]) -> None:
    shapes = {name: tuple(shape) for name, shape in state["shapes"].items()}
    if shapes != backend.shapes:
        odd = sorted(
            name for name in shapes.keys() | backend.shapes.keys() if shapes.get(name) != backend.shapes.get(name)
        )
        raise UserError(
            f"{checkpoint.folder}: {len(odd)} trained tensors differ from the configured train_parts, the first is {odd[0]}"
        )


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
