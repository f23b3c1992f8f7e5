"""Writes model folders in either layout, tensor by tensor; a folder is staged, so it is complete or does not exist.

Training writes transformers' layout to ``final/``, always with `save_model`. Beside the model it contains
`tensors.EXTRAS`, if there are any: tensors of the official layout that no forward pass uses, which are kept so that an
export restores them byte for byte.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, JanusConfig, JanusForConditionalGeneration, PreTrainedTokenizerFast
from transformers.utils import logging

from janus_train.data.encode import Encoder
from janus_train.errors import UserError
from janus_train.files import staged_folder, write_json, write_text
from janus_train.interop import official, official_config, official_fit, processor
from janus_train.interop.official import TOWER
from janus_train.interop.tensors import EXTRAS, ShardWriter, save_tensors

Extras = Mapping[str, torch.Tensor]
CARD = "README.md"
"""The model card."""
TRAINING = "training.json"
"""The file in a trained model's folder that says which step of its run the model is of."""


def save_model(
    janus: JanusForConditionalGeneration,
    encoder: Encoder,
    target: Path,
    weights: Mapping[str, torch.Tensor],
    extras: Extras,
    record: Mapping[str, Any] | None = None,
) -> None:
    """Writes a trained model in transformers' layout.

    ``weights``: all full weights, also if ``janus`` contains only shards of them; ``extras``: those of the model folder that
    training started from (`ModelFolder.extras`); ``record``: what `TRAINING` says of the run.
    """
    stored = janus.generation_config
    assert stored is not None
    # the file of an export, without what else transformers keeps in the model's own
    generation_config = processor.generation_config(
        encoder.special, stored.guidance_scale or processor.GUIDANCE, stored.temperature or processor.TEMPERATURE
    )
    write_transformers(
        target,
        janus.config,
        weights.items(),
        encoder.tokenizer,
        encoder.system_prompt,
        generation_config,
        extras,
        record=record,
    )


def write_transformers(
    target: Path,
    config: JanusConfig,
    tensors: Iterable[tuple[str, torch.Tensor]],
    tokenizer: PreTrainedTokenizerFast,
    system_prompt: str,
    generation_config: GenerationConfig,
    extras: Extras,
    card: str | None = None,
    record: Mapping[str, Any] | None = None,
) -> None:
    """Writes a folder for ``JanusForConditionalGeneration`` and ``JanusProcessor.from_pretrained``, of transformers 4 and 5.

    ``card``: its README.md; ``record``: its `TRAINING`.
    """
    with staged_folder(target) as folder, silence_transformers():
        dtype = _stream(tensors, folder)
        write_json(folder / "config.json", _config_of_both(config, dtype))
        generation_config.save_pretrained(folder)
        processor.save_processor(tokenizer, config, system_prompt, folder)
        if extras:
            save_tensors(dict(extras), folder / EXTRAS)
        if record is not None:
            write_json(folder / TRAINING, dict(record))
        if card is not None:
            write_text(folder / CARD, card)


def write_official(
    target: Path,
    config: JanusConfig,
    tensors: Iterable[tuple[str, torch.Tensor]],
    tokenizer: PreTrainedTokenizerFast,
    system_prompt: str,
    generation_config: GenerationConfig,
    extras: Extras,
    card: str | None = None,
) -> None:
    """Writes a folder for the official ``MultiModalityCausalLM`` and ``VLChatProcessor.from_pretrained``.

    The system prompt and the settings for generating images, which the layout has no place for, are written where only this
    project reads them. Raises `UserError` if the layout cannot store the model. It writes safetensors, not ``.bin``: the transformers versions
    of the official code (4.38 or later) read both.
    """
    official_fit.check_fits_layout(config)
    with staged_folder(target) as folder:
        dtype = _stream(_with_extras(official.to_official(tensors), config, extras), folder)
        own_settings = {
            "system_prompt": system_prompt,
            "guidance": generation_config.guidance_scale,
            "temperature": generation_config.temperature,
        }
        values = official_config.to_official(config, str(dtype).removeprefix("torch."))
        write_json(folder / "config.json", values | {official_config.OWN_KEY: own_settings})
        processor.save_official_processor(tokenizer, config, folder)
        if card is not None:
            write_text(folder / CARD, card)


def _config_of_both(config: JanusConfig, dtype: torch.dtype) -> dict[str, Any]:
    """The config.json for transformers 4 and 5: what the two read in different places is written in both."""
    saved_config = copy.deepcopy(config)
    saved_config.architectures = ["JanusForConditionalGeneration"]
    saved_config.dtype = dtype
    values: dict[str, Any] = json.loads(saved_config.to_json_string())
    text = values["text_config"]
    rope = dict(text["rope_parameters"])
    text["rope_theta"] = rope.pop("rope_theta")
    if rope.get("rope_type", "default") != "default":
        text["rope_scaling"] = rope
    text["tie_word_embeddings"] = config.tie_word_embeddings
    return values | {"torch_dtype": values["dtype"]}


def _stream(tensors: Iterable[tuple[str, torch.Tensor]], folder: Path) -> torch.dtype:
    """Writes all tensors; returns the type of the language model's (the frozen VQ tokenizer may have its own)."""
    writer = ShardWriter(folder)
    dtype: torch.dtype | None = None
    for name, tensor in tensors:
        if dtype is None and "language_model." in name:
            dtype = tensor.dtype
        writer.add(name, tensor)
    writer.close()
    assert dtype is not None
    return dtype


def _with_extras(
    pairs: Iterable[tuple[str, torch.Tensor]], config: JanusConfig, extras: Extras
) -> Iterator[tuple[str, torch.Tensor]]:
    dtype = torch.float32
    for name, tensor in pairs:
        if name.startswith(f"{TOWER}."):
            dtype = tensor.dtype
        yield name, tensor
    for name, shape in extra_shapes(config).items():
        if name not in extras:
            yield name, _placeholder_tensor(name, shape, dtype)
    yield from extras.items()


def _placeholder_tensor(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Makes a tensor that the model never had. No forward pass of the official code uses it, so any value will do."""
    return torch.ones(shape, dtype=dtype) if name.endswith("norm.weight") else torch.zeros(shape, dtype=dtype)


def extra_shapes(config: JanusConfig) -> dict[str, tuple[int, ...]]:
    """Returns names and shapes of the tensors that only the official model's state dict has."""
    width = config.vision_config.hidden_size
    mlp_width = int(width * config.vision_config.mlp_ratio)
    pool = {
        "latent": (1, 1, width),
        "q.weight": (width, width),
        "q.bias": (width,),
        "kv.weight": (2 * width, width),
        "kv.bias": (2 * width,),
        "proj.weight": (width, width),
        "proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
        "mlp.fc1.weight": (mlp_width, width),
        "mlp.fc1.bias": (mlp_width,),
        "mlp.fc2.weight": (width, mlp_width),
        "mlp.fc2.bias": (width,),
    }
    shapes: dict[str, tuple[int, ...]] = {f"{TOWER}.attn_pool.{name}": shape for name, shape in pool.items()}
    return shapes | {f"{official.VQ}quantize.codebook_used": (official_config.CODEBOOK_USED,)}


@contextmanager
def user_errors_on_write(target: Path) -> Iterator[None]:
    """Turns a full disk or missing permission into a `UserError` of one line."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror or error}; nothing of it is left") from None


def check_target(target: Path) -> None:
    """Raises `UserError` if the target exists already: an export replaces nothing."""
    if target.exists():
        raise UserError(f"--out {target} exists: choose another folder, or remove it first")


@contextmanager
def silence_transformers() -> Iterator[None]:
    """Turns off transformers' progress bars, notes and reports."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
