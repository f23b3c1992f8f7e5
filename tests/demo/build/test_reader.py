"""What the base's language model reads from images: texts in the stages' formats, and nothing of it trains."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, JanusForConditionalGeneration

from janus_train.data.types import IGNORE, IMAGE_FEATURE
from janus_train.demo.build.reader import ImageReader
from janus_train.demo.objects import UNIT


@pytest.fixture
def janus(random_base: Path) -> JanusForConditionalGeneration:
    return JanusForConditionalGeneration.from_pretrained(random_base).requires_grad_(False)


@pytest.fixture
def reader(janus: JanusForConditionalGeneration, random_base: Path) -> ImageReader:
    torch.manual_seed(0)
    return ImageReader(janus, AutoTokenizer.from_pretrained(random_base), UNIT)


def test_documents_are_questions_and_captions_with_one_image(reader: ImageReader) -> None:
    documents = reader.documents(0, 4, "train")
    assert [each.reference.source for each in documents] == ["conversation", "scene"] * 2
    for each in documents:
        assert len(each.understanding_pixels) == 1 and each.understanding_pixels[0].shape == (UNIT, UNIT, 3)
        assert (each.modality == IMAGE_FEATURE).sum() == 36 and (each.labels != IGNORE).any()
    again = reader.documents(2, 2, "train")
    assert [each.input_ids.tolist() for each in again] == [each.input_ids.tolist() for each in documents[2:]]
    assert reader.documents(0, 1, "held_out")[0].input_ids.tolist() != documents[0].input_ids.tolist()


def test_the_encoder_and_the_linear_layer_learn_and_the_language_model_does_not(
    janus: JanusForConditionalGeneration, reader: ImageReader
) -> None:
    vision = janus.model.vision_model.requires_grad_(True)
    assert {name for name, _ in reader.named_parameters()} == {"bridge.weight", "bridge.bias"}
    documents = reader.documents(0, 4, "train")
    weights = [*vision.parameters(), *reader.parameters()]
    optimizer, losses = torch.optim.AdamW(weights, lr=3e-3), []
    before = janus.lm_head.weight.clone()
    for _ in range(12):
        loss = reader(vision, documents)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05
    assert torch.equal(janus.lm_head.weight, before) and janus.lm_head.weight.grad is None
    assert janus.model.language_model.embed_tokens.weight.grad is None


def test_the_image_is_what_is_read(janus: JanusForConditionalGeneration, reader: ImageReader) -> None:
    documents = reader.documents(0, 2, "train")
    with torch.no_grad():
        loss = reader(janus.model.vision_model, documents)
        for each in documents:
            each.understanding_pixels[0] = 255 - each.understanding_pixels[0]
        assert reader(janus.model.vision_model, documents) != loss
