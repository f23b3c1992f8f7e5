"""``parquet``: Parquet files with images inside, as HF data sets are published."""

from __future__ import annotations

from collections.abc import Iterator

from janus_train.datatools.prepare.formats.rows import TableRowReader
from janus_train.datatools.prepare.inputs import expand
from janus_train.datatools.prepare.items import Entry, InputFormat, Item, Unit
from janus_train.datatools.prepare.options import PrepareOptions
from janus_train.datatools.prepare.tables import (
    class_labels,
    forget_files,
    needed_columns,
    open_parquet,
    parquet_rows,
    parquet_units,
)


class ParquetFormat(InputFormat):
    """All files have the columns of the first."""

    def __init__(self, options: PrepareOptions):
        super().__init__(options)
        forget_files()
        self.files = expand(options.inputs, (".parquet",), "Parquet file")
        schema = open_parquet(self.files[0]).schema_arrow
        self._rows = TableRowReader(self.files[0], schema.names, class_labels(schema), options)
        self.several = self._rows.several

    def jobs(self) -> list[str]:
        return self.files

    def plan(self, job: str) -> Iterator[Unit]:
        return parquet_units(job, needed_columns(job, open_parquet(job).schema_arrow.names, self._rows.columns))

    def entries(self, unit: Unit) -> Iterator[Entry]:
        for number, row in parquet_rows(unit.place):
            yield Entry(f"{unit.place[0]}, row group {unit.place[1]}, row {number}", row)

    def item(self, entry: Entry) -> Item:
        return self._rows.item(entry.value)
