"""A stage-1 start from base parts: a language model, a SigLIP, a VQ tokenizer; adaptors and heads start anew.

Both encoders come to one grid: an image to draw has as many codes as an image to look at has patches, so its side is
the grid's side times the VQ tokenizer's stride (384 pixels by patches of 14 are 27 x 27: images of 432 to draw).
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
"""Standard deviation of new weights; biases start at 0. Both papers are silent: transformers' default, as for a base without these parts."""


@dataclass(frozen=True)
class Assembled:
    """What was assembled, for the command to report."""

    config: JanusConfig
    new_tokens: list[str]
    generation_image_size: int


def assemble(llm: str, vision: str, vq: Path, target: Path, seed: int) -> Assembled:
    """Write the model in transformers' layout. Raises `UserError` if a part is not what it should be or does not fit."""
    check_target(target)
    generator = torch.Generator().manual_seed(seed)
    siglip, codes = load_siglip(local_folder(vision, "--vision ")), load_vq(vq)
    language = load_base_language_model(local_folder(llm, "--llm "), generator)
    special = SpecialTokens.of(language.tokenizer)
    config = _config(language, siglip, codes, special)
    tensors = {**siglip.tensors, **codes.tensors, **language.tensors}
    expected = model_shapes(config)
    tensors |= _new(expected, codes, generator)
    for name in sorted(expected.keys() | tensors.keys()):
        shape = tuple(tensors[name].shape) if name in tensors else None
        if shape != expected.get(name):
            raise UserError(
                f"{_where(name, llm, vision, vq)} does not fit: {name} is {shape or 'missing'}, its configuration asks for "
                f"{expected.get(name, 'nothing of that name')}"
            )
    with user_errors_on_write(target):
        write_transformers(
            target,
            config,
            ((name, tensors[name]) for name in expected),
            language.tokenizer,
            processor.SYSTEM_PROMPT,
            processor.generation_config(special, processor.GUIDANCE, processor.TEMPERATURE),
            siglip.extras | codes.extras,
        )
    return Assembled(config, language.new_tokens, generation_image_size(config))


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


_NEW = ("model.aligner.", "model.generation_aligner.", "model.generation_head.")


def _new(wanted: dict[str, tuple[int, ...]], codes: BaseEncoder, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Adaptors, image head and code embeddings: those are the codebook's L2-normalised rows (both papers are silent)."""
    codebook = codes.tensors["model.vqmodel.quantize.embedding.weight"].float()
    made = {"model.generation_embeddings.weight": F.normalize(codebook, dim=-1)}
    for name, shape in wanted.items():
        if name.startswith(_NEW):
            bias = name.endswith(".bias")
            made[name] = torch.zeros(shape) if bias else SPREAD * torch.randn(shape, generator=generator)
    return made


def _where(name: str, llm: str, vision: str, vq: Path) -> str:
    if name.startswith("model.vision_model."):
        return f"--vision {vision}"
    return f"--vq {vq}" if name.startswith("model.vqmodel.") else f"--llm {llm}"
