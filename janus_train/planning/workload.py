"""The counts of a row or a micro-batch that determine its FLOPs and memory, measured or expected.

Everything else in ``planning`` is linear in these counts, so those of rows add up to those of a step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from itertools import pairwise

import numpy as np

from janus_train.config import Config, ModelConfig
from janus_train.data.batch import Batch
from janus_train.data.types import IGNORE, Document, Kind


@dataclass(frozen=True)
class Workload:
    """Counts, fractional for means over rows. The letters are those of the legend in `data.types`."""

    tokens: float = 0.0  # L
    causal_pairs: float = 0.0  # (query, key) pairs of causal attention: n (n + 1) / 2 per document of n tokens
    text_targets: float = 0.0  # Nt
    image_targets: float = 0.0  # No * P
    understanding_images: float = 0.0  # Nu
    generation_images: float = 0.0  # Ng
    uncached_images: float = 0.0  # generation images whose codes the VQ encoder makes in the step

    def __add__(self, other: Workload) -> Workload:
        return Workload(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, factor: float) -> Workload:
        return Workload(*(factor * value for value in astuple(self)))


def workload_of(documents: Iterable[Document]) -> Workload:
    """Counts ``documents``. It reads NumPy arrays only, so it does not wait for a GPU."""
    total = Workload()
    for document in documents:
        n = len(document)
        total += Workload(
            tokens=n,
            causal_pairs=n * (n + 1) / 2,
            text_targets=int(np.count_nonzero(document.labels != IGNORE)),
            image_targets=int(np.count_nonzero(document.image_targets)),
            understanding_images=len(document.understanding_pixels),
            generation_images=len(document.codes),
            uncached_images=sum(codes is None for codes in document.codes),
        )
    return total


def workload_of_batch(batch: Batch) -> Workload:
    """Counts a collated micro-batch; waits for its device if that is a GPU."""
    lengths = [end - start for start, end in pairwise(batch.cu_seqlens.tolist())]
    return Workload(
        tokens=sum(lengths),
        causal_pairs=sum(n * (n + 1) / 2 for n in lengths),
        text_targets=batch.text_positions.numel(),
        image_targets=batch.image_loss_positions.numel(),
        understanding_images=len(batch.understanding_pixels),
        generation_images=len(batch.cached_codes),
        uncached_images=len(batch.uncached_images),
    )


UNDERSTANDING_TEXT, UNDERSTANDING_LOSS = 150, 110
GENERATION_TEXT = 60
TEXT = 800
"""Assumed tokens per sample beside its image, whose begin and end are two more; the papers give no lengths."""


def expected_samples(model: ModelConfig, row_tokens: int, cached_codes: bool) -> dict[Kind, Workload]:
    """The assumed mean sample of each kind; a text longer than a row is cut to a row."""
    P = model.tokens_per_image

    def sample(n: int, **counts: float) -> Workload:
        return Workload(tokens=n, causal_pairs=n * (n + 1) / 2, **counts)

    text = min(TEXT, row_tokens)
    return {
        "understanding": sample(P + 2 + UNDERSTANDING_TEXT, text_targets=UNDERSTANDING_LOSS, understanding_images=1.0),
        "text": sample(text, text_targets=text),
        "generation": sample(
            P + 2 + GENERATION_TEXT,
            image_targets=P,
            generation_images=1.0,
            uncached_images=0.0 if cached_codes else 1.0,
        ),
    }


def expected_row(config: Config, cached_codes: bool) -> Workload:
    """The mean workload of a row of the configured mixture, by assumed lengths.

    The row is full, or with ``batch.unit=samples`` contains one sample.
    """
    samples = expected_samples(config.model, config.batch.row_tokens, cached_codes)
    ratio: dict[Kind, float] = {kind: float(getattr(config.ratio, kind)) for kind in samples}
    if config.ratio.unit == "tokens":
        ratio = {kind: share / samples[kind].tokens for kind, share in ratio.items()}
    mean_sample = sum((samples[kind] * share for kind, share in ratio.items()), Workload())
    num_samples = (
        config.batch.row_tokens / mean_sample.tokens if config.batch.unit == "rows" else 1 / sum(ratio.values())
    )
    return mean_sample * num_samples
