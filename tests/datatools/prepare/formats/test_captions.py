"""Captioned images in their data sets' own layouts."""

from __future__ import annotations

import json
import re

import pytest

from janus_train.data.sources.shards import ShardSource
from janus_train.data.special_tokens import ASSISTANT, PLACEHOLDER, USER
from janus_train.data.templates import get_template
from janus_train.errors import UserError
from tests.datatools.prepare.making import fields, image_bytes, make, samples, skipped, write


def sharegpt4v(path):
    """share-captioner_coco_lcs_sam_1246k_1107.json: a list, the caption is what gpt says."""
    records = []
    for number in range(3):
        name = f"coco/train2017/{number:012d}.jpg"
        write(path.parent / "images" / name, image_bytes(number))
        turns = [
            {"from": "human", "value": "What do you see happening in this image?\n<image>"},
            {"from": "gpt", "value": f'In the image {number}, a "dog" – 狗.\n\nIt runs.'},
        ]
        records.append({"id": f"{number:012d}", "image": name, "conversations": turns})
    return write(path, records)


def test_sharegpt4v(tmp_path):
    file = sharegpt4v(tmp_path / "captions.json")
    make("captions", file, out=tmp_path / "out", images=str(tmp_path / "images"))
    result = samples(tmp_path / "out")
    assert [key for key, _, _ in result] == [f"{n:09d}-{n:012d}" for n in range(3)]
    assert result[2][1] == {"caption": 'In the image 2, a "dog" – 狗.\n\nIt runs.'}
    assert result[2][2] == [image_bytes(2)]


def coco(path):
    """captions_train2017.json: images and their five captions apart."""
    images = [{"id": 10 + n, "file_name": f"{n:012d}.jpg", "height": 16, "width": 24} for n in range(3)]
    captions = [{"id": 100 * n + i, "image_id": 10 + n, "caption": "x" * i + f" {n}"} for i in (2, 1) for n in range(3)]
    for n in range(3):
        write(path.parent / "train2017" / f"{n:012d}.jpg", image_bytes(n))
    return write(path, {"info": {}, "licenses": [], "images": images, "annotations": captions})


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("first", ["xx 0", "xx 1", "xx 2"]),
        ("longest", ["xx 0", "xx 1", "xx 2"]),
        ("each", ["xx 0", "x 0", "xx 1", "x 1", "xx 2", "x 2"]),
    ],
)
def test_coco(tmp_path, choice, expected):
    file = coco(tmp_path / "captions_train2017.json")
    make("captions", file, out=tmp_path / "out", images=str(tmp_path / "train2017"), captions=choice)
    assert [record["caption"] for record in fields(tmp_path / "out")] == expected
    keys = [key for key, _, _ in samples(tmp_path / "out")]
    assert keys[:2] == (["000000000_0-10", "000000000_1-10"] if choice == "each" else ["000000000-10", "000000001-11"])


def test_an_object_that_is_not_cocos(tmp_path):
    file = write(tmp_path / "x.json", json.dumps({"images": [{"id": 1}], "annotations": []}, indent=1))
    with pytest.raises(UserError, match="not COCO's captions"):
        make("captions", file, out=tmp_path / "out")


def test_yfcc(tmp_path):
    """Columns of YFCC100M: URL-encoded title and description, the image under its number."""
    lines = ["photoid,title,description,downloadurl"]
    for number, (title, words) in enumerate([("A+day", "At+the%0Asea"), ("Caf%C3%A9", ""), ("", "")]):
        write(tmp_path / "images" / f"{number}.jpg", image_bytes(number))
        lines.append(f"{number},{title},{words},http://example.invalid/{number}.jpg")
    file = write(tmp_path / "yfcc15m.csv", "\n".join(lines))
    make(
        "captions",
        file,
        out=tmp_path / "out",
        images=str(tmp_path / "images"),
        image_field="{photoid}.jpg",
        text_field=("title", "description"),
        url_encoded=True,
        drop_empty=True,
    )
    assert [record["caption"] for record in fields(tmp_path / "out")] == ["A day\nAt the\nsea", "Café"]
    assert [(record["reason"], record["left_out"]) for record in skipped(tmp_path / "out")] == [
        ("the caption is empty", True)
    ]


def test_tsv_without_a_line_of_names(tmp_path):
    for number in range(2):
        write(tmp_path / f"{number}.jpg", image_bytes(number))
    file = write(tmp_path / "x.tsv", '0.jpg\t"a ""dog""\nruns"\n1.jpg\ta cat, sleeping\n')
    make("captions", file, out=tmp_path / "out", columns=("image", "caption"))
    assert [record["caption"] for record in fields(tmp_path / "out")] == ['a "dog"\nruns', "a cat, sleeping"]


def test_journeydb(tmp_path):
    """train_anno_realease_repath.jsonl: img_path, prompt, and GPT's caption in Task2."""
    records = []
    for number in range(2):
        write(tmp_path / "imgs/000" / f"{number}.png", image_bytes(number, "PNG"))
        task = {"Caption": f"A painting of {number}."}
        records.append({"img_path": f"./000/{number}.png", "prompt": f"{number} --v 5", "Task1": {}, "Task2": task})
    file = write(tmp_path / "anno.jsonl", records)
    options = {"images": str(tmp_path / "imgs"), "text_field": ("Task2.Caption",)}
    make("captions", file, out=tmp_path / "plain", **options)
    assert fields(tmp_path / "plain")[1] == {"caption": "A painting of 1."}
    make("captions", file, out=tmp_path / "draw", form="draw", **options)
    source = ShardSource([tmp_path / "draw/shard-00000.tar"])
    segments = get_template("conversation").build(source[1])
    assert [segment.role for segment in segments] == ["text", "text", "image_out", "text"]
    assert "A painting of 1." in segments[0].text


def test_memecap(tmp_path):
    """memes-trainval.json: a list whose records also hold an address, of which nothing is fetched."""
    write(tmp_path / "memes/memes_1.png", image_bytes(1, "PNG"))
    record = {
        "img_captions": ["A woman shows a ring."],
        "meme_captions": ["", "The poster is proud.", "Another."],
        "url": "https://i.redd.it/x.jpg",
        "img_fname": "memes_1.png",
    }
    file = write(tmp_path / "memes-trainval.json", [record])
    make(
        "captions",
        file,
        out=tmp_path / "out",
        images=str(tmp_path / "memes"),
        text_field=("meme_captions",),
        form="ask",
        question="What does this meme mean?",
    )
    turns = fields(tmp_path / "out")[0]["conversations"]
    assert turns == [
        {"role": USER, "content": f"{PLACEHOLDER}\nWhat does this meme mean?"},
        {"role": ASSISTANT, "content": "The poster is proud."},
    ]


# ------------------------------------------------------------------------------------------ tables and paths as people have them


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", 'image;caption\n0.jpg;"a dog; it runs, and barks"\n1.jpg;a cat, asleep\n'),
        ("x.csv", "caption|image|score\na dog; it runs, and barks|0.jpg|1\na cat, asleep|1.jpg|2\n"),
        ("x.csv", "image\tcaption\n0.jpg\ta dog; it runs, and barks\n1.jpg\ta cat, asleep\n"),
        ("x.tsv", 'image,caption\r\n0.jpg,"a dog; it runs, and barks"\r\n1.jpg,"a cat, asleep"\r\n'),
        ("x.csv", '\ufeff"image";"caption"\n"0.jpg";"a dog; it runs, and barks"\n"1.jpg";"a cat, asleep"\n'),
    ],
)
def test_tables_with_any_delimiter(tmp_path, name, content):
    for number in range(2):
        write(tmp_path / f"{number}.jpg", image_bytes(number))
    make("captions", write(tmp_path / name, content), out=tmp_path / "out")
    assert [record["caption"] for record in fields(tmp_path / "out")] == ["a dog; it runs, and barks", "a cat, asleep"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (
            "x.csv",
            "bild;caption\n0.jpg;a dog\n",
            r"has 'bild', 'caption': none .* path of an image; name it with --image-field",
        ),
        ("x.jsonl", '{"image": "0.jpg", "beschreibung": "x"}\n', r"has 'image', 'beschreibung': none .* --text-field"),
        ("x.json", '[{"image": "0.jpg", "beschreibung": "x"}]', r"has 'image', 'beschreibung': none .* --text-field"),
    ],
)
def test_a_missing_column_is_named_with_those_that_are_there(tmp_path, run, name, content, says):
    write(tmp_path / "0.jpg", image_bytes(0))
    file = write(tmp_path / name, content)
    code, _, said = run("prepare", "captions", file, "--out", tmp_path / "out", "--workers", 1)
    [line] = said.splitlines()
    assert code == 2 and re.search(says, line) and str(file) in line and not (tmp_path / "out").exists()


def test_fields_that_later_records_have_are_no_mistake(tmp_path):
    """The first of many records may be a poor one."""
    write(tmp_path / "0.jpg", image_bytes(0))
    records = [{"image": "0.jpg"}, {"image": "0.jpg", "caption": "a dog"}]
    result = make("captions", write(tmp_path / "x.jsonl", records), out=tmp_path / "out", max_bad=0.5)
    assert (result["samples"], result["skipped"]) == (1, {"there is no caption": 1})


def test_absolute_and_windows_paths(tmp_path, run):
    for number in range(3):
        write(tmp_path / "images/sub" / f"{number}.jpg", image_bytes(number))
    paths = [str(tmp_path / "images/sub/0.jpg"), "sub\\1.jpg", "../images/sub/2.jpg"]
    file = write(tmp_path / "lists/x.jsonl", [{"image": path, "caption": path} for path in paths])
    words = ("prepare", "captions", file, "--out", tmp_path / "out", "--workers", 1)
    code, _, said = run(*words)
    assert code == 2 and f"leaves the image folder {tmp_path / 'lists'}: pass --images {tmp_path}\n" in said
    assert run(*words, "--images", tmp_path / "images")[0] == 0
    assert [data for _, _, [data] in samples(tmp_path / "out")] == [image_bytes(number) for number in range(3)]


def test_a_caption_of_several_images(tmp_path):
    """They train an image_caption; to draw from a caption, there must be one."""
    for number in (1, 2):
        write(tmp_path / f"{number}.jpg", image_bytes(number))
    records = [{"image": ["1.jpg", "2.jpg"], "caption": "Before and after."}, {"image": "1.jpg", "caption": "Before."}]
    file = write(tmp_path / "x.jsonl", records)
    make("captions", file, out=tmp_path / "plain")
    assert samples(tmp_path / "plain")[0][1:] == ({"caption": "Before and after."}, [image_bytes(1), image_bytes(2)])
    source = ShardSource([tmp_path / "plain/shard-00000.tar"])
    assert [s.role for s in get_template("image_caption").build(source[0])] == ["image_in", "image_in", "text"]
    make("captions", file, out=tmp_path / "draw", form="draw", max_bad=0.5)
    assert [line["reason"] for line in skipped(tmp_path / "draw")] == ["one image is drawn from a caption"]
