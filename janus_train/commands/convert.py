"""``janus-train import``, ``export`` and ``merge``: convert one checkpoint layout to the other, and merge LoRA adapters."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from janus_train.commands.options import Adapters, NewFolder
from janus_train.commands.terminal import note


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
    out: NewFolder,
    form: Layout = CheckpointLayout.hf,
    adapter: Adapters = None,
) -> None:
    """Write a model to share: weights, tokenizer, processor, chat template, generation settings and a model card.

    The card (README.md) lists what the run trained, from which weights, and on which data by digest. Weights keep their
    type.

    \b
    Examples:
      janus-train export outputs/demo/stage3 --out my-janus
      janus-train export outputs/demo/stage3 --format official --out my-janus-official
    """
    from janus_train.interop.convert import export_model

    _finish(export_model(source, out, form.value, adapter or ()), out)


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
    if missing_parts:
        note(
            f"note: the unmodified official code cannot build {' or '.join(missing_parts)}: this folder is for janus-train import"
        )
    print(out)
