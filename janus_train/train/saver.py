"""Saving without stopping: a snapshot, a thread that writes it, and one mind of all ranks on whether it counts.

    begin    all ranks copy what they own into CPU memory; the step goes on
    thread   each rank writes its file into the staging folder, syncs it and takes its digest
    poll     at every step: once all ranks are done and all succeeded, rank 0 writes the manifest and renames, and only
             then removes older checkpoints; if any rank failed, all give the save up and the one before stays

Never two at once: a new one waits for the one before, as does the end of the run. All nodes have to see the same folder.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file

from janus_train.errors import UserError
from janus_train.files import file_sha256, sync, write_json
from janus_train.train.backends import Backend, Piece
from janus_train.train.checkpoint import MANIFEST, SCHEMA, STATE, Checkpoint, folder_of, rank_file, state_of, tensors_of
from janus_train.train.distributed import Distributed

MAX_FAILURES = 3
"""Saves in a row that fail before the run stops."""

Entries = dict[str, dict[str, Any]]
"""A file's name -> its size and digest, as in the manifest."""


@dataclass
class _Pending:
    """A save whose files are being written."""

    step: int
    staging: Path
    writing: Future[Entries]


class Saver:
    """Saves one run's checkpoints. Every method is called by all ranks, at the same steps.

    ``recipe`` goes into the manifests; ``warn`` is told what went wrong.
    """

    def __init__(
        self,
        run: Path,
        backend: Backend,
        distributed: Distributed,
        keep: int,
        recipe: dict[str, str],
        warn: Callable[[str], None],
    ):
        self._run, self._backend, self._distributed = run, backend, distributed
        self._keep, self._recipe, self._warn = keep, recipe, warn
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: _Pending | None = None
        self._failures = 0
        self.held_s = 0.0
        """Seconds that steps were held up by saving."""
        self.written_s = 0.0
        """Seconds from the begin of saves to their commit."""
        self._began = 0.0

    def begin(self, step: int, streams: dict[str, dict[str, Any]]) -> None:
        """Start to save step ``step``. Raises `UserError` after `MAX_FAILURES` failures in a row."""
        self.finish()
        self._began = began = time.perf_counter()
        target = folder_of(self._run, step)
        staging = target.with_name(f".{target.name}.part")
        if self._fails_anywhere(
            self._attempt(make_staging, staging) if self._distributed.is_main else None, step, staging
        ):
            return
        state = state_of(step, self._backend, streams) if self._distributed.is_main else None
        pieces = [_copy(piece) for piece in self._backend.owned()]
        writing = self._thread.submit(write_files, staging, self._distributed.rank, pieces, state)
        self._pending = _Pending(step, staging, writing)
        self.held_s += time.perf_counter() - began

    def poll(self) -> Checkpoint | None:
        """Commit the pending save if all ranks have written it; the checkpoint that came of it."""
        if self._pending is None:
            return None
        began = time.perf_counter()
        all_done = self._distributed.sum([float(not self._pending.writing.done())]) == [0.0]
        committed = self._commit() if all_done else None
        self.held_s += time.perf_counter() - began
        return committed

    def finish(self) -> Checkpoint | None:
        """Wait for the pending save, and commit it."""
        if self._pending is None:
            return None
        began = time.perf_counter()
        self._pending.writing.exception()  # waits
        committed = self._commit()
        self.held_s += time.perf_counter() - began
        return committed

    def close(self) -> None:
        """`finish`, and wait until older checkpoints are gone."""
        self.finish()
        self._thread.shutdown(wait=True)

    def _commit(self) -> Checkpoint | None:
        """All ranks have written, or failed."""
        assert self._pending is not None
        pending, self._pending = self._pending, None
        error = pending.writing.exception()
        if error is not None and not isinstance(error, (OSError, SafetensorError)):
            raise error
        if self._fails_anywhere(error, pending.step, pending.staging):
            return None
        entries: Entries = {}
        for part in self._distributed.gather([pending.writing.result()]):
            entries |= part
        target = folder_of(self._run, pending.step)
        error = None
        if self._distributed.is_main:
            manifest = {
                "schema": SCHEMA,
                "step": pending.step,
                "world_size": self._distributed.world_size,
                "backend": self._distributed.backend,
                "recipe": self._recipe,
                "files": entries,
            }
            error = self._attempt(write_manifest, pending.staging, manifest) or self._attempt(
                publish, pending.staging, target
            )
        if self._fails_anywhere(error, pending.step, pending.staging):
            return None
        self._failures = 0
        self.written_s += time.perf_counter() - self._began
        if self._distributed.is_main:
            self._thread.submit(remove_others, target, self._keep)
        return Checkpoint(target, pending.step)

    @staticmethod
    def _attempt(action: Callable[..., None], *arguments: Any) -> OSError | None:
        try:
            action(*arguments)
        except OSError as error:
            return error
        return None

    def _fails_anywhere(self, error: BaseException | None, step: int, staging: Path) -> bool:
        """Whether any rank has an error; then all give this save up. Raises `UserError` if it is one too many."""
        [num_failed] = self._distributed.sum([float(error is not None)])
        if not num_failed:
            return False
        said = [one for one in self._distributed.gather([str(error) if error else None]) if one]
        if self._distributed.is_main:
            shutil.rmtree(staging, ignore_errors=True)
        self._failures += 1
        what = f"the checkpoint of step {step} could not be written: {said[0]}"
        if self._failures == MAX_FAILURES:
            raise UserError(
                f"{what}; {MAX_FAILURES} in a row failed, training stops: make room or mend the disk, and go on"
            )
        self._warn(f"warning: {what}; the one before stays, training goes on")
        return True


def _copy(piece: Piece) -> Piece:
    """The piece in CPU memory, not to change any more."""
    moments = {key: moment.detach().to("cpu", copy=True) for key, moment in piece.moments.items()}
    return Piece(piece.name, piece.start, piece.weight.detach().to("cpu", copy=True), moments)


def make_staging(staging: Path) -> None:
    """An empty folder at ``staging``; those that a kill left behind go."""
    for left in staging.parent.glob(".step-*.part"):
        shutil.rmtree(left)
    staging.mkdir(parents=True)


def write_files(staging: Path, rank: int, pieces: list[Piece], state: dict[str, Any] | None) -> Entries:
    """Write a rank's pieces, and ``state`` if it has one; synced when this returns."""
    names = [rank_file(rank)]
    tensors, metadata = tensors_of(pieces)
    save_file(tensors, staging / names[0], metadata)
    del tensors, pieces[:]
    sync(staging / names[0])
    if state is not None:
        names.append(STATE)
        write_json(staging / STATE, state)
    return {name: {"size": (staging / name).stat().st_size, "sha256": file_sha256(staging / name)} for name in names}


def write_manifest(staging: Path, manifest: dict[str, Any]) -> None:
    write_json(staging / MANIFEST, manifest)


def publish(staging: Path, target: Path) -> None:
    """The moment from which it is a checkpoint."""
    if target.exists():  # damaged, or the resume would have begun there
        shutil.rmtree(target)
    staging.rename(target)
    sync(target.parent)


def remove_others(newest: Path, keep: int) -> None:
    """Delete the older checkpoints but for the newest ``keep`` in all, and what stands for later steps: not valid."""
    folders = sorted(newest.parent.glob("step-*"))
    upto = folders.index(newest) + 1
    for folder in [*folders[: max(0, upto - keep)], *folders[upto:]]:
        shutil.rmtree(folder, ignore_errors=True)
