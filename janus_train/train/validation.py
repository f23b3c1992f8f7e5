"""Validation while training: the losses of held-out samples, with the weights of the moment.

    recipe --held-out samples in blocks, dealt to the ranks--> rows, read once --eval, no gradients--> losses --one gather-->
    sums and counts over all ranks --> ``validation/...`` among the step's metrics

A row's documents depend on its block alone, and sums are added in the blocks' order. So the values depend neither on the
number of ranks nor on ``batch.micro_rows``, and they are the same after a resume. Nothing here draws a random number or
touches a stream. With sharded weights every forward pass is a collective: all ranks make as many, those with fewer rows
on empty ones.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from janus_train.config import Config
from janus_train.data.encode import Encoder
from janus_train.data.held_out import Block, HeldOutSource, blocks_of, held_out_sources, read_documents, samples_digest
from janus_train.data.recipe import Recipe
from janus_train.data.types import IGNORE, KINDS, Document, Kind, Quarantined, Row
from janus_train.errors import UserError
from janus_train.model.document_losses import (
    ImageShape,
    empty_row,
    loss_values,
    row_losses,
    rows_by_source,
    source_of,
    sums_by_source,
)
from janus_train.model.loss_totals import LossTotals
from janus_train.train.backends import Backend
from janus_train.train.distributed.context import Distributed
from janus_train.train.monitor.loss_spikes import finite_or_none

logger = logging.getLogger(__name__)

PREFIX, AVERAGE_PREFIX = "validation/", "validation_ema/"
"""Of the losses with the run's weights, and with their average (`run.ema`)."""


class Validation:
    """This rank's share of the held-out samples. All ranks create it, and call `run` at the same steps.

    Reads the samples, and keeps them: about 0.5 MB each at 384 pixels. Raises `UserError` on all ranks if there are none.
    """

    def __init__(
        self, config: Config, recipe: Recipe, data_digests: Mapping[str, str], encoder: Encoder, group: Distributed
    ):
        sources = held_out_sources(recipe, config.run.validation_samples)
        refuse_nothing(sources, recipe, config)
        self.digest = samples_digest(sources, data_digests)
        """That of the samples: values of one digest can be compared."""
        self._shape = ImageShape(encoder.tokens_per_image, encoder.image_size, encoder.generation_image_size)
        self._group = group
        blocks = list(enumerate(blocks_of(sources)))[group.rank :: group.world_size]
        self._rows: list[tuple[int, Row]] = []
        """Each with the number of its block."""
        counts, unusable = Counter[str](), list[Quarantined]()
        with group.raise_on_all_ranks():
            for number, block in blocks:
                documents, bad = _read(block, encoder, config.batch.row_tokens)
                counts[block.source.config.name] += len(documents)
                unusable += bad
                self._rows += [(number, row) for row in rows_by_source(documents, config.batch.row_tokens)]
        kinds = {kind for _, row in self._rows for document in row.documents for kind in _kinds(document)}
        reports = group.gather([(len(self._rows), counts, kinds, unusable)])
        self._num_passes = max(num_rows for num_rows, *_ in reports)
        self._counts = sum((rank_counts for _, rank_counts, *_ in reports), Counter[str]())
        _say(sources, self._counts, [sample for *_, rank_bad in reports for sample in rank_bad])
        if not self._counts:
            raise UserError(f"{recipe.path}: none of the held-out samples can be used for validation")
        all_kinds = [kind for kind in KINDS if any(kind in rank_kinds for _, _, rank_kinds, _ in reports)]
        names = ["loss", *(f"loss/{kind}" for kind in all_kinds), *(f"source/{name}" for name in self._counts)]
        prefixes = [PREFIX] if config.run.ema is None else [PREFIX, AVERAGE_PREFIX]
        self.metrics = [prefix + name for prefix in prefixes for name in names]
        """The losses that `run` gives."""
        if config.run.keep_best is not None and config.run.keep_best not in self.metrics:
            raise UserError(
                f"run.keep_best={config.run.keep_best}: validation has no such value, it has {', '.join(self.metrics)}"
            )

    def run(self, backend: Backend) -> dict[str, Any]:
        """The metrics of the current weights, the same on all ranks."""
        start_s = time.perf_counter()
        by_source = self._losses(backend)
        metrics = _metrics(PREFIX, by_source)
        if backend.average is not None:
            with backend.averaged_weights():
                metrics |= _metrics(AVERAGE_PREFIX, self._losses(backend))
        return {
            **metrics,
            f"{PREFIX}samples": self._counts.total(),
            f"{PREFIX}loss_tokens": sum(sum(totals.counts.values()) for totals in by_source.values()),
            f"{PREFIX}digest": self.digest,
            f"{PREFIX}seconds": time.perf_counter() - start_s,
        }

    def _losses(self, backend: Backend) -> dict[str, LossTotals]:
        """The losses by source over all ranks."""
        results: list[tuple[int, str, LossTotals]] = []
        with backend.forward_only():
            for number in range(self._num_passes):
                if number < len(self._rows):
                    block, row = self._rows[number]
                    totals = row_losses(backend.model, row, self._shape, self._group.device)
                    results.append((block, source_of(row), totals))
                else:
                    row_losses(backend.model, empty_row(), self._shape, self._group.device)
        all_results = sorted(self._group.gather(results), key=lambda result: result[0])  # a block's are on one rank
        return sums_by_source((source, totals) for _, source, totals in all_results)


def _metrics(prefix: str, by_source: Mapping[str, LossTotals]) -> dict[str, float | None]:
    return {f"{prefix}{name}": finite_or_none(value) for name, value in loss_values(by_source).items()}


def refuse_nothing(sources: list[HeldOutSource], recipe: Recipe, config: Config) -> None:
    """Raise `UserError` if there is nothing to validate on, in a source or at all."""
    if not sources:
        raise UserError(
            f"{recipe.path}: run.validate_every={config.run.validate_every} needs samples that are held out: give a source "
            "held_out: 0.01, or list sources under validation"
        )
    for source in sources:
        if not source.indices:
            raise UserError(
                f"{recipe.path}: source {source.config.name!r}: held_out: {source.config.held_out:g} holds out none of its "
                f"{len(source.source):,} samples: raise it, or remove it"
            )


def _read(block: Block, encoder: Encoder, row_tokens: int) -> tuple[list[Document], list[Quarantined]]:
    results = list(read_documents(block, encoder, row_tokens))
    documents = [document for document, _ in results if document is not None]
    return documents, [sample for _, sample in results if sample is not None]


def _kinds(document: Document) -> Iterator[Kind]:
    """The kinds whose losses a document has targets of."""
    if (document.labels != IGNORE).any():
        yield "understanding" if document.kind == "understanding" else "text"
    if document.image_targets.any():
        yield "generation"


def _say(sources: list[HeldOutSource], counts: Counter[str], unusable: list[Quarantined]) -> None:
    """Log how many samples are validated on, and which sources have samples that cannot be used."""
    used = ", ".join(f"{counts[source.config.name]:,} of {source.config.name!r}" for source in sources)
    logger.info(f"validates on held-out samples: {used}")
    for source in sources:
        bad = [sample for sample in unusable if sample.source == source.config.name]
        if bad:
            logger.warning(
                f"source {source.config.name!r}: {len(bad):,} of its held-out samples cannot be used, the first is "
                f"{bad[0].key!r}: {bad[0].reason}"
            )
