"""A list of strings as two arrays: millions of names take their bytes plus eight per name, instead of Python objects."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


class StringArray:
    """N strings, read by index. ``data``: uint8, all strings one after the other; ``starts``: uint64 (N + 1,)."""

    def __init__(self, data: np.ndarray, starts: np.ndarray):
        self.data, self.starts = data, starts

    @classmethod
    def of(cls, texts: Iterable[str]) -> StringArray:
        pieces = [text.encode("utf-8", "surrogateescape") for text in texts]
        return cls.from_lengths(b"".join(pieces), list(map(len, pieces)))

    @classmethod
    def from_lengths(cls, data: bytes | bytearray, lengths: list[int] | np.ndarray) -> StringArray:
        starts = np.zeros(len(lengths) + 1, np.uint64)
        np.cumsum(lengths, out=starts[1:])
        return cls(np.frombuffer(bytes(data), np.uint8), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, number: int) -> str:
        """Bytes that are not UTF-8 (file names may contain such) come back as in `os.fsdecode`."""
        piece = self.data[int(self.starts[number]) : int(self.starts[number + 1])]
        return piece.tobytes().decode("utf-8", "surrogateescape")
