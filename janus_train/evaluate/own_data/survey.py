"""Goes once through the data: the losses of all samples, and what can be asked and drawn of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch

from janus_train.data.types import Document
from janus_train.evaluate.own_data.options import OwnDataOptions
from janus_train.evaluate.own_data.questions import TaskFinder, Tasks
from janus_train.evaluate.own_data.samples import Reading, SampleReader
from janus_train.evaluate.own_data.sources import DataSource
from janus_train.infer.load import LoadedModel
from janus_train.model.document_losses import ImageShape, losses_by_source
from janus_train.model.janus import PackedJanus
from janus_train.model.loss_totals import LossTotals

ROW_TOKENS = 4096
"""Tokens of a forward pass, as in the papers; or the model's context, if that is shorter."""
_DOCUMENTS = 64
"""Documents in memory, with their pixels."""


@dataclass
class Survey:
    """What was found in the data, by source."""

    tasks: Tasks
    losses: dict[str, LossTotals] = field(default_factory=dict)
    readings: dict[str, Reading] = field(default_factory=dict)


def survey(
    loaded: LoadedModel,
    reader: SampleReader,
    sources: Sequence[DataSource],
    options: OwnDataOptions,
    on_sample: Callable[[int], None],
) -> Survey:
    """Reads the chosen samples of each source, and computes their losses as they come."""
    finder = TaskFinder(reader.encoder, reader.context, options.by, options.max_answer_tokens)
    result = Survey(finder.tasks)
    meter = _LossMeter(loaded, min(ROW_TOKENS, reader.context))
    for source in sources:
        reading = result.readings[source.name] = Reading()
        for sample in reader.read(source, reading, on_sample):
            finder.add(source, sample)
            meter.add(sample.document)
        totals = meter.totals()
        if totals is not None:
            result.losses[source.name] = totals
    return result


class _LossMeter:
    """The losses of one source's documents after the other's, a few documents at a time."""

    def __init__(self, loaded: LoadedModel, row_tokens: int):
        encoder, weight = loaded.encoder, loaded.janus.lm_head.weight
        self._model = PackedJanus(loaded.janus)
        self._row_tokens, self._device, self._dtype = row_tokens, weight.device, weight.dtype
        self._shape = ImageShape(encoder.tokens_per_image, encoder.image_size, encoder.generation_image_size)
        self._documents: list[Document] = []
        self._parts: list[LossTotals] = []

    def add(self, document: Document) -> None:
        self._documents.append(document)
        if len(self._documents) == _DOCUMENTS:
            self._compute()

    def totals(self) -> LossTotals | None:
        """The losses of the documents since the last call; None if there were none."""
        self._compute()
        parts, self._parts = self._parts, []
        return LossTotals.sum_of(parts) if parts else None

    def _compute(self) -> None:
        if not self._documents:
            return
        documents, self._documents = self._documents, []
        with self._autocast():
            losses = losses_by_source(self._model, documents, self._row_tokens, self._shape, self._device)
        self._parts += losses.values()

    def _autocast(self) -> AbstractContextManager[object]:
        """In a model of bf16 weights images come in as fp32."""
        if self._dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self._dtype)
