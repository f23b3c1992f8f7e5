"""The VQ tokenizer's training, in some steps; and the shipped one, whose images have to be clear."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors.torch import load_file
from transformers import JanusConfig
from transformers.models.janus.modeling_janus import JanusVQVAE

from janus_train.demo.build import vq as build_vq
from janus_train.demo.build.cells import CellClasses, TrainingImages
from janus_train.demo.build.common import SHARDS
from janus_train.demo.build.vq import (
    Phase,
    crowding,
    decode_levels,
    evaluate_vq,
    pixel_heads,
    train_decoder,
    train_encoder,
)
from janus_train.demo.objects import UNIT
from janus_train.demo.scenes import load_library
from janus_train.infer.load import load_model
from janus_train.paths import ROOT

BASE = ROOT / "data_recipes/demo/base"
PREFIX = "model.vqmodel."


@pytest.fixture
def vq(random_base: Path) -> JanusVQVAE:
    return load_model(random_base).janus.model.vqmodel.float()


@pytest.fixture(scope="module")
def images() -> TrainingImages:
    return TrainingImages(load_library(tuple(SHARDS)))


def test_the_last_level_is_the_decoder_itself(vq: JanusVQVAE) -> None:
    codes = F.normalize(torch.randn(2, 6, 6, vq.quantize.embedding_dim), dim=-1)
    heads = pixel_heads(vq.decoder)
    images = decode_levels(vq, heads, codes, last=4)
    assert [image.shape for image in images] == [(2, 3, UNIT, UNIT)] * 5
    assert torch.equal(images[-1], vq.decoder(vq.post_quant_conv(rearrange(codes, "n h w e -> n e h w"))))
    assert len(decode_levels(vq, heads, codes, last=1)) == 2


def test_codes_apart_are_not_crowded() -> None:
    assert crowding(torch.eye(8)) == 0
    assert crowding(F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1]]), dim=1)) > 0.1


def test_some_steps_of_training_lower_both_losses(
    vq: JanusVQVAE, images: TrainingImages, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build_vq, "ENCODER", (60, 8, 2e-3))
    phases = (Phase(0, 40, 4, 3e-3), Phase(4, 2, 2, 1e-3, lower=0, edges=0.5))
    monkeypatch.setattr(build_vq, "PHASES", phases)
    monkeypatch.setattr(build_vq.Progress, "__call__", lambda self, step, **figures: seen.append(figures))
    seen: list[dict[str, float]] = []
    torch.manual_seed(0)
    classes = CellClasses(images, vq.quantize.num_embeddings)
    train_encoder(vq, images, classes)
    codes = vq.quantize.embedding.weight
    assert torch.allclose(codes.norm(dim=1), torch.ones(len(codes)), atol=1e-5)
    train_decoder(vq, images, classes)
    encoder, decoder = seen[:60], seen[60:100]
    for figures in (encoder, decoder):
        first, last = (sum(each["loss"] for each in part) for part in (figures[:8], figures[-8:]))
        assert last < 0.9 * first
    assert "dB on held-out scenes" in capsys.readouterr().out


def test_the_shipped_tokenizer_is_exact_and_clear() -> None:
    vq = JanusVQVAE(JanusConfig.from_pretrained(BASE).vq_config)
    weights = {name: each for name, each in load_file(BASE / "model.safetensors").items() if name.startswith(PREFIX)}
    vq.load_state_dict({name.removeprefix(PREFIX): each.float() for name, each in weights.items()})
    figures = evaluate_vq(vq, UNIT, count=60)
    assert figures["PSNR, dB"] >= 28
    assert figures["right codes of cells"] >= 0.995
