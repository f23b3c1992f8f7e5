"""The shapes of micro-batches: large enough for anything, few, and at most twice what the documents need."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from janus_train.data.fixed_shapes import (
    DOCUMENTS_PER_ROW,
    SHORTEST,
    filler_lengths,
    max_shapes,
    room_for,
    round_length,
)


def test_the_papers_rows_have_three_lengths_and_few_rooms() -> None:
    assert {round_length(longest, 4096) for longest in range(1, 4097)} == {1024, 2048, 4096}
    assert {room_for(documents, 4) for documents in range(1, 97)} == {48, 96}
    assert max_shapes(4096) == 3 * 10


@given(st.integers(1, 20000), st.data())
def test_nothing_is_cut_and_at_most_half_is_empty(row_tokens: int, data: st.DataObject) -> None:
    longest, documents = data.draw(st.integers(1, row_tokens)), data.draw(st.integers(1, 5000))
    rows = data.draw(st.integers(1, 8))
    assert longest <= round_length(longest, row_tokens) <= min(row_tokens, max(SHORTEST, 2 * longest - 1))
    assert documents <= room_for(documents, rows) <= max(DOCUMENTS_PER_ROW * rows, 2 * documents - 1)


@given(st.integers(0, 50), st.integers(1, 3))
def test_any_rows_have_one_of_the_shapes_that_were_announced(row_tokens: int, rows: int) -> None:
    """By trying all numbers of documents and all longest lengths."""
    row_tokens += SHORTEST
    shapes = {
        (round_length(longest, row_tokens), room_for(documents, rows))
        for longest in range(1, row_tokens + 1, 7)
        for documents in range(1, rows * row_tokens + 1, 5)
    }
    assert len(shapes) <= max_shapes(row_tokens)


@given(st.integers(0, 10000), st.integers(1, 3000))
def test_filler_adds_up_and_none_is_too_long(num_tokens: int, longest: int) -> None:
    lengths = filler_lengths(num_tokens, longest)
    assert sum(lengths) == num_tokens and all(0 < length <= longest for length in lengths)
