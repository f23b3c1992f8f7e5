"""A Janus of a few thousand weights with random values: smaller than the tiny model, for plain loops beside it."""

from __future__ import annotations

import pytest
import torch
from transformers import JanusConfig, JanusForConditionalGeneration, PreTrainedTokenizerFast

from janus_train.data.encode import Encoder

SIZE, STRIDE = 16, 4
"""Images of 16 x 16 pixels, 4 x 4 tokens."""


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the app says in the corner of its page."""
    gradio = pytest.importorskip("gradio", reason="the extra gradio is not installed")
    said: list[str] = []
    monkeypatch.setattr(gradio, "Warning", lambda message, **_: said.append(message))
    return said


@pytest.fixture(scope="session")
def encoder(tokenizer: PreTrainedTokenizerFast) -> Encoder:
    return Encoder(tokenizer, tokens_per_image=(SIZE // STRIDE) ** 2, image_size=SIZE, system_prompt="Look well.")


@pytest.fixture
def janus(encoder: Encoder) -> JanusForConditionalGeneration:
    torch.manual_seed(0)
    vision = {
        "image_size": SIZE,
        "patch_size": STRIDE,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "mlp_ratio": 2.0,
        "depth": 2,
        "projection_dim": 32,
    }
    vq = {
        "embed_dim": 4,
        "num_embeddings": 40,
        "base_channels": 32,
        "channel_multiplier": [1, 1, 1],
        "num_res_blocks": 1,
        "latent_channels": 16,
        "projection_dim": 32,
        "image_token_embed_dim": 32,
        "num_patches": SIZE // STRIDE,
        "num_hidden_layers": 2,
    }
    text = {
        "model_type": "llama",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "vocab_size": 400,
        "max_position_embeddings": 1024,
        "pad_token_id": encoder.special.pad,
    }
    config = JanusConfig(
        text_config=text,
        vision_config=vision,
        vq_config=vq,
        image_token_id=encoder.special.placeholder,
        tie_word_embeddings=False,
    )
    model = JanusForConditionalGeneration(config)
    with torch.no_grad():  # larger than the initial weights, so that prompts and codes make a difference
        for module in (model.model.language_model, model.model.generation_head, model.lm_head):
            for parameter in module.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.25)
        model.model.generation_embeddings.weight.normal_()
        model.model.language_model.embed_tokens.weight[
            encoder.special.pad
        ].normal_()  # pad's row is trained: guidance drop-out feeds it
        model.lm_head.weight[encoder.special.placeholder] = 0  # never the likeliest: an answer holds no images
    return model.eval()
