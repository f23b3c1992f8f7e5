"""Saves checkpoints while training continues.

In: the backend's shards and the streams' states. Out: a committed checkpoint folder. All ranks agree on whether the
checkpoint is valid.

    begin    all ranks copy their shards into one reused buffer in CPU memory, and training continues
    thread   each rank writes its file into the staging folder, syncs it and computes its digest
    finish   once all ranks have written (they exchange `is_written` at every step): if all succeeded, rank 0 writes the
             manifest, renames the folder and only then removes superseded checkpoints; if any rank failed, all give up
             this save and the previous checkpoint stays

There is one save at a time: the next one, and the end of the run, wait for it. All nodes must see the same folder.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from janus_train.config import RunConfig
from janus_train.errors import UserError
from janus_train.train.backends import Backend
from janus_train.train.checkpoint.format import state_of, write_files, write_manifest
from janus_train.train.checkpoint.host_buffer import HostBuffer
from janus_train.train.checkpoint.store import (
    SCHEMA,
    Checkpoint,
    Entries,
    folder_of,
    make_staging,
    publish,
    remove_superseded,
)

logger = logging.getLogger(__name__)

MAX_FAILURES = 3
"""The number of consecutive failed saves that stops the run."""


@dataclass
class _PendingSave:
    """A save whose files are being written."""

    step: int
    staging: Path
    future: Future[Entries]
    is_best: bool


class CheckpointSaver:
    """Saves one run's checkpoints. All ranks call every method, at the same steps.

    ``recipe``: digests of recipe and data, for the manifests. ``best``: the step whose checkpoint is kept beside the
    newest ones, until that of a better one is committed.
    """

    def __init__(
        self, run_dir: Path, backend: Backend, options: RunConfig, recipe: dict[str, str], best: int | None = None
    ):
        self._run_dir, self._backend, self._group = run_dir, backend, backend.distributed
        self._keep_checkpoints, self._recipe, self._best = options.keep_checkpoints, recipe, best
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._buffer = HostBuffer(self._group.device)
        self._pending_save: _PendingSave | None = None
        self._failures = 0
        self.blocked_s = 0.0
        """Seconds that training waited for saving."""
        self.save_s = 0.0
        """Seconds from the start of each save to its commit, summed."""
        self._start_s = 0.0

    @property
    def is_written(self) -> bool:
        """Whether this rank has written its part or failed to, so that `finish` does not wait for it."""
        return self._pending_save is None or self._pending_save.future.done()

    def begin(self, step: int, streams: dict[str, dict[str, Any]], is_best: bool = False) -> None:
        """Start to save step ``step``, the best one so far if ``is_best``. Raises `UserError` after `MAX_FAILURES` consecutive failures."""
        self.finish()
        self._start_s = start_s = time.perf_counter()
        target = folder_of(self._run_dir, step)
        staging = target.with_name(f".{target.name}.part")
        if self._any_rank_failed(self._attempt(make_staging, staging) if self._group.is_main else None, step, staging):
            return
        state = state_of(step, self._backend, streams) if self._group.is_main else None
        shards = self._buffer.copy(self._backend.checkpoint_shards())
        future = self._thread.submit(write_files, staging, self._group.rank, shards, state)
        self._pending_save = _PendingSave(step, staging, future, is_best)
        self.blocked_s += time.perf_counter() - start_s

    def finish(self) -> Checkpoint | None:
        """Wait for the pending save and commit it; returns None if there is none or it failed."""
        if self._pending_save is None:
            return None
        start_s = time.perf_counter()
        self._pending_save.future.exception()  # waits
        checkpoint = self._commit()
        self.blocked_s += time.perf_counter() - start_s
        return checkpoint

    def close(self) -> None:
        """Finish the pending save, and wait until superseded checkpoints are deleted."""
        self.finish()
        self._thread.shutdown(wait=True)
        self._buffer.close()

    def _commit(self) -> Checkpoint | None:
        """Commit the pending save if all ranks have written it; otherwise give it up."""
        assert self._pending_save is not None
        pending, self._pending_save = self._pending_save, None
        error = pending.future.exception()
        if error is not None and not isinstance(error, (OSError, SafetensorError)):
            raise error
        if self._any_rank_failed(error, pending.step, pending.staging):
            return None
        entries: Entries = {}
        for part in self._group.gather([pending.future.result()]):
            entries |= part
        target = folder_of(self._run_dir, pending.step)
        error = None
        if self._group.is_main:
            manifest = {
                "schema": SCHEMA,
                "step": pending.step,
                "world_size": self._group.world_size,
                "backend": self._group.backend,
                "recipe": self._recipe,
                "files": entries,
            }
            error = self._attempt(write_manifest, pending.staging, manifest) or self._attempt(
                publish, pending.staging, target
            )
        if self._any_rank_failed(error, pending.step, pending.staging):
            return None
        self._failures = 0
        self._best = pending.step if pending.is_best else self._best
        self.save_s += time.perf_counter() - self._start_s
        if self._group.is_main:
            self._thread.submit(remove_superseded, self._run_dir, pending.step, self._keep_checkpoints, self._best)
        return Checkpoint(target, pending.step)

    @staticmethod
    def _attempt(action: Callable[..., None], *arguments: Any) -> OSError | None:
        try:
            action(*arguments)
        except OSError as error:
            return error
        return None

    def _any_rank_failed(self, error: BaseException | None, step: int, staging: Path) -> bool:
        """Whether any rank has an error; if so, all give this save up.

        Raises `UserError` at the last allowed failure.
        """
        [num_failures] = self._group.sum([float(error is not None)])
        if not num_failures:
            return False
        errors = [text for text in self._group.gather([str(error) if error else None]) if text]
        if self._group.is_main:
            shutil.rmtree(staging, ignore_errors=True)
        self._failures += 1
        message = f"the checkpoint of step {step} could not be written: {errors[0]}"
        if self._failures == MAX_FAILURES:
            raise UserError(
                f"{message}; {MAX_FAILURES} in a row failed, training stops: free or repair the disk, then run the same command "
                "again to resume"
            )
        logger.warning(f"{message}; the previous checkpoint stays, training continues")
        return True
