"""Samples that are longer than a row: which ones, and what training does with them.

In: a record. Out: its `LongEffect` if it is longer than a row. Images are not decoded: each has the same number of tokens.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Literal

from PIL import Image

from janus_train.data.encode import Encoder
from janus_train.data.recipe import Recipe
from janus_train.data.sources.registry import template_of
from janus_train.data.special_tokens import EOS
from janus_train.data.templates import Template
from janus_train.data.types import BadSample, Kind, Record, Reference, TooLong

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

LongEffect = Literal["skipped", "shortened", "cut"]
_EFFECTS: dict[LongEffect, str] = {
    "skipped": "skipped and counted as bad",
    "shortened": "without their last turns",
    "cut": "cut over several rows",
}
_STUB = Image.new("RGB", (1, 1))
NUM_FIRST = 200
"""Samples of each source whose length is checked when a run starts; a small data set is checked whole."""
LIMIT_S = 10.0
"""Seconds that this may take altogether."""


class LengthCheck:
    """Compares samples with a row of ``row_tokens``, as training does."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, tokens_per_image: int, system_prompt: str, row_tokens: int):
        self.row_tokens = row_tokens
        self._encoder = Encoder(tokenizer, tokens_per_image, 14, system_prompt)  # images' pixels do not count

    def effect(self, record: Record, template: Template, kind: Kind) -> LongEffect | None:
        """What training does with a sample that is longer than a row; None if it is not.

        Raises `TooLong` for one that is skipped, and `BadSample` for one that cannot be used for another reason.
        """
        stubs = Record(record.key, record.fields, [_STUB] * len(record.images), record.codes)
        reference = Reference("", 0, 0, record.key)
        document = self._encoder.encode_without_chance(stubs, template, kind, reference, self.row_tokens)
        if len(document) > self.row_tokens:
            return "cut"
        if template.can_drop_turns:
            num_answers = sum(segment.text.count(EOS) for segment in template.build(stubs) if segment.role == "text")
            if int((document.input_ids == self._encoder.special.eos).sum()) < num_answers:
                return "shortened"
        return None


def describe(num_long: Counter[LongEffect]) -> str:
    """Counts of long samples in words: ``3 skipped and counted as bad, 1 cut over several rows``."""
    return ", ".join(f"{num_long[effect]:,} {text}" for effect, text in _EFFECTS.items() if num_long[effect])


def first_long_samples(recipe: Recipe, check: LengthCheck, max_bad: float) -> list[str]:
    """Lines about each local source that has samples among its first ones of which a row loses something.

    What is cut loses nothing. ``max_bad``: the accepted share of samples that are skipped.
    """
    lines = []
    deadline = time.monotonic() + LIMIT_S
    for name, (config, source) in recipe.sources.items():
        template = template_of(config)
        is_plain_text = template.can_cut and template.images is None
        if any("://" in path for path in config.paths) or is_plain_text:
            continue
        num_long, first_key, num_checked = Counter[LongEffect](), "", 0
        for index in range(min(len(source), NUM_FIRST)):
            if time.monotonic() > deadline:
                break
            num_checked += 1
            record = None
            try:
                record = source[index]
                effect = check.effect(record, template, config.kind)
            except TooLong:
                effect = "skipped"
            except BadSample:  # named when it is drawn
                continue
            if effect not in (None, "cut") and record is not None:
                num_long[effect] += 1
                first_key = first_key or record.key
        if num_long:
            which = "" if num_checked == len(source) else "first "
            lines.append(
                f"source {name!r}: {num_long.total():,} of its {which}{num_checked:,} samples are longer than a row of "
                f"{check.row_tokens} tokens: {describe(num_long)}, the first is {first_key!r}"
            )
            if num_long["skipped"] > max_bad * num_checked:
                lines.append(
                    f"source {name!r}: more than data.max_bad={max_bad:g} end the run: shorten them, or raise it or batch.row_tokens"
                )
    return lines
