"""What a finished run leaves: ``final/``, whole and in plain layout, and with LoRA the adapters alone in ``adapter/``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from transformers import JanusForConditionalGeneration

from janus_train.config import Config
from janus_train.data.encode import Encoder
from janus_train.interop.model_folder import open_folder
from janus_train.interop.write import Extras, save_model
from janus_train.model import lora
from janus_train.train.folder import RunFolder
from janus_train.train.start import Start


def with_start_weights(
    weights: dict[str, torch.Tensor], narrowed: Collection[str], start: Path
) -> dict[str, torch.Tensor]:
    """``weights`` with those named in ``narrowed``, which were frozen as bf16 alone, as the start folder has them."""
    if not narrowed:
        return weights
    wanted = {lora.plain_name(name): name for name in narrowed}
    found = {wanted[name]: tensor.float() for name, tensor in open_folder(start).tensors() if name in wanted}
    assert found.keys() == set(narrowed)
    return weights | found


def write_result(
    janus: JanusForConditionalGeneration,
    encoder: Encoder,
    folder: RunFolder,
    weights: Mapping[str, torch.Tensor],
    config: Config,
    start: Start,
    extras: Extras,
) -> None:
    """``weights``: the trained model's, whole. ``final/`` comes last: with it the run is finished."""
    if config.peft is not None:
        lora.write_adapter(janus, weights, config.peft, folder.adapter, start.recorded, config.train_parts)
        weights = lora.merge_lora(weights, config.peft)
    save_model(janus, encoder, folder.final, weights, extras)
