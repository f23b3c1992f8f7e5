"""The interface between formats and the rest of prepare: units, entries, items, and reasons to skip a record."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from janus_train.datatools.prepare.options import PrepareOptions

UNIT_BYTES = 16 << 20
UNIT_RECORDS = 512


class SkipRecord(Exception):
    """A record gives no sample.

    ``reason`` is the same for all records with the same fault, ``detail`` belongs to this record. ``left_out``: the
    options exclude the record, so its data is not at fault.
    """

    def __init__(self, reason: str, detail: str = "", *, left_out: bool = False):
        super().__init__(reason, detail)
        self.reason, self.detail, self.left_out = reason, detail, left_out


@dataclass(frozen=True)
class Extent:
    """The bytes that a record is read from: their number, and a stamp that changes whenever one of their files is written.

    Extents add up: a record's to a unit's.
    """

    size: int = 0
    stamp: str = ""

    def __add__(self, other: Extent) -> Extent:
        stamp = self.stamp
        if other.stamp and other.stamp != stamp:
            stamp = hashlib.sha256(f"{stamp} {other.stamp}".encode()).hexdigest()[:16] if stamp else other.stamp
        return Extent(self.size + other.size, stamp)


@dataclass(frozen=True)
class Unit:
    """A piece of the input that is converted at once: ``count`` records from number ``first_record`` on.

    ``place`` is JSON with which the format finds the records. ``size`` is about their number of bytes. ``stamp``
    (`Extent`): if it differs from the one of an earlier run, the records' bytes may differ too and are compared.
    """

    count: int
    size: int
    place: Any
    first_record: int = 0
    stamp: str = ""

    def line(self) -> bytes:
        """The unit's line in the digest of a plan. The stamp is not part of it: a file may be copied or touched."""
        return json.dumps([self.count, self.size, self.place]).encode()


@dataclass(frozen=True)
class Entry:
    """A record as the format reads it; ``location`` names its file and line in messages."""

    location: str
    value: Any


@dataclass(frozen=True)
class Item:
    """A converted record: one or more samples that share its images (unchanged bytes)."""

    samples: list[dict[str, Any]]
    images: list[bytes] = field(default_factory=list)
    name: str = ""
    """The record's name in the source, which becomes part of the key."""


class InputFormat(ABC):
    """A layout of raw data. Every process opens it and must find the same records.

    ``several``: a record may give several samples, so keys get a second number.
    """

    several = False

    def __init__(self, options: PrepareOptions):
        self.options = options

    @abstractmethod
    def jobs(self) -> list[Any]:
        """The parts of the input that can be planned separately, usually files."""

    @abstractmethod
    def plan(self, job: Any) -> Iterator[Unit]:
        """The units of a job, in order. Raises `UserError` for errors that should prevent the conversion."""

    def planned_files(self, job: Any) -> list[str]:
        """The files of a job that planning reads to the end, so that digesting their bytes costs little.

        What a unit reads from other files needs a stamp (`Extent`).
        """
        return []

    @abstractmethod
    def entries(self, unit: Unit) -> Iterator[Entry]:
        """The unit's ``count`` records, in order."""

    @abstractmethod
    def item(self, entry: Entry) -> Item:
        """The samples of a record. Raises `SkipRecord` with the reason why there are none."""


T = TypeVar("T")


def split_into_units(records: Iterable[tuple[T, Extent | int]], place_of: Callable[[list[T]], Any]) -> Iterator[Unit]:
    """Group a sequence of (record, its bytes) into units; ``place_of`` makes a unit's place from its records.

    A record's bytes are an `Extent`, or a number alone if all of them are in the `planned_files`.
    """
    batch: list[T] = []
    total = Extent()
    for record, extent in records:
        extent = Extent(extent) if isinstance(extent, int) else extent
        if batch and (len(batch) == UNIT_RECORDS or total.size + extent.size > UNIT_BYTES):
            yield Unit(len(batch), total.size, place_of(batch), stamp=total.stamp)
            batch, total = [], Extent()
        batch.append(record)
        total += extent
    if batch:
        yield Unit(len(batch), total.size, place_of(batch), stamp=total.stamp)
