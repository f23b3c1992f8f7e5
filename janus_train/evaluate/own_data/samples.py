"""Reads samples as documents, in the form in which training would learn them, and counts what cannot be used.

Nothing is left to chance: no prompt is dropped and no caption is cut.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from janus_train.data.encode import Encoder
from janus_train.data.special_tokens import EOS
from janus_train.data.types import BadSample, Document, Quarantined, Record, Reference
from janus_train.data.unused import add_counts, counting
from janus_train.evaluate.own_data.sources import DataSource


@dataclass(frozen=True)
class Sample:
    """A sample that can be used."""

    fields: dict[str, Any]
    document: Document


@dataclass
class Reading:
    """What was read of a source."""

    num_read: int = 0
    num_shortened: int = 0
    """Conversations whose last turns do not fit the model's context."""
    unusable: list[Quarantined] = field(default_factory=list)
    not_used: Counter[str] = field(default_factory=Counter)
    """Fields and the like that nothing reads."""

    @property
    def num_used(self) -> int:
        return self.num_read - len(self.unusable)


class SampleReader:
    """Encodes samples for a model. ``context``: the number of tokens that it can attend to; ``always_system``: see
    `PromptStyle`.
    """

    def __init__(self, encoder: Encoder, context: int, always_system: bool = False):
        self.encoder, self.context, self._always_system = encoder, context, always_system

    def read(self, source: DataSource, reading: Reading, on_sample: Callable[[int], None]) -> Iterator[Sample]:
        """Yields the usable ones of the chosen samples, and counts all of them in ``reading``."""
        for index in source.indices:
            reading.num_read += 1
            key = f"number {index}"
            try:
                with counting() as not_used:
                    record = source.source[index]
                    key = record.key
                    document = self._document(source, index, record)
                is_shortened = self._is_shortened(source, record, document)  # reads it again: not to be counted twice
            except BadSample as error:
                bad = Quarantined(source.name, 0, index, error.key or key, str(error), error.damaged)
                reading.unusable.append(bad)
            else:
                reading.num_shortened += is_shortened
                add_counts(reading.not_used, not_used)
                yield Sample(record.fields, document)
            on_sample(1)

    def again(self, source: DataSource, index: int) -> Document:
        """The document of a sample that `read` has yielded, with the pixels of all its images."""
        record = source.source[index]
        return self._document(source, index, replace(record, codes=[None] * len(record.images)))

    def _document(self, source: DataSource, index: int, record: Record) -> Document:
        reference = Reference(source.name, 0, index, record.key)
        return self.encoder.encode_without_chance(
            record, source.template, source.kind, reference, self.context, self._always_system
        )

    def _is_shortened(self, source: DataSource, record: Record, document: Document) -> bool:
        if not source.template.can_drop_turns:
            return False
        num_answers = sum(part.text.count(EOS) for part in source.template.build(record) if part.role == "text")
        return int((document.input_ids == self.encoder.special.eos).sum()) < num_answers
