"""Attention inside documents on a CPU as one operator, for compiled layers: the compiler sees a black box of fixed shape.

The Python code in `packed` depends on the documents' lengths, so the compiler would compile it again for every packing.
On CUDA the variable-length kernel is already such an operator. Backward repeats the forward of a group instead of
keeping its statistics: compiling is for GPUs, and here the same path has to be correct, not fast.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from einops import rearrange, reduce, repeat

from janus_train.model.attention.documents import Documents

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@torch.library.custom_op("janus_train::grouped_attention", mutates_args=())
def grouped_attention(
    q_LHd: torch.Tensor,
    k_LHd: torch.Tensor,
    v_LHd: torch.Tensor,
    cu_seqlens: torch.Tensor,
    max_seqlen: int,
    scale: float,
) -> torch.Tensor:
    """Queries (L, H, d), keys and values (L, Hkv, d), boundaries (documents + 1,) -> (L, H, d).

    ``max_seqlen`` is only checked: the kernel on CUDA would leave out what is beyond it.
    """
    assert int(cu_seqlens.diff().max()) <= max_seqlen, "a document is longer than max_seqlen"
    output = torch.empty_like(q_LHd, memory_format=torch.contiguous_format)
    for index, real_places, (q, k, v) in _groups(cu_seqlens, q_LHd, k_LHd, v_LHd):
        all_places = _forward(q, k, v, 0.0, True, scale=scale)[0]
        output[index] = rearrange(all_places, "n H m d -> (n m) H d")[real_places]
    return output


@grouped_attention.register_fake
def _(q_LHd, k_LHd, v_LHd, cu_seqlens, max_seqlen, scale):  # type: ignore[no-untyped-def]
    return torch.empty_like(q_LHd, memory_format=torch.contiguous_format)


@torch.library.custom_op("janus_train::grouped_attention_backward", mutates_args=())
def grouped_attention_backward(
    grad_output_LHd: torch.Tensor,
    q_LHd: torch.Tensor,
    k_LHd: torch.Tensor,
    v_LHd: torch.Tensor,
    cu_seqlens: torch.Tensor,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of queries, keys and values."""
    inputs = (q_LHd, k_LHd, v_LHd)
    gradients = tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs)
    queries_per_key = q_LHd.shape[1] // k_LHd.shape[1]  # query heads per key head
    for index, real_places, (grad_output, q, k, v) in _groups(cu_seqlens, grad_output_LHd, *inputs, num_zero_padded=1):
        output, statistics = _forward(q, k, v, 0.0, True, scale=scale)
        all_gradients = _backward(grad_output, q, k, v, output, statistics, 0.0, True, scale=scale)
        for gradient, all_heads in zip(gradients, all_gradients, strict=True):
            token_gradients = rearrange(all_heads, "n H m d -> (n m) H d")[real_places]  # (tokens, H, d)
            if gradient is not gradients[0]:  # gradients of query heads that share a key head add up
                token_gradients = reduce(
                    token_gradients, "tokens (Hkv shared) d -> tokens Hkv d", "sum", shared=queries_per_key
                )
            gradient[index] = token_gradients
    return gradients  # type: ignore[return-value]


@grouped_attention_backward.register_fake
def _(grad_output_LHd, q_LHd, k_LHd, v_LHd, cu_seqlens, scale):  # type: ignore[no-untyped-def]
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q_LHd, k_LHd, v_LHd))


def _groups(
    cu_seqlens: torch.Tensor, *tensors_LHd: torch.Tensor, num_zero_padded: int = 0
) -> Iterator[tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]]:
    """Yields each group of similar documents: its tokens' places in the sequence (tokens,), their places in the padded
    group (n * m,), and the tensors as (n, H, m, d).

    The padding of the first ``num_zero_padded`` tensors is zero. Keys and values are repeated to the queries' number of
    heads.
    """
    heads = tensors_LHd[0].shape[1]
    groups, places = Documents(cu_seqlens, 0).groups
    offset = 0
    for group in groups:
        size = len(group.index)
        [tokens] = torch.nonzero((places >= offset) & (places < offset + size), as_tuple=True)
        real_places = places[tokens] - offset
        is_padding = torch.ones(size, dtype=torch.bool)
        is_padding[real_places] = False
        padded_tensors = []
        for i, x_LHd in enumerate(tensors_LHd):
            queries_per_key = heads // x_LHd.shape[1]
            x = repeat(
                x_LHd.index_select(0, group.index), "places Hkv d -> places (Hkv shared) d", shared=queries_per_key
            )
            if i < num_zero_padded:
                x[is_padding] = 0
            padded_tensors.append(rearrange(x, "(n m) H d -> n H m d", n=group.num_documents))
        yield tokens, real_places, padded_tensors
        offset += size


def _setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    *tensors, _, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, grad_output_LHd):  # type: ignore[no-untyped-def]
    gradients = grouped_attention_backward(grad_output_LHd.contiguous(), *ctx.saved_tensors, ctx.scale)
    return (*gradients, None, None, None)


grouped_attention.register_autograd(_differentiate, setup_context=_setup)
