"""The official checkpoint's names (``MultiModalityCausalLM``) -> transformers' ``JanusForConditionalGeneration``.

`convert` takes a whole official state dict and raises for any key it does not know: nothing is dropped in silence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import torch

UNUSED = re.compile(r"vision_model\.vision_tower\.attn_pool\.|gen_vision_model\.quantize\.codebook_used$")
"""In official checkpoints, and in no forward pass: SigLIP's attention pool, the codebook's usage statistics."""

RENAMES: tuple[tuple[str, str], ...] = (
    # the text model and its head
    (r"language_model\.lm_head\.", "lm_head."),
    (r"language_model\.model\.", "model.language_model."),
    # SigLIP, in timm's words there
    (r"vision_model\.vision_tower\.pos_embed$", "model.vision_model.embeddings.position_embedding.weight"),
    (r"vision_model\.vision_tower\.patch_embed\.proj\.", "model.vision_model.embeddings.patch_embedding."),
    (r"vision_model\.vision_tower\.norm\.", "model.vision_model.post_layernorm."),
    (r"vision_model\.vision_tower\.blocks\.(\d+)\.norm(\d)\.", r"model.vision_model.encoder.layers.\1.layer_norm\2."),
    (r"vision_model\.vision_tower\.blocks\.(\d+)\.attn\.qkv\.", r"model.vision_model.encoder.layers.\1.self_attn.qkv."),
    (
        r"vision_model\.vision_tower\.blocks\.(\d+)\.attn\.proj\.",
        r"model.vision_model.encoder.layers.\1.self_attn.projection_layer.",
    ),
    (r"vision_model\.vision_tower\.blocks\.(\d+)\.mlp\.", r"model.vision_model.encoder.layers.\1.mlp."),
    # adaptors: a Sequential of Linear and GELU in turn there, so that layer 2k is the k-th Linear
    (r"aligner\.layers\.(\d+)\.", "model.aligner.{linear}."),
    (r"gen_aligner\.layers\.(\d+)\.", "model.generation_aligner.{linear}."),
    # generation: table, head, VQ tokenizer
    (r"gen_embed\.", "model.generation_embeddings."),
    (r"gen_head\.output_mlp_projector\.", "model.generation_head.proj_out."),
    (r"gen_head\.vision_head\.", "model.generation_head.vision_head."),
    (r"gen_vision_model\.(quantize\.embedding|quant_conv|post_quant_conv)\.", r"model.vqmodel.\1."),
    (r"gen_vision_model\.(encoder|decoder)\.(conv_in|conv_out|norm_out)\.", r"model.vqmodel.\1.\2."),
    (r"gen_vision_model\.(encoder|decoder)\.mid\.0\.", r"model.vqmodel.\1.mid.block_1."),
    (r"gen_vision_model\.(encoder|decoder)\.mid\.1\.", r"model.vqmodel.\1.mid.attn_1."),
    (r"gen_vision_model\.(encoder|decoder)\.mid\.2\.", r"model.vqmodel.\1.mid.block_2."),
    (r"gen_vision_model\.encoder\.conv_blocks\.(\d+)\.res\.", r"model.vqmodel.encoder.down.\1.block."),
    (r"gen_vision_model\.encoder\.conv_blocks\.(\d+)\.", r"model.vqmodel.encoder.down.\1."),
    (r"gen_vision_model\.decoder\.conv_blocks\.(\d+)\.res\.", r"model.vqmodel.decoder.up.\1.block."),
    (r"gen_vision_model\.decoder\.conv_blocks\.(\d+)\.", r"model.vqmodel.decoder.up.\1."),
)


def rename(name: str) -> str:
    """The new name; ``.self_attn.qkv.`` is still one tensor. ValueError for a name that is not official."""
    for pattern, replacement in RENAMES:
        if match := re.match(pattern, name):
            if "{linear}" in replacement:
                linear = int(match[1]) // 2
                target = replacement.format(linear="fc1" if linear == 0 else f"hidden_layers.{linear - 1}")
            else:
                target = match.expand(replacement)
            return target + name[match.end() :]
    raise ValueError(f"{name} is no name of an official Janus checkpoint")


def convert(official: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    """Official (name, tensor) pairs -> transformers' pairs: renamed, q, k and v apart, position table without batch."""
    for name, tensor in official:
        if UNUSED.match(name):
            continue
        target = rename(name)
        if ".qkv." in target:
            for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                yield target.replace(".qkv.", f".{letter}_proj."), third
        elif name.endswith(".pos_embed"):
            yield target, tensor[0]  # (1, P, width) -> (P, width)
        else:
            yield target, tensor
