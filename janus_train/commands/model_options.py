"""What the commands that run a trained model share: its options, loading it, and checks before minutes are spent."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from janus_train.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from janus_train.infer.load import LoadedModel

Model = Annotated[
    str,
    typer.Argument(
        help="A trained model's folder, for example outputs/demo/stage3/final, an official checkpoint's, or a hub id."
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto: a GPU if there is one.")]
Precision = Annotated[
    str,
    typer.Option(
        help="bf16, fp32, or auto: bf16 on a GPU that computes in it, else fp32. Pictures are decoded in fp32."
    ),
]
Guidance = Annotated[
    float | None,
    typer.Option(min=1.0, help="Weight of classifier-free guidance; 1 is none. Left out: the model's own, else 5."),
]
Temperature = Annotated[
    float | None, typer.Option(min=0.0, help="0 takes the likeliest code each time. Left out: the model's own, else 1.")
]
Seed = Annotated[int, typer.Option(min=0, max=2**62, help="The first picture's; the next have the next numbers.")]


def load(model: str, device: str, precision: str) -> LoadedModel:
    """The model on its device. Raises `UserError` for a device or a folder that is not there."""
    import torch

    from janus_train.infer.load import load_model

    kind = device_kind(device)
    dtypes = {"auto": None, "bf16": torch.bfloat16, "fp32": torch.float32}
    if precision not in dtypes:
        raise UserError(f"--precision {precision} is unknown: bf16, fp32 or auto")
    return load_model(model, device=kind, dtype=dtypes[precision])


def device_kind(device: str) -> str:
    """cpu or cuda, for what --device says. Raises `UserError` for anything else, and for a GPU that is not there."""
    import torch

    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {device} is unknown: cpu, cuda or auto")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here")
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"


def check_finite(guidance: float | None, temperature: float | None) -> None:
    """nan and inf pass every comparison with a least value."""
    for name, value in (("guidance", guidance), ("temperature", temperature)):
        if value is not None and not math.isfinite(value):
            raise UserError(f"--{name} {value} is not a number to draw with")


def check_writable(folder: Path) -> None:
    """Before minutes are spent on what goes into it; makes nothing yet."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UserError(f"--out {folder} cannot be made: {there} is a file")
    if not os.access(there, os.W_OK):
        raise UserError(f"--out {folder} cannot be written: no permission in {there}")


def open_picture(path: Path) -> Image.Image:
    """The picture, read whole. Raises `UserError` if there is none, or the file is not one."""
    from janus_train.data.image_files import WHAT_TO_GIVE, ImageError, load_image, open_image

    try:
        image = open_image(path)
        load_image(image)
        return image
    except FileNotFoundError:
        address = "; nothing is fetched from an address" if str(path).startswith(("http:", "https:")) else ""
        raise UserError(f"--image {path}: there is no such file{address}") from None
    except ImageError as error:
        raise UserError(f"--image {path} cannot be read as a picture: it {error}; {WHAT_TO_GIVE}") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        said = (error.strerror if isinstance(error, OSError) else None) or error
        raise UserError(f"--image {path} cannot be read as a picture: {said}") from None
