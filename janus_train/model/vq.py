"""Converts images to code ids and back, by the official rule and with fp32 weights and activations.

In: a VQ tokenizer (transformers' ``JanusVQVAE``), pixels (N, 3, S, S) in -1..1, or ids (N, P).
Out: ids (N, P) int64, or images uint8 (N, S, S, 3).

transformers' own ``encode`` is not used, because its quantiser skips the official one's L2 normalisation and takes other
codes. bf16 and TF32 are not used for codes either: 5.5 % of them change in bf16. Images are decoded with TF32 on CUDA,
whose rounding is far below a pixel's 256 levels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn
from transformers import JanusConfig
from transformers.models.janus import JanusVQVAE

from janus_train.data.shards.vq_codes import CodesOrigin

ENCODE_CHUNK = 16
"""Images at a time: an activation of the first layers of VQ-16 takes 75 MB per image in fp32."""
DECODE_PIXELS = 8 * 384 * 384
"""Pixels that are decoded at a time: 8 images of the paper's size, whose largest activations take 0.6 GB each."""
_SCORES_CHUNK = 8192
"""Latents that are compared with the codebook at a time: 0.5 GB of similarities for 16,384 codes."""


def generation_image_size(config: JanusConfig) -> int:
    """The side S of generated images in pixels: the side of the encoders' common grid times the pixels of one of its codes."""
    vision = config.vision_config
    return (vision.image_size // vision.patch_size) * 2 ** (len(config.vq_config.channel_multiplier) - 1)


@torch.no_grad()
def encode_images(vqmodel: JanusVQVAE, pixels: torch.Tensor) -> torch.Tensor:
    """Encodes ``pixels`` (N, 3, S, S) to code ids (N, P), in fp32 whatever the module's dtype and autocast."""
    ids = [quantise(_latent(vqmodel, chunk), vqmodel.quantize.embedding.weight) for chunk in pixels.split(ENCODE_CHUNK)]
    return torch.cat(ids)


@torch.no_grad()
def decode_codes(vqmodel: JanusVQVAE, ids: torch.Tensor) -> torch.Tensor:
    """Decodes code ids (N, P) to images uint8 (N, S, S, 3): in fp32, then -1..1 clipped and truncated to 0..255."""
    images = []
    for chunk in ids.split(decode_chunk(vqmodel, ids.shape[1])):
        pixels = _pixels(vqmodel, chunk)  # (n, 3, S, S) in about -1..1
        images.append(rearrange(((pixels + 1) / 2 * 255).clamp(0, 255).to(torch.uint8), "n c h w -> n h w c"))
    return torch.cat(images)


def decode_chunk(vqmodel: JanusVQVAE, tokens_per_image: int) -> int:
    """The number of images of P codes that are decoded at a time."""
    return max(1, DECODE_PIXELS // (tokens_per_image * _stride(vqmodel) ** 2))


def quantise(latent: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """Finds the code nearest to each latent after both are L2-normalised (as in the official VectorQuantizer).

    latent (N, e, h, w), codebook (C, e) -> ids (N, h * w). Among unit vectors the nearest has the largest cosine.
    """
    with _fp32(latent.device):
        flat = F.normalize(rearrange(latent.float(), "n e h w -> (n h w) e"), dim=-1)
        codes = F.normalize(codebook.float(), dim=-1)  # (C, e)
        ids = torch.cat([(chunk @ codes.T).argmax(dim=-1) for chunk in flat.split(_SCORES_CHUNK)])
    height, width = latent.shape[2:]
    return rearrange(ids, "(n h w) -> n (h w)", h=height, w=width)


def encoder_digest(vqmodel: JanusVQVAE) -> str:
    """`codes_digest` of the tokenizer's own weights."""
    return codes_digest(vqmodel.state_dict())


def codes_digest(weights: Mapping[str, torch.Tensor], prefix: str = "") -> str:
    """Returns a SHA-256 of the weights that codes depend on, in fp32: encoder, its last convolution, codebook.

    ``weights``: by the names of the tokenizer's state behind ``prefix``; read one at a time. The digest excludes the
    decoder and the tensors' names: codes stay valid if only those change.
    """
    modules = tuple(f"{prefix}{module}." for module in ("encoder", "quant_conv", "quantize.embedding"))
    parts = []
    for name in weights:
        if name.startswith(modules):
            values = weights[name].detach().to("cpu", torch.float32).contiguous().numpy()
            parts.append(hashlib.sha256(f"{values.shape}".encode() + values.tobytes()).digest())
    return hashlib.sha256(b"".join(sorted(parts))).hexdigest()


@dataclass(frozen=True)
class CodeEncoder:
    """Encodes images to codes for the cache."""

    vqmodel: JanusVQVAE
    image_size: int
    """An image's side S in pixels."""

    @property
    def tokens_per_image(self) -> int:
        """The number of codes P per image."""
        return (self.image_size // _stride(self.vqmodel)) ** 2

    @cached_property
    def origin(self) -> CodesOrigin:
        """The provenance that is written beside this encoder's codes."""
        return CodesOrigin(encoder_digest(self.vqmodel), self.image_size)

    def codes(self, pixels: torch.Tensor) -> np.ndarray:
        """pixels (N, 3, S, S) float32 in -1..1, on any device -> (N, P) uint16."""
        device = self.vqmodel.quant_conv.weight.device
        return encode_images(self.vqmodel, pixels.to(device)).cpu().numpy().astype(np.uint16)


def _stride(vqmodel: JanusVQVAE) -> int:
    """The side in pixels of what a code stands for."""
    return 2 ** (len(vqmodel.config.channel_multiplier) - 1)


def _latent(vqmodel: JanusVQVAE, pixels: torch.Tensor) -> torch.Tensor:
    """pixels (n, 3, S, S) -> latent (n, e, h, w), the encoder's output before quantisation."""
    pixels = pixels.float()
    if pixels.device.type == "cpu":  # 2.5 times as fast for the tiny model, and no slower for VQ-16
        pixels = pixels.contiguous(memory_format=torch.channels_last)
    with _fp32(pixels.device), _fp32_weights(vqmodel):
        return vqmodel.quant_conv(vqmodel.encoder(pixels))


def _pixels(vqmodel: JanusVQVAE, ids: torch.Tensor) -> torch.Tensor:
    """ids (n, P) -> pixels (n, 3, S, S). transformers' ``decode`` looks up normalised codes, like the official one."""
    with _fp32(ids.device, tf32=True), _fp32_weights(vqmodel):
        return vqmodel.decode(ids)


@contextmanager
def _fp32_weights(module: nn.Module) -> Iterator[None]:
    """Casts the parameters and buffers of ``module`` to fp32, and restores them afterwards.

    Values that were rounded to bf16 before stay rounded: keep the VQ tokenizer in fp32 (72 M parameters, frozen).
    """
    tensors = [
        t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point() and t.dtype != torch.float32
    ]
    original_data = [t.data for t in tensors]
    try:
        for tensor in tensors:
            tensor.data = tensor.data.float()
        yield
    finally:
        for tensor, data in zip(tensors, original_data, strict=True):
            tensor.data = data


@contextmanager
def _fp32(device: torch.device, tf32: bool = False) -> Iterator[None]:
    """Turns off autocast, and on CUDA sets whether products and convolutions round fp32 to TF32, with 10 bits of mantissa.

    By default cuDNN's convolutions do.
    """
    with torch.autocast(device.type, enabled=False):
        if device.type != "cuda":
            yield
            return
        matmul, cudnn = torch.backends.cuda.matmul, cast(Any, torch.backends.cudnn)
        # The old switch for matmul and the new one for cuDNN: this pair works whichever switches the user has set.
        settings = matmul.allow_tf32, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision
        precision = "tf32" if tf32 else "ieee"
        try:
            matmul.allow_tf32, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision = tf32, precision, precision
            yield
        finally:
            matmul.allow_tf32, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision = settings
