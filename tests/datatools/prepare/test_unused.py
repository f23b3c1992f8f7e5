"""Fields that were asked for, and those that were not."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from janus_train.data.unused import counting
from janus_train.datatools.prepare.unused import TrackedRecord
from tests.datatools.prepare.making import image_bytes, make, write, write_tar


def test_a_field_is_read_when_its_value_is_asked_for():
    record = TrackedRecord({"a": 1, "b": "x", "c": "y", "d": None, "e": [], "f": 0})
    assert record["a"] == 1 and record.get("b") == "x" and record.get("z") is None and "c" in record
    with counting() as unused:
        record.count_unread()
    assert unused == {"fields 'c'": 1, "fields 'f'": 1}


RECORD = {"image": "a.jpg", "caption": "a dog", "title": "", "id": 7, "source": "web", "license": "by"}


@pytest.mark.parametrize(
    ("options", "unused"),
    [
        ({}, {"fields 'license'": 2, "fields 'source'": 2}),
        ({"text_field": ("source",)}, {"fields 'caption'": 2, "fields 'license'": 2}),
        ({"image_field": "{id}.jpg"}, {"fields 'image'": 2, "fields 'license'": 2, "fields 'source'": 2}),
    ],
)
def test_fields_of_captions(tmp_path, options, unused):
    for name in ("a.jpg", "7.jpg"):
        write(tmp_path / name, image_bytes(1))
    file = write(tmp_path / "x.jsonl", [RECORD, RECORD])
    assert make("captions", file, out=tmp_path / "out", **options)["unused"] == unused


def test_fields_of_texts_and_of_tars(tmp_path):
    records = [{"text": "Hello", "meta": {"url": "x"}}, {"text": "Hi", "id": 3}]
    assert make("text", write(tmp_path / "x.jsonl", records), out=tmp_path / "a")["unused"] == {"fields 'meta'": 1}
    pq.write_table(pa.table({"text": ["a", "b"], "url": ["x", "y"], "id": [1, 2]}), tmp_path / "x.parquet")
    assert make("text", tmp_path / "x.parquet", out=tmp_path / "b")["unused"] == {"fields 'url'": 2}
    tar = write_tar(tmp_path / "x.tar", {"0.json": {"caption": "a", "url": "x"}, "0.jpg": image_bytes(1)})
    assert make("webdataset", tar, out=tmp_path / "c")["unused"] == {"fields 'url'": 1}
    tar = write_tar(tmp_path / "y.tar", {"0.json": {"caption": "a", "url": "x"}})
    assert make("webdataset", tar, out=tmp_path / "d")["unused"] == {"fields 'url'": 1}


def test_columns_of_tables(tmp_path):
    image = {"bytes": image_bytes(1), "path": None}
    rows = {"image": [image] * 2, "caption": ["a", "b"], "text": ["c", None], "width": [1, 2]}
    pq.write_table(pa.table(rows), tmp_path / "x.parquet")
    unused = make("parquet", tmp_path / "x.parquet", out=tmp_path / "out")["unused"]
    assert unused == {"fields 'text'": 1, "fields 'width'": 2}


@pytest.mark.parametrize("tag", ["<image>", "<image_placeholder>", "<|image_pad|>"])
def test_captions_with_tags_are_skipped(tmp_path, tag):
    write(tmp_path / "a.jpg", image_bytes(1))
    file = write(tmp_path / "x.jsonl", [RECORD, RECORD | {"caption": f"{tag}\na dog"}])
    result = make("captions", file, out=tmp_path / "out", max_bad=0.5)
    assert result["skipped"] == {f"the caption has the tag {tag}": 1}
