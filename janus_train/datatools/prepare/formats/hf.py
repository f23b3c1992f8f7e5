"""``hf``: data sets that HF ``datasets`` saved to disk (``save_to_disk``)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from janus_train.datatools.prepare.formats.rows import TableRowReader
from janus_train.datatools.prepare.inputs import file_extent
from janus_train.datatools.prepare.items import UNIT_BYTES, UNIT_RECORDS, Entry, Extent, InputFormat, Item, Unit
from janus_train.datatools.prepare.options import PrepareOptions
from janus_train.errors import UserError, one_line


class HfDatasetFormat(InputFormat):
    """All inputs have the columns of the first. ``--split`` chooses a split from a folder that has several."""

    def __init__(self, options: PrepareOptions):
        super().__init__(options)
        if len(set(options.inputs)) < len(options.inputs):
            raise UserError(f"{max(options.inputs, key=options.inputs.count)} is named twice")
        self._sets = [_load(path, options.split) for path in options.inputs]
        first_set = self._sets[0]
        self._rows = TableRowReader(options.inputs[0], first_set.column_names, _labels(first_set), options)
        self.several = self._rows.several
        for path, data_set in zip(options.inputs, self._sets, strict=True):
            missing_columns = [name for name in self._rows.columns if name not in data_set.column_names]
            if missing_columns:
                raise UserError(f"{path} has no column {missing_columns[0]!r}, unlike {options.inputs[0]}")
        self._tables = [data_set.select_columns(self._rows.columns).with_format("arrow") for data_set in self._sets]

    def jobs(self) -> list[int]:
        return list(range(len(self._sets)))

    def plan(self, job: int) -> Iterator[Unit]:
        rows = len(self._sets[job])
        stamp = _stamp(self._sets[job])
        average = max(1, self._sets[job].data.nbytes // max(1, len(self._sets[job].data)))
        step = max(1, min(UNIT_RECORDS, UNIT_BYTES // average))
        for start in range(0, rows, step):
            stop = min(rows, start + step)
            yield Unit(stop - start, (stop - start) * average, [job, start, stop], stamp=stamp)

    def entries(self, unit: Unit) -> Iterator[Entry]:
        job, start, stop = unit.place
        for number, row in enumerate(self._tables[job][start:stop].to_pylist(), start):
            yield Entry(f"{self.options.inputs[job]}, row {number}", row)

    def item(self, entry: Entry) -> Item:
        return self._rows.item(entry.value)


def _load(path: str, split: str | None) -> Any:
    """Load the data set at ``path``. Images stay undecoded; no code of the data set runs."""
    from datasets import DatasetDict, load_from_disk

    if not Path(path).is_dir():
        raise UserError(f"{path}: there is no such folder (hf reads what save_to_disk wrote; parquet reads .parquet)")
    try:
        data = load_from_disk(path)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is not a data set that save_to_disk wrote ({one_line(error, 120)})") from None
    if isinstance(data, DatasetDict):
        if split is None and len(data) == 1:
            split = next(iter(data))
        if split not in data:
            raise UserError(f"{path} has the splits {', '.join(data)}: choose one with --split")
        return data[split]
    if split is not None:
        raise UserError(f"--split {split}: {path} has no splits")
    return data


def _stamp(data: Any) -> str:
    """The stamp of the data set's Arrow files."""
    return sum((file_extent(file["filename"]) or Extent() for file in data.cache_files), Extent()).stamp


def _labels(data: Any) -> dict[str, list[str]]:
    from datasets import ClassLabel

    return {name: feature.names for name, feature in data.features.items() if isinstance(feature, ClassLabel)}
