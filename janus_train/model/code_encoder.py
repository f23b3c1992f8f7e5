"""The part of a model that makes codes, alone: loaded from a model's folder without the rest, and told from others.

Only the VQ tokenizer's tensors are read, so that caching the codes of a 7B model needs a few hundred megabytes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from transformers.models.janus import JanusVQVAE
from transformers.models.janus.configuration_janus import JanusVQVAEConfig

from janus_train.config import UserError
from janus_train.data.cached_codes import CodesOrigin
from janus_train.model.codes import encode_pictures

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


def load_code_encoder(folder: Path, device: torch.device) -> CodeEncoder:
    """Of a folder in transformers' layout. Raises `UserError` naming what is missing in it or does not fit."""
    if not (folder / "config.json").is_file() and (folder / "final/config.json").is_file():
        folder = folder / "final"
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        vq, image_size = values["vq_config"], int(values["vision_config"]["image_size"])
    except FileNotFoundError:
        what = "there is no model: config.json is missing" if folder.is_dir() else "there is no such folder"
        raise UserError(f"{folder}: {what}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / 'config.json'} is no Janus model's configuration ({error})") from None
    if vq.get("num_embeddings", 0) > MAX_CODES:
        raise UserError(f"{folder}: a codebook of {vq['num_embeddings']} codes does not fit the cache's {MAX_CODES}")
    try:
        vqmodel = JanusVQVAE(JanusVQVAEConfig(**vq))
        vqmodel.load_state_dict(_tensors(folder))
    except (RuntimeError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())
        raise UserError(f"{folder}: its VQ tokenizer does not fit its config.json ({said[:300]})") from None
    return CodeEncoder(vqmodel.float().eval().requires_grad_(False).to(device), image_size)


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The VQ tokenizer's tensors from the folder's safetensors; no other is read."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder} holds no .safetensors file")
    found: dict[str, torch.Tensor] = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                names = [name for name in file.keys() if name.startswith(PREFIX)]  # noqa: SIM118
                found |= {name.removeprefix(PREFIX): file.get_tensor(name) for name in names}
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} cannot be read: {error}") from None
    if not found:
        raise UserError(f"{folder} has no VQ tokenizer: no tensor's name begins with {PREFIX}")
    return found
