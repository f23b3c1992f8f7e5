"""A run's folder: what is in it, whether this run may go on there, and the records it keeps.

config.yaml  manifest.json  metrics.jsonl  samples/  checkpoints/step-NNNNNN/  final/  report.html
"""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from janus_train import __version__
from janus_train.config import Config, Part
from janus_train.errors import UserError
from janus_train.files import FULL, read_regular, sync, write_json, write_text
from janus_train.jsonl import truncate_after
from janus_train.paths import IS_CHECKOUT, ROOT
from janus_train.planning.parameters import adapter_counts, parameter_counts
from janus_train.train.checkpoint.store import Search, search, set_aside, step_folders
from janus_train.train.distributed.context import Distributed
from janus_train.train.run_lock import RunLock

_CHANGEABLE_KEYS = (
    "output_dir",
    "resume",
    "plugins",
    "run",
    "logging",
    "init_from",
    "data.num_workers",
    "batch.micro_rows",
    "memory",
)
"""What may differ between a run and its continuation: none of it changes what is trained on."""

_RESTART_EFFECT = "moves what is there into restart-N/ and deletes nothing"

State = Literal["new", "resume", "finished", "next_stage"]

GIT_S = 10
"""Within it git has to name the commit; it only reads a file."""
BYTES_PER_PARAMETER = 4 + 8
"""In a checkpoint: the fp32 weight and AdamW's two moments."""


@dataclass(frozen=True)
class RunState:
    """What a run finds in its folder, the same on all ranks."""

    state: State
    search: Search = field(default_factory=Search)
    """For a checkpoint to resume from."""


logger = logging.getLogger(__name__)


def open_run_dir(
    config: Config, data_digests: dict[str, str], group: Distributed, lock: RunLock
) -> tuple[RunDir, RunState]:
    """The run's folder, which is this run's alone from now on, and what is to be done there. Only the lock is written yet.

    Raises `UserError` if the run must not go on there, if another is at work there, if its disk has no room for a
    checkpoint, and on all ranks if any cannot read what it has to.
    """
    run_dir = RunDir(config, data_digests)
    with group.raise_on_all_ranks():
        if group.is_main and not run_dir.is_finished():
            run_dir.refuse_unwritable()
            lock.acquire()
    with group.raise_on_all_ranks():
        state = run_dir.state()
    if len(set(group.gather([state]))) > 1:
        raise UserError(
            f"output_dir {run_dir.path} is not the same folder for all processes: give one that all nodes share"
        )
    if state == "finished":
        return run_dir, RunState(state)
    check_space(config, run_dir.path)
    checkpoints = search(run_dir.path, group) if state == "resume" else Search()
    run_dir.refuse_invalid(checkpoints)
    return run_dir, RunState(state, checkpoints)


def default_path(config: Config) -> Path:
    return (
        Path(config.output_dir) if config.output_dir else Path("outputs") / config.model.name / f"stage{config.stage}"
    )


class RunDir:
    """The folder of ``config``'s run. Making the object writes nothing."""

    def __init__(self, config: Config, data_digests: dict[str, str]):
        self.path = default_path(config)
        self._config, self._data = config, data_digests
        self.forced_changes: list[str] = []
        """What has changed since the run began, if ``resume=force`` goes on all the same; known after `state`."""

    @property
    def final(self) -> Path:
        return self.path / "final"

    @property
    def adapter(self) -> Path:
        """LoRA's adapters alone, in peft's format."""
        return self.path / "adapter"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def quarantine(self) -> Path:
        return self.path / "quarantine.jsonl"

    @property
    def bad_steps(self) -> Path:
        return self.path / "bad_steps.jsonl"

    def manifest(self) -> dict[str, Any]:
        """Empty if there is none. Raises `UserError` for one that cannot be read or is damaged."""
        path = self.path / "manifest.json"
        try:
            manifest = json.loads(read_regular(path))
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not path.is_symlink():
                return {}
            raise UserError(f"{path} cannot be read ({error.strerror or error}): make it readable") from None
        except (ValueError, RecursionError):
            manifest = None
        if not isinstance(manifest, dict):
            raise UserError(f"{path} is damaged, it is no JSON object: choose another output_dir, or put it back")
        return manifest

    def state(self) -> State:
        """What a run with this configuration finds here. Raises `UserError` if it must not go on here."""
        self.refuse_unwritable()
        manifest = self.manifest()
        if not manifest:
            self._refuse_orphans()
            return "new"
        run_stage, stage = manifest.get("stage"), self._config.stage
        if run_stage != stage:
            if isinstance(run_stage, int) and run_stage < stage and manifest.get("finished"):
                return "next_stage"
            raise UserError(
                f"output_dir {self.path} holds {'a finished' if manifest.get('finished') else 'an unfinished'} stage {run_stage}: "
                f"stage {stage} needs another output_dir{'' if manifest.get('finished') else f', or finish stage {run_stage} first'}"
            )
        if not self._config.resume:
            raise UserError(
                f"output_dir {self.path} holds a run at resume=false: choose another output_dir, or resume=true goes on with it"
            )
        self._refuse_changes(manifest)
        return "finished" if self._is_finished_in(manifest) else "resume"

    def is_finished(self) -> bool:
        """Whether the run's steps are done: nothing is to be written here, so nobody has to own the folder."""
        manifest = self.manifest()
        return manifest.get("stage") == self._config.stage and self._is_finished_in(manifest)

    def _is_finished_in(self, manifest: dict[str, Any]) -> bool:
        steps = manifest.get("steps")
        return bool(manifest.get("finished")) and isinstance(steps, int) and steps >= self._config.run.steps

    def _refuse_orphans(self) -> None:
        """Checkpoints without the run's manifest: it was lost, and a new run must not write over what is left."""
        folders = step_folders(self.path)
        if folders and self._config.resume != "restart":
            raise UserError(
                f"output_dir {self.path} holds checkpoints (the newest is {folders[-1].name}) but no manifest.json: put it "
                f"back, choose another output_dir, or begin at step 0 with resume=restart, which {_RESTART_EFFECT}"
            )

    def refuse_invalid(self, search: Search) -> None:
        """Raises `UserError` if there are checkpoints and none is valid, unless ``resume=restart`` begins anew."""
        if search.newest is None and search.invalid and self._config.resume != "restart":
            first, num_others = search.invalid[0], len(search.invalid) - 1
            raise UserError(
                f"output_dir {self.path} holds no valid checkpoint ({first.folder.name}: {first.reason}"
                f"{f'; and {num_others} more' if num_others else ''}): put them back, choose another output_dir, or begin at step 0 "
                f"with resume=restart, which {_RESTART_EFFECT}"
            )

    def refuse_unwritable(self) -> None:
        """Raises `UserError` if no run can be in this place."""
        try:
            self._refuse_unwritable()
        except OSError as error:
            raise UserError(f"output_dir {self.path} cannot be read: {error.strerror or error}") from None

    def _refuse_unwritable(self) -> None:
        if self.path.is_symlink() and not self.path.exists():
            raise UserError(f"output_dir {self.path} is a link to nothing: make the folder that it leads to")
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"output_dir {self.path} is a file")
        parent = next(p for p in [self.path, *self.path.absolute().parents] if p.exists())
        if not os.access(parent, os.W_OK):
            raise UserError(f"output_dir {self.path} cannot be written: no permission in {parent}")

    def _refuse_changes(self, manifest: dict[str, Any]) -> None:
        changes = _differences(manifest.get("config", {}), self._config.model_dump(mode="json"))
        changes += _differences(manifest.get("data", {}), self._data, "data digest of ")
        if changes and self._config.resume != "force":
            raise UserError(
                f"output_dir {self.path} holds a run with other settings ({'; '.join(changes)}): choose another "
                "output_dir, take them back, or go on all the same with resume=force"
            )
        self.forced_changes = changes

    def refuse_if_gone(self) -> None:
        """Raises `UserError` if the folder was deleted while the run was at work in it."""
        if not (self.path / "manifest.json").is_file():
            raise UserError(
                f"output_dir {self.path} was deleted or moved during the run: put it back and start the same command "
                "again, or begin anew in another folder"
            )

    def archive(self) -> Path:
        """Move the finished earlier stage's files into ``stageN/`` here, so that the next stage can take their place."""
        target = self.path / f"stage{self.manifest()['stage']}"
        target.mkdir(exist_ok=True)  # there already if a kill interrupted this
        self._move_into(target)
        return target

    def restart(self) -> Path:
        """Move what the run has left into ``restart-N/`` here, so that it can begin anew; nothing is deleted."""
        target = next(path for n in count(1) if not os.path.lexists(path := self.path / f"restart-{n}"))
        target.mkdir()
        self._move_into(target)
        return target

    def _move_into(self, target: Path) -> None:
        names = (
            "config.yaml",
            "metrics.jsonl",
            "quarantine.jsonl",
            "bad_steps.jsonl",
            "samples",
            "checkpoints",
            "final",
            "adapter",
            "report.html",
            "trackers.json",
            "manifest.json",
        )
        for name in names:  # the manifest goes last: until then the folder is still the earlier stage's
            if os.path.lexists(self.path / name):
                os.replace(self.path / name, target / name)
        sync(target)
        sync(self.path)

    def write_start(
        self, start: str, start_folder: str, parts: dict[str, Any], frozen: dict[Part, str], is_resume: bool
    ) -> None:
        """Create the folder and write what the run is; on a resume the manifest keeps where the run started.

        ``start`` says it in words, ``start_folder`` is the path, ``frozen`` has the digests of the parts kept as there.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        config = self._config.model_dump(mode="json")
        write_text(self.path / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
        manifest = {
            "stage": self._config.stage,
            "finished": False,
            "start": self.manifest()["start"] if is_resume else start,
            "forced": [*self.manifest().get("forced", []), *([self.forced_changes] if self.forced_changes else [])]
            if is_resume
            else [],
            "start_folder": start_folder,
            "frozen": frozen,
            "config": config,
            "data": self._data,
            "parts": parts,
            "commit": _commit(),
            "versions": {"janus_train": __version__}
            | {p: version(p) for p in ("torch", "transformers", "accelerate")}
            | {"python": platform.python_version()},
            "hardware": _hardware(),
        }
        write_json(self.path / "manifest.json", manifest)

    def write_end(self, steps: int) -> None:
        """Mark the run as finished."""
        write_json(self.path / "manifest.json", self.manifest() | {"finished": True, "steps": steps})


@contextmanager
def full_disk_as_user_error(output_dir: Path) -> Iterator[None]:
    """Inside, a disk without room becomes a `UserError` of one line."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        path = error.filename or f"output_dir {output_dir}"
        raise UserError(
            f"{path} cannot be written: {error.strerror}: make room and run the same command again to resume from the "
            "newest checkpoint"
        ) from None


def make_room(run_dir: RunDir, state: RunState) -> None:
    """Move out of the way what the run does not go on with, and say so; on one rank. Raises `UserError`."""
    try:
        if state.state == "next_stage":
            logger.info(f"the earlier stage's files are now in {run_dir.archive()}")
        elif state.search.newest is None and step_folders(
            run_dir.path
        ):  # resume=restart, or it would have been refused
            logger.warning(f"no checkpoint is valid, resume=restart: what was there is now in {run_dir.restart()}")
        else:
            for invalid in state.search.invalid:
                path = set_aside(invalid.folder)
                logger.warning(f"checkpoint {invalid.folder} is passed over ({invalid.reason}), it is now {path.name}")
    except OSError as error:
        raise UserError(f"output_dir {run_dir.path} cannot be written: {error.strerror or error}") from None


def truncate_records(run_dir: RunDir, step: int) -> None:
    """After a resume from ``step`` every step is in the records once."""
    for record in (run_dir.metrics, run_dir.quarantine, run_dir.bad_steps):
        truncate_after(record, step)


def check_space(config: Config, folder: Path) -> None:
    """Raises `UserError` if the disk of ``folder``, which need not exist yet, has no room for one checkpoint."""
    parent = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free_bytes = shutil.disk_usage(parent).free
    counts = parameter_counts(config.model)
    num_trained = sum(counts[part] for part in config.train_parts)
    num_trained += sum(adapter_counts(config.model, config.peft).values())
    checkpoint_bytes = num_trained * BYTES_PER_PARAMETER
    if free_bytes < checkpoint_bytes:
        final_bytes = 4 * sum(counts.values())
        total_bytes = (config.run.keep_checkpoints + 1) * checkpoint_bytes + final_bytes
        raise UserError(
            f"output_dir {folder}: one checkpoint of {num_trained / 1e6:.1f} M trained parameters needs {_size(checkpoint_bytes)}, its disk "
            f"has {_size(free_bytes)} free ({_size(total_bytes)} for run.keep_checkpoints={config.run.keep_checkpoints}, the one being "
            "written and the final model): make room or choose another output_dir"
        )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def _differences(recorded: dict[str, Any], current: dict[str, Any], prefix: str = "") -> list[str]:
    """``key was -> is`` for every key that differs and may not."""
    differences = []
    for key in sorted(recorded.keys() | current.keys()):
        name = prefix + key
        if name in _CHANGEABLE_KEYS:
            continue
        old_value, new_value = recorded.get(key), current.get(key)
        if isinstance(old_value, dict) and isinstance(new_value, dict):
            differences += _differences(old_value, new_value, f"{name}.")
        elif old_value != new_value:
            differences.append(f"{name} {old_value} -> {new_value}")
    return differences


def _commit() -> str | None:
    """The checkout's commit. None without git, and in an installed package: a repository around it is somebody else's."""
    if not IS_CHECKOUT:
        return None
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    try:
        return (
            subprocess.run(command, capture_output=True, text=True, check=False, timeout=GIT_S).stdout.strip() or None
        )
    except (OSError, subprocess.TimeoutExpired):  # git is not installed, or waits for something
        return None


def _hardware() -> dict[str, Any]:
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "cpus": len(os.sched_getaffinity(0)),
        "gpus": gpus,
    }
