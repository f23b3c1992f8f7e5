"""A Janus of some hundred thousand weights, all seven parts, with grouped-query attention."""

from __future__ import annotations

import pytest
import torch
from transformers import JanusForConditionalGeneration

from janus_train.config import ModelConfig
from janus_train.model.build import build, init_generation_embeddings
from tests.model.model_configs import model_config
from tests.model.reference import (
    BOI,
    BOS,
    CODEBOOK,
    EOI,
    EOS,
    GENERATION,
    PAD,
    PLACEHOLDER,
    SIZE,
    TEXT,
    TOKENS,
    UNDERSTANDING,
    VOCABULARY,
    Codes,
    Documents,
    ImageIn,
    Text,
)


@pytest.fixture(scope="session")
def small_config() -> ModelConfig:
    return model_config(
        "tiny",
        image_size=SIZE,
        text={
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 96,
            "vocab_size": VOCABULARY,
        },
        vision={"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8},
        vq={"num_embeddings": CODEBOOK, "channel_multiplier": [1, 1, 1, 1], "latent_channels": 32},
    )


@pytest.fixture
def janus(small_config: ModelConfig) -> JanusForConditionalGeneration:
    """Weights large enough that every input makes a difference at every output."""
    torch.manual_seed(0)
    janus = build(
        small_config, bos=BOS, eos=EOS, pad=PAD, placeholder=PLACEHOLDER, begin_of_image=BOI, end_of_image=EOI
    )
    with torch.no_grad():
        for parameter in janus.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    init_generation_embeddings(janus)
    return janus


@pytest.fixture
def documents() -> Documents:
    """All kinds and roles; in the fourth, pad tokens as guidance drop-out leaves them."""
    g = torch.Generator().manual_seed(1)

    def words(count: int) -> list[int]:
        return torch.randint(6, VOCABULARY, (count,), generator=g).tolist()

    def codes(loss: bool = True) -> Codes:
        return Codes(torch.randint(0, CODEBOOK, (TOKENS,), generator=g), loss)

    def image() -> ImageIn:
        return ImageIn(torch.rand(3, SIZE, SIZE, generator=g) * 2 - 1)

    two_turns = [
        *(Text([BOS, *words(2), BOI]), image(), Text([EOI, *words(2), BOI]), image(), Text([EOI])),
        *(Text([*words(2), EOS], loss=True), Text(words(4)), Text([*words(3), EOS], loss=True)),
    ]
    return [
        (UNDERSTANDING, [Text([BOS, BOI]), image(), Text([EOI, *words(3)]), Text(words(5), loss=True)]),
        (GENERATION, [Text([BOS, *words(9), BOI]), codes()]),
        (TEXT, [Text([BOS]), Text([*words(40), EOS], loss=True)]),
        (GENERATION, [Text([BOS, PAD, PAD, PAD, PAD, BOI]), codes()]),
        (UNDERSTANDING, two_turns),
        (GENERATION, [Text([BOS, BOI]), codes(loss=False), Text([*words(3), BOI]), codes()]),
        (TEXT, [Text([BOS]), Text(words(2), loss=True)]),
    ]
