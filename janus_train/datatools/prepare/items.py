"""What passes between a format and the rest: units, entries, items, and reasons for leaving one out."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from janus_train.datatools.prepare.options import PrepareOptions

UNIT_BYTES = 16 << 20
UNIT_RECORDS = 512


class SkipRecord(Exception):
    """A record that gives no sample.

    ``reason`` is the same for all records with the same fault, ``detail`` is this one's. ``left_out``: the options ask
    for it, it is no fault of the data.
    """

    def __init__(self, reason: str, detail: str = "", *, left_out: bool = False):
        super().__init__(reason, detail)
        self.reason, self.detail, self.left_out = reason, detail, left_out


@dataclass(frozen=True)
class Unit:
    """A piece of the input that is converted at once: ``count`` records, the first of them number ``first`` of all.

    ``what`` is JSON: where the format finds it. ``size`` is about how many bytes it holds.
    """

    count: int
    size: int
    what: Any
    first: int = 0

    def line(self) -> bytes:
        """What the digest of a plan is made of."""
        return json.dumps([self.count, self.size, self.what]).encode()


@dataclass(frozen=True)
class Entry:
    """A record as the format reads it; ``where`` is for people: a file and a line."""

    where: str
    value: Any


@dataclass(frozen=True)
class Item:
    """What a record gives: one or more samples that share its images (bytes as they were found)."""

    samples: list[dict[str, Any]]
    images: list[bytes] = field(default_factory=list)
    name: str = ""
    """What the source calls it; goes into the key to be recognised."""


class InputFormat(ABC):
    """A layout of raw data. Opened in every process; it must find the same things each time.

    ``several``: a record may give several samples, so keys get a second number.
    """

    several = False

    def __init__(self, options: PrepareOptions):
        self.options = options

    @abstractmethod
    def jobs(self) -> list[Any]:
        """What can be planned separately: files, as a rule."""

    @abstractmethod
    def plan(self, job: Any) -> Iterator[Unit]:
        """The units of a job, in order. Raises `UserError` for what no conversion should start with."""

    @abstractmethod
    def entries(self, unit: Unit) -> Iterator[Entry]:
        """The unit's ``count`` records, in order."""

    @abstractmethod
    def item(self, entry: Entry) -> Item:
        """The samples of a record. Raises `SkipRecord` with the reason why there are none."""


T = TypeVar("T")


def cut(records: Iterable[tuple[T, int]], what: Callable[[list[T]], Any]) -> Iterator[Unit]:
    """Units over a sequence of (record, its bytes); ``what`` gives a unit's place from its records."""
    batch: list[T] = []
    size = 0
    for record, weight in records:
        if batch and (len(batch) == UNIT_RECORDS or size + weight > UNIT_BYTES):
            yield Unit(len(batch), size, what(batch))
            batch, size = [], 0
        batch.append(record)
        size += weight
    if batch:
        yield Unit(len(batch), size, what(batch))
