"""Activation checkpointing of the decoder layers: memory for time, results unchanged.

    none        all activations are kept between forward and backward
    selective   a layer's input and the outputs of its matrix products and of attention are kept; norms, rotary embeddings
                and SwiGLU are recomputed: half the memory for a few percent more time
    full        a layer's input is kept and the layer recomputed: least memory, up to a third more time

transformers' own switch is not enough: it recomputes only layers in train mode, and stage 1's frozen language model is in
eval mode although gradients flow through it. Layers are compiled after this (`model.compile`): the compiler then sees
the checkpoint and follows it; the other way round the policy could not choose what to keep.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.attention.varlen  # registers its operator
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from transformers import JanusForConditionalGeneration

import janus_train.model.attention.grouped
import janus_train.model.lora_weights  # noqa: F401 - both register their operators
from janus_train.config import ActivationCheckpointing

_aten = torch.ops.aten
_NORMS = torch.ops.janus_train.dora_row_norms.default
"""Few numbers from all of a weight."""
_MATRIX_PRODUCTS = {_aten.mm.default, _aten.addmm.default, _aten.linear.default}
_ATTENTION = {
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.torch_attn._varlen_attn.default,
    torch.ops.janus_train.grouped_attention.default,
}


def checkpoint_layers(janus: JanusForConditionalGeneration, policy: ActivationCheckpointing) -> None:
    """Makes every decoder layer of ``janus`` follow ``policy``; parameters keep their names. Call it once."""
    if policy == "none":
        return
    for layer in janus.model.language_model.layers:
        layer.forward = _Checkpointed(layer, policy)


class _Checkpointed:
    """A layer's forward that keeps fewer activations. Without gradients, as in generation, it is the layer's own."""

    def __init__(self, layer: Any, policy: ActivationCheckpointing):
        self._layer, self._forward = layer, type(layer).forward
        # packed attention has no dropout, so LoRA's is the only source of randomness in a layer
        has_dropout = any(isinstance(module, nn.Dropout) and module.p > 0 for module in layer.modules())
        self._options: dict[str, Any] = {"preserve_rng_state": has_dropout}
        if policy == "selective":
            # down's output is not kept: nothing needs it in backward, and recomputation stops before it
            down_width = layer.mlp.down_proj.in_features
            self._options["context_fn"] = partial(create_selective_checkpoint_contexts, partial(_keep, down_width))

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        forward: Callable[..., torch.Tensor] = partial(self._forward, self._layer)
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **self._options, **kwargs)


def _keep(down_width: int, context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    if op in _ATTENTION or op is _NORMS:
        return CheckpointPolicy.MUST_SAVE
    if op in _MATRIX_PRODUCTS:
        matrix = args[1] if op is _aten.addmm.default else args[0]
        return CheckpointPolicy.PREFER_RECOMPUTE if matrix.shape[-1] == down_width else CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE
