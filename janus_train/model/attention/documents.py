"""Where the documents of a flat, packed sequence are, and which of them may share a call of attention."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch

MAX_PADDING = 0.25
"""A group may hold this much padding, as a share of its real tokens: fewer calls against wasted work."""


@dataclass(frozen=True)
class Group:
    """Some documents of similar length, padded on the right to the longest: n documents of at most m tokens."""

    index: torch.Tensor  # (n * m,) flat positions; padding repeats its document's last token
    num_documents: int


@dataclass(frozen=True)
class Documents:
    """Where the documents of a flat sequence of L tokens begin and end. Index tensors are made once, not in every layer."""

    cu_seqlens: torch.Tensor  # (documents + 1,) int32: 0, ..., L
    max_seqlen: int

    @cached_property
    def groups(self) -> tuple[list[Group], torch.Tensor]:
        """The groups, and for each of the L tokens its place (L,) in the groups' outputs, one after the other."""
        bounds = self.cu_seqlens.tolist()
        spans = sorted((end - start, start) for start, end in pairwise(bounds) if end > start)
        groups, place, offset = [], torch.empty(bounds[-1], dtype=torch.int64), 0
        for members in _similar(spans[::-1]):
            longest, n = members[0][0], len(members)
            lengths, starts = torch.tensor(members).T  # (n,), (n,)
            within = torch.arange(longest).expand(n, longest)  # (n, m)
            index = starts[:, None] + torch.minimum(within, lengths[:, None] - 1)  # (n, m)
            real = within < lengths[:, None]
            place[index[real]] = offset + real.flatten().nonzero().flatten()
            groups.append(Group(index.flatten().to(self.cu_seqlens.device), n))
            offset += n * longest
        return groups, place.to(self.cu_seqlens.device)


def _similar(spans: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """(length, start) pairs, longest first, cut into runs whose padding stays within `MAX_PADDING`."""
    runs: list[list[tuple[int, int]]] = []
    real = 0
    for span in spans:
        if runs and (len(runs[-1]) + 1) * runs[-1][0][0] <= (1 + MAX_PADDING) * (real + span[0]):
            runs[-1].append(span)
            real += span[0]
        else:
            runs.append([span])
            real = span[0]
    return runs
