"""Parquet files and HF data sets with images inside."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from janus_train.data.sources.shards import ShardSource
from janus_train.data.special_tokens import PLACEHOLDER
from janus_train.data.templates import get_template
from janus_train.errors import UserError
from tests.datatools.prepare.making import fields, image_bytes, make, samples


def image_value(seed, form="JPEG"):
    return {"bytes": image_bytes(seed, form), "path": None}


def docmatix(path):
    """HuggingFaceM4/Docmatix: pages of a document, and several questions on them."""
    texts = [{"user": f"Q{n}?", "assistant": f"A{n}.", "source": "PDFA key: 1"} for n in range(3)]
    rows = {
        "images": [[image_value(1)], [image_value(2, "PNG"), image_value(3, "PNG")], [image_value(4)]],
        "texts": [texts[:2], texts[2:], texts],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(rows), path, row_group_size=2)
    return path


def test_docmatix_pairs(tmp_path):
    file = docmatix(tmp_path / "data/train-00000-of-00001.parquet")
    make("parquet", file.parent, out=tmp_path / "out", max_pictures=1)
    written_samples = samples(tmp_path / "out")
    assert [(key, one["question"]) for key, one, _ in written_samples] == [
        ("000000000_0", "Q0?"), ("000000000_1", "Q1?"),
        ("000000002_0", "Q0?"), ("000000002_1", "Q1?"), ("000000002_2", "Q2?"),
    ]  # fmt: skip
    assert [images for _, _, images in written_samples] == [[image_bytes(1)]] * 2 + [[image_bytes(4)]] * 3
    source = ShardSource([tmp_path / "out/shard-00000.tar"])
    assert get_template("question_answer").build(source[0])[1].text == "Q0?"


def test_docmatix_conversations(tmp_path):
    file = docmatix(tmp_path / "x.parquet")
    make("parquet", file, out=tmp_path / "out", samples="conversation")
    written_samples = samples(tmp_path / "out")
    assert [len(images) for _, _, images in written_samples] == [1, 2, 1]
    assert [turn["content"] for turn in written_samples[1][1]["conversations"]] == [
        f"{PLACEHOLDER}\n{PLACEHOLDER}\nQ2?",
        "A2.",
    ]
    assert len(written_samples[2][1]["conversations"]) == 6


def test_wit(tmp_path):
    """wikimedia/wit_base: lists of features, of which one language is picked; rows without it are left out."""
    features = [
        {"language": ["fr", "en"], "caption_reference_description": ["un lac", "a lake"]},
        {"language": ["fr"], "caption_reference_description": ["une ville"]},
    ]
    table = pa.table(
        {"image": [image_value(1), image_value(2)], "image_url": ["http://x", "http://y"], "wit_features": features}
    )
    pq.write_table(table, tmp_path / "x.parquet")
    path = "wit_features[language=en].caption_reference_description"
    result = make("parquet", tmp_path / "x.parquet", out=tmp_path / "out", text_field=(path,), drop_empty=True)
    assert fields(tmp_path / "out") == [{"caption": "a lake"}]
    assert result["left_out"] == {"there is no caption": 1}


def test_parquet_with_labels_named_in_the_file(tmp_path):
    features = {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": ["tench, Tinca tinca", "goldfish"]},
    }
    table = pa.table({"image": [image_value(1), image_value(2)], "label": [1, 0]})
    table = table.replace_schema_metadata({b"huggingface": json.dumps({"info": {"features": features}}).encode()})
    pq.write_table(table, tmp_path / "x.parquet")
    make("parquet", tmp_path / "x.parquet", out=tmp_path / "out")
    assert fields(tmp_path / "out") == [{"class_name": "goldfish"}, {"class_name": "tench"}]


def test_conversations_and_questions_in_columns(tmp_path):
    """LLaVA-OneVision's columns, and a question, an answer and an image a row."""
    talk = [{"from": "human", "value": "<image>\nWho?"}, {"from": "gpt", "value": "Tom."}]
    columns = {"id": ["a"], "image": [image_value(1)], "conversations": [talk], "data_source": ["x"]}
    pq.write_table(pa.table(columns), tmp_path / "talk.parquet")
    make("parquet", tmp_path / "talk.parquet", out=tmp_path / "talk")
    ((key, one, images),) = samples(tmp_path / "talk")
    assert (key, images) == ("000000000-a", [image_bytes(1)])
    assert [turn["content"] for turn in one["conversations"]] == [f"{PLACEHOLDER}\nWho?", "Tom."]
    parts = [{"type": "image", "text": None, "image": image_value(3)}, {"type": "text", "text": "Who?", "image": None}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": [parts[1] | {"text": "Tom."}]}]
    pq.write_table(pa.table({"messages": [messages], "system": ["Be brief."]}), tmp_path / "parts.parquet")
    make("parquet", tmp_path / "parts.parquet", out=tmp_path / "parts")
    ((_, one, images),) = samples(tmp_path / "parts")
    assert images == [image_bytes(3)]
    assert [turn["content"] for turn in one["conversations"]] == [f"Be brief.\n\n{PLACEHOLDER}\nWho?", "Tom."]
    named = [
        [messages[0] | {"content": [parts[0] | {"image": {"bytes": None, "path": "a.png"}}]}, messages[1]],
        messages,
    ]
    pq.write_table(pa.table({"messages": named}), tmp_path / "named.parquet")
    result = make("parquet", tmp_path / "named.parquet", out=tmp_path / "named", max_bad=0.5)
    assert result["skipped"] == {"the image is not inside": 1}
    columns = {"image": [image_value(1), image_value(2)], "question": ["Q?", " "], "answer": ["A.", "A."]}
    pq.write_table(pa.table(columns), tmp_path / "pair.parquet")
    result = make("parquet", tmp_path / "pair.parquet", out=tmp_path / "pair", max_bad=0.5)
    assert fields(tmp_path / "pair") == [{"question": "Q?", "answer": "A."}]
    assert result["skipped"] == {"a question or an answer is missing or empty": 1}


def test_large_row_groups_are_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("janus_train.datatools.prepare.tables.UNIT_BYTES", 4000)
    monkeypatch.setattr("janus_train.datatools.prepare.tables._BATCH_BYTES", 2500)
    rows = {"image": [image_value(n) for n in range(40)], "caption": [f"caption {n}" for n in range(40)]}
    pq.write_table(pa.table(rows), tmp_path / "x.parquet", row_group_size=30)
    make("parquet", tmp_path / "x.parquet", out=tmp_path / "out")
    written_samples = samples(tmp_path / "out")
    assert [one["caption"] for _, one, _ in written_samples] == rows["caption"]
    assert [images[0] for _, _, images in written_samples] == [one["bytes"] for one in rows["image"]]


@pytest.mark.parametrize("splits", [False, True])
def test_hf_on_disk(tmp_path, splits):
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value

    rows = {
        "image": [image_value(n) for n in range(5)],
        "caption": [f"caption {n}" for n in range(5)],
        "label": [0, 1] * 2 + [0],
    }
    kinds = Features({"image": Image(), "caption": Value("string"), "label": ClassLabel(names=["a", "b"])})
    data = Dataset.from_dict(rows, features=kinds)
    (DatasetDict({"train": data, "test": data}) if splits else data).save_to_disk(tmp_path / "data")
    if splits:
        with pytest.raises(UserError, match="has the splits train, test"):
            make("hf", tmp_path / "data", out=tmp_path / "out")
    make("hf", tmp_path / "data", out=tmp_path / "out", split="train" if splits else None)
    written_samples = samples(tmp_path / "out")
    assert [one["caption"] for _, one, _ in written_samples] == rows["caption"]
    assert [images[0] for _, _, images in written_samples] == [image_bytes(n) for n in range(5)]


def test_hf_labels(tmp_path):
    from datasets import ClassLabel, Dataset, Features, Image

    kinds = Features({"image": Image(), "label": ClassLabel(names=["tabby, tabby cat", "b"])})
    Dataset.from_dict({"image": [image_value(1)], "label": [0]}, features=kinds).save_to_disk(tmp_path / "data")
    make("hf", tmp_path / "data", out=tmp_path / "out")
    assert fields(tmp_path / "out") == [{"class_name": "tabby"}]


@pytest.mark.parametrize(
    ("rows", "options", "says"),
    [
        ({"a": [1]}, {}, "has columns a: name the image's"),
        ({"image": [image_value(1)], "b": ["x"]}, {"text_field": ("c",)}, "--text-field 'c'.*has columns image, b"),
        ({"image": [image_value(1)], "caption": ["x"]}, {"image_field": "jpg"}, "--image-field 'jpg'"),
        ({"text": ["x"]}, {"form": "draw"}, "--form draw is for captioned images"),
        ({"text": ["x"]}, {"captions": "each"}, "--captions has no effect for .*: its rows are texts; leave it out"),
        ({"text": ["x"]}, {"samples": "conversation"}, "--samples has no effect"),
        ({"texts": [[]], "images": [[]]}, {"class_names": "all"}, "its rows are questions and answers about images"),
    ],
)
def test_tables_with_unknown_columns(tmp_path, rows, options, says):
    pq.write_table(pa.table(rows), tmp_path / "x.parquet")
    with pytest.raises(UserError, match=says):
        make("parquet", tmp_path / "x.parquet", out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_tables_where_a_file_differs(tmp_path):
    pq.write_table(pa.table({"image": [image_value(1)], "caption": ["x"]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"image": [image_value(1)], "text": ["x"]}), tmp_path / "2.parquet")
    with pytest.raises(UserError, match=r"2.parquet has no column 'caption'"):
        make("parquet", tmp_path, out=tmp_path / "out")


def test_rows_that_cannot_be_used(tmp_path):
    rows = {
        "image": [
            image_value(1),
            None,
            {"bytes": None, "path": "a.jpg"},
            {"bytes": b"no image", "path": None},
            image_value(2),
        ],
        "caption": ["good", "x", "x", "x", None],
    }
    pq.write_table(pa.table(rows), tmp_path / "x.parquet")
    result = make("parquet", tmp_path / "x.parquet", out=tmp_path / "out", max_bad=1.0)
    assert result["samples"] == 1
    assert result["skipped"] == {
        "the image does not open": 1,
        "the image is not inside": 1,
        "the row has no image": 1,
        "there is no caption": 1,
    }
