"""The order in which a source's samples are read: a new shuffle every epoch, computed position by position.

In: seed, source, epoch, position. Out: the index of a sample. The shards are shuffled, then the samples inside windows of
a few neighbouring shards, so that reading stays local. Memory holds only the shards' sizes, never a list as long as the
source: the shuffles are small Feistel ciphers, keyed bijections of ``range(n)`` that are computed one position at a time.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from functools import lru_cache

_MASK = (1 << 64) - 1


def stable_hash(*parts: object) -> int:
    """A 64-bit hash of ``parts`` that is the same in every process and on every machine."""
    return int.from_bytes(hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()[:8], "big")


def _mix(value: int) -> int:
    """SplitMix64's finaliser (Steele, Lea, Flood 2014)."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
    return value ^ (value >> 31)


def permute(position: int, n: int, key: int) -> int:
    """Where the permutation of ``range(n)`` with this ``key`` maps ``position``."""
    assert 0 <= position < n
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:  # cycle walking: the cipher permutes a power of four, at most four times n; step on until inside
        left, right = position >> half, position & mask
        for number in range(4):
            left, right = right, left ^ (_mix(key + number * 0x9E3779B97F4A7C15 + right & _MASK) & mask)
        position = left << half | right
        if position < n:
            return position


class Order:
    """The shuffles of a source: ``order.index(epoch, position)`` is the sample at ``position`` in the epoch."""

    def __init__(self, seed: int, source: str, shard_sizes: list[int], window: int = 4):
        self.sizes = shard_sizes
        self.starts = [0]
        for size in shard_sizes:
            self.starts.append(self.starts[-1] + size)
        self.length = self.starts[-1]
        self._seed, self._source, self._window = seed, source, window
        self._windows = lru_cache(maxsize=2)(self._make_windows)  # neighbouring epochs meet at an epoch's end

    def _make_windows(self, epoch: int) -> tuple[list[int], list[list[int]], int]:
        """Start position of each window, the shards in each, and the key of the epoch's shuffles."""
        key = stable_hash("order", self._seed, self._source, epoch)
        shards = [permute(i, len(self.sizes), key) for i in range(len(self.sizes))]
        groups = [shards[i : i + self._window] for i in range(0, len(shards), self._window)]
        starts = [0]
        for group in groups:
            starts.append(starts[-1] + sum(self.sizes[s] for s in group))
        return starts, groups, key

    def index(self, epoch: int, position: int) -> int:
        starts, groups, key = self._windows(epoch)
        number = bisect_right(starts, position) - 1
        offset = permute(position - starts[number], starts[number + 1] - starts[number], _mix(key + number + 1 & _MASK))
        for shard in groups[number]:
            if offset < self.sizes[shard]:
                return self.starts[shard] + offset
            offset -= self.sizes[shard]
        raise AssertionError("unreachable: a window has as many samples as its shards")
