"""The part of a model that makes codes, alone: loaded from a model's folder without the rest, and told from others.

Only the VQ tokenizer's tensors are read, so that caching the codes of a 7B model needs a few hundred megabytes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from transformers.models.janus import JanusVQVAE

from janus_train.data.cached_codes import CodesOrigin
from janus_train.errors import UserError, one_line
from janus_train.model.codes import encode_pictures, picture_out_size

PREFIX = "model.vqmodel."
"""Of the VQ tokenizer's tensors in transformers' layout."""
MAX_CODES = 1 << 16
"""The cache holds codes as uint16."""


def encoder_digest(vqmodel: JanusVQVAE) -> str:
    """SHA-256 of the weights that codes depend on: encoder, its last convolution, codebook; in fp32, without their names.

    Neither the decoder nor transformers' naming is in it: codes stay valid if only those change.
    """
    tensors = [
        *vqmodel.encoder.state_dict().values(),
        *vqmodel.quant_conv.state_dict().values(),
        vqmodel.quantize.embedding.weight,
    ]
    parts = []
    for tensor in tensors:
        values = tensor.detach().to("cpu", torch.float32).contiguous().numpy()
        parts.append(hashlib.sha256(f"{values.shape}".encode() + values.tobytes()).digest())
    return hashlib.sha256(b"".join(sorted(parts))).hexdigest()


@dataclass(frozen=True)
class CodeEncoder:
    """Pictures in, codes out."""

    vqmodel: JanusVQVAE
    image_size: int
    """S: a picture's side in pixels."""

    @property
    def tokens_per_picture(self) -> int:
        """P."""
        stride = 2 ** (len(self.vqmodel.config.channel_multiplier) - 1)
        return (self.image_size // stride) ** 2

    @cached_property
    def origin(self) -> CodesOrigin:
        """What is written beside codes that this encoder made."""
        return CodesOrigin(encoder_digest(self.vqmodel), self.image_size)

    def codes(self, pixels: torch.Tensor) -> np.ndarray:
        """pixels (N, 3, S, S) float32 in -1..1, on any device -> (N, P) uint16."""
        device = self.vqmodel.quant_conv.weight.device
        return encode_pictures(self.vqmodel, pixels.to(device)).cpu().numpy().astype(np.uint16)


def load_code_encoder(model: str | Path, device: torch.device) -> CodeEncoder:
    """Of a model's folder in either layout, or a hub id. Raises `UserError` naming what is missing or does not fit."""
    from janus_train.interop.hub import local_folder
    from janus_train.interop.model_folder import open_folder

    folder = open_folder(local_folder(str(model), ""))
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
    return CodeEncoder(vqmodel.float().eval().requires_grad_(False).to(device), picture_out_size(config))
