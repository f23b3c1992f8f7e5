"""Rows to a micro-batch: one flat sequence of tokens, with no padding anywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from janus_train.data.fixed_shapes import filler_lengths, room_for, round_length
from janus_train.data.images import to_float
from janus_train.data.types import IGNORE, IMAGE_CODE, IMAGE_FEATURE, Document, Row


@dataclass
class Batch:
    """A micro-batch as one flat sequence of L tokens; ``cu_seqlens`` separates the documents, of which the last may be empty.

    Positions are indices into the flat sequence. ``image_loss_positions`` is in the order of the codes of the
    images that ``image_loss_images`` selects, so targets are ``codes[image_loss_images].flatten()``.
    """

    input_ids: torch.Tensor  # (1, L) int64
    position_ids: torch.Tensor  # (1, L) int64, starts at 0 in every document
    cu_seqlens: torch.Tensor  # (documents + 1,) int32
    max_seqlen: int  # no document is longer
    text_positions: torch.Tensor  # (Nt,) int64
    text_targets: torch.Tensor  # (Nt,) int64
    text_target_is_understanding: torch.Tensor  # (Nt,) bool: the metrics count these text targets apart
    num_understanding_targets: int  # their number, computed here because reading it from the device would block
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
        """Number of text and image targets: this micro-batch's part of the step's one denominator."""
        return self.text_positions.numel() + self.image_loss_positions.numel()

    def pin(self) -> Batch:
        """Copy to pinned memory, from which copies to a GPU overlap with computation."""
        return self._map(lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device | str) -> Batch:
        """Copy to ``device``; for a GPU through pinned memory."""
        must_pin = self.input_ids.device.type == "cpu" and torch.device(device).type == "cuda"
        batch = self.pin() if must_pin else self  # what is pinned already stays as it is
        return batch._map(lambda tensor: tensor.to(device, non_blocking=True))

    def _map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        def apply(value: Any) -> Any:
            return function(value) if isinstance(value, torch.Tensor) else value

        return Batch(**{name: apply(value) for name, value in vars(self).items()})


def collate(
    rows: Sequence[Row],
    tokens_per_image: int,
    image_size: int,
    generation_image_size: int | None = None,
    fixed_tokens: int | None = None,
) -> Batch:
    """Put the rows' documents one after the other; see `Batch` for shapes. P and S shape the arrays if there is no image.

    ``generation_image_size``: S of images to generate, if it differs. ``fixed_tokens``: T. If given, the batch has one of
    the shapes of `fixed_shapes`: documents of token 0, without loss, fill up its last row at the end.
    """
    documents: list[Document] = [document for row in rows for document in row.documents]
    P, S, S_generation = tokens_per_image, image_size, generation_image_size or image_size
    lengths = [len(document) for document in documents]
    labels = np.concatenate([document.labels for document in documents])
    modality = np.concatenate([document.modality for document in documents])
    has_text_loss = labels != IGNORE
    is_understanding = np.repeat([document.kind == "understanding" for document in documents], lengths)
    understanding_images = [pixels for document in documents for pixels in document.understanding_pixels]
    generation_images = [pixels for document in documents for pixels in document.generation_pixels]
    image_codes = [codes for document in documents for codes in document.codes]
    codes_have_loss = [flag for document in documents for flag in document.codes_have_loss]
    uncached_numbers = [number for number, codes in enumerate(image_codes) if codes is None]
    uncached_pixels = [pixels for pixels, codes in zip(generation_images, image_codes, strict=True) if codes is None]
    max_length, id_arrays, num_empty = max(lengths), [document.input_ids for document in documents], 0
    if fixed_tokens is not None:
        max_length = round_length(max_length, fixed_tokens)
        filler = filler_lengths(len(rows) * fixed_tokens - sum(lengths), max_length)
        id_arrays.append(np.zeros(sum(filler), np.int64))
        lengths = lengths + filler
        num_empty = room_for(len(lengths), len(rows)) - len(lengths)
    return Batch(
        input_ids=torch.from_numpy(np.concatenate(id_arrays))[None],  # (1, L)
        position_ids=torch.from_numpy(np.concatenate([np.arange(length) for length in lengths]))[None],  # (1, L)
        cu_seqlens=torch.from_numpy(np.concatenate([[0], np.cumsum(lengths + [0] * num_empty)]).astype(np.int32)),
        max_seqlen=max_length,
        text_positions=torch.from_numpy(np.flatnonzero(has_text_loss)),
        text_targets=torch.from_numpy(labels[has_text_loss]),
        text_target_is_understanding=torch.from_numpy(is_understanding[has_text_loss]),
        num_understanding_targets=int(np.count_nonzero(is_understanding & has_text_loss)),
        understanding_pixels=torch.stack([torch.from_numpy(to_float(pixels)) for pixels in understanding_images])
        if understanding_images
        else torch.zeros(0, 3, S, S),
        feature_positions=torch.from_numpy(np.flatnonzero(modality == IMAGE_FEATURE)),
        generation_pixels=torch.stack([torch.from_numpy(to_float(pixels)) for pixels in uncached_pixels])  # type: ignore[arg-type]
        if uncached_pixels
        else torch.zeros(0, 3, S_generation, S_generation),
        uncached_images=torch.tensor(uncached_numbers, dtype=torch.int64),
        cached_codes=torch.from_numpy(
            np.stack(
                [np.full(P, -1, np.int64) if codes is None else np.asarray(codes, np.int64) for codes in image_codes]
            )  # (Ng, P)
            if image_codes
            else np.zeros((0, P), np.int64)
        ),
        code_positions=torch.from_numpy(np.flatnonzero(modality == IMAGE_CODE)),
        image_loss_positions=torch.from_numpy(
            np.flatnonzero(np.concatenate([document.image_targets for document in documents]))
        ),
        image_loss_images=torch.from_numpy(np.flatnonzero(np.asarray(codes_have_loss, bool)).astype(np.int64)),
    )
