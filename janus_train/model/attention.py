"""Attention that stays inside each document of a flat, packed sequence, without a mask.

Registered with transformers as "janus_packed". Given ``documents`` (a `Documents`; it travels through the keyword
arguments of ``LlamaModel``) every query sees the earlier tokens of its own document only:

- on CUDA in bf16 or fp16 one variable-length kernel call (``torch.nn.attention.varlen``);
- elsewhere one SDPA call a group of documents of similar length. Groups are padded on the right: under causal
  attention a document's own tokens never see what stands behind them, so padding needs no mask.

Without ``documents`` it is transformers' SDPA, with the same masks and caches, so one model trains and generates.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "janus_packed"
MAX_PADDING = 0.25
"""A group may hold this much padding, as a share of its real tokens: fewer calls against wasted work."""


@dataclass(frozen=True)
class Group:
    """Some documents of similar length, padded on the right to the longest: n documents of at most m tokens."""

    index: torch.Tensor  # (n * m,) flat positions; padding repeats its document's last token
    num_documents: int


@dataclass(frozen=True)
class Documents:
    """Where the documents of a flat sequence of L tokens begin and end. Index tensors are made once, not a layer."""

    cu_seqlens: torch.Tensor  # (documents + 1,) int32: 0, ..., L
    max_seqlen: int

    @cached_property
    def groups(self) -> tuple[list[Group], torch.Tensor]:
        """The groups, and for each of the L tokens its place (L,) in the groups' outputs, one after the other."""
        bounds = self.cu_seqlens.tolist()
        spans = sorted((end - start, start) for start, end in pairwise(bounds) if end > start)
        groups, place, offset = [], torch.empty(bounds[-1], dtype=torch.int64), 0
        for members in _similar(spans[::-1]):
            longest, n = members[0][0], len(members)
            lengths, starts = torch.tensor(members).T  # (n,), (n,)
            within = torch.arange(longest).expand(n, longest)  # (n, m)
            index = starts[:, None] + torch.minimum(within, lengths[:, None] - 1)  # (n, m)
            real = within < lengths[:, None]
            place[index[real]] = offset + real.flatten().nonzero().flatten()
            groups.append(Group(index.flatten().to(self.cu_seqlens.device), n))
            offset += n * longest
        return groups, place.to(self.cu_seqlens.device)


def _similar(spans: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """(length, start) pairs, longest first, cut into runs whose padding stays within `MAX_PADDING`."""
    runs: list[list[tuple[int, int]]] = []
    real = 0
    for span in spans:
        if runs and (len(runs[-1]) + 1) * runs[-1][0][0] <= (1 + MAX_PADDING) * (real + span[0]):
            runs[-1].append(span)
            real += span[0]
        else:
            runs.append([span])
            real = span[0]
    return runs


def packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    documents: Documents | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: query (B, H, L, d), key and value (B, Hkv, L, d) -> output (B, L, H, d).

    With ``documents`` B is 1, the mask is ignored and dropout must be 0.
    """
    if documents is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    assert query.shape[0] == 1 and query.shape[2] == key.shape[2], (
        "packed attention takes one flat row, without a cache"
    )
    assert dropout == 0.0, "packed attention has no dropout"
    q_LHd, k_LHd, v_LHd = (x[0].transpose(0, 1) for x in (query, key, value))  # (L, H or Hkv, d)
    if query.is_cuda and torch.is_autocast_enabled("cuda"):
        # Rotary embeddings leave fp32 behind under autocast, and the kernel is not on autocast's list.
        narrow = torch.get_autocast_dtype("cuda")
        q_LHd, k_LHd, v_LHd = q_LHd.to(narrow), k_LHd.to(narrow), v_LHd.to(narrow)
    if q_LHd.is_cuda and q_LHd.dtype in (torch.bfloat16, torch.float16):
        return _varlen(q_LHd, k_LHd, v_LHd, documents, scaling)[None], None
    return _grouped(q_LHd, k_LHd, v_LHd, documents, scaling)[None], None


def _varlen(
    q_LHd: torch.Tensor, k_LHd: torch.Tensor, v_LHd: torch.Tensor, documents: Documents, scaling: float | None
) -> torch.Tensor:
    """One kernel over all documents: (L, H, d)."""
    from torch.nn.attention.varlen import varlen_attn

    bounds, longest = documents.cu_seqlens, documents.max_seqlen
    output = varlen_attn(
        q_LHd.contiguous(),
        k_LHd.contiguous(),
        v_LHd.contiguous(),
        bounds,
        bounds,
        longest,
        longest,
        scale=scaling,
        window_size=(-1, 0),  # causal
        enable_gqa=k_LHd.shape[1] != q_LHd.shape[1],
    )
    assert isinstance(output, torch.Tensor)  # a pair only if asked for the log-sum-exp
    return output


def _grouped(
    q_LHd: torch.Tensor, k_LHd: torch.Tensor, v_LHd: torch.Tensor, documents: Documents, scaling: float | None
) -> torch.Tensor:
    """One SDPA call a group of similar documents: (L, H, d)."""
    groups, place = documents.groups
    outputs = []
    for group in groups:
        # (L, H, d) -> (n * m, H, d) -> (n, m, H, d) -> (n, H, m, d)
        q, k, v = (
            x.index_select(0, group.index).unflatten(0, (group.num_documents, -1)).transpose(1, 2)
            for x in (q_LHd, k_LHd, v_LHd)
        )
        out = F.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scaling, enable_gqa=k.shape[1] != q.shape[1]
        )
        outputs.append(out.transpose(1, 2).flatten(0, 1))  # (n * m, H, d)
    return torch.cat(outputs).index_select(0, place)


def window(config: Any) -> int | None:
    """A text configuration's sliding window, None if every layer attends to everything: `packed_attention` knows none."""
    types = getattr(config, "layer_types", None)
    return getattr(config, "sliding_window", None) if not types or "sliding_attention" in types else None


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
