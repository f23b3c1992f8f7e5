"""Loads the generation encoder from a model's folder, without the rest of the model.

Only the VQ tokenizer's tensors are read, so caching the codes of a 7B model needs a few hundred megabytes.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers.models.janus import JanusVQVAE

from janus_train.errors import UserError, one_line
from janus_train.interop.model_folder import open_model
from janus_train.model.vq import CodeEncoder, generation_image_size

PREFIX = "model.vqmodel."
"""The prefix of the VQ tokenizer's tensor names in transformers' layout."""
MAX_CODES = 1 << 16
"""The cache stores codes as uint16."""


def load_code_encoder(model: str | Path, device: torch.device) -> CodeEncoder:
    """Loads the VQ encoder of a folder in either layout, or of a hub id. Raises `UserError` if it is missing or does not fit."""
    folder = open_model(str(model), "")
    config = folder.config
    if config.vq_config.num_embeddings > MAX_CODES:
        raise UserError(
            f"{folder.path}: a codebook of {config.vq_config.num_embeddings} codes does not fit the cache's {MAX_CODES}"
        )
    tensors = {name.removeprefix(PREFIX): tensor for name, tensor in folder.tensors(PREFIX)}
    if not tensors:
        raise UserError(f"{folder.path} has no VQ tokenizer: no tensor's name begins with {PREFIX}")
    try:
        vqmodel = JanusVQVAE(config.vq_config)
        vqmodel.load_state_dict(tensors)
    except (RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder.path}: its VQ tokenizer does not fit its config.json ({one_line(error, 300)})"
        ) from None
    return CodeEncoder(vqmodel.float().eval().requires_grad_(False).to(device), generation_image_size(config))
