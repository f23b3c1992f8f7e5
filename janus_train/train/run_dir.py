"""A run's folder: its files, the checks before a run may use it, and its manifest.

config.yaml  manifest.json  metrics.jsonl  samples/  checkpoints/step-NNNNNN/  final/  report.html
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Literal

import yaml

from janus_train.config import Config, Part
from janus_train.errors import UserError
from janus_train.files import FULL, read_regular, sync, write_json, write_text
from janus_train.jsonl import truncate_after
from janus_train.planning.parameters import adapter_counts, num_named, parameter_counts
from janus_train.train.checkpoint.store import Search, search, set_aside, step_folders
from janus_train.train.distributed.context import Distributed
from janus_train.train.provenance import commit, hardware, versions
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
"""Options that may differ between a run and its continuation because they do not affect what is trained on."""

_BEFORE_THE_OPTION: dict[str, Any] = {
    "optim.min_lr_ratio": 0.0,
    "optim.decay_type": "linear",
    "optim.parts": {},
    "peft.use_rslora": False,
    "peft.use_dora": False,
    "data.editing_dropout": {"text": 0.05, "images": 0.05, "both": 0.05},  # there was no template for it
}
"""What runs did whose manifest lacks these options, because they are from an earlier version."""

_RESTART_EFFECT = "moves the existing files into restart-N/ and deletes nothing"

State = Literal["new", "resume", "finished", "next_stage"]

BYTES_PER_PARAMETER = 4 + 8
"""The size of a parameter in a checkpoint: the fp32 weight and AdamW's two moments."""


@dataclass(frozen=True)
class RunState:
    """The state in which a run finds its folder; the same on all ranks."""

    state: State
    search: Search = field(default_factory=Search)
    """The search for a checkpoint to resume from."""


logger = logging.getLogger(__name__)


def open_run_dir(
    config: Config, data_digests: dict[str, str], group: Distributed, lock: RunLock
) -> tuple[RunDir, RunState]:
    """Check and lock the run's folder; returns it with its state. Nothing but the lock is written.

    Raises `UserError` on all ranks if the run must not continue there, if another run uses the folder, if its disk has
    no room for a checkpoint, or if any rank cannot read its files.
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
            f"output_dir {run_dir.path} is not the same folder for all processes: choose one that all nodes share"
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
    """The folder of ``config``'s run. Creating the object writes nothing."""

    def __init__(self, config: Config, data_digests: dict[str, str]):
        self.path = default_path(config)
        self._config, self._data = config, data_digests
        self.forced_changes: list[str] = []
        """The settings that ``resume=force`` accepts although they have changed; set by `state`."""

    @property
    def final(self) -> Path:
        return self.path / "final"

    @property
    def best(self) -> Path:
        """The model of the best validation, if that is not the last step (`run.keep_best`)."""
        return self.path / "best"

    @property
    def ema(self) -> Path:
        """The model of the averaged weights, if the run keeps an average (`run.ema`)."""
        return self.path / "ema"

    def adapter_of(self, model: Path) -> Path:
        """LoRA's adapters alone, in peft's format: those of `final`, `best` or `ema`."""
        return self.path / ("adapter" if model == self.final else f"adapter-{model.name}")

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
        """The contents of manifest.json, empty if there is none. Raises `UserError` if it is unreadable or damaged."""
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
            raise UserError(f"{path} is damaged, it is not a JSON object: restore it, or choose another output_dir")
        return manifest

    def state(self) -> State:
        """The folder's state for this configuration. Raises `UserError` if the run must not continue here."""
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
                f"output_dir {self.path} holds a run at resume=false: choose another output_dir, or use resume=true to continue the run"
            )
        self._refuse_changes(manifest)
        return "finished" if self._is_finished_in(manifest) else "resume"

    def is_finished(self) -> bool:
        """Whether all steps are done, so that the run writes nothing and needs no lock."""
        manifest = self.manifest()
        return manifest.get("stage") == self._config.stage and self._is_finished_in(manifest)

    def _is_finished_in(self, manifest: dict[str, Any]) -> bool:
        steps, run = manifest.get("steps"), self._config.run
        if not manifest.get("finished") or not isinstance(steps, int):
            return False
        patience = manifest.get("patience")  # that of the run that ended by it: a larger one continues
        has_stopped = isinstance(patience, int) and run.patience is not None and run.patience <= patience
        return steps >= run.steps or has_stopped

    def _refuse_orphans(self) -> None:
        """Raise `UserError` for checkpoints without a manifest: a new run must not overwrite them."""
        folders = step_folders(self.path)
        if folders and self._config.resume != "restart":
            raise UserError(
                f"output_dir {self.path} holds checkpoints (the newest is {folders[-1].name}) but no manifest.json: restore "
                f"it, choose another output_dir, or start at step 0 with resume=restart, which {_RESTART_EFFECT}"
            )

    def refuse_invalid(self, search: Search) -> None:
        """Raise `UserError` if there are checkpoints and none is valid, unless ``resume=restart`` starts at step 0."""
        if search.newest is None and search.invalid and self._config.resume != "restart":
            first, num_others = search.invalid[0], len(search.invalid) - 1
            raise UserError(
                f"output_dir {self.path} holds no valid checkpoint ({first.folder.name}: {first.reason}"
                f"{f'; and {num_others} more' if num_others else ''}): restore them, choose another output_dir, or start at step 0 "
                f"with resume=restart, which {_RESTART_EFFECT}"
            )

    def refuse_unwritable(self) -> None:
        """Raise `UserError` if the folder cannot be created or written."""
        try:
            self._refuse_unwritable()
        except OSError as error:
            raise UserError(f"output_dir {self.path} cannot be read: {error.strerror or error}") from None

    def _refuse_unwritable(self) -> None:
        if self.path.is_symlink() and not self.path.exists():
            raise UserError(f"output_dir {self.path} is a link to nothing: create the folder that it points to")
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
                "output_dir, undo the changes, or accept them with resume=force"
            )
        self.forced_changes = changes

    def refuse_if_gone(self) -> None:
        """Raise `UserError` if the folder was deleted during the run."""
        if not (self.path / "manifest.json").is_file():
            raise UserError(
                f"output_dir {self.path} was deleted or moved during the run: restore it and run the same command "
                "again to resume, or start a new run in another folder"
            )

    def archive(self) -> Path:
        """Move the finished earlier stage's files into ``stageN/`` to make room for the next stage."""
        target = self.path / f"stage{self.manifest()['stage']}"
        target.mkdir(exist_ok=True)  # it exists if an earlier move was interrupted
        self._move_into(target)
        return target

    def restart(self) -> Path:
        """Move the run's files into ``restart-N/``, so that it can start at step 0; nothing is deleted."""
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
            "best",
            "ema",
            "adapter",
            "adapter-best",
            "adapter-ema",
            "report.html",
            "trackers.json",
            "manifest.json",
        )
        for name in names:  # the manifest moves last: until then the folder still belongs to the earlier stage
            if os.path.lexists(self.path / name):
                os.replace(self.path / name, target / name)
        sync(target)
        sync(self.path)

    def write_start(
        self,
        start: str,
        start_folder: str,
        parts: dict[str, Any],
        frozen: dict[Part, str],
        recipe: dict[str, Any],
        is_resume: bool,
    ) -> None:
        """Create the folder, and write config.yaml and manifest.json; a resumed run keeps its recorded start.

        ``start`` describes where the weights come from, ``start_folder`` is the path, ``frozen`` has the digests of the
        frozen parts, ``recipe`` says what the mixture consists of (`Recipe.record`).
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
            "recipe": recipe,
            "parts": parts,
            "commit": commit(),
            "versions": versions("torch", "transformers", "accelerate", "pillow"),
            "hardware": hardware(),
        }
        write_json(self.path / "manifest.json", manifest)

    def write_end(self, steps: int, best: dict[str, Any] | None, patience: int | None) -> None:
        """Mark the run as finished at step ``steps``.

        ``best``: its best validation; ``patience``: ``run.patience`` if the run ended by it.
        """
        end = {"finished": True, "steps": steps, "best": best, "patience": patience}
        write_json(self.path / "manifest.json", self.manifest() | end)


@contextmanager
def full_disk_as_user_error(output_dir: Path) -> Iterator[None]:
    """Inside the block, an error from a full disk becomes a `UserError` of one line."""
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
    """Move files that the run does not continue from out of the way; called on rank 0. Raises `UserError`."""
    try:
        if state.state == "next_stage":
            logger.info(f"the earlier stage's files are now in {run_dir.archive()}")
        elif state.search.newest is None and step_folders(
            run_dir.path
        ):  # resume=restart: otherwise `refuse_invalid` has raised
            logger.warning(f"no checkpoint is valid, resume=restart: the existing files are now in {run_dir.restart()}")
        else:
            for invalid in state.search.invalid:
                path = set_aside(invalid.folder)
                logger.warning(f"checkpoint {invalid.folder} is not valid ({invalid.reason}) and is now {path.name}")
    except OSError as error:
        raise UserError(f"output_dir {run_dir.path} cannot be written: {error.strerror or error}") from None


def truncate_records(run_dir: RunDir, step: int) -> None:
    """Drop the records of the steps after ``step``, which a resumed run repeats."""
    for record in (run_dir.metrics, run_dir.quarantine, run_dir.bad_steps):
        truncate_after(record, step)


def check_space(config: Config, folder: Path) -> None:
    """Raise `UserError` if the disk of ``folder`` has no room for one checkpoint. The folder need not exist yet."""
    parent = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free_bytes = shutil.disk_usage(parent).free
    counts = parameter_counts(config.model)
    num_trained = num_named(config.model, config.train_parts) + sum(adapter_counts(config.model, config.peft).values())
    checkpoint_bytes = num_trained * (BYTES_PER_PARAMETER + (0 if config.run.ema is None else 4))
    if free_bytes < checkpoint_bytes:
        final_bytes = 4 * sum(counts.values())
        num_kept = config.run.keep_checkpoints + (config.run.keep_best is not None)
        total_bytes = (num_kept + 1) * checkpoint_bytes + final_bytes
        raise UserError(
            f"output_dir {folder}: one checkpoint of {num_trained / 1e6:.1f} M trained parameters needs {_size(checkpoint_bytes)}, its disk "
            f"has {_size(free_bytes)} free ({_size(total_bytes)} for {num_kept} that are kept (run.keep_checkpoints), the one being "
            "written and the final model): make room or choose another output_dir"
        )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def _differences(recorded: dict[str, Any], current: dict[str, Any], prefix: str = "") -> list[str]:
    """``key old -> new`` for every difference that is not allowed."""
    differences = []
    for key in sorted(recorded.keys() | current.keys()):
        name = prefix + key
        if name in _CHANGEABLE_KEYS:
            continue
        old_value, new_value = recorded.get(key, _BEFORE_THE_OPTION.get(name)), current.get(key)
        if isinstance(old_value, dict) and isinstance(new_value, dict):
            differences += _differences(old_value, new_value, f"{name}.")
        elif old_value != new_value:
            differences.append(f"{name} {old_value} -> {new_value}")
    return differences
