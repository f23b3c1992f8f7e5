"""Configurations, images and tars for tests, made on the spot."""

from __future__ import annotations

import io
import json
import os
import random
import tarfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.version import Version
from PIL import Image

from janus_train.compose import compose_config
from janus_train.config import Config, EditingDropoutConfig
from janus_train.data.encode import Encoder
from janus_train.data.shards.scan import write_index
from janus_train.data.templates import Template, get_template
from janus_train.data.types import Document, Kind, Record, Reference
from janus_train.jsonl import read_json_lines

if TYPE_CHECKING:
    from janus_train.infer.load import LoadedModel

Run = Callable[..., tuple[int, str, str]]
"""The `run` fixture: a command's words -> (exit code, standard output, standard error)."""


def in_letters(base: Path, scale: float = 1) -> LoadedModel:
    """The random model in ``base``, made to answer in letters; ``scale``: of their logits."""
    import torch

    from janus_train.infer.load import load_model

    model = load_model(base)
    letters = [i for token, i in model.encoder.tokenizer.get_vocab().items() if token.isascii() and token.isalpha()]
    with torch.no_grad():
        saved_rows = model.janus.lm_head.weight[letters].clone()
        model.janus.lm_head.weight.zero_()
        model.janus.lm_head.weight[letters] = scale * saved_rows
    return model


TRANSFORMERS_DRAWS = Version(version("transformers")) >= Version("5.18")
NO_DRAWING = "in transformers 5.17 Janus's own generate calls _prepare_static_cache without one of its arguments"

LFS_POINTER = b"""version https://git-lfs.github.com/spec/v1
oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
size 12345
"""


def config_of(*overrides: str) -> Config:
    return compose_config(list(overrides))


def plain_image(colour: tuple[int, int, int] = (200, 30, 30), size: tuple[int, int] = (80, 60)) -> Image.Image:
    return Image.new("RGB", size, colour)


def document_of(
    encoder: Encoder,
    record: Record,
    template: str | Template,
    kind: Kind,
    *,
    row_tokens: int | None = None,
    dropout: float = 0.0,
    cut: float = 0.0,
    editing: EditingDropoutConfig | None = None,
    seed: int = 0,
) -> Document:
    """The record's document, by default of any length and without the recipe's randomness."""
    return encoder.encode(
        record,
        get_template(template) if isinstance(template, str) else template,
        kind,
        Reference("source", 0, 0, record.key),
        row_tokens=row_tokens,
        rng=random.Random(seed),
        guidance_dropout=dropout,
        first_sentence=cut,
        editing_dropout=editing,
    )


def encoded(image: Image.Image, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def make_shard(path: Path, members: dict[str, bytes | dict[str, Any]], index: bool = True) -> Path:
    """A tar with the members given as bytes or as JSON, and its index."""
    with tarfile.open(path, "w") as tar:
        for name, value in members.items():
            data = value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    if index:
        write_index(path)
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, which must be there."""
    assert path.is_file(), f"there is no {path}"
    return read_json_lines(path)


def fill(disk: Path, free_blocks: int) -> None:
    """A file named ballast takes all but so many blocks of 4 KB."""
    room = os.statvfs(disk)
    with (disk / "ballast").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, (room.f_bavail - free_blocks) * room.f_bsize)
