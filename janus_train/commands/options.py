"""Options that several commands share, each declared once, and functions that convert their values."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from janus_train.commands.terminal import note
from janus_train.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from janus_train.infer.load import LoadedModel

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="What train.py takes: +stage=N and KEY=VALUE.", metavar="+stage=N KEY=VALUE", show_default=False
    ),
]
ConfigDir = Annotated[
    Path | None, typer.Option(help="A folder with files of options of your own, as train.py takes it (+GROUP=FILE).")
]
Model = Annotated[
    str,
    typer.Argument(
        help="A model: the folder of a trained one, for example outputs/demo/stage3/final, the folder of an official "
        "checkpoint, or a hub id.",
        metavar="MODEL",
        show_default=False,
    ),
]
Adapters = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter",
        help="LoRA adapters to add to MODEL: a folder, for example outputs/lora/adapter, or a hub id. Their own base may be "
        "another model of the same shape. Repeat the option to add several, one after the other.",
        metavar="DIR",
        show_default=False,
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto: a GPU if there is one.")]
Precision = Annotated[
    str,
    typer.Option(
        help="bf16, fp32, or auto: bf16 on a GPU that supports it, otherwise fp32. Images are always decoded in fp32."
    ),
]
Guidance = Annotated[
    float | None,
    typer.Option(min=1.0, help="Scale of classifier-free guidance; 1 turns it off. Default: the model's own, or 5."),
]
ImageGuidance = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        help="Scale of the guidance by the --image alone, beside which --guidance is that by the words (InstructPix2Pix: "
        "1.5 and 7.5); a third more work. Default: --guidance is for both together.",
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        min=0.0, help="Sampling temperature; 0 always takes the likeliest code. Default: the model's own, or 1."
    ),
]
TopK = Annotated[
    int, typer.Option(min=0, help="Sample an image's codes only among this many of the likeliest; 0 means all.")
]
TopP = Annotated[
    float,
    typer.Option(
        help="Sample an image's codes only among the likeliest that together have this probability; 1 means all."
    ),
]
Seed = Annotated[
    int, typer.Option(min=0, max=2**62, help="Seed of the first image; the following images take the next numbers.")
]
BatchSize = Annotated[
    int, typer.Option(min=1, help="How many images or answers to generate at once; fewer need less memory.")
]
Images = Annotated[
    list[Path] | None, typer.Option("--image", help="An image to show the model; repeat the option for several.")
]
UserRole = Annotated[
    str | None, typer.Option(help="Name of the user's role, for example User. Default: the model's own.")
]
AssistantRole = Annotated[
    str | None, typer.Option(help="Name of the model's role, for example Assistant. Default: the model's own.")
]
AlwaysSystem = Annotated[
    bool,
    typer.Option(
        "--always-system",
        help="Put the model's own system prompt before conversations without images too, as the official processor does.",
    ),
]
NewFolder = Annotated[Path, typer.Option(help="Folder to write; it must not exist.")]
Plugins = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        help="A Python module that registers templates, source types or evaluations; repeat the option for several.",
        metavar="MODULE",
    ),
]
Html = Annotated[Path | None, typer.Option(help="Also write the result as a page to this file.")]
Data = Annotated[
    list[str],
    typer.Argument(help="Recipes (YAML files), folders with tars, or tars.", metavar="DATA", show_default=False),
]
Workers = Annotated[int | None, typer.Option(min=1, help="Number of processes. Default: one per CPU core.")]
MaxBad = Annotated[
    float,
    typer.Option(min=0.0, max=1.0, help="Largest share of samples that may be unusable before the command fails."),
]


def load(model: str, adapters: list[str] | None, device: str, precision: str) -> LoadedModel:
    """Load the model on its device. Raises `UserError` for a device or a folder that does not exist."""
    import torch

    from janus_train.infer.load import load_model

    kind = device_kind(device)
    dtypes = {"auto": None, "bf16": torch.bfloat16, "fp32": torch.float32}
    if precision not in dtypes:
        raise UserError(f"--precision {precision} is unknown: bf16, fp32 or auto")
    return load_model(model, adapters=adapters or (), device=kind, dtype=dtypes[precision])


def name_of(model: str, adapters: list[str] | None) -> str:
    """The model as its user has named it, for the app's title and records."""
    return " + ".join((model, *(adapters or ())))


def device_kind(device: str) -> str:
    """cpu or cuda, from the value of --device. Raises `UserError` for other values, and for a missing GPU.

    With auto, a GPU that torch cannot use is a warning: the CPU gives the same results, slowly.
    """
    import torch

    from janus_train.gpu import unusable_gpu

    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {device} is unknown: cpu, cuda or auto")
    if device == "cpu":
        return "cpu"
    problem = unusable_gpu()
    if problem is None and torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise UserError(f"--device cuda: {problem or 'torch sees no GPU here'}")
    if problem is not None:
        note(f"warning: {problem}; going on with the CPU, which --device cpu would choose")
    return "cpu"


def check_finite(guidance: float | None, temperature: float | None, image_guidance: float | None = None) -> None:
    """Raise `UserError` for nan and inf, which pass the options' comparisons with a minimum."""
    for name, value in (("guidance", guidance), ("image-guidance", image_guidance), ("temperature", temperature)):
        if value is not None and not math.isfinite(value):
            raise UserError(f"--{name} {value} is not a finite number")


def check_top_p(value: float) -> None:
    """Raise `UserError` for what is not a share above 0; also for nan, which passes the options' comparisons."""
    if not 0 < value <= 1:
        raise UserError(f"--top-p {value} is not above 0 and at most 1")


def open_image_option(path: Path) -> Image.Image:
    """Open and decode an image. Raises `UserError` if the file does not exist or is not an image."""
    from janus_train.data.image_files import WHAT_TO_GIVE, ImageError, load_image, open_image

    try:
        image = open_image(path)
        load_image(image)
        return image
    except FileNotFoundError:
        address = "; nothing is fetched from an address" if str(path).startswith(("http:", "https:")) else ""
        raise UserError(f"--image {path}: there is no such file{address}") from None
    except ImageError as error:
        raise UserError(f"--image {path} cannot be read as an image: it {error}; {WHAT_TO_GIVE}") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        problem = (error.strerror if isinstance(error, OSError) else None) or error
        raise UserError(f"--image {path} cannot be read as an image: {problem}") from None
