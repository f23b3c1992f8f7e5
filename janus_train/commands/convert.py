"""``janus-train import``, ``export`` and ``merge``: convert one checkpoint layout to the other, and merge LoRA adapters."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from janus_train.commands.options import Adapters, NewFolder
from janus_train.commands.terminal import note
from janus_train.errors import UserError

if TYPE_CHECKING:
    from janus_train.interop.push import HubTarget


class CheckpointLayout(StrEnum):
    """The code that can load the files of a checkpoint."""

    hf = "hf"
    official = "official"


Layout = Annotated[
    CheckpointLayout,
    typer.Option(
        "--format",
        help="hf: loads with JanusForConditionalGeneration.from_pretrained. official: loads with the official code's "
        "MultiModalityCausalLM.",
    ),
]


def import_model(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder of an official checkpoint (MultiModalityCausalLM), or its hub id.",
            metavar="DIR",
            show_default=False,
        ),
    ],
    out: NewFolder,
) -> None:
    """Convert an official Janus checkpoint to the layout of transformers.

    Reads .safetensors, or .bin without running code from it, in one file or several, and writes safetensors with
    configuration, tokenizer and processor. Works tensor by tensor and needs the memory of about one shard. Tensors that
    the model of transformers has no place for (SigLIP's attention pool) are kept in official_extras.safetensors, so that
    export restores every tensor byte for byte. Training and the other commands also take an official folder as it is.

    \b
    Examples:
      janus-train import deepseek-ai/Janus-Pro-1B --out models/janus-pro-1b
      janus-train import ./Janus-Pro-7B --out models/janus-pro-7b
    """
    from janus_train.interop.convert import import_official

    import_official(source, out)
    print(out)


def export(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder of a run (its final/ is used), folder of a model in either layout, or a hub id.",
            metavar="RUN",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write; it must not exist. Only --push-to-hub goes without it.", show_default=False
        ),
    ] = None,
    form: Layout = CheckpointLayout.hf,
    adapter: Adapters = None,
    license_id: Annotated[
        str | None,
        typer.Option("--license", help="The model's licence, by the hub's names, for its card: mit, apache-2.0."),
    ] = None,
    push_to_hub: Annotated[
        str | None,
        typer.Option(help="Also upload to this repository of the hub, made if needed.", metavar="OWNER/NAME"),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Upload to this branch, made if needed.")] = None,
    commit_message: Annotated[str | None, typer.Option(help="Message of the upload's commit.")] = None,
) -> None:
    """Write a model to share: weights, tokenizer, processor, chat template, generation settings and a model card.

    The card (README.md) lists what the run trained, from which weights, on which data with which licences, and its
    losses and evaluations, as far as they are recorded. Weights keep their type.

    --push-to-hub uploads the folder; without --out it is a temporary one. A folder that was exported already is uploaded
    as it is, so that its card can be edited first. The token is that of hf auth login or HF_TOKEN.

    \b
    Examples:
      janus-train export outputs/demo/stage3 --out my-janus
      janus-train export outputs/demo/stage3 --format official --out my-janus-official
      janus-train export outputs/demo/stage3 --push-to-hub me/my-janus --private --license mit
    """
    from janus_train.interop.convert import export_model

    if license_id is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", license_id):
        raise UserError(
            f"--license {license_id} is not a name of the hub's: they are like mit, apache-2.0 or cc-by-4.0"
        )
    target = _hub_target(out, push_to_hub, private, revision, commit_message)
    if target is None:
        assert out is not None  # `_hub_target` has checked it
        _finish(export_model(source, out, form.value, license_id, adapter or ()), out)
        return
    from janus_train.interop.push import check_access

    check_access(target)
    with _folder_to_push(source, out, form, license_id, adapter or ()) as folder:
        is_kept = folder in (out, Path(source))
        if folder == out:
            print(out)
        print(_pushed(folder, target, form, is_kept))


def _hub_target(
    out: Path | None, repository: str | None, private: bool, revision: str | None, message: str | None
) -> HubTarget | None:
    """Where to upload to, None for nowhere. Raises `UserError` for options that do not go together."""
    from janus_train.interop.push import HubTarget

    if repository is None:
        used = {"--private": private, "--revision": revision, "--commit-message": message}
        if names := [name for name, value in used.items() if value]:
            raise UserError(f"{names[0]} is for an upload: add --push-to-hub OWNER/NAME")
        if out is None:
            raise UserError("say where to write the model: --out FOLDER, or --push-to-hub OWNER/NAME")
        return None
    given = {} if message is None else {"message": message}
    return HubTarget(repository, private, revision, **given)


@contextmanager
def _folder_to_push(
    source: str, out: Path | None, form: CheckpointLayout, license_id: str | None, adapters: Sequence[str]
) -> Iterator[Path]:
    """The folder to upload: ``out``, the source itself if it was exported already, or a temporary one."""
    from janus_train.interop.convert import export_model, exported_folder

    exported = exported_folder(source, form.value) if out is None and not adapters else None
    if exported is not None:
        if license_id is not None:
            raise UserError(f"--license is for a new card, {source} has one already: write license: into its README.md")
        yield exported
        return
    with TemporaryDirectory(prefix="janus-train-export-") as temporary:
        folder = Path(temporary) / "model" if out is None else out
        _note_missing_parts(export_model(source, folder, form.value, license_id, adapters))
        yield folder


def _pushed(folder: Path, target: HubTarget, form: CheckpointLayout, is_kept: bool) -> str:
    """Upload, and return the commit's address. If that fails, say how to repeat it."""
    from janus_train.interop.push import push

    layout = ["--format", form.value] if form is not CheckpointLayout.hf else []
    again = shlex.join(["janus-train", "export", str(folder), *layout, *target.arguments])
    hint = (
        f"{folder} is whole, to upload it again: {again}" if is_kept else "nothing is left here, run the command again"
    )
    try:
        return push(folder, target)
    except UserError as error:
        raise UserError(f"{error}; {hint}") from None
    except KeyboardInterrupt:
        note(f"the upload was interrupted; {hint}")
        raise


def merge(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder of LoRA adapters, which are merged into the base that they name; or, with --adapter, the model to "
            "merge into.",
            metavar="MODEL",
            show_default=False,
        ),
    ],
    out: NewFolder,
    adapter: Adapters = None,
    form: Layout = CheckpointLayout.hf,
) -> None:
    """Merge LoRA adapters into their base, or into another model of the same shape: one model without adapters.

    Reads LoRA, rsLoRA and DoRA in peft's format. Sums are in fp32, and weights keep the model's type.

    \b
    Examples:
      janus-train merge outputs/lora/adapter --out merged
      janus-train merge deepseek-ai/Janus-Pro-1B --adapter outputs/lora/adapter --out merged --format official
    """
    from janus_train.interop.convert import merge_model

    _finish(merge_model(source, out, form.value, adapter or ()), out)


def _finish(missing_parts: list[str], out: Path) -> None:
    """Print the folder, and what the official code cannot build of the model in it."""
    _note_missing_parts(missing_parts)
    print(out)


def _note_missing_parts(parts: list[str]) -> None:
    if parts:
        note(
            f"note: the unmodified official code cannot build {' or '.join(parts)}: this folder is for janus-train import"
        )
