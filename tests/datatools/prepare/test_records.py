"""Files of records read from any place: the same records as from the start, whatever stands in them."""

from __future__ import annotations

import csv
import gzip
import io
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from janus_train.datatools.prepare import records as module
from janus_train.datatools.prepare.items import SkipRecord
from janus_train.datatools.prepare.records import START, RecordPlace, kind_of, records
from janus_train.errors import UserError
from tests.datatools.prepare.making import write

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
RECORDS = st.lists(
    st.dictionaries(st.sampled_from(["a", "b", "ü"]), st.one_of(TEXT, st.integers(), st.none())), max_size=8
)
SLOW_DISK = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def forget():
    """Files of the same name are written again in these tests; a conversion's inputs do not change."""
    for cached_function in (module.kind_of, module._handle, module._delimiter, module._head):
        cached_function.cache_clear()


def check_every_place(path, expected, columns=()):
    forget()
    located_records = list(records(str(path), columns=columns))
    assert [record.value for record in located_records] == expected
    for number in reversed(range(len(located_records))):  # backwards: a gzipped file has to begin anew
        later_records = list(records(str(path), located_records[number].place, columns))
        assert [(record.place, record.location, record.value) for record in later_records] == [
            (record.place, record.location, record.value) for record in located_records[number:]
        ]


@SLOW_DISK
@given(values=RECORDS, packed=st.booleans(), gap=st.sampled_from(["\n", "\r\n", "\n\n \n"]), mark=st.booleans())
def test_json_lines(tmp_path, values, packed, gap, mark):
    data = "".join(json.dumps(record, ensure_ascii=False) + gap for record in values).encode(
        "utf-8-sig" if mark else "utf-8"
    )
    path = tmp_path / ("x.jsonl.gz" if packed else "x.jsonl")
    path.write_bytes(gzip.compress(data) if packed else data)
    check_every_place(path, values)


@SLOW_DISK
@given(
    values=RECORDS,
    indent=st.sampled_from([None, 0, 2]),
    ascii_only=st.booleans(),
    mark=st.booleans(),
    chunk=st.integers(1, 40),
)
def test_a_json_list(tmp_path, values, indent, ascii_only, mark, chunk):
    """Read a few bytes at a time, so that entries and characters are cut everywhere."""
    content = json.dumps(values, indent=indent, ensure_ascii=ascii_only)
    path = tmp_path / "x.json"
    path.write_bytes(content.encode("utf-8-sig" if mark else "utf-8"))
    chunk_size, module._CHUNK = module._CHUNK, chunk
    try:
        forget()
        assert [record.value for record in module._list(str(path), START)] == values
        located_records = list(module._list(str(path), START))
        for number in range(len(located_records)):
            assert [record.value for record in module._list(str(path), located_records[number].place)] == values[
                number:
            ]
    finally:
        module._CHUNK = chunk_size


@SLOW_DISK
@given(
    rows=st.lists(st.tuples(TEXT, TEXT.map(lambda text: text + "x")), max_size=6),
    tabs=st.booleans(),
    names=st.booleans(),
)
def test_tables(tmp_path, rows, tabs, names):
    rows = [tuple(value.replace("\0", "").replace("\r", "") for value in row) for row in rows]
    if not names and not rows:
        return
    out = io.StringIO()
    table = csv.writer(out, delimiter="\t" if tabs else ",", quoting=csv.QUOTE_ALL)
    table.writerows(([("a", "b")] if names else []) + rows)
    path = tmp_path / ("x.tsv" if tabs else "x.csv")
    path.write_text(out.getvalue(), encoding="utf-8", newline="")
    if (
        not names
        and out.getvalue().splitlines()[0].count("\t") > out.getvalue().splitlines()[0].count(",")
        and not tabs
    ):
        return  # such a first line says tabs
    if not names and tabs and out.getvalue().splitlines()[0].count(",") >= out.getvalue().splitlines()[0].count("\t"):
        return
    check_every_place(path, [dict(zip("ab", row, strict=True)) for row in rows], () if names else ("a", "b"))


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ('[{"a": 1}]', "list"),
        ('\n  [\n{"a": 1}]', "list"),
        ('{"a": 1}\n{"a": 2}\n', "lines"),
        ('{"a": 1}', "lines"),
        ('{\n "images": [], "annotations": []}', "object"),
        ('{"images": [], "annotations": []}', "object"),
    ],
)
def test_what_a_json_file_is(tmp_path, content, kind):
    assert kind_of(str(write(tmp_path / "x.json", content))) == kind


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.json", b'[{"a": 1}, {"a": ', "entry 2 of the list is not valid JSON"),
        ("x.json", b'[{"a": 1}, nonsense]', "entry 2 of the list is not valid JSON"),
        ("x.json", b'[{"a": 1},', "cut off after entry 1"),
        ("x.json", b'[{"a": "\xff"}]', "is not UTF-8"),
        ("x.json", b'{\n"a": 1}', "is one JSON object"),
        ("x.jsonl.gz", b"no gzip", "cannot be read"),
        ("x.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 10000)[:-20], "cannot be read"),
        ("x.csv", b"", "is empty"),
        ("x.csv", b"a,a\n1,2\n", "the same name"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, says):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=says) as caught:
        list(records(str(path)))
    assert str(path) in str(caught.value)


def test_rows_that_are_no_rows(tmp_path):
    path = write(tmp_path / "x.csv", b"a,b\n1,2\n1\n\n1,2,3\n\xff,2\n3,4\n")
    located_records = list(records(str(path)))
    assert [
        record.value.reason if isinstance(record.value, SkipRecord) else record.value for record in located_records
    ] == [
        {"a": "1", "b": "2"},
        "the row has more or fewer columns",
        "the row has more or fewer columns",
        "the row is not valid CSV in UTF-8",
        {"a": "3", "b": "4"},
    ]
    assert located_records[-1].place == RecordPlace(21, 7)
