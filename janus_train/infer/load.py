"""A trained model's folder (a run's ``final/``, or the shipped base) -> the model, its tokenizer and its encoder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoTokenizer, JanusForConditionalGeneration
from transformers.utils import logging

from janus_train.config import UserError
from janus_train.data.encode import Encoder
from janus_train.infer.generate import tokens_per_picture
from janus_train.model.components import part_of

SYSTEM_PROMPT = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
"""What the official template puts before a conversation with pictures: for folders that do not say (official ones)."""

GUIDANCE, TEMPERATURE = 5.0, 1.0
"""The official values for drawing (facts: Pro; the official code), for folders whose generation_config.json has none."""


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to draw and to answer."""

    folder: Path
    janus: JanusForConditionalGeneration
    encoder: Encoder

    @property
    def guidance(self) -> float:
        """The folder's own weight of classifier-free guidance."""
        return getattr(self.janus.generation_config, "guidance_scale", None) or GUIDANCE

    @property
    def temperature(self) -> float:
        return getattr(self.janus.generation_config, "temperature", None) or TEMPERATURE


def load_model(folder: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Loaded:
    """Reads a folder in transformers' layout. Raises `UserError` naming what is missing in it."""
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise UserError(f"there is no folder {folder}: give a trained model's, for example outputs/demo/stage3/final")
    if not (path / "config.json").is_file():
        inner = path / "final"
        hint = f"; did you mean {inner}?" if (inner / "config.json").is_file() else ""
        raise UserError(f"{path} holds no model: config.json is missing{hint}")
    for name in ("model.safetensors", "tokenizer.json"):
        if not (path / name).is_file() and not (path / f"{name}.index.json").is_file():
            raise UserError(f"{path} is not complete: {name} is missing")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        with _quiet():
            janus, info = JanusForConditionalGeneration.from_pretrained(
                path, dtype=dtype, attn_implementation="sdpa", output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read as a Janus model: {' '.join(str(error).split())[:300]}") from None
    if info["missing_keys"]:  # transformers would go on with random values
        parts = sorted({part_of(name) for name in info["missing_keys"]})
        raise UserError(f"{path} is not complete, it lacks {', '.join(parts)}: is it a base that was not trained yet?")
    janus.to(device).eval()
    image_size = janus.config.vision_config.image_size
    encoder = Encoder(tokenizer, tokens_per_picture(janus), image_size, _system_prompt(path))
    return Loaded(path, janus, encoder)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bar and its report of missing tensors: what matters of it is said in one line."""
    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _system_prompt(folder: Path) -> str:
    """The one that the model was trained with (export.py writes it), else the official one."""
    path = folder / "processor_config.json"
    written = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return written.get("system_prompt", SYSTEM_PROMPT)
