"""Assembles the start of stage 1 from a language model, a SigLIP and a VQ tokenizer, with new adaptors and heads.

Both encoders share one grid: a generated image has as many codes as an input image has patches, so its side is the grid's
side times the VQ tokenizer's stride (384 pixels in patches of 14 are 27 x 27, so generated images have 432 pixels).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import JanusConfig
from transformers.models.janus.configuration_janus import JanusVisionConfig, JanusVQVAEConfig

from janus_train.data.special_tokens import SpecialTokens
from janus_train.errors import UserError
from janus_train.interop import processor
from janus_train.interop.base_encoders import BaseEncoder, load_siglip, load_vq
from janus_train.interop.base_language_model import BaseLanguageModel, load_base_language_model
from janus_train.interop.hub import local_folder
from janus_train.interop.model_folder import model_shapes
from janus_train.interop.write import check_target, user_errors_on_write, write_transformers
from janus_train.model.vq import generation_image_size

ADAPTOR_DEPTH = 2
"""Pro, Table 1: two-layer MLPs."""

SPREAD = 0.02
"""Standard deviation of new weights; biases start at 0. Both papers are silent: this is transformers' default."""


@dataclass(frozen=True)
class AssembledModel:
    """The assembled model, for the command to report."""

    config: JanusConfig
    new_tokens: list[str]
    generation_image_size: int


def assemble(llm: str, vision: str, vq: Path, target: Path, seed: int) -> AssembledModel:
    """Writes the model in transformers' layout. Raises `UserError` if a part is invalid or does not fit the others."""
    check_target(target)
    generator = torch.Generator().manual_seed(seed)
    siglip, codes = load_siglip(local_folder(vision, "--vision ")), load_vq(vq)
    language = load_base_language_model(local_folder(llm, "--llm "), generator)
    special = SpecialTokens.of(language.tokenizer)
    config = _config(language, siglip, codes, special)
    tensors = {**siglip.tensors, **codes.tensors, **language.tensors}
    expected_shapes = model_shapes(config)
    tensors |= _new_tensors(expected_shapes, codes, generator)
    for name in sorted(expected_shapes.keys() | tensors.keys()):
        shape = tuple(tensors[name].shape) if name in tensors else None
        if shape != expected_shapes.get(name):
            raise UserError(
                f"{_source_option(name, llm, vision, vq)} does not fit: {name} is {shape or 'missing'}, its configuration asks for "
                f"{expected_shapes.get(name, 'nothing of that name')}"
            )
    with user_errors_on_write(target):
        write_transformers(
            target,
            config,
            ((name, tensors[name]) for name in expected_shapes),
            language.tokenizer,
            processor.SYSTEM_PROMPT,
            processor.generation_config(special, processor.GUIDANCE, processor.TEMPERATURE),
            siglip.extras | codes.extras,
        )
    return AssembledModel(config, language.new_tokens, generation_image_size(config))


def _config(
    language: BaseLanguageModel, siglip: BaseEncoder, codes: BaseEncoder, special: SpecialTokens
) -> JanusConfig:
    text, width = language.config, language.config.hidden_size
    text.bos_token_id, text.eos_token_id, text.pad_token_id = special.bos, special.eos, special.pad
    grid = siglip.config["image_size"] // siglip.config["patch_size"]
    return JanusConfig(
        text_config=text,
        vision_config=JanusVisionConfig(
            **siglip.config, projection_dim=width, depth=ADAPTOR_DEPTH, num_image_tokens=grid**2
        ),
        vq_config=JanusVQVAEConfig(
            **codes.config,
            projection_dim=width,
            image_token_embed_dim=width,
            num_hidden_layers=ADAPTOR_DEPTH,
            num_patches=grid,
        ),
        image_token_id=special.placeholder,
        tie_word_embeddings=False,
    )


_NEW_PREFIXES = ("model.aligner.", "model.generation_aligner.", "model.generation_head.")


def _new_tensors(
    shapes: dict[str, tuple[int, ...]], codes: BaseEncoder, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """Makes adaptors, image head and code embeddings, the last from the L2-normalised codebook (both papers are silent)."""
    codebook = codes.tensors["model.vqmodel.quantize.embedding.weight"].float()
    tensors = {"model.generation_embeddings.weight": F.normalize(codebook, dim=-1)}
    for name, shape in shapes.items():
        if name.startswith(_NEW_PREFIXES):
            bias = name.endswith(".bias")
            tensors[name] = torch.zeros(shape) if bias else SPREAD * torch.randn(shape, generator=generator)
    return tensors


def _source_option(name: str, llm: str, vision: str, vq: Path) -> str:
    if name.startswith("model.vision_model."):
        return f"--vision {vision}"
    return f"--vq {vq}" if name.startswith("model.vqmodel.") else f"--llm {llm}"
