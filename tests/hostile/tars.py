"""Tars that lie: about their length, their names, what their members are, and how much there is of them."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

from tests.helpers import encoded, plain_image

BLOCK = 512
IMAGE = encoded(plain_image((10, 90, 200), (16, 12)))
Members = list[tuple[str | tarfile.TarInfo, bytes]]


def tar_of(members: Members, tar_format: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar with these members; a name may come as a whole header."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as tar:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            if info.isreg():
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def good_members(number: int = 4) -> Members:
    return [
        pair
        for n in range(number)
        for pair in ((f"s{n}.json", b'{"caption": "a red apple", "text": "a red apple"}'), (f"s{n}.png", IMAGE))
    ]


def good() -> bytes:
    return tar_of(good_members())


def with_size_field(data: bytes, at: int, field: bytes) -> bytes:
    """The header at byte ``at`` with another size field (12 bytes), its checksum set right."""
    header = bytearray(data[at : at + BLOCK])
    header[124:136] = field.ljust(12, b"\0")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return data[:at] + bytes(header) + data[at + BLOCK :]


def base256(value: int) -> bytes:
    """A number as GNU's tar writes those that octal digits do not hold."""
    return b"\x80" + value.to_bytes(11, "big")


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def sparse_bomb() -> bytes:
    """A member in GNU's old sparse format that claims 8 TiB of holes."""
    data = tar_of([("s9.json", b'{"caption": "x"}'), ("s9.png", b"x" * 16), *good_members()])
    at = 2 * BLOCK
    header = bytearray(data[at : at + BLOCK])
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[386:410] = b"00000000000\0" + b"00000000020\0"  # one piece, 16 bytes at 0
    header[483:495] = base256(8 << 40)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return data[:at] + bytes(header) + data[at + BLOCK :]


def pax(records: dict[str, str], name: str = "s9.png") -> bytes:
    """A member with these pax records before it, among good ones."""
    info = tarfile.TarInfo(name)
    info.pax_headers = records
    return tar_of([*good_members(), (info, IMAGE)], tarfile.PAX_FORMAT)


def pax_length_bomb() -> bytes:
    """A pax header whose record claims to be 2^40 bytes long."""
    data = pax({"comment": "x" * 100})
    return data.replace(b"112 comment=", b"1099511627776 comment="[:12], 1)


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "not a readable tar|no sample|none of its"),
    "zeros": (lambda: bytes(10 * BLOCK), "none of its 0 samples|not a readable tar"),
    "cut in a member": (lambda: good()[: 3 * BLOCK + 40], "cannot be indexed"),
    "cut in a header": (lambda: good()[: 4 * BLOCK + 100], "cannot be indexed"),
    "no end mark": (lambda: good().rstrip(b"\0")[:-BLOCK], "cannot be indexed"),
    "a header of noise": (
        lambda: good()[: 4 * BLOCK] + b"\xff" * BLOCK + good()[5 * BLOCK :],
        "cannot be indexed",
    ),
    "gzip": (lambda: gzip.compress(good()), "not a readable tar without compression"),
    "a gzip bomb": (lambda: gzip.compress(bytes(64 << 20)), "not a readable tar without compression"),
    "not a tar": (lambda: b"these are words\n" * 100, "cannot be indexed"),
    "2^62 bytes": (lambda: with_size_field(good(), 0, base256(2**62)), "cannot be indexed"),
    "2^80 bytes": (lambda: with_size_field(good(), 0, base256(2**80)), "cannot be indexed"),
    "less than no bytes": (lambda: with_size_field(good(), 0, b"\xff" + b"\xff" * 11), "cannot be indexed"),
    "a size of letters": (lambda: with_size_field(good(), 0, b"lots"), "cannot be indexed"),
    "a size that hides the rest": (
        lambda: with_size_field(good(), 0, base256(len(good()) - BLOCK)),
        "cannot be indexed",
    ),
    "a member twice": (lambda: tar_of([*good_members(), *good_members(1)]), "keys must be unique"),
    "two images of one key": (
        lambda: tar_of([*good_members(), ("s0.jpg", IMAGE)]),
        "keys must be unique",
    ),
    "links only": (
        lambda: tar_of(
            [
                (special("s0.json", tarfile.SYMTYPE, "/etc/passwd"), b""),
                (special("s0.png", tarfile.LNKTYPE, "s0.json"), b""),
            ]
        ),
        "none of its 0 samples",
    ),
    "devices only": (
        lambda: tar_of([(special("s0.json", tarfile.CHRTYPE), b""), (special("s0.png", tarfile.FIFOTYPE), b"")]),
        "none of its 0 samples",
    ),
    "pax size of letters": (lambda: pax({"size": "many"}), "cannot be indexed"),
    "pax size below zero": (lambda: pax({"size": "-512"}), "cannot be indexed"),
    "pax size of 2^62": (lambda: pax({"size": str(2**62)}), "cannot be indexed"),
    "pax sparse of 2^60": (
        lambda: pax({"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(2**60)}),
        "cannot be indexed",
    ),
    "pax without end": (
        lambda: with_size_field(pax({"comment": "x"}), 8 * 2 * BLOCK, base256(2**50)),
        "cannot be indexed",
    ),
}
"""Name -> (the tar, what is said of it)."""

HARMLESS: dict[str, Callable[[], bytes]] = {
    "links beside": lambda: tar_of([*good_members(), (special("s8.png", tarfile.SYMTYPE, "/etc/passwd"), b"")]),
    "names that leave": lambda: tar_of(
        [*good_members(), ("../../outside/evil.json", b'{"caption": "x"}'), ("../../outside/evil.png", IMAGE)]
    ),
    "absolute names": lambda: tar_of([*good_members(), ("/evil.json", b'{"caption": "x"}'), ("/evil.png", IMAGE)]),
    "a very long name": lambda: tar_of(
        [*good_members(), ("x" * 100_000 + ".json", b'{"caption": "x"}'), ("x" * 100_000 + ".png", IMAGE)]
    ),
    "a deep name": lambda: tar_of([*good_members(), ("d/" * 20_000 + "x.json", b'{"caption": "x"}')]),
    "names with control characters": lambda: tar_of(
        [*good_members(), ("a\x1b[31m\nb.json", b'{"caption": "x"}'), ("a\x1b[31m\nb.png", IMAGE)]
    ),
    "names that are no UTF-8": lambda: tar_of([*good_members(), ("\udcff\udcfe.json", b'{"caption": "x"}')]),
    "an endless list of pax records": lambda: pax({f"x{n}": "y" * 20 for n in range(5_000)}),
    "a pax record of 2^40 bytes": pax_length_bomb,
    "pickles beside": lambda: tar_of([*good_members(), ("s0.pyd", b"cos\nsystem\n(S'touch code_ran'\ntR.")]),
    "a sparse member": sparse_bomb,
}
"""Tars of which the good part is taken; what else is in them is left alone."""


def damaged_index(path: Path) -> dict[str, bytes]:
    """Ways to damage the index of a tar."""
    data = path.read_bytes()
    return {
        "empty": b"",
        "cut": data[:100],
        "noise": bytes(range(256)) * 4,
        "header of 2^62": struct.pack("<Q", 2**62) + data[8:],
        "deep header": struct.pack("<Q", 200_000) + b"[" * 200_000,
        "no metadata": struct.pack("<Q", 2) + b"{}",
    }
