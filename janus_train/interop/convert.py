"""The commands ``import`` and ``export``: convert a model between layouts, or a run to either, tensor by tensor."""

from __future__ import annotations

from collections.abc import Sequence
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
MODEL_FOLDERS = ("final", "best", "ema", "adapter", "adapter-best", "adapter-ema")
"""A run's models and adapters."""


def import_official(source: str, target: Path) -> None:
    """Converts an official checkpoint (a folder or a hub id) to transformers' layout.

    Raises `UserError`; no partial folder is left then.
    """
    check_target(target)
    folder = open_folder(local_folder(source, "import "))
    if folder.layout != "official":
        raise UserError(f"{folder.path} is in transformers' layout already: there is nothing to import")
    _write(folder, "hf", target, None)


def export_model(source: str, target: Path, form: ExportFormat, adapters: Sequence[str] = ()) -> list[str]:
    """Converts a run's result or a model's folder to ``form``. Returns the parts that the official code cannot build.

    ``adapters``: folders of LoRA adapters that are merged into it (`open_folder`).
    """
    check_target(target)
    path = local_folder(source, "export ")
    return _export(open_folder(path, adapters), path, source, form, target)


def merge_model(source: str, target: Path, form: ExportFormat, adapters: Sequence[str] = ()) -> list[str]:
    """Writes LoRA adapters and their base as one model: ``source`` if it is a folder of adapters, else ``adapters``.

    As `export_model` otherwise; raises `UserError` if there are no adapters.
    """
    check_target(target)
    path = local_folder(source, "merge ")
    folder = open_folder(path, adapters)
    if not folder.adapters and not folder.added:
        raise UserError(
            f"{folder.path} is a whole model, there is nothing to merge: give a folder of adapters, or add --adapter DIR"
        )
    return _export(folder, path, source, form, target)


def _export(folder: ModelFolder, path: Path, source: str, form: ExportFormat, target: Path) -> list[str]:
    manifest = _manifest(path)
    if folder.added:
        names = [source, *(str(adapter.folder) for adapter in folder.added)]
        manifest = _manifest(folder.added[-1].folder)
        manifest = manifest and manifest | {"start": " + ".join(names[:-1])}
    _write(folder, form, target, manifest)
    return official_config.not_buildable(folder.config) if form == "official" else []


def _write(folder: ModelFolder, form: ExportFormat, target: Path, manifest: dict[str, Any] | None) -> None:
    folder.check_complete()
    try:
        card = model_card(folder.config, manifest, form)
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{folder.path}: the manifest.json of its run does not say what was trained") from None
    with user_errors_on_write(target):
        if form == "hf":
            write_transformers(
                target,
                folder.config,
                folder.tensors(),
                folder.tokenizer,
                folder.system_prompt,
                folder.generation_config,
                folder.extras(),
                card,
            )
        else:
            write_official(target, folder.config, folder.tensors(), folder.tokenizer, folder.extras(), card)


def _manifest(path: Path) -> dict[str, Any] | None:
    """Returns the manifest of the run in ``path``, or whose model or adapters it is.

    Its ``steps`` are those of the model in ``path``. None if there is none.
    """
    for folder in (path, path.parent if path.name in MODEL_FOLDERS else path):
        if (folder / "manifest.json").is_file():
            record = read_json_object_if_any(path / TRAINING)
            return read_json_object(folder / "manifest.json") | ({"steps": record["step"]} if "step" in record else {})
    return None
