"""Where the documents of a flat, packed sequence are, and which of them share an attention call."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch

MAX_PADDING = 0.25
"""Largest padding of a group, as a share of its real tokens: a trade-off between calls and wasted work."""


@dataclass(frozen=True)
class Group:
    """Documents of similar length, padded on the right to the longest: n documents of at most m tokens."""

    index: torch.Tensor  # (n * m,) flat positions; padding repeats its document's last token
    num_documents: int


@dataclass(frozen=True)
class Documents:
    """The boundaries of the documents in a flat sequence of L tokens. Index tensors are made once, not in every layer."""

    cu_seqlens: torch.Tensor  # (documents + 1,) int32: 0, ..., L
    max_seqlen: int  # no document is longer

    @cached_property
    def groups(self) -> tuple[list[Group], torch.Tensor]:
        """The groups, and for each of the L tokens its place (L,) in the groups' concatenated outputs."""
        bounds = self.cu_seqlens.tolist()
        spans = sorted((end - start, start) for start, end in pairwise(bounds) if end > start)
        groups, places, offset = [], torch.empty(bounds[-1], dtype=torch.int64), 0
        for members in _group_by_length(spans[::-1]):
            longest, n = members[0][0], len(members)
            lengths, starts = torch.tensor(members).T  # (n,), (n,)
            offsets = torch.arange(longest).expand(n, longest)  # (n, m)
            index = starts[:, None] + torch.minimum(offsets, lengths[:, None] - 1)  # (n, m)
            is_real = offsets < lengths[:, None]
            places[index[is_real]] = offset + is_real.flatten().nonzero().flatten()
            groups.append(Group(index.flatten().to(self.cu_seqlens.device), n))
            offset += n * longest
        return groups, places.to(self.cu_seqlens.device)


def _group_by_length(spans: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """(length, start) pairs, longest first, cut into runs whose padding stays within `MAX_PADDING`."""
    runs: list[list[tuple[int, int]]] = []
    num_real = 0
    for span in spans:
        if runs and (len(runs[-1]) + 1) * runs[-1][0][0] <= (1 + MAX_PADDING) * (num_real + span[0]):
            runs[-1].append(span)
            num_real += span[0]
        else:
            runs.append([span])
            num_real = span[0]
    return runs
