"""Checkpoints: a folder is one only if its manifest is there and every file is what the manifest says.

    checkpoints/step-000100/  weights.safetensors    the trained parts
                              optimizer.safetensors  AdamW's moments, by parameter name
                              state.json             step, the streams' states, the generators' states
                              manifest.json          schema, step, sizes and digests of the others

Written in a staging folder, synced, then renamed; older ones go after the new one stands. The frozen parts are not
stored again: a resume takes them from where the run started, and the run's manifest has their digests.
"""

from __future__ import annotations

import base64
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from janus_train.config import UserError
from janus_train.files import file_sha256, staged_folder, write_json

SCHEMA = 1
FILES = ("weights.safetensors", "optimizer.safetensors", "state.json")


@dataclass(frozen=True)
class Checkpoint:
    """A valid checkpoint on disk."""

    folder: Path
    step: int


def folder_of(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:06d}"


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that train, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def save(
    run: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    streams: dict[str, dict[str, Any]],
    keep: int,
) -> Checkpoint:
    """Write step ``step``'s checkpoint, then delete all but the newest ``keep``. Raises OSError and leaves no trace."""
    target = folder_of(run, step)
    target.parent.mkdir(exist_ok=True)
    parameters = trained(model)
    moments = {
        f"{name}/{key}": value.detach().cpu().contiguous()
        for name, parameter in parameters.items()
        for key, value in optimizer.state[parameter].items()
    }
    state = {
        "step": step,
        "streams": streams,
        "torch_rng": base64.b64encode(torch.get_rng_state().numpy().tobytes()).decode(),
    }
    with staged_folder(target) as folder:
        save_file({n: p.detach().cpu().contiguous() for n, p in parameters.items()}, folder / FILES[0])
        save_file(moments, folder / FILES[1])
        write_json(folder / FILES[2], state)
        files = {n: {"size": (folder / n).stat().st_size, "sha256": file_sha256(folder / n)} for n in FILES}
        write_json(folder / "manifest.json", {"schema": SCHEMA, "step": step, "files": files})
    for old in sorted(target.parent.glob("step-*"))[:-keep]:
        shutil.rmtree(old)
    return Checkpoint(target, step)


def newest(run: Path) -> Checkpoint | None:
    """The newest valid checkpoint of the run. Raises `UserError` for one that a newer version has written."""
    for folder in sorted((run / "checkpoints").glob("step-*"), reverse=True):
        step = _valid(folder)
        if step is not None:
            return Checkpoint(folder, step)
    return None


def _valid(folder: Path) -> int | None:
    """The step of a folder that is what its manifest says, else None."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        schema, step, files = manifest["schema"], manifest["step"], manifest["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if schema > SCHEMA:
        raise UserError(
            f"{folder} is of checkpoint schema {schema}, this version reads up to {SCHEMA}: use a newer janus_train"
        )
    for name, entry in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != entry["size"] or file_sha256(path) != entry["sha256"]:
            return None
    return int(step)


def load(checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Any]]:
    """Put the checkpoint's weights and moments in place; returns the streams' states, by number."""
    parameters = trained(model)
    weights = load_file(checkpoint.folder / FILES[0])
    if set(weights) != set(parameters):
        odd = sorted(set(weights) ^ set(parameters))
        raise UserError(
            f"{checkpoint.folder}: {len(odd)} trained tensors differ from the configured train_parts, the first is {odd[0]}"
        )
    moments: dict[str, dict[str, torch.Tensor]] = {name: {} for name in parameters}
    for key, value in load_file(checkpoint.folder / FILES[1]).items():
        name, _, moment = key.rpartition("/")
        moments[name][moment] = value
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
            optimizer.state[parameter] = {
                k: v if k == "step" else v.to(parameter.device) for k, v in moments[name].items()
            }
    state = json.loads((checkpoint.folder / FILES[2]).read_text(encoding="utf-8"))
    torch.set_rng_state(torch.frombuffer(bytearray(base64.b64decode(state["torch_rng"])), dtype=torch.uint8))
    return state["streams"]
