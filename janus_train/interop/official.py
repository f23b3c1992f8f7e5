"""The official checkpoint's names (``MultiModalityCausalLM``) <-> transformers' ``JanusForConditionalGeneration``.

One table serves both directions. Besides the names two things differ: the official layout has SigLIP's q, k and v in one
tensor, and a batch dimension in its position table. `from_official` and `to_official` convert (name, tensor) pairs one at
a time and change no value; an unknown name is an error, so that nothing is dropped silently.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import torch

NamedTensors = Iterable[tuple[str, torch.Tensor]]
"""(name, tensor) pairs, read once, in any order."""

TOWER, SIGLIP = "vision_model.vision_tower", "model.vision_model"
VQ = "gen_vision_model."
"""The official layout's prefix for the names of LlamaGen's VQ tokenizer."""

_EXTRA = re.compile(
    r"vision_model\.vision_tower\.attn_pool\.|gen_vision_model\.quantize\.codebook_used$|.*\.rotary_emb\.inv_freq$"
)


def _vq_names() -> list[tuple[str, str]]:
    prefixes = ("quantize.embedding.", "quant_conv.", "post_quant_conv.")
    pairs = [(f"{VQ}{name}", f"model.vqmodel.{name}") for name in prefixes]
    for side, levels in (("encoder", "down"), ("decoder", "up")):
        official_prefix, hf_prefix = f"{VQ}{side}.", f"model.vqmodel.{side}."
        pairs += [(f"{official_prefix}{name}.", f"{hf_prefix}{name}.") for name in ("conv_in", "conv_out", "norm_out")]
        pairs += [
            (f"{official_prefix}mid.{i}.", f"{hf_prefix}mid.{name}.")
            for i, name in enumerate(("block_1", "attn_1", "block_2"))
        ]
        pairs += [
            (f"{official_prefix}conv_blocks.{{n}}.res.", f"{hf_prefix}{levels}.{{n}}.block."),
            (f"{official_prefix}conv_blocks.{{n}}.", f"{hf_prefix}{levels}.{{n}}."),
        ]
    return pairs


TABLE: tuple[tuple[str, str], ...] = (
    ("language_model.lm_head.", "lm_head."),
    ("language_model.model.", "model.language_model."),
    # SigLIP, with timm's names in the official layout
    (f"{TOWER}.pos_embed", f"{SIGLIP}.embeddings.position_embedding.weight"),
    (f"{TOWER}.patch_embed.proj.", f"{SIGLIP}.embeddings.patch_embedding."),
    (f"{TOWER}.norm.", f"{SIGLIP}.post_layernorm."),
    (f"{TOWER}.blocks.{{n}}.norm1.", f"{SIGLIP}.encoder.layers.{{n}}.layer_norm1."),
    (f"{TOWER}.blocks.{{n}}.norm2.", f"{SIGLIP}.encoder.layers.{{n}}.layer_norm2."),
    (f"{TOWER}.blocks.{{n}}.attn.qkv.", f"{SIGLIP}.encoder.layers.{{n}}.self_attn.qkv."),
    (f"{TOWER}.blocks.{{n}}.attn.proj.", f"{SIGLIP}.encoder.layers.{{n}}.self_attn.projection_layer."),
    (f"{TOWER}.blocks.{{n}}.mlp.", f"{SIGLIP}.encoder.layers.{{n}}.mlp."),
    # adaptors: in the official layout a Sequential that alternates Linear and GELU, so that layer 2n is the n-th Linear
    ("aligner.layers.0.", "model.aligner.fc1."),
    ("aligner.layers.{2n+2}.", "model.aligner.hidden_layers.{n}."),
    ("gen_aligner.layers.0.", "model.generation_aligner.fc1."),
    ("gen_aligner.layers.{2n+2}.", "model.generation_aligner.hidden_layers.{n}."),
    # generation: table, head, VQ tokenizer
    ("gen_embed.", "model.generation_embeddings."),
    ("gen_head.output_mlp_projector.", "model.generation_head.proj_out."),
    ("gen_head.vision_head.", "model.generation_head.vision_head."),
    *_vq_names(),
)
"""Prefixes of official names and their counterparts in transformers; the first that matches applies."""

_NUMBER = re.compile(r"\\\{(?:2n\\\+2|n)\\\}")


def _compile_rules(column: int) -> list[tuple[re.Pattern[str], str, str]]:
    return [(re.compile(_NUMBER.sub(r"(\\d+)", re.escape(row[column]))), row[column], row[1 - column]) for row in TABLE]


_OFFICIAL_RULES, _HF_RULES = _compile_rules(0), _compile_rules(1)


def _translate(name: str, rules: list[tuple[re.Pattern[str], str, str]]) -> str | None:
    for pattern, source, target in rules:
        if match := pattern.match(name):
            if match.lastindex:
                n = int(match[1])
                if "{2n+2}" in source:
                    if n % 2:
                        return None  # a GELU: it has no weights
                    n = n // 2 - 1
                target = target.replace("{2n+2}", str(2 * n + 2)).replace("{n}", str(n))
            return target + name[match.end() :]
    return None


def is_extra(name: str) -> bool:
    """Whether a tensor of an official checkpoint is used in no forward pass.

    Such tensors are SigLIP's attention pool, the codebook's usage statistics, and buffers that old versions of
    transformers saved.
    """
    return _EXTRA.match(name) is not None


def transformers_name(name: str) -> str:
    """Translates an official name; ``.self_attn.qkv.`` stays one tensor. ValueError for a name that is not official."""
    target = _translate(name, _OFFICIAL_RULES)
    if target is None:
        raise ValueError(f"{name} is not a name in an official Janus checkpoint")
    return target


def official_name(name: str) -> str:
    """Translates to an official name; ``.self_attn.qkv.`` stands for three tensors. ValueError for an unknown name."""
    target = _translate(name, _HF_RULES)
    if target is None:
        raise ValueError(f"{name} has no place in the official layout")
    return target


def from_official(pairs: NamedTensors) -> Iterator[tuple[str, torch.Tensor]]:
    """Official pairs -> transformers' pairs: renamed, q, k and v split, position table without batch; without extras."""
    for name, tensor in pairs:
        if is_extra(name):
            continue
        target = transformers_name(name)
        if ".qkv." in target:
            for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                yield target.replace(".qkv.", f".{letter}_proj."), third
        elif name == f"{TOWER}.pos_embed":
            yield target, tensor[0]  # (1, P, width) -> (P, width)
        else:
            yield target, tensor


_SPLIT = re.compile(rf"({re.escape(SIGLIP)}\.encoder\.layers\.\d+\.self_attn\.)([qkv])_proj\.(weight|bias)$")


def to_official(pairs: NamedTensors) -> Iterator[tuple[str, torch.Tensor]]:
    """transformers' pairs -> official pairs, without extras. ValueError if one of a layer's q, k and v is missing."""
    incomplete_groups: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in pairs:
        if match := _SPLIT.match(name):
            qkv_name = f"{match[1]}qkv.{match[3]}"
            thirds = incomplete_groups.setdefault(qkv_name, {})
            thirds[match[2]] = tensor
            if len(thirds) == 3:
                del incomplete_groups[qkv_name]
                yield official_name(qkv_name), torch.cat([thirds[letter] for letter in "qkv"])
        elif name == f"{SIGLIP}.embeddings.position_embedding.weight":
            yield official_name(name), tensor[None]  # (P, width) -> (1, P, width)
        else:
            yield official_name(name), tensor
    if incomplete_groups:
        raise ValueError(f"q, k and v are not complete for {min(incomplete_groups)}")
