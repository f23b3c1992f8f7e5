"""Attention that stays inside each document of a flat, packed sequence, without a mask.

Registered with transformers as "janus_packed". With ``documents`` (a `Documents`, passed through the keyword arguments
of ``LlamaModel``) every query sees only the earlier tokens of its own document:

- on CUDA in bf16 or fp16 by one call of a variable-length kernel (``torch.nn.attention.varlen``);
- elsewhere by one SDPA call per group of documents of similar length. Groups are padded on the right: under causal
  attention a document's own tokens never see what follows them, so padding needs no mask. In compiled layers all these
  calls are one operator.

Without ``documents`` it is transformers' SDPA, with the same masks and caches, so one model trains and generates.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from janus_train.model.attention.documents import Documents
from janus_train.model.attention.grouped import grouped_attention
from janus_train.torch_versions import VARLEN_TAKES_GROUPS

NAME = "janus_packed"


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
    if torch.is_autocast_enabled(query.device.type):
        # Rotary embeddings return fp32 under autocast, and neither operator is on autocast's list.
        compute_dtype = torch.get_autocast_dtype(query.device.type)
        q_LHd, k_LHd, v_LHd = q_LHd.to(compute_dtype), k_LHd.to(compute_dtype), v_LHd.to(compute_dtype)
    if q_LHd.is_cuda and q_LHd.dtype in (torch.bfloat16, torch.float16):
        return _attend_varlen(q_LHd, k_LHd, v_LHd, documents, scaling)[None], None
    if torch.compiler.is_compiling() and query.device.type == "cpu":
        scale = q_LHd.shape[-1] ** -0.5 if scaling is None else scaling
        bounds, longest = documents.cu_seqlens, documents.max_seqlen
        return grouped_attention(q_LHd, k_LHd, v_LHd, bounds, longest, scale)[None], None
    return _attend_by_group(q_LHd, k_LHd, v_LHd, documents, scaling)[None], None


def _attend_varlen(
    q_LHd: torch.Tensor, k_LHd: torch.Tensor, v_LHd: torch.Tensor, documents: Documents, scaling: float | None
) -> torch.Tensor:
    """Attends with one kernel over all documents: (L, H, d)."""
    from torch.nn.attention.varlen import varlen_attn

    has_groups = k_LHd.shape[1] != q_LHd.shape[1]
    options: dict[str, Any] = {"enable_gqa": has_groups} if VARLEN_TAKES_GROUPS else {}
    if has_groups and not VARLEN_TAKES_GROUPS:
        k_LHd, v_LHd = (repeat(x, "L Hkv d -> L (Hkv n) d", n=q_LHd.shape[1] // x.shape[1]) for x in (k_LHd, v_LHd))
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
        **options,
    )
    assert isinstance(output, torch.Tensor)  # a pair only if the log-sum-exp is requested
    return output


def _attend_by_group(
    q_LHd: torch.Tensor, k_LHd: torch.Tensor, v_LHd: torch.Tensor, documents: Documents, scaling: float | None
) -> torch.Tensor:
    """Attends with one SDPA call per group of similar documents: (L, H, d)."""
    groups, places = documents.groups
    outputs = []
    for group in groups:
        q, k, v = (
            rearrange(x.index_select(0, group.index), "(n m) H d -> n H m d", n=group.num_documents)
            for x in (q_LHd, k_LHd, v_LHd)
        )
        output = F.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scaling, enable_gqa=k.shape[1] != q.shape[1]
        )
        outputs.append(rearrange(output, "n H m d -> (n m) H d"))
    return torch.cat(outputs).index_select(0, places)


def sliding_window(config: Any) -> int | None:
    """A text configuration's sliding window, which `packed_attention` does not support; None if all layers attend fully."""
    types = getattr(config, "layer_types", None)
    return getattr(config, "sliding_window", None) if not types or "sliding_attention" in types else None


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
