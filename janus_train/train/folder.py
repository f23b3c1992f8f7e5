"""A run's folder: what is in it, whether this run may go on there, and the records it keeps.

config.yaml  manifest.json  metrics.jsonl  samples/  checkpoints/step-NNNNNN/  final/  report.html
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from janus_train.config import Config, Part
from janus_train.errors import UserError
from janus_train.files import write_json
from janus_train.paths import ROOT

_MAY_CHANGE = ("output_dir", "resume", "run", "logging", "init_from", "data.num_workers", "batch.micro_rows", "memory")
"""What may differ between a run and its continuation: none of it changes what is trained on."""


State = Literal["new", "resume", "finished", "next_stage"]


def default_folder(config: Config) -> Path:
    return (
        Path(config.output_dir) if config.output_dir else Path("outputs") / config.model.name / f"stage{config.stage}"
    )


class RunFolder:
    """The folder of ``config``'s run. Making the object writes nothing."""

    def __init__(self, config: Config, data_digests: dict[str, str]):
        self.path = default_folder(config)
        self._config, self._data = config, data_digests
        self.forced: list[str] = []
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
        path = self.path / "manifest.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def state(self) -> State:
        """What a run with this configuration finds here. Raises `UserError` if it must not go on here."""
        self._refuse_unwritable()
        before = self.manifest()
        if not before:
            return "new"
        there, here = before.get("stage"), self._config.stage
        if there != here:
            if isinstance(there, int) and there < here and before.get("finished"):
                return "next_stage"
            raise UserError(
                f"output_dir {self.path} holds {'a finished' if before.get('finished') else 'an unfinished'} stage {there}: "
                f"stage {here} needs another output_dir{'' if before.get('finished') else f', or finish stage {there} first'}"
            )
        if not self._config.resume:
            raise UserError(
                f"output_dir {self.path} holds a run at resume=false: choose another output_dir, or resume=true goes on with it"
            )
        self._refuse_changes(before)
        if before.get("finished") and before["steps"] >= self._config.run.steps:
            return "finished"
        return "resume"

    def _refuse_unwritable(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"output_dir {self.path} is a file")
        parent = next(p for p in [self.path, *self.path.absolute().parents] if p.exists())
        if not os.access(parent, os.W_OK):
            raise UserError(f"output_dir {self.path} cannot be written: no permission in {parent}")

    def _refuse_changes(self, before: dict[str, Any]) -> None:
        changes = _differences(before.get("config", {}), self._config.model_dump(mode="json"))
        changes += _differences(before.get("data", {}), self._data, "data digest of ")
        if changes and self._config.resume != "force":
            raise UserError(
                f"output_dir {self.path} holds a run with other settings ({'; '.join(changes)}): choose another "
                "output_dir, take them back, or go on all the same with resume=force"
            )
        self.forced = changes

    def archive(self) -> Path:
        """Move the finished earlier stage's files into ``stageN/`` here, so that the next stage can take their place."""
        target = self.path / f"stage{self.manifest()['stage']}"
        target.mkdir(exist_ok=True)  # there already if a kill interrupted this
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
            "manifest.json",
        )
        for name in names:  # the manifest goes last: until then the folder is still the earlier stage's
            if (self.path / name).exists():
                os.replace(self.path / name, target / name)
        return target

    def open(
        self, start: str, start_folder: str, parts: dict[str, Any], frozen: dict[Part, str], resumed: bool
    ) -> None:
        """Create the folder and write what the run is; on a continuation the manifest keeps where the run started.

        ``start`` says it in words, ``start_folder`` is the path, ``frozen`` has the digests of the parts kept as there.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        config = self._config.model_dump(mode="json")
        (self.path / "config.yaml").write_text(
            yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8"
        )
        manifest = {
            "stage": self._config.stage,
            "finished": False,
            "start": self.manifest()["start"] if resumed else start,
            "forced": [*self.manifest().get("forced", []), *([self.forced] if self.forced else [])] if resumed else [],
            "start_folder": start_folder,
            "frozen": frozen,
            "config": config,
            "data": self._data,
            "parts": parts,
            "commit": _commit(),
            "versions": {p: version(p) for p in ("torch", "transformers", "accelerate")}
            | {"python": platform.python_version()},
            "hardware": _hardware(),
        }
        write_json(self.path / "manifest.json", manifest)

    def close(self, steps: int) -> None:
        """Mark the run as finished."""
        write_json(self.path / "manifest.json", self.manifest() | {"finished": True, "steps": steps})


def _differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """``key was -> is`` for every key that differs and may not."""
    found = []
    for key in sorted(before.keys() | now.keys()):
        name = prefix + key
        if name in _MAY_CHANGE:
            continue
        was, is_now = before.get(key), now.get(key)
        if isinstance(was, dict) and isinstance(is_now, dict):
            found += _differences(was, is_now, f"{name}.")
        elif was != is_now:
            found.append(f"{name} {was} -> {is_now}")
    return found


def _commit() -> str | None:
    found = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def _hardware() -> dict[str, Any]:
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "cpus": len(os.sched_getaffinity(0)),
        "gpus": gpus,
    }
