"""Finds the delimiter of a table from its first lines. In: lines of text. Out: a comma, tab, semicolon or pipe.

A count of characters is not enough: captions have commas and semicolons themselves. So the lines are read with each
delimiter, and the best reading is the one whose first line names the most known columns, then the one whose rows have the
same number of columns.
"""

from __future__ import annotations

import csv

from janus_train.datatools.prepare.fields import CAPTION_FIELDS, ID_FIELDS, IMAGE_FIELDS, TALK_FIELDS

DELIMITERS = ",\t;|"
"""The first of equally good ones is taken."""
NUM_LINES = 50
"""Lines to look at; more only if they are one row."""
_KNOWN = {*IMAGE_FIELDS, *CAPTION_FIELDS, *TALK_FIELDS, *ID_FIELDS, "question", "answer", "label"}


def find_delimiter(lines: list[str], columns: tuple[str, ...] = ()) -> str:
    """The delimiter of a table that begins with ``lines``. ``columns``: the names, if no line has them."""
    return max(DELIMITERS, key=lambda delimiter: _score(lines, delimiter, columns))


def _score(lines: list[str], delimiter: str, columns: tuple[str, ...]) -> tuple[int, bool, float, int]:
    """Known names in the first line, whether most rows have several columns, the share of rows with as many as it, and
    their number."""
    rows: list[list[str]] = []
    num_bad = 0
    try:
        # strict: a quote that is closed before anything but the delimiter speaks against it
        for row in csv.reader(lines, delimiter=delimiter, strict=True):
            rows += [row] if row else []
    except csv.Error:  # also if the lines end inside a row
        num_bad = 1
    if not rows:
        return 0, False, 0.0, 0
    num_known = 0 if columns else sum(_is_known(name) for name in rows[0])
    num_columns = len(columns or rows[0])
    share = sum(len(row) == num_columns for row in rows) / (len(rows) + num_bad)
    return num_known, num_columns > 1 and share > 0.5, share, num_columns


def _is_known(name: str) -> bool:
    name = name.strip().strip("\ufeff").lower()
    return name in _KNOWN or name.endswith(("_file_name", "_file_names"))
