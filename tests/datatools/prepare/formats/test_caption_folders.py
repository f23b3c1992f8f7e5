"""Folders of captioned images as people have them: captions beside the images, or Hugging Face's metadata files."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from janus_train.datatools.prepare.formats.caption_folders import read_caption
from janus_train.datatools.prepare.items import SkipRecord
from tests.datatools.prepare.making import fields, image_bytes, make, samples, skipped, write


@pytest.fixture
def prepare(tmp_path, run):
    """Runs ``janus-train prepare captions`` in ``tmp_path``; returns (code, standard error, prepared.json)."""

    def call(*words, out="out"):
        code, _, said = run("prepare", "captions", *words, "--out", tmp_path / out, "--workers", 1)
        path = tmp_path / out / "prepared.json"
        return code, said, json.loads(path.read_text()) if path.exists() else None

    return call


def images(root, *names):
    for number, name in enumerate(names):
        write(root / name, image_bytes(number, "PNG"))


# ------------------------------------------------------------------------------------------ captions beside the images


def kohya(root):
    """A folder for each concept, with its repeats in the name; some images lack a caption, some captions an image."""
    images(root, "10_cat/a.png", "10_cat/b.png", "10_cat/more/c.v2.png", "2_dog/d.png", "2_dog/e.png")
    captions = {
        "10_cat/a": " a cat,\non a mat \n",
        "10_cat/more/c.v2": "a cat",
        "2_dog/d": "\ufeffa dog",
        "2_dog/x": "x",
    }
    for name, text in captions.items():
        write(root / f"{name}.txt", text)
    write(root / "2_dog/d.npz", b"latents")
    write(root / "2_dog/.DS_Store", b"")
    return root


def test_each_image_has_its_caption_and_nothing_is_lost_in_silence(tmp_path, prepare):
    root = kohya(tmp_path / "train")
    code, said, result = prepare(root)
    assert code == 0
    assert [(key[10:], value["caption"]) for key, value, _ in samples(tmp_path / "out")] == [
        ("a", "a cat,\non a mat"),
        ("c-v2", "a cat"),
        ("d", "a dog"),
    ]
    assert [data for _, _, [data] in samples(tmp_path / "out")] == [image_bytes(n, "PNG") for n in (0, 2, 3)]
    assert result["unused"] == {
        "images without a .txt (the first: 10_cat/b.png)": 2,
        "files .txt without an image (the first: 2_dog/x.txt)": 1,
        "files .npz": 1,
        "hidden files": 1,
        "folders named with repeats, such as 10_cat: a source's weight in the recipe repeats it": 2,
    }
    assert "2 images without a .txt (the first: 10_cat/b.png)" in said
    assert "2 folders named with repeats, such as 10_cat" in said


def test_the_folder_with_repeats_itself(tmp_path, prepare):
    root = kohya(tmp_path / "train")
    _, said, result = prepare(root / "2_dog")
    assert result["samples"] == 1 and "1 folder named with repeats, such as 2_dog" in said


@pytest.mark.parametrize("extension", [".caption", "caption", " .Caption"])
def test_captions_with_another_ending(tmp_path, prepare, extension):
    images(tmp_path / "raw", "a.png", "b.png")
    write(tmp_path / "raw/a.CAPTION", "a cat")
    code, said, result = prepare(tmp_path / "raw")
    assert code == 2 and result is None
    assert "--caption-extension names another ending" in said and "2 files .png, 1 file .caption" in said
    code, said, result = prepare(tmp_path / "raw", "--caption-extension", extension)
    assert (code, result["samples"]) == (0, 1) and "1 image without a .caption (the first: b.png)" in said


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (" \n", "the caption is empty"),
        (b"\xff\xfea\0", "the caption is not UTF-8"),
        (b"x" * (2 << 20), "more than a megabyte"),
    ],
)
def test_a_caption_that_cannot_be_used_is_counted(tmp_path, content, reason):
    images(tmp_path / "raw", "a.png", "b.png")
    write(tmp_path / "raw/a.txt", "fine")
    write(tmp_path / "raw/b.txt", content)
    result = make("captions", tmp_path / "raw", out=tmp_path / "out", max_bad=0.5)
    assert result["samples"] == 1 and [reason in text for text in result["skipped"]] == [True]
    assert skipped(tmp_path / "out")[0]["where"] == str(tmp_path / "raw/b.png")


def test_empty_captions_are_left_out_on_purpose(tmp_path):
    images(tmp_path / "raw", "a.png", "b.png")
    write(tmp_path / "raw/a.txt", "fine")
    write(tmp_path / "raw/b.txt", "")
    result = make("captions", tmp_path / "raw", out=tmp_path / "out", drop_empty=True)
    assert (result["skipped"], result["left_out"]) == ({}, {"the caption is empty": 1})


def test_a_caption_that_is_no_file(tmp_path):
    import os

    os.mkfifo(tmp_path / "a.txt")
    for name, reason in (("a.txt", "not a regular file"), ("none.txt", "missing")):
        with pytest.raises(SkipRecord, match=reason):
            read_caption(str(tmp_path / name))


def test_the_forms_of_captions(tmp_path):
    images(tmp_path / "raw", "a.png")
    write(tmp_path / "raw/a.txt", "a cat")
    make("captions", tmp_path / "raw", out=tmp_path / "out", form="ask", question="What is it?")
    assert fields(tmp_path / "out")[0]["conversations"][1]["content"] == "a cat"


def test_a_caption_that_changes_is_noticed(tmp_path, prepare):
    images(tmp_path / "raw", "a.png")
    write(tmp_path / "raw/a.txt", "a cat")
    assert prepare(tmp_path / "raw")[0] == 0
    assert prepare(tmp_path / "raw")[0] == 0
    write(tmp_path / "raw/a.txt", "a dog")
    code, said, _ = prepare(tmp_path / "raw")
    assert code == 2 and "changed" in said


def test_what_can_be_read_in_two_ways_is_refused(tmp_path, prepare):
    images(tmp_path / "raw", "a.png")
    write(tmp_path / "raw/a.txt", "a cat")
    write(tmp_path / "raw/a.json", {"width": 24})  # beside an image: img2dataset's files
    assert prepare(tmp_path / "raw")[2]["unused"] == {"files .json": 1}
    write(tmp_path / "raw/captions.jsonl", [{"image": "a.png", "caption": "a dog"}])
    code, said, _ = prepare(tmp_path / "raw", out="two")
    assert code == 2 and "captions.jsonl: give --caption-extension .txt or the name of the file" in said
    assert prepare(tmp_path / "raw", "--caption-extension", ".txt", out="beside")[0] == 0
    assert prepare(tmp_path / "raw/captions.jsonl", out="records")[0] == 0
    assert fields(tmp_path / "beside") == [{"caption": "a cat"}]
    assert fields(tmp_path / "records") == [{"caption": "a dog"}]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["raw", "--text-field", "x"], "--text-field has no effect for raw: the captions stand beside the images"),
        (["raw", "--images", "raw"], "--images has no effect for raw"),
        (
            ["raw", "--caption-extension", ".json"],
            "no image in raw has such a file beside it; it contains 1 file .png",
        ),
        (["raw", "--caption-extension", ".png"], "is not the ending of files with captions"),
        (["raw", "--caption-extension", "."], "is not the ending of files with captions"),
        (["x.jsonl", "--caption-extension", ".txt"], "is for folders of images, and x.jsonl is none"),
        (["raw", "raw"], "raw is named twice"),
        (["none"], "none: there is no such file or folder"),
        (["empty"], "empty contains neither a file of records"),
    ],
)
def test_mistakes_are_one_line(tmp_path, prepare, monkeypatch, words, says):
    images(tmp_path / "raw", "a.png")
    write(tmp_path / "raw/a.txt", "a cat")
    write(tmp_path / "x.jsonl", [{"image": "raw/a.png", "caption": "a cat"}])
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    code, said, result = prepare(*words)
    assert code == 2 and says in said and len(said.splitlines()) == 1 and result is None


# ----------------------------------------------------------------------------------------- Hugging Face's ImageFolder


def test_metadata_in_nested_folders(tmp_path, prepare):
    root = tmp_path / "set"
    images(root, "train/1.png", "train/2.png", "train/deep/3.png", "train/deep/4.png", "train/own/5.png", "stray.png")
    write(root / "train/metadata.csv", 'file_name,text\n1.png,"a cat, asleep"\ndeep/3.png,a dog\n')
    write(root / "train/own/metadata.jsonl", [{"file_name": "5.png", "text": "a bird"}])
    write(root / "README.md", "about")
    write(root / "other.json", {"a": 1})
    code, said, result = prepare(root)
    assert code == 0
    assert [record["caption"] for record in fields(tmp_path / "out")] == ["a cat, asleep", "a dog", "a bird"]
    assert result["unused"] == {
        f"images that {root}/train/metadata.csv does not name (the first: 2.png)": 2,
        "images outside the folders with metadata": 1,
        "files .md": 1,
        "files .json": 1,
    }
    assert "does not name (the first: 2.png)" in said


@pytest.mark.parametrize("group", [1, 2, 10])
def test_metadata_in_parquet(tmp_path, prepare, group):
    names = [f"{number}.png" for number in range(5)]
    images(tmp_path / "set", *names)
    table = pa.table({"file_name": names, "text": [f"image {name}" for name in names], "score": [0.5] * 5})
    pq.write_table(table, tmp_path / "set/metadata.parquet", row_group_size=group)
    code, _, result = prepare(tmp_path / "set")
    assert code == 0 and result["unused"] == {"fields 'score'": 5}
    assert fields(tmp_path / "out") == [{"caption": f"image {name}"} for name in names]
    assert [data for _, _, [data] in samples(tmp_path / "out")] == [image_bytes(n, "PNG") for n in range(5)]


def test_another_column_of_captions(tmp_path, prepare):
    images(tmp_path / "set", "1.png")
    write(tmp_path / "set/metadata.csv", "file_name;Beschreibung\n1.png;Ein Hund, der rennt\n")
    code, said, _ = prepare(tmp_path / "set")
    assert code == 2 and "metadata.csv has 'file_name', 'Beschreibung'" in said and "name it with --text-field" in said
    assert prepare(tmp_path / "set", "--text-field", "Beschreibung")[0] == 0
    assert fields(tmp_path / "out") == [{"caption": "Ein Hund, der rennt"}]


def test_several_columns_of_files(tmp_path, prepare):
    images(tmp_path / "set", "1.png", "2.png")
    write(tmp_path / "set/metadata.csv", "input_file_name,output_file_name,text\n1.png,2.png,make it blue\n")
    code, said, _ = prepare(tmp_path / "set")
    assert code == 2 and "input_file_name, output_file_name: choose the image's with --image-field" in said
    assert prepare(tmp_path / "set", "--image-field", "output_file_name")[0] == 0
    assert [data for _, _, [data] in samples(tmp_path / "out")] == [image_bytes(1, "PNG")]


def test_one_column_of_files_with_another_name(tmp_path):
    images(tmp_path / "set", "1.png")
    write(tmp_path / "set/metadata.jsonl", [{"image_file_name": "1.png", "text": "x"}])
    assert make("captions", tmp_path / "set", out=tmp_path / "out")["samples"] == 1


def test_two_files_of_metadata_in_a_folder(tmp_path, prepare):
    images(tmp_path / "set", "1.png")
    write(tmp_path / "set/metadata.csv", "file_name,text\n1.png,x\n")
    write(tmp_path / "set/metadata.jsonl", [{"file_name": "1.png", "text": "y"}])
    code, said, _ = prepare(tmp_path / "set")
    assert code == 2 and "has metadata.csv and metadata.jsonl: give the name of the one to read" in said
    assert prepare(tmp_path / "set/metadata.jsonl")[2]["unused"] == {}


def test_parquet_with_images_inside_is_sent_to_its_format(tmp_path, prepare):
    pq.write_table(pa.table({"image": [{"bytes": b"x", "path": "a"}], "text": ["x"]}), tmp_path / "x.parquet")
    code, said, _ = prepare(tmp_path / "x.parquet")
    assert code == 2 and "has images inside, in the column 'image': prepare parquet reads it" in said
