"""The VQ tokenizer as the official code calls it: `VQModel.decode_code` draws, `VQModel.encode` takes images apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn
from transformers.models.janus import JanusVQVAE

from janus_train.model.vq import encode_images

Losses = tuple[None, None, None]
CodeInfo = tuple[None, None, torch.Tensor]


class VQModel(nn.Module):
    """``gen_vision_model`` of a `MultiModalityCausalLM`, over transformers' modules."""

    def __init__(self, vqmodel: JanusVQVAE):
        super().__init__()
        self.encoder, self.quant_conv, self.quantize = vqmodel.encoder, vqmodel.quant_conv, vqmodel.quantize
        self.post_quant_conv, self.decoder = vqmodel.post_quant_conv, vqmodel.decoder
        object.__setattr__(self, "vqmodel", vqmodel)  # not a submodule: its parts are those above

    vqmodel: JanusVQVAE

    def decode_code(
        self, code_b: torch.Tensor, shape: Sequence[int] | None = None, channel_first: bool = True
    ) -> torch.Tensor:
        """Draws ``code_b`` (N, P), any integers -> (N, 3, H, W) in about -1..1, in the module's own type.

        ``shape``: [N, width of a code, h, w] with h w = P, or [N, h, w, width] if not ``channel_first``; None: squares. The
        width is the codebook's, whatever is given: scripts write VQ-16's 8.
        """
        if shape is None:
            side = round(code_b.shape[-1] ** 0.5)
            number, height, width = len(code_b), side, side
        elif channel_first:
            number, _, height, width = shape
        else:
            number, height, width, _ = shape
        return self.decode(self._code_vectors(code_b.reshape(number, height, width)))

    def _code_vectors(self, ids: torch.Tensor) -> torch.Tensor:
        """Looks ids (N, h, w) up in the codebook -> (N, e, h, w), L2-normalised as in the official quantizer."""
        vectors = F.normalize(self.quantize.embedding.weight, dim=-1)[ids.long()]
        return rearrange(vectors, "n h w e -> n e h w").contiguous()

    def decode(self, quant: torch.Tensor) -> torch.Tensor:
        """Draws code vectors (N, e, h, w) -> (N, 3, H, W)."""
        pixels: torch.Tensor = self.decoder(self.post_quant_conv(quant))
        return pixels

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, Losses, CodeInfo]:
        """Takes images apart: (N, 3, H, W) in -1..1 -> (code vectors (N, e, h, w), no losses, (None, None, ids (N h w,))).

        In fp32 whatever the module's type, and without gradients: in bf16 5.5 % of the codes are others.
        """
        ids = encode_images(self.vqmodel, x)  # (N, h w)
        width = x.shape[3] // 2 ** (len(self.vqmodel.config.channel_multiplier) - 1)
        quant = self._code_vectors(rearrange(ids, "n (h w) -> n h w", w=width))
        return quant, (None, None, None), (None, None, ids.flatten())

    def forward(self, input: torch.Tensor) -> tuple[torch.Tensor, Losses]:
        """Encodes and decodes: (N, 3, H, W) -> (the same as its codes show it, no losses)."""
        quant, losses, _ = self.encode(input)
        return self.decode(quant), losses
