"""Rows to a micro-batch: one flat sequence of tokens, with no padding anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from janus_train.data.images import to_float
from janus_train.data.types import IGNORE, IMAGE_CODE, IMAGE_FEATURE, Document, Row

BOUNDARIES_PER_ROW = 64
"""Documents for which a batch of fixed shape has room, a row; where more come, there is room for twice as many, and so on."""


@dataclass
class Batch:
    """A micro-batch as one flat sequence of L tokens; documents are told apart by ``cu_seqlens``, and may be empty at the end.

    Positions are indices into the flat sequence. ``image_loss_positions`` is in the order of the codes of the
    images that ``image_loss_pictures`` selects, so targets are ``codes[image_loss_pictures].flatten()``.
    """

    input_ids: torch.Tensor  # (1, L) int64
    position_ids: torch.Tensor  # (1, L) int64, starts at 0 in every document
    cu_seqlens: torch.Tensor  # (documents + 1,) int32
    max_seqlen: int
    text_positions: torch.Tensor  # (Nt,) int64
    text_targets: torch.Tensor  # (Nt,) int64
    text_target_is_understanding: torch.Tensor  # (Nt,) bool: which part of the metrics a text target counts for
    num_understanding_targets: int  # how many of them: known here, so that nobody has to ask the device
    understanding_pixels: torch.Tensor  # (Nu, 3, S, S) float32 in -1..1
    feature_positions: torch.Tensor  # (Nu * P,) int64
    generation_pixels: torch.Tensor  # (Nv, 3, S, S) float32 in -1..1
    uncached_images: torch.Tensor  # (Nv,) int64, indices into Ng: those that `generation_pixels` shows
    cached_codes: torch.Tensor  # (Ng, P) int64, -1 where the encoder has to make them
    code_positions: torch.Tensor  # (Ng * P,) int64
    image_loss_positions: torch.Tensor  # (No * P,) int64
    image_loss_images: torch.Tensor  # (No,) int64, indices into Ng

    @property
    def num_loss_tokens(self) -> int:
        """Text and image targets: this micro-batch's share of the step's one denominator."""
        return self.text_positions.numel() + self.image_loss_positions.numel()

    def to(self, device: torch.device | str) -> Batch:
        """On ``device``. To a GPU by way of pinned memory, so that the copy goes on beside what the GPU computes."""
        pin = torch.device(device).type == "cuda"

        def moved(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            return (value.pin_memory() if pin and value.device.type == "cpu" else value).to(device, non_blocking=True)

        return Batch(**{name: moved(value) for name, value in vars(self).items()})


def collate(
    rows: Sequence[Row],
    tokens_per_image: int,
    image_size: int,
    generation_image_size: int | None = None,
    fixed_tokens: int | None = None,
) -> Batch:
    """The rows' documents one after the other; see `Batch` for shapes. P and S are needed where there is no image.

    ``generation_image_size``: S of images to draw, if it is another. ``fixed_tokens``: T, the tokens that a row can hold; then
    the sequence's shape is that of full rows, whatever they hold: behind the documents stand some of token 0, without loss.
    """
    documents: list[Document] = [document for row in rows for document in row.documents]
    P, S, S_generation = tokens_per_image, image_size, generation_image_size or image_size
    lengths = [len(document) for document in documents]
    labels = np.concatenate([document.labels for document in documents])
    modality = np.concatenate([document.modality for document in documents])
    has_text_loss = labels != IGNORE
    understanding = np.repeat([document.kind == "understanding" for document in documents], lengths)
    pixels_in = [pixels for document in documents for pixels in document.understanding_pixels]
    drawn = [pixels for document in documents for pixels in document.generation_pixels]
    cached = [codes for document in documents for codes in document.codes]
    with_loss = [flag for document in documents for flag in document.codes_have_loss]
    uncached = [number for number, codes in enumerate(cached) if codes is None]
    pixels_out = [pixels for pixels, codes in zip(drawn, cached, strict=True) if codes is None]
    longest, ids, empty = max(lengths), [document.input_ids for document in documents], 0
    if fixed_tokens is not None:
        assert longest <= fixed_tokens
        filler = _filler(len(rows) * fixed_tokens - sum(lengths), fixed_tokens)
        ids.append(np.zeros(sum(filler), np.int64))
        lengths, longest = lengths + filler, fixed_tokens
        empty = _room(len(lengths), len(rows) * BOUNDARIES_PER_ROW) - len(lengths)
    return Batch(
        input_ids=torch.from_numpy(np.concatenate(ids))[None],  # (1, L)
        position_ids=torch.from_numpy(np.concatenate([np.arange(length) for length in lengths]))[None],  # (1, L)
        cu_seqlens=torch.from_numpy(np.concatenate([[0], np.cumsum(lengths + [0] * empty)]).astype(np.int32)),
        max_seqlen=longest,
        text_positions=torch.from_numpy(np.flatnonzero(has_text_loss)),
        text_targets=torch.from_numpy(labels[has_text_loss]),
        text_target_is_understanding=torch.from_numpy(understanding[has_text_loss]),
        num_understanding_targets=int(np.count_nonzero(understanding & has_text_loss)),
        understanding_pixels=torch.stack([torch.from_numpy(to_float(p)) for p in pixels_in])
        if pixels_in
        else torch.zeros(0, 3, S, S),
        feature_positions=torch.from_numpy(np.flatnonzero(modality == IMAGE_FEATURE)),
        generation_pixels=torch.stack([torch.from_numpy(to_float(p)) for p in pixels_out])  # type: ignore[arg-type]
        if pixels_out
        else torch.zeros(0, 3, S_generation, S_generation),
        uncached_images=torch.tensor(uncached, dtype=torch.int64),
        cached_codes=torch.from_numpy(
            np.stack([np.full(P, -1, np.int64) if c is None else np.asarray(c, np.int64) for c in cached])  # (Ng, P)
            if cached
            else np.zeros((0, P), np.int64)
        ),
        code_positions=torch.from_numpy(np.flatnonzero(modality == IMAGE_CODE)),
        image_loss_positions=torch.from_numpy(
            np.flatnonzero(np.concatenate([document.image_targets for document in documents]))
        ),
        image_loss_images=torch.from_numpy(np.flatnonzero(np.asarray(with_loss, bool)).astype(np.int64)),
    )


def _filler(tokens: int, longest: int) -> list[int]:
    """Lengths of documents, none longer than ``longest``, that come to ``tokens``."""
    return [longest] * (tokens // longest) + [tokens % longest] * bool(tokens % longest)


def _room(documents: int, usual: int) -> int:
    """``usual``, doubled until as many documents fit."""
    while usual < documents:
        usual *= 2
    return usual
