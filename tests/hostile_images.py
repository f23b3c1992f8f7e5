"""Files that pretend to be images: each must be refused in one line, at once, by every way in."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from tests.helpers import encoded

HOSTILE = ("postscript", "bomb", "cut", "pipe", "words")


def bomb(width: int = 13_000, height: int = 13_000) -> bytes:
    """A PNG of some 70 bytes; its header promises 169 megapixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def postscript(marker: Path) -> bytes:
    """A program that makes the file ``marker``, if something runs it."""
    return f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n({marker}) (w) file closefile\n".encode()


def hostile_bytes(kind: str, marker: Path) -> bytes:
    """All kinds but the pipe, which has no bytes."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = {
        "postscript": postscript(marker),
        "bomb": bomb(),
        "cut": encoded(Image.fromarray(noise))[:-3000],
        "words": b"these are words\n",
    }
    return data[kind]


def hostile_file(kind: str, folder: Path) -> Path:
    """``holiday.png`` of the given kind."""
    path = folder / "holiday.png"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(hostile_bytes(kind, folder / "marker"))
    return path


@contextmanager
def nothing_runs(folder: Path) -> Iterator[None]:
    """Fails if Pillow's PostScript reader is reached, with or without Ghostscript installed, or has run the program."""
    reached: list[str] = []

    def recorded(self: EpsImagePlugin.EpsImageFile) -> None:
        reached.append("the PostScript reader")
        raise SyntaxError("recorded")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EpsImagePlugin.EpsImageFile, "_open", recorded)
        yield
    assert not reached
    assert not (folder / "marker").exists()
