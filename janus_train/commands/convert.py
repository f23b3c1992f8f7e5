"""``janus-train import`` and ``janus-train export``: one checkpoint layout to the other."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Form(StrEnum):
    """A checkpoint's layout."""

    hf = "hf"
    official = "official"


def import_model(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder of an official checkpoint (MultiModalityCausalLM), or its hub id.",
            metavar="DIR",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write; it must not exist.")],
) -> None:
    """Convert an official Janus checkpoint to transformers' layout.

    Reads .safetensors, or .bin without running anything that is in it, one file or several, and writes safetensors with
    configuration, tokenizer and processor. Works tensor by tensor, in memory of about one shard. Tensors that
    transformers' model has no place for (SigLIP's attention pool) stay beside it in official_extras.safetensors, so that
    export gives every tensor back byte for byte. Training and the other commands also take an official folder as it is.
    """
    from janus_train.interop.convert import import_official

    import_official(source, out)
    print(out)


def export(
    source: Annotated[
        str,
        typer.Argument(
            help="A run's folder (its final/ is taken), a model's folder in either layout, or a hub id.",
            metavar="RUN",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write; it must not exist.")],
    form: Annotated[
        Form,
        typer.Option(
            "--format",
            help="hf: JanusForConditionalGeneration.from_pretrained; official: the official code's MultiModalityCausalLM.",
        ),
    ] = Form.hf,
) -> None:
    """Write a model for others: weights, tokenizer, processor, chat template, generation settings and a model card.

    The card (README.md) says what a run trained, from which start, on which data by digest. Weights keep their type.
    """
    from janus_train.interop.convert import export_model

    missing = export_model(source, out, form.value)
    if missing:
        print(
            f"note: the unmodified official code cannot build {' or '.join(missing)}: this folder is for janus-train import",
            file=sys.stderr,
        )
    print(out)
