"""Losses of given documents by source, without training: what validation and evaluation compute.

    documents --rows of one source each--> rows --PackedJanus, a row at a time--> LossTotals per row --sum--> per source

It is the forward of training in eval mode and without gradients. What is computed depends on the documents and on
``row_tokens`` only: however rows are dealt to processes, each row has the same sums, and sums of sums in the rows'
order are the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from janus_train.data.batch import Batch, collate
from janus_train.data.types import IGNORE, TEXT, Document, Reference, Row, last_cut
from janus_train.model.loss_totals import LossTotals
from janus_train.model.losses import LossSums
from janus_train.model.parts import eval_mode

Forward = Callable[[Batch], LossSums]
"""A `PackedJanus`, or what a backend has wrapped around one."""


@dataclass(frozen=True)
class ImageShape:
    """The sizes of a model's images, which a batch without images needs too."""

    tokens_per_image: int
    image_size: int
    generation_image_size: int


def losses_by_source(
    model: nn.Module, documents: Sequence[Document], row_tokens: int, shape: ImageShape, device: torch.device | str
) -> dict[str, LossTotals]:
    """The losses of the documents by their references' source, in the order in which the sources first appear.

    ``model``: a `PackedJanus` on ``device``; its modules' modes are restored. ``row_tokens``: tokens of a forward pass at
    most, unless a document that cannot be cut is longer. The caller sets autocast, if the model is to compute in bf16.
    """
    rows = list(rows_by_source(documents, row_tokens))
    with eval_mode(model), torch.no_grad():
        return sums_by_source((source_of(row), row_losses(model, row, shape, device)) for row in rows)


def rows_by_source(documents: Iterable[Document], row_tokens: int) -> Iterator[Row]:
    """Rows of at most ``row_tokens`` tokens with documents of one source each, filled in the documents' order.

    Documents that may be cut and are longer become consecutive pieces, as in training. Another document that is longer gets
    a row of its own.
    """
    by_source: dict[str, list[Document]] = {}
    for document in documents:
        by_source.setdefault(document.reference.source, []).append(document)
    for own_documents in by_source.values():
        row: list[Document] = []
        for piece in (piece for document in own_documents for piece in _pieces(document, row_tokens)):
            if row and sum(map(len, row)) + len(piece) > row_tokens:
                yield Row(0, row, {})
                row = []
            row.append(piece)
        if row:
            yield Row(0, row, {})


def _pieces(document: Document, row_tokens: int) -> list[Document]:
    if not document.can_cut:
        return [document]
    cuts = [0]
    while len(document) - cuts[-1] > row_tokens:
        cut = last_cut(document.image_spans, cuts[-1] + row_tokens)
        if cut == cuts[-1]:  # an image that is longer than a row gets one of its own
            cut = next(stop for start, stop in document.image_spans if start == cut)
        cuts.append(cut)
    return [document.piece(start, stop) for start, stop in pairwise([*cuts, len(document)])]


def source_of(row: Row) -> str:
    """The source of a row of `rows_by_source`."""
    return row.documents[0].reference.source


def row_losses(model: Forward, row: Row, shape: ImageShape, device: torch.device | str) -> LossTotals:
    """The losses of one row. The caller has set eval mode, and turned gradients off."""
    batch = collate([row], shape.tokens_per_image, shape.image_size, shape.generation_image_size)
    return LossTotals.of(model(batch.to(device)))


def empty_row() -> Row:
    """A row of one token without any loss, for a rank that has none left while others still compute."""
    document = Document(
        reference=Reference("", 0, 0, ""),
        kind="text",
        input_ids=np.zeros(1, np.int64),
        labels=np.full(1, IGNORE, np.int64),
        modality=np.full(1, TEXT, np.uint8),
        image_targets=np.zeros(1, bool),
        understanding_pixels=[],
        generation_pixels=[],
        codes=[],
        codes_have_loss=[],
    )
    return Row(0, [document], {})


def sums_by_source(parts: Iterable[tuple[str, LossTotals]]) -> dict[str, LossTotals]:
    """Add up (source, losses), each source's in the given order."""
    by_source: dict[str, list[LossTotals]] = {}
    for source, totals in parts:
        by_source.setdefault(source, []).append(totals)
    return {source: LossTotals.sum_of(totals) for source, totals in by_source.items()}


def loss_values(by_source: Mapping[str, LossTotals]) -> dict[str, float | None]:
    """Mean losses over all targets: ``loss``, ``loss/KIND`` for the kinds that occur, and ``source/NAME``."""
    total = LossTotals.sum_of(by_source.values())
    return {
        "loss": total.mean,
        **{f"loss/{kind}": value for kind, value in total.by_kind.items() if value is not None},
        **{f"source/{name}": totals.mean for name, totals in by_source.items()},
    }
