"""Checks whether a sample can be trained on: reading, decoding, the template, the length.

In: a source and an index. Out: the number of images, or a `BadSample` with the reason.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from janus_train.data.images import to_rgb
from janus_train.data.lengths import LengthCheck, LongEffect
from janus_train.data.sources.registry import Source
from janus_train.data.templates import Template, template_for
from janus_train.data.types import BadSample, Kind, Record, TooLong
from janus_train.errors import UserError
from janus_train.interop.model_folder import open_model
from janus_train.interop.processor import load_tokenizer


@dataclass(frozen=True)
class Lengths:
    """Checks a sample's number of tokens as training does. ``folder``: the model's; ``row_tokens``: T."""

    folder: Path
    row_tokens: int
    tokens_per_image: int
    system_prompt: str

    @cached_property
    def check(self) -> LengthCheck:
        return LengthCheck(load_tokenizer(self.folder), self.tokens_per_image, self.system_prompt, self.row_tokens)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "check"}


def lengths_of(model: str | Path, row_tokens: int) -> Lengths:
    """The `Lengths` of a model's folder or hub id; only its small files are read. Raises `UserError` for missing files."""
    folder = open_model(str(model), "--model ", weights=False)
    vision = folder.config.vision_config
    images = (vision.image_size // vision.patch_size) ** 2
    if not (folder.path / "tokenizer.json").is_file():
        raise UserError(f"--model {folder.path}: it has no tokenizer.json")
    folder.check_tokenizer(folder.config.text_config.vocab_size)
    return Lengths(folder.path, row_tokens, images, folder.system_prompt)


@dataclass(frozen=True)
class SampleCheck:
    """The check of a source's samples. ``template`` None: the sample has to fit any known template."""

    template: Template | None = None
    kind: Kind | None = None
    lengths: Lengths | None = None
    fields: bool = True
    """False: only check that the sample can be read (the material of a source has no template)."""

    def look(self, source: Source, index: int, num_long: Counter[LongEffect]) -> int:
        """Check a sample and return its number of images; count it in ``num_long`` if it is longer than a row.

        Raises `BadSample` with the reason and the key, if known.
        """
        record = source[index]
        try:
            for image in record.images:
                to_rgb(image).load()
            if self.fields:
                self._check_fields(record, num_long)
        except BadSample as error:
            raise BadSample(str(error), key=record.key, damaged=error.damaged) from None
        except OSError as error:
            raise BadSample(f"its image cannot be decoded ({error})", key=record.key) from None
        return len(record.images)

    def _check_fields(self, record: Record, num_long: Counter[LongEffect]) -> None:
        template = self.template or template_for(record)
        template.build(record)
        if self.lengths is None:
            return
        kind = self.kind or ("understanding" if record.images else "text")
        try:
            effect = self.lengths.check.effect(record, template, kind)
        except TooLong:
            num_long["skipped"] += 1
            raise
        if effect is not None:
            num_long[effect] += 1
