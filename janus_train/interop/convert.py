"""The commands ``import`` and ``export``: convert a model between layouts, or a run to either, tensor by tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from janus_train.errors import UserError
from janus_train.files import read_json_object, read_json_object_if_any
from janus_train.interop import official_config
from janus_train.interop.card import model_card
from janus_train.interop.hub import local_folder
from janus_train.interop.model_folder import ModelFolder, open_folder
from janus_train.interop.write import TRAINING, check_target, user_errors_on_write, write_official, write_transformers

ExportFormat = Literal["hf", "official"]


def import_official(source: str, target: Path) -> None:
    """Converts an official checkpoint (a folder or a hub id) to transformers' layout.

    Raises `UserError`; no partial folder is left then.
    """
    check_target(target)
    folder = open_folder(local_folder(source, "import "))
    if folder.layout != "official":
        raise UserError(f"{folder.path} is in transformers' layout already: there is nothing to import")
    _write(folder, "hf", target, None)


def export_model(source: str, target: Path, form: ExportFormat) -> list[str]:
    """Converts a run's result or a model's folder to ``form``. Returns the parts that the official code cannot build."""
    check_target(target)
    path = local_folder(source, "export ")
    folder = open_folder(path)
    _write(folder, form, target, _manifest(path))
    return official_config.not_buildable(folder.config) if form == "official" else []


def _write(folder: ModelFolder, form: ExportFormat, target: Path, manifest: dict[str, Any] | None) -> None:
    folder.check_complete()
    try:
        card = model_card(folder.config, manifest, form)
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{folder.path}: the manifest.json of its run does not say what was trained") from None
    with user_errors_on_write(target):
        write = write_transformers if form == "hf" else write_official
        write(
            target,
            folder.config,
            folder.tensors(),
            folder.tokenizer,
            folder.system_prompt,
            folder.generation_config,
            folder.extras(),
            card,
        )


def _manifest(path: Path) -> dict[str, Any] | None:
    """Returns the manifest of the run in ``path``, or whose ``final/``, ``best/``, ``ema/`` or ``adapter/`` it is.

    Its ``steps`` are those of the model in ``path``. None if there is none.
    """
    for folder in (path, path.parent if path.name in ("final", "best", "ema", "adapter") else path):
        if (folder / "manifest.json").is_file():
            record = read_json_object_if_any(path / TRAINING)
            return read_json_object(folder / "manifest.json") | ({"steps": record["step"]} if "step" in record else {})
    return None
