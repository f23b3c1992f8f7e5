"""Pretrained vision encoders and VQ tokenizers as published -> tensors and configuration in transformers' Janus names.

- SigLIP in transformers' layout (``SiglipModel`` or ``SiglipVisionModel``), any size and patch size; its attention pool
  becomes an extra of the official layout (`official.is_extra`), for an export.
- LlamaGen's VQ tokenizer, a file of torch.save such as ``vq_ds16_t2i.pt``: the names of the official layout.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import SiglipVisionConfig

from janus_train.errors import UserError
from janus_train.interop import official, official_config, tensors
from janus_train.interop.model_folder import read_config


@dataclass(frozen=True)
class BaseEncoder:
    """``config``: fields of the Janus configuration's section; ``extras``: by official names."""

    config: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    extras: dict[str, torch.Tensor]


def load_siglip(folder: Path) -> BaseEncoder:
    """Raises `UserError` if the folder holds no SigLIP of transformers' layout."""
    values = read_config(folder)
    if values.get("model_type") not in ("siglip", "siglip_vision_model"):
        raise UserError(f"{folder}: model_type {values.get('model_type')!r} is no SigLIP in transformers' layout")
    vision = SiglipVisionConfig(**values.get("vision_config", values))
    state = dict(_vision_tensors(folder))
    encoder = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    head = {name: tensor for name, tensor in state.items() if name.startswith("head.")}
    config = {
        "hidden_size": vision.hidden_size,
        "num_hidden_layers": vision.num_hidden_layers,
        "num_attention_heads": vision.num_attention_heads,
        "num_channels": vision.num_channels,
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "hidden_act": vision.hidden_act,
        "layer_norm_eps": vision.layer_norm_eps,
        "mlp_ratio": official_config.mlp_ratio(vision.hidden_size, vision.intermediate_size),
    }
    named = {f"{official.SIGLIP}.{name.replace('.out_proj.', '.projection_layer.')}": t for name, t in encoder.items()}
    return BaseEncoder(config, named, dict(_attention_pool(head, vision.hidden_size)) if head else {})


def _vision_tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Without ``vision_model.``, which transformers 5 leaves away if the tower stands alone; without the text tower."""
    for name, tensor in tensors.read(tensors.weight_files(folder)):
        name = name.removeprefix("vision_model.")
        if name.startswith(("embeddings.", "encoder.", "post_layernorm.", "head.")) and not name.endswith(
            "position_ids"
        ):
            yield name, tensor


def _attention_pool(head: dict[str, torch.Tensor], width: int) -> Iterator[tuple[str, torch.Tensor]]:
    """transformers' pooling head in timm's words: q alone, k and v in one."""
    pool = f"{official.TOWER}.attn_pool."
    renamed = {"probe": "latent", "attention.out_proj": "proj", "layernorm": "norm", "mlp.fc1": "mlp.fc1"}
    renamed["mlp.fc2"] = "mlp.fc2"
    for name, tensor in head.items():
        name = name.removeprefix("head.")
        if name.startswith("attention.in_proj_"):
            kind = name.removeprefix("attention.in_proj_")
            yield f"{pool}q.{kind}", tensor[:width]
            yield f"{pool}kv.{kind}", tensor[width:]
            continue
        for theirs, ours in renamed.items():
            if name.startswith(theirs):
                yield pool + ours + name.removeprefix(theirs), tensor
                break


def load_vq(path: Path) -> BaseEncoder:
    """Raises `UserError` if the file is no LlamaGen VQ tokenizer, or holds more than tensors."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; a VQ tokenizer is one file, such as vq_ds16_t2i.pt")
    state = dict(tensors.read([path])) if path.suffix == ".safetensors" else tensors.load_pickle(path)
    for key in ("ema", "model", "state_dict"):  # the averaged weights come first, as LlamaGen's own scripts have it
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
            break
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{path} holds no VQ tokenizer's tensors")
    prefixed = {f"{official.VQ}{name.removeprefix('module.')}": tensor for name, tensor in state.items()}
    try:
        shape = official_config.vq_shape({name: tuple(t.shape) for name, t in prefixed.items()}, official.VQ)
        named = dict(official.from_official(prefixed.items()))
    except (UserError, ValueError) as error:
        raise UserError(f"{path} is no VQ tokenizer of LlamaGen's layout: {error}") from None
    return BaseEncoder(shape, named, {name: tensor for name, tensor in prefixed.items() if official.is_extra(name)})
