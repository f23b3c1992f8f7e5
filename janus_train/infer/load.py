"""A trained model (a run's ``final/``, a folder in either layout, a hub id) -> the model, its tokenizer and its encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from transformers import JanusForConditionalGeneration

from janus_train.config import UserError
from janus_train.data.encode import Encoder, with_places
from janus_train.infer.chat import Messages, stream_answer
from janus_train.infer.generate import Progress, generate_pictures, tokens_per_picture
from janus_train.infer.seeing import picture_features
from janus_train.interop import tensors
from janus_train.interop.hub import is_hub_id, local_folder
from janus_train.interop.model_folder import ModelFolder, open_folder
from janus_train.interop.processor import GUIDANCE, TEMPERATURE
from janus_train.interop.write import quiet
from janus_train.model.codes import picture_out_size
from janus_train.model.components import part_of


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

    def generate(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        guidance: float | None = None,
        temperature: float | None = None,
        pictures: Sequence[Image.Image] = (),
        batch_size: int = 16,
        progress: Progress | None = None,
    ) -> list[Image.Image]:
        """A picture a prompt, each by its own seed; guidance and temperature (0: the likeliest codes) else the folder's.

        ``pictures``: what every prompt speaks of (editing), at its <image_placeholder>s, else before it. Raises
        `UserError` for more placeholders than pictures.
        """
        temperature = self.temperature if temperature is None else temperature
        number = len(pictures)
        ids = [self.encoder.generation_prompt_ids(with_places(prompt, number), number) for prompt in prompts]
        return generate_pictures(
            self.janus,
            ids,
            seen=[picture_features(self.janus, self.encoder, pictures)] * len(prompts) if pictures else (),
            pad_id=self.encoder.special.pad,
            guidance=self.guidance if guidance is None else guidance,
            temperature=temperature,
            seeds=seeds,
            greedy=temperature == 0,
            batch_size=batch_size,
            progress=progress,
        )

    def chat(
        self, messages: Messages, pictures: Sequence[Image.Image] = (), max_new_tokens: int = 256
    ) -> Iterator[str]:
        """The answer to the last of ``messages``, in pieces while it is made; ``"".join(...)`` is the whole.

        Messages are ``{"role": "user" or "assistant", "content": text}``, with an <image_placeholder> a picture.
        """
        return stream_answer(self.janus, self.encoder, messages, pictures, max_new_tokens)


def load_model(model: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Loaded:
    """A folder in either layout, or a hub id. Raises `UserError` naming what is missing in it."""
    if not is_hub_id(str(model)):
        _check_folder(Path(model).expanduser(), model)
    folder = open_folder(local_folder(str(model), ""))
    path = folder.path
    tokenizer = folder.tokenizer
    try:
        with quiet():
            janus, info = _load(folder, dtype)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read as a Janus model: {' '.join(str(error).split())[:300]}") from None
    if info["missing_keys"]:  # transformers would go on with random values
        parts = sorted({part_of(name) for name in info["missing_keys"]})
        raise UserError(f"{path} is not complete, it lacks {', '.join(parts)}: is it a base that was not trained yet?")
    janus.to(device).eval()
    image_size, out_size = janus.config.vision_config.image_size, picture_out_size(janus.config)
    encoder = Encoder(tokenizer, tokens_per_picture(janus), image_size, folder.system_prompt, picture_out_size=out_size)
    return Loaded(path, janus, encoder)


def _check_folder(path: Path, given: str | Path) -> None:
    if not path.is_dir():
        raise UserError(f"there is no folder {given}: give a trained model's, for example outputs/demo/stage3/final")
    if not (path / "config.json").is_file():
        inner = path / "final"
        hint = f"; did you mean {inner}?" if (inner / "config.json").is_file() else ""
        raise UserError(f"{path} holds no model: config.json is missing{hint}")


def _load(folder: ModelFolder, dtype: torch.dtype) -> tuple[JanusForConditionalGeneration, dict[str, Any]]:
    """The model and transformers' report of what did not fit."""
    if folder.layout == "transformers":
        tensors.weight_files(folder.path)  # one line that names a missing shard
        return JanusForConditionalGeneration.from_pretrained(
            folder.path, dtype=dtype, attn_implementation="sdpa", output_loading_info=True
        )
    folder.check_complete()
    janus, info = JanusForConditionalGeneration.from_pretrained(
        None,
        config=folder.config,
        state_dict=dict(folder.tensors()),
        dtype=dtype,
        attn_implementation="sdpa",
        output_loading_info=True,
    )
    janus.generation_config = folder.generation_config
    return janus, info
