"""Batches of fixed shape: the documents' own batch, with something behind it that nothing learns from."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from janus_train.data.batch import collate
from janus_train.data.fixed_shapes import DOCUMENTS_PER_ROW
from janus_train.data.types import IGNORE, TEXT, Document, Reference, Row

T = 300
lengths = st.lists(st.lists(st.integers(1, 90), min_size=1, max_size=3), min_size=2, max_size=2)


def text(n: int) -> Document:
    """n tokens, all with a loss but the last."""
    ids = np.arange(1, n + 1)
    return Document(
        reference=Reference("s", 0, n, str(n)),
        kind="text",
        input_ids=ids,
        labels=np.append(ids[1:], IGNORE),
        modality=np.full(n, TEXT, np.uint8),
        image_targets=np.zeros(n, bool),
        understanding_pixels=[],
        generation_pixels=[],
        codes=[],
        codes_have_loss=[],
    )


def rows_of(numbers: list[list[int]]) -> list[Row]:
    return [Row(v, [text(n) for n in row], {}) for v, row in enumerate(numbers)]


@settings(deadline=None)
@given(lengths)
def test_a_batch_of_fixed_shape_is_the_batch_and_some_filler(numbers: list[list[int]]) -> None:
    rows = rows_of(numbers)
    plain_batch, fixed_batch = collate(rows, 4, 32), collate(rows, 4, 32, fixed_tokens=T)
    n, documents = plain_batch.input_ids.shape[1], len(plain_batch.cu_seqlens)
    assert fixed_batch.input_ids.shape == fixed_batch.position_ids.shape == (1, 2 * T) and fixed_batch.max_seqlen == T
    assert len(fixed_batch.cu_seqlens) == 2 * DOCUMENTS_PER_ROW + 1 and fixed_batch.cu_seqlens[-1] == 2 * T
    assert torch.equal(fixed_batch.cu_seqlens[:documents], plain_batch.cu_seqlens)
    sizes = fixed_batch.cu_seqlens.diff()
    assert (sizes >= 0).all() and sizes.max() <= T
    for name in ("input_ids", "position_ids"):
        assert torch.equal(getattr(fixed_batch, name)[:, :n], getattr(plain_batch, name))
    starts = fixed_batch.cu_seqlens[:-1][sizes > 0]
    assert (fixed_batch.position_ids[0, starts] == 0).all() and fixed_batch.position_ids.max() < T
    for name, value in vars(plain_batch).items():
        if name not in ("input_ids", "position_ids", "cu_seqlens", "max_seqlen"):
            other = getattr(fixed_batch, name)
            assert torch.equal(other, value) if isinstance(value, torch.Tensor) else other == value, name


def test_full_rows_need_no_filler() -> None:
    rows = rows_of([[T], [T - 1, 1]])
    fixed_batch = collate(rows, 4, 32, fixed_tokens=T)
    assert torch.equal(fixed_batch.input_ids, collate(rows, 4, 32).input_ids)


def test_where_more_documents_come_there_is_twice_the_room() -> None:
    fixed_batch = collate(rows_of([[1] * (DOCUMENTS_PER_ROW + 1)]), 4, 32, fixed_tokens=T)
    assert len(fixed_batch.cu_seqlens) == 2 * DOCUMENTS_PER_ROW + 1


def test_the_longest_length_is_rounded_up_and_filler_is_no_longer() -> None:
    rows = rows_of([[1100], [90]])
    fixed_batch = collate(rows, 4, 32, fixed_tokens=8192)
    assert fixed_batch.max_seqlen == 2048 and fixed_batch.cu_seqlens.diff().max() == 2048
    assert fixed_batch.input_ids.shape == (1, 2 * 8192)
    assert collate(rows, 4, 32, fixed_tokens=1500).max_seqlen == 1500, "a row has no more"
