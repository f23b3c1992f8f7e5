"""Raw data for tests of ``prepare``, made on the spot, and what comes out of a conversion."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from janus_train.datatools.prepare.options import PrepareOptions
from janus_train.datatools.prepare.run import prepare
from tests.helpers import read_lines


def image_bytes(seed: int, form: str = "JPEG", size: tuple[int, int] = (24, 16), **options: Any) -> bytes:
    """A small image that no other seed gives."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form, **options)
    return out.getvalue()


def write(path: Path, content: Any) -> Path:
    """Bytes and text as they are, lists of records as JSON lines, all else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(fields, ensure_ascii=False) + "\n" for fields in content), encoding="utf-8")
    else:
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def write_tar(path: Path, members: dict[str, bytes | str | dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(members))
    return path


def tar_bytes(members: dict[str, bytes | str | dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, value in members.items():
            data = json.dumps(value).encode() if isinstance(value, dict) else value
            data = data.encode() if isinstance(data, str) else data
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def make(
    format_: Any, *inputs: Path, out: Path, workers: int = 1, max_bad: float = 0.0, **options: Any
) -> dict[str, Any]:
    """Runs a conversion; returns what prepared.json says."""
    prepare_options = PrepareOptions(format_, tuple(map(str, inputs)), **options)
    return prepare(prepare_options, out, workers, max_bad, lambda totals, records: None)


def samples(out: Path) -> list[tuple[str, dict[str, Any], list[bytes]]]:
    """(key, fields, images) of every sample in a prepared folder, in order."""
    found: dict[str, tuple[dict[str, Any], list[bytes]]] = {}
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, ending = member.name.partition(".")
                data = tar.extractfile(member).read()
                fields, images = found.setdefault(key, ({}, []))
                if ending == "json":
                    fields.update(json.loads(data))
                else:
                    images.append(data)
    return [(key, fields, images) for key, (fields, images) in found.items()]


def fields(out: Path) -> list[dict[str, Any]]:
    return [fields for _, fields, _ in samples(out)]


def skipped(out: Path) -> list[dict[str, Any]]:
    return read_lines(out / "skipped.jsonl")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder: to compare two of them byte for byte."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
