"""Makes synthetic samples for benchmarks, with shapes like those of the paper's mixtures and random contents.

Lengths are those of benchmarks/packing.py (an image is P + 2 tokens; understanding adds text of mean 150, generation of
mean 60, pure text has mean 800, log-normal), for rows of 4096; for smaller rows they shrink with the row.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from janus_train.config import Config
from janus_train.data.types import (
    IGNORE,
    IMAGE_CODE,
    IMAGE_FEATURE,
    KINDS,
    TEXT,
    Document,
    Kind,
    Reference,
    Row,
)

PAPER_ROW = 4096
MEANS: dict[Kind, float] = {"understanding": 150, "text": 800, "generation": 60}
SIGMA: dict[Kind, float] = {"understanding": 0.6, "text": 0.8, "generation": 0.6}


def documents(config: Config, count: int, seed: int) -> list[Document]:
    """Makes ``count`` samples in the stage's ratio, spread evenly; codes are not cached."""
    rng = random.Random(seed)
    shares = {kind: getattr(config.ratio, kind) for kind in KINDS}
    counts: dict[Kind, int] = dict.fromkeys(KINDS, 0)
    samples = []
    for number in range(count):
        kind = max(shares, key=lambda k: shares[k] * (number + 1) / sum(shares.values()) - counts[k])
        counts[kind] += 1
        samples.append(_document(config, kind, rng, number))
    return samples


def _document(config: Config, kind: Kind, rng: random.Random, number: int) -> Document:
    model, T = config.model, config.batch.row_tokens
    P, S = model.tokens_per_image, model.image_size
    numbers = np.random.default_rng(rng.getrandbits(32))
    mean, sigma = MEANS[kind] * T / PAPER_ROW, SIGMA[kind]
    max_words = T if kind == "text" else T - P - 2
    words = max(3, min(max_words, int(rng.lognormvariate(math.log(mean) - sigma * sigma / 2, sigma))))
    image_tokens = 0 if kind == "text" else P + 2
    n = words + image_tokens
    ids = numbers.integers(0, model.text.vocab_size, n)
    labels, modality, image = np.full(n, IGNORE), np.full(n, TEXT, np.uint8), np.zeros(n, bool)
    pixels = numbers.integers(0, 256, (S, S, 3), dtype=np.uint8)
    if kind == "understanding":  # an image, then text; three quarters of it with loss
        modality[1 : P + 1] = IMAGE_FEATURE
        num_learnt = max(1, 3 * words // 4)
        labels[n - 1 - num_learnt : n - 1] = ids[n - num_learnt :]
    elif kind == "generation":  # text, the image's begin, its codes, its end
        modality[words + 1 : words + 1 + P] = IMAGE_CODE
        image[words : words + P] = True
    else:
        labels[:-1] = ids[1:]
    is_generation = kind == "generation"
    return Document(
        reference=Reference("synthetic", 0, number, str(number)),
        kind=kind,
        input_ids=ids,
        labels=labels,
        modality=modality,
        image_targets=image,
        understanding_pixels=[pixels] if kind == "understanding" else [],
        generation_pixels=[pixels] if is_generation else [],
        codes=[None] if is_generation else [],
        codes_have_loss=[True] if is_generation else [],
    )


def with_codes(samples: Sequence[Document], codes: np.ndarray) -> list[Document]:
    """Returns the same samples with ``codes`` (Ng, P) cached in place of their generation images."""
    codes_left = iter(codes)
    return [
        replace(sample, generation_pixels=[None], codes=[next(codes_left)]) if sample.codes else sample
        for sample in samples
    ]


def pack_rows(samples: Sequence[Document], row_tokens: int) -> list[Row]:
    """Packs samples into rows, the longest first, each into the fullest row with enough room."""
    rows: list[Row] = []
    for sample in sorted(samples, key=len, reverse=True):
        room = [row for row in rows if row.num_tokens + len(sample) <= row_tokens]
        if not room:
            room = [Row(len(rows), [], {})]
            rows += room
        max(room, key=lambda row: row.num_tokens).documents.append(sample)
    return rows


def full_rows(config: Config, num_rows: int) -> tuple[list[Document], int]:
    """As many samples as ``num_rows`` rows take, so that rows are as full as a run's, and the number of rows they need."""
    samples: list[Document] = []
    for count in range(2 * num_rows, 12 * num_rows):
        more = documents(config, count, seed=0)
        if len(pack_rows(more, config.batch.row_tokens)) > num_rows:
            break
        samples = more
    return samples, len(pack_rows(samples, config.batch.row_tokens))
