"""Losses of given documents by source: exact, and the same however the documents are dealt to processes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import JanusForConditionalGeneration, PreTrainedTokenizerFast

from janus_train.data.batch import collate
from janus_train.data.encode import Encoder
from janus_train.data.special_tokens import PLACEHOLDER
from janus_train.data.types import Document, Record, Row
from janus_train.model.document_losses import (
    ImageShape,
    empty_row,
    loss_values,
    losses_by_source,
    row_losses,
    rows_by_source,
    source_of,
    sums_by_source,
)
from janus_train.model.janus import PackedJanus
from janus_train.model.loss_totals import LossTotals
from janus_train.model.parts import eval_mode, set_trainable
from tests.helpers import config_of, document_of, plain_image

MODEL = config_of("+stage=2").model
SHAPE = ImageShape(MODEL.tokens_per_image, MODEL.image_size, MODEL.generation_image_size)


@pytest.fixture(scope="module")
def model(random_base: Path) -> PackedJanus:
    return PackedJanus(JanusForConditionalGeneration.from_pretrained(random_base))


@pytest.fixture
def documents(tokenizer: PreTrainedTokenizerFast) -> list[Document]:
    """Of three sources in turn: an answer about an image, a text that may be cut, and an image to generate."""
    encoder = Encoder(tokenizer, SHAPE.tokens_per_image, SHAPE.image_size, "")
    found = []
    for number in range(4):
        image = plain_image((40 * number, 90, 200))
        captioned = Record(f"c{number}", {"caption": f"Image {number}."}, [image], [None])
        text = Record(f"t{number}", {"text": "What colour is the background? " * (2 + 9 * number)})
        for source, document in (
            ("seen", document_of(encoder, captioned, "image_caption", "understanding")),
            ("read", document_of(encoder, text, "text", "text")),
            ("drawn", document_of(encoder, captioned, "text_to_image", "generation")),
        ):
            found.append(replace(document, reference=replace(document.reference, source=source, index=number)))
    return found


def test_each_sources_losses_are_those_of_its_documents_one_by_one(
    model: PackedJanus, documents: list[Document]
) -> None:
    by_source = losses_by_source(model, documents, 160, SHAPE, "cpu")
    assert list(by_source) == ["seen", "read", "drawn"]
    with torch.no_grad():
        for source, totals in by_source.items():
            own = [document for document in documents if document.reference.source == source]
            alone = LossTotals.sum_of(
                LossTotals.of(model(collate([Row(0, [d], {})], SHAPE.tokens_per_image, SHAPE.image_size))) for d in own
            )
            if source == "read":  # its longest text is cut at a row's end, and there it does not see its beginning
                assert max(map(len, own)) > 160
            else:
                assert totals.sums == pytest.approx(alone.sums, rel=1e-5)
            assert totals.counts == alone.counts and sum(totals.counts.values()) > 0


def test_rows_are_of_one_source_and_of_a_rows_tokens_and_nothing_is_lost(documents: list[Document]) -> None:
    rows = list(rows_by_source(documents, 160))
    for row in rows:
        assert len({document.reference.source for document in row.documents}) == 1
        assert row.num_tokens <= 160
    assert sum(row.num_tokens for row in rows) == sum(map(len, documents))
    assert len(rows) < len(documents)
    alone = list(rows_by_source([d for d in documents if not d.can_cut], 16))
    assert [len(row.documents) for row in alone] == [1] * 8  # longer than a row, but an image is never cut


def test_the_sums_are_the_same_numbers_in_whatever_order_the_rows_were_computed(
    model: PackedJanus, documents: list[Document]
) -> None:
    rows = list(rows_by_source(documents, 160))
    with eval_mode(model), torch.no_grad():
        backwards = [(source_of(row), row_losses(model, row, SHAPE, "cpu")) for row in reversed(rows)]
    assert sums_by_source(reversed(backwards)) == losses_by_source(model, documents, 160, SHAPE, "cpu")


def test_the_mean_is_over_all_targets_and_not_over_sources(model: PackedJanus, documents: list[Document]) -> None:
    by_source = losses_by_source(model, documents, 160, SHAPE, "cpu")
    values = loss_values(by_source)
    num_targets = sum(document.num_loss_tokens for document in documents)
    total = sum(sum(totals.sums.values()) for totals in by_source.values())
    assert values["loss"] == pytest.approx(total / num_targets)
    assert values["loss"] != pytest.approx(sum(totals.mean for totals in by_source.values()) / 3, rel=1e-3)
    assert set(values) == {"loss"} | {f"loss/{kind}" for kind in ("understanding", "text", "generation")} | {
        f"source/{name}" for name in ("seen", "read", "drawn")
    }
    assert values["source/drawn"] == values["loss/generation"]


def test_an_empty_row_runs_the_model_and_adds_nothing(model: PackedJanus) -> None:
    with torch.no_grad():
        totals = row_losses(model, empty_row(), SHAPE, "cpu")
    assert not any(totals.sums.values()) and not any(totals.counts.values())


def test_modes_and_gradients_are_as_before(model: PackedJanus, documents: list[Document]) -> None:
    set_trainable(model.janus, ["language_model"])
    before = {name: module.training for name, module in model.named_modules()}
    assert len(set(before.values())) == 2
    losses_by_source(model, documents[:3], 160, SHAPE, "cpu")
    assert {name: module.training for name, module in model.named_modules()} == before
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_document_with_images_is_cut_between_them(encoder: Encoder) -> None:
    record = Record("k", {"text": "".join(f"Number {n}. {PLACEHOLDER}" for n in range(5))}, [plain_image()] * 5)
    whole = document_of(encoder, record, "interleaved", "understanding")
    for row_tokens in (160, encoder.tokens_per_image):  # the second is less than an image
        rows = list(rows_by_source([whole], row_tokens))
        pieces = [document for row in rows for document in row.documents]
        assert np.array_equal(np.concatenate([piece.input_ids for piece in pieces]), whole.input_ids)
        assert sum(len(piece.understanding_pixels) for piece in pieces) == 5
        assert sum(piece.num_loss_tokens for piece in pieces) == whole.num_loss_tokens
        assert max(map(len, pieces)) <= max(row_tokens, encoder.tokens_per_image + 2)
