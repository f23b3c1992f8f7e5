"""The checkpoints of a run on the disk.

In: the run's folder. Out: its newest valid checkpoint, and the reasons why newer folders are not valid.

A folder ``step-NNNNNN`` is a checkpoint if it has a manifest and every file matches it. Otherwise it is skipped, logged
and kept as ``step-NNNNNN.invalid``. A file that cannot be read stops the start instead, because it may be intact (a
file server that is away, a permission). Only checkpoints that a newer one supersedes are deleted.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from janus_train.errors import UserError
from janus_train.files import file_sha256, read_regular, sync
from janus_train.train.distributed.context import Distributed

SCHEMA = 2
MANIFEST, STATE = "manifest.json", "state.json"

Entries = dict[str, dict[str, Any]]
"""Per file name the size and digest, as in the manifest."""


@dataclass(frozen=True)
class Checkpoint:
    """A valid checkpoint on disk."""

    folder: Path
    step: int


@dataclass(frozen=True)
class InvalidCheckpoint:
    """A step's folder that is not a valid checkpoint, and the reason."""

    folder: Path
    reason: str


@dataclass(frozen=True)
class Search:
    """The newest valid checkpoint of a run, and the newer folders that are not valid, the newest first."""

    newest: Checkpoint | None = None
    invalid: tuple[InvalidCheckpoint, ...] = ()


def folder_of(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:06d}"


def step_folders(run: Path) -> list[Path]:
    """The run's ``step-NNNNNN`` folders, the oldest first. Raises `UserError` if they cannot be listed."""
    checkpoints = run / "checkpoints"
    try:
        names = [path.name for path in checkpoints.iterdir()]
    except OSError as error:
        if _is_absent(checkpoints, error):
            return []
        raise unreadable_error(checkpoints, error) from None
    steps = sorted((int(name.removeprefix("step-")), name) for name in names if re.fullmatch(r"step-[0-9]+", name))
    return [checkpoints / name for _, name in steps]


def newest_checkpoint(run: Path, distributed: Distributed | None = None) -> Checkpoint | None:
    """The newest valid checkpoint of the run; see `search`."""
    return search(run, distributed).newest


def search(run: Path, distributed: Distributed | None = None) -> Search:
    """Find the newest valid checkpoint. The ranks divide the files among them and all get the same result.

    A file that is missing or does not match the manifest makes a checkpoint invalid. A file that cannot be read may be
    intact: it raises `UserError` on all ranks, as does a checkpoint of another schema.
    """
    guard = distributed.raise_on_all_ranks if distributed else nullcontext
    with guard():
        folders = step_folders(run) if distributed is None or distributed.is_main else []
    if distributed:  # rank 0's list: other nodes may not yet see the same files on a shared file system
        folders = distributed.gather(folders)
    invalid: list[InvalidCheckpoint] = []
    for folder in reversed(folders):
        fault = fault_of(folder, distributed)
        if fault is None:
            return Search(Checkpoint(folder, step_of(folder)), tuple(invalid))
        invalid.append(InvalidCheckpoint(folder, fault))
    return Search(None, tuple(invalid))


def fault_of(folder: Path, distributed: Distributed | None = None) -> str | None:
    """Why the folder is not a valid checkpoint; None if it is one. The ranks divide its files as in `search`."""
    rank, num_ranks = (distributed.rank, distributed.world_size) if distributed else (0, 1)
    with distributed.raise_on_all_ranks() if distributed else nullcontext():
        fault = _fault(folder, rank, num_ranks)
    faults = [text for text in (distributed.gather([fault]) if distributed else [fault]) if text is not None]
    return faults[0] if faults else None


def _fault(folder: Path, rank: int, num_ranks: int) -> str | None:
    """Why the folder is not a valid checkpoint, judged by this rank's share of its files; None if they are valid.

    Raises `UserError` for a file that cannot be read, and for another schema.
    """
    path = folder / MANIFEST
    try:
        manifest = _manifest(path)
        if manifest["step"] != step_of(folder):
            return f"its manifest is of step {manifest['step']}"
        for name, size, digest in sorted(manifest["files"])[rank::num_ranks]:
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
        raise unreadable_error(path, error) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{MANIFEST} is damaged"
    return None


def _manifest(path: Path) -> dict[str, Any]:
    """The manifest's ``step``, and its ``files`` as (name, size, digest).

    Raises `ValueError`, `KeyError` or the like for a file that is not a manifest, and `UserError` for another schema.
    """
    values = json.loads(read_regular(path))
    schema = int(values["schema"])
    if schema != SCHEMA:
        version = "a newer" if schema > SCHEMA else "the older"
        raise UserError(
            f"{path.parent} is of checkpoint schema {schema}, this version reads schema {SCHEMA}: use {version} "
            "janus_train, or start a new run in another output_dir"
        )
    files = [(str(name), int(entry["size"]), str(entry["sha256"])) for name, entry in values["files"].items()]
    if STATE not in values["files"]:
        raise ValueError(f"{STATE} is not listed")
    return {"step": int(values["step"]), "files": files}


def _is_absent(path: Path, error: OSError) -> bool:
    """Whether the file does not exist, as opposed to a link (or a folder behind one) that leads nowhere."""
    if not isinstance(error, FileNotFoundError):
        return False
    return not any(_leads_nowhere(place) for place in (path, *path.parents))


def _leads_nowhere(place: Path) -> bool:
    try:
        return place.is_symlink() and not place.exists()
    except OSError:
        return True


def unreadable_error(path: Path, error: OSError) -> UserError:
    reason = "it is a link to nothing" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
    return UserError(
        f"checkpoint {path} cannot be read ({reason}): nothing was changed; make it readable and run the same command "
        "again to resume, or move its folder away to continue without it"
    )


def make_staging(staging: Path) -> None:
    """Create an empty folder at ``staging``, and delete those that killed runs have left."""
    for leftover in staging.parent.glob(".step-*.part"):
        shutil.rmtree(leftover)
    staging.parent.mkdir(exist_ok=True)  # not its parents: a run's folder that was deleted is not created again
    staging.mkdir()


def publish(staging: Path, target: Path) -> None:
    """Rename the complete staging folder: from here on it is a checkpoint."""
    if os.path.lexists(target):  # it is not from this run
        set_aside(target)
    staging.rename(target)
    sync(target.parent)


def set_aside(folder: Path) -> Path:
    """Rename a folder that is not a valid checkpoint to ``step-NNNNNN.invalid``; returns the new path."""
    number, target = 1, folder.with_name(f"{folder.name}.invalid")
    while os.path.lexists(target):
        number += 1
        target = folder.with_name(f"{folder.name}.invalid-{number}")
    folder.rename(target)
    sync(target.parent)
    return target


def remove_superseded(run: Path, step: int, keep_checkpoints: int, best: int | None = None) -> None:
    """Delete what the committed step ``step`` supersedes.

    That is all but the newest ``keep_checkpoints`` checkpoints up to it and that of the step ``best``, and the invalid
    folders up to it. Folders of later steps stay. Each folder is renamed first, so that a kill leaves nothing that looks like a damaged checkpoint.
    """
    folders = [folder for folder in step_folders(run) if step_of(folder) <= step]
    invalid_folders = [path for path in (run / "checkpoints").glob("step-*.invalid*") if step_of(path) <= step]
    old_folders = [folder for folder in folders[:-keep_checkpoints] if step_of(folder) != best]
    for path in [*old_folders, *invalid_folders]:
        with suppress(OSError):
            path.rename(path.with_name(f".{path.name}.removed"))
    for path in (run / "checkpoints").glob(".step-*.removed"):
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
        else:
            shutil.rmtree(path, ignore_errors=True)


def step_of(path: Path) -> int:
    """The step that a checkpoint's folder is named for, also if it is set aside."""
    match = re.match(r"step-([0-9]+)", path.name)
    assert match is not None, f"{path} names no step"
    return int(match[1])
