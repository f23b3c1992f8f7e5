"""``text``: documents in JSON lines (also gzipped), a JSON list, CSV, or Parquet."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from janus_train.data.unused import field_reason, not_used
from janus_train.datatools.prepare.field_names import check_text
from janus_train.datatools.prepare.fields import name_of, text, top_names
from janus_train.datatools.prepare.inputs import expand
from janus_train.datatools.prepare.items import Entry, InputFormat, Item, SkipRecord, Unit, split_into_units
from janus_train.datatools.prepare.options import PrepareOptions
from janus_train.datatools.prepare.records import ENDINGS, LINES, RecordPlace, kind_of, lines, parse, records
from janus_train.datatools.prepare.records import forget_files as forget_record_files
from janus_train.datatools.prepare.tables import forget_files as forget_tables
from janus_train.datatools.prepare.tables import needed_columns, open_parquet, parquet_rows, parquet_units
from janus_train.datatools.prepare.unused import TrackedRecord

_FIRST_RECORDS = 100


class TextFormat(InputFormat):
    """One document per record; its text is the field ``text``, or the fields that ``--text-field`` names."""

    def __init__(self, options: PrepareOptions):
        super().__init__(options)
        forget_record_files()
        forget_tables()
        self.files = expand(options.inputs, (*ENDINGS, ".parquet"), "file of texts")
        self._names = list(dict.fromkeys(top_names(options.text_field or ("text",))))

    def jobs(self) -> list[str]:
        return self.files

    def planned_files(self, job: str) -> list[str]:
        return [] if job.endswith(".parquet") else [job]

    def plan(self, job: str) -> Iterator[Unit]:
        names = self._names_in(job)
        if names:
            check_text(job, names, self.options)
        if job.endswith(".parquet"):
            return parquet_units(job, self._columns(job))
        return split_into_units(self._document_sizes(job), lambda places: [job, places[0].offset, places[0].number])

    def _names_in(self, file: str) -> list[str]:
        """The names of a table's columns, or of the fields of the first records."""
        if file.endswith(".parquet"):
            return list(open_parquet(file).schema_arrow.names)
        first_records = [record.value for record in islice(records(file, columns=self.options.columns), _FIRST_RECORDS)]
        return list(
            dict.fromkeys(name for record in first_records if not isinstance(record, SkipRecord) for name in record)
        )

    def _columns(self, file: str) -> list[str]:
        """The columns to read; the others are counted."""
        parquet = open_parquet(file)
        columns = needed_columns(file, parquet.schema_arrow.names, self._names, ("id",))
        for name in parquet.schema_arrow.names:
            if name not in columns:
                not_used(field_reason(name), parquet.metadata.num_rows)
        return columns

    def _document_sizes(self, file: str) -> Iterator[tuple[RecordPlace, int]]:
        if kind_of(file) == LINES:  # finding the lines needs no parsing
            for place, line in lines(file):
                yield place, len(line)
        else:
            for record_at in records(file, columns=self.options.columns):
                size = (
                    0
                    if isinstance(record_at.value, SkipRecord)
                    else sum(len(str(value)) for value in record_at.value.values())
                )
                yield record_at.place, size

    def entries(self, unit: Unit) -> Iterator[Entry]:
        file = unit.place[0]
        if file.endswith(".parquet"):
            for number, row in parquet_rows(unit.place):
                yield Entry(f"{file}, row group {unit.place[1]}, row {number}", row)
            return
        place = RecordPlace(*unit.place[1:])
        if kind_of(file) == LINES:
            for line_place, line in islice(lines(file, place), unit.count):
                yield Entry(f"{file}:{line_place.number}", parse(line))
        else:
            for record_at in islice(records(file, place, self.options.columns), unit.count):
                yield Entry(record_at.location, record_at.value)

    def item(self, entry: Entry) -> Item:
        if isinstance(entry.value, SkipRecord):
            raise entry.value
        record = TrackedRecord(entry.value)
        item = Item([{"text": text(record, self.options)}], name=name_of(record))
        record.count_unread()
        return item
