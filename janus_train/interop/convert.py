"""The commands ``import`` and ``export``: convert a model between layouts, or a run to either, tensor by tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from janus_train.errors import UserError
from janus_train.interop import official_fit
from janus_train.interop.card import model_card
from janus_train.interop.model_folder import ModelFolder, open_folder, open_model
from janus_train.interop.run_record import RunRecord, read_run
from janus_train.interop.write import CARD, check_target, user_errors_on_write, write_official, write_transformers

ExportFormat = Literal["hf", "official"]
_LAYOUTS = {"hf": "transformers", "official": "official"}


def import_official(source: str, target: Path) -> None:
    """Converts an official checkpoint (a folder or a hub id) to transformers' layout.

    Raises `UserError`; no partial folder is left then.
    """
    check_target(target)
    folder = open_model(source, "import ")
    if folder.layout != "official":
        raise UserError(f"{folder.path} is in transformers' layout already: there is nothing to import")
    _write(folder, "hf", target, None)


def export_model(
    source: str, target: Path, form: ExportFormat, license_id: str | None = None, adapters: Sequence[str] = ()
) -> list[str]:
    """Converts a run's result or a model's folder to ``form``. Returns the parts that the official code cannot build.

    ``license_id``: the model's licence, for its card; ``adapters``: folders of LoRA adapters that are merged into it
    (`open_folder`).
    """
    check_target(target)
    return _export(open_model(source, "export ", added=adapters), source, form, target, license_id)


def merge_model(source: str, target: Path, form: ExportFormat, adapters: Sequence[str] = ()) -> list[str]:
    """Writes LoRA adapters and their base as one model: ``source`` if it is a folder of adapters, else ``adapters``.

    As `export_model` otherwise; raises `UserError` if there are no adapters.
    """
    check_target(target)
    folder = open_model(source, "merge ", added=adapters)
    if not folder.adapters and not folder.added:
        raise UserError(
            f"{folder.path} is a whole model, there is nothing to merge: give a folder of adapters, or add --adapter DIR"
        )
    return _export(folder, source, form, target)


def exported_folder(source: str, form: ExportFormat) -> Path | None:
    """Returns the folder ``source`` if it is a whole model in ``form`` with its model card already, else None."""
    path = Path(source)
    if not (path / CARD).is_file():
        return None
    folder = open_folder(path)
    if folder.adapters or folder.path != path or folder.layout != _LAYOUTS[form]:
        return None
    folder.check_complete()
    return path


def _export(
    folder: ModelFolder, source: str, form: ExportFormat, target: Path, license_id: str | None = None
) -> list[str]:
    run = read_run(folder.origin)
    if folder.added:
        *others, last = (adapter.folder for adapter in folder.added)
        run = read_run(last)
        if run is not None:  # of what the last adapters' training started from counts what they are added to here
            start = {"start": " + ".join([source, *map(str, others)]), "start_folder": str(folder.origin)}
            run = replace(run, manifest=run.manifest | start)
    _write(folder, form, target, run, license_id)
    return official_fit.not_buildable(folder.config) if form == "official" else []


def _write(
    folder: ModelFolder, form: ExportFormat, target: Path, run: RunRecord | None, license_id: str | None = None
) -> None:
    folder.check_complete()
    card = model_card(folder.config, run, form, license_id)
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
