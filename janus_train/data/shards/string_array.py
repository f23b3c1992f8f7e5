"""A list of texts as two arrays: millions of names take their bytes and eight more each, not a Python object each."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


class StringArray:
    """``texts[i]``: text number i. ``data``: uint8, all texts one after the other; ``starts``: uint64, one more than texts."""

    def __init__(self, data: np.ndarray, starts: np.ndarray):
        self.data, self.starts = data, starts

    @classmethod
    def of(cls, texts: Iterable[str]) -> StringArray:
        encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
        return cls.joined(b"".join(encoded), list(map(len, encoded)))

    @classmethod
    def joined(cls, data: bytes | bytearray, lengths: list[int] | np.ndarray) -> StringArray:
        starts = np.zeros(len(lengths) + 1, np.uint64)
        np.cumsum(lengths, out=starts[1:])
        return cls(np.frombuffer(bytes(data), np.uint8), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, number: int) -> str:
        """Bytes that are no UTF-8 (names of files may hold such) come back as `os.fsdecode` gives them."""
        piece = self.data[int(self.starts[number]) : int(self.starts[number + 1])]
        return piece.tobytes().decode("utf-8", "surrogateescape")
