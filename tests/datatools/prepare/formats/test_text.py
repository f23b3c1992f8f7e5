"""Texts."""

from __future__ import annotations

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from janus_train.errors import UserError
from tests.datatools.prepare.making import fields, make, samples, skipped, write


def test_text_in_every_kind_of_file(tmp_path):
    texts = ["One\ndocument", "第二", 'Third, "quoted"']
    records = [{"text": text, "url": "http://x"} for text in texts]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    write(tmp_path / "a/1.jsonl", lines)
    write(tmp_path / "a/2.jsonl.gz", gzip.compress(lines.encode()))
    write(tmp_path / "a/3.json", records)
    write(tmp_path / "a/4.json", lines)
    write(tmp_path / "a/5.csv", 'id,text\n1,"One\ndocument"\n2,第二\n3,"Third, ""quoted"""\n')
    pq.write_table(pa.table({"id": ["a", "b", "c"], "text": texts}), tmp_path / "a/6.parquet")
    result = make("text", tmp_path / "a", out=tmp_path / "out")
    assert [sample["text"] for sample in fields(tmp_path / "out")] == texts * 6
    assert result["records"] == 18
    assert len({key for key, _, _ in samples(tmp_path / "out")}) == 18


def test_wikihow(tmp_path):
    """wikihowAll.csv: headline, title, text."""
    file = write(
        tmp_path / "wikihowAll.csv", '"headline","title","text"\n"Do it.","How to Do It","Do\nthis."\n"x","y",""\n'
    )
    make("text", file, out=tmp_path / "out", text_field=("title", "text"))
    assert [sample["text"] for sample in fields(tmp_path / "out")] == ["How to Do It\n\nDo\nthis.", "y"]


def test_lines_that_cannot_be_used(tmp_path):
    content = (
        b'{"text": "good"}\n\n{"text": ""}\n{"text": 3}\nno JSON\n[1]\n{"text": "\xff"}\n{"text": "\\ud800"}\n{}\n'
    )
    file = write(tmp_path / "x.jsonl", content)
    result = make("text", file, out=tmp_path / "out", max_bad=1.0)
    assert [(record["where"].rpartition(":")[2], record["reason"]) for record in skipped(tmp_path / "out")] == [
        ("3", "the text is missing or empty"),
        ("4", "the text is not a string"),
        ("5", "the line is not valid JSON"),
        ("6", "the record is not an object"),
        ("7", "the line is not UTF-8"),
        ("8", "the text is not valid Unicode"),
        ("9", "the text is missing or empty"),
    ]
    assert result["samples"] == 1


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path):
    with pytest.raises(UserError, match=r"x\.csv has 'id', 'satz': none of these is known as a text; .*--text-field"):
        make("text", write(tmp_path / "x.csv", "id;satz\n1;Ja, nein\n"), out=tmp_path / "out")
    make("text", tmp_path / "x.csv", out=tmp_path / "out", text_field=("satz",))
    assert fields(tmp_path / "out") == [{"text": "Ja, nein"}]
