"""Reads images, models and JSON files as the official package's ``janus.utils.io`` does."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from janus_train.data.image_files import WHAT_TO_GIVE, ImageError, load_image, open_image
from janus_train.errors import UserError, one_line, shortened
from janus_train.files import read_text
from janus_train.infer.load import quickest_dtype
from janus_train.official.models.modeling_vlm import MultiModalityCausalLM
from janus_train.official.models.processing_vlm import VLChatProcessor


def load_pretrained_model(
    model_path: str | Path,
) -> tuple[PreTrainedTokenizerFast, VLChatProcessor, MultiModalityCausalLM]:
    """Loads tokenizer, processor and model: on the GPU in bf16, or without one on the CPU in fp32."""
    processor = VLChatProcessor.from_pretrained(model_path)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = quickest_dtype(device)
    model = MultiModalityCausalLM.from_pretrained(model_path, dtype=dtype).to(dtype).to(device)
    return processor.tokenizer, processor, model.eval()


def load_pil_images(conversations: Sequence[dict[str, Any]]) -> list[Image.Image]:
    """Opens the images of all turns as RGB. A turn's ``images``: paths, or texts ``data:image/...;base64,...``.

    As in the official code an image is not turned as its EXIF data says, and transparency is dropped. Raises `UserError` for
    an image that is missing or cannot be read.
    """
    return [_load_image(source) for turn in conversations for source in turn.get("images", ())]


def load_json(filepath: str | Path) -> Any:
    """Reads a JSON file. Raises `UserError` if it is missing or not JSON."""
    try:
        return json.loads(read_text(Path(filepath)))
    except FileNotFoundError:
        raise UserError(f"{filepath}: there is no such file") from None
    except ValueError as error:
        raise UserError(f"{filepath} is not JSON ({one_line(error, 100)})") from None


def _load_image(source: Any) -> Image.Image:
    name = shortened(source, 80)
    if not isinstance(source, (str, Path)):
        raise UserError(f"images: {name} is not a path: give paths or data:image/...;base64,... texts")
    try:
        image = open_image(_inline_bytes(source) if str(source).startswith("data:image") else Path(source))
        load_image(image)
        return image.convert("RGB")
    except FileNotFoundError:
        raise UserError(f"images: there is no file {source}") from None
    except (ImageError, binascii.Error) as error:
        raise UserError(f"images: {name} {one_line(error, 200)}: {WHAT_TO_GIVE}") from None
    except OSError as error:
        raise UserError(f"images: {name} cannot be read ({error.strerror or one_line(error, 200)})") from None


def _inline_bytes(source: str | Path) -> bytes:
    return base64.b64decode(str(source).partition(",")[2])
