"""The weights that LoRA's adapters make of a linear layer's: their sum, its scale, and DoRA's norms of its rows."""

from __future__ import annotations

import math

import torch

_PIECE = 1 << 22
"""Elements of a weight whose rows' norms are computed at once."""


def scale_of(alpha: float, rank: int, use_rslora: bool) -> float:
    """Returns s, by which the product B A is multiplied."""
    return alpha / (math.sqrt(rank) if use_rslora else rank)


def merged_weight(
    weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float, magnitudes: torch.Tensor | None = None
) -> torch.Tensor:
    """W (out, in) + scale * B (out, rank) A (rank, in), in fp32; with DoRA's ``magnitudes`` (out,) its rows have these norms."""
    merged = weight.float() + scale * (b @ a).to(weight.device)
    if magnitudes is None:
        return merged
    factors = magnitudes.float().to(weight.device) / torch.linalg.norm(merged, dim=1)
    return factors[:, None] * merged


def start_magnitudes(weight: torch.Tensor) -> torch.Tensor:
    """Returns the magnitudes (out,) of ``weight`` (out, in) in fp32, with which DoRA changes nothing: its rows' norms."""
    return torch.linalg.norm(weight.float(), dim=1)


@torch.library.custom_op("janus_train::dora_row_norms", mutates_args=())
def row_norms(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
    """Returns the norms (out,) of the rows of W (out, in) + scale * B (out, rank) A (rank, in), in fp32.

    One operator, for compiled and checkpointed layers, that takes some rows at a time.
    """
    num_rows = max(1, _PIECE // weight.shape[1])
    with torch.autocast(weight.device.type, enabled=False):
        pieces = zip(weight.split(num_rows), b.float().split(num_rows), strict=True)
        return torch.cat([start_magnitudes(merged_weight(w, a.float(), b_rows, scale)) for w, b_rows in pieces])


@row_norms.register_fake
def _(weight, a, b, scale):  # type: ignore[no-untyped-def]
    return weight.new_empty(weight.shape[:1], dtype=torch.float32)
