"""The few shapes of micro-batches that compiled layers are made for.

Compiled code serves one shape: a number of tokens, of documents, and a longest document for which the attention kernel
launches its blocks. The tokens are those of full rows. The other two are rounded up to the smallest of a few steps:
generous ones launch blocks without work, exact ones would compile again for every packing.
"""

from __future__ import annotations

DOCUMENTS_PER_ROW = 12
"""Room for documents, per row; doubled until they fit. A row of the paper's mixtures has 5 to 9."""
SHORTEST = 1024
"""The smallest rounded length of the longest document; doubled until it fits, and never more than a row."""


def round_length(longest: int, row_tokens: int) -> int:
    """The rounded length of the longest document, which has at most a row's tokens."""
    assert longest <= row_tokens
    return min(_double(SHORTEST, longest), row_tokens)


def room_for(num_documents: int, num_rows: int) -> int:
    """The number of documents for which a micro-batch of ``num_rows`` rows has boundaries."""
    return _double(DOCUMENTS_PER_ROW * num_rows, num_documents)


def filler_lengths(num_tokens: int, longest: int) -> list[int]:
    """Lengths of documents, none longer than ``longest``, that sum to ``num_tokens``."""
    return [longest] * (num_tokens // longest) + [num_tokens % longest] * bool(num_tokens % longest)


def max_shapes(row_tokens: int) -> int:
    """The largest number of shapes that any rows of ``row_tokens`` can have, even of documents of one token."""
    lengths = {round_length(longest, row_tokens) for longest in range(1, row_tokens + 1)}
    rooms = {room_for(documents, 1) for documents in range(1, row_tokens + 1)}
    return len(lengths) * len(rooms)


def _double(number: int, least: int) -> int:
    """``number``, doubled until it is at least ``least``."""
    while number < least:
        number *= 2
    return number
