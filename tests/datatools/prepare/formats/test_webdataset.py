"""Tars made by others."""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
import tarfile

import pytest

from janus_train.data.shards.scan import write_index
from janus_train.data.sources.shards import ShardSource
from janus_train.data.special_tokens import USER
from janus_train.errors import UserError
from tests.datatools.prepare.making import (
    contents,
    fields,
    image_bytes,
    make,
    samples,
    skipped,
    tar_bytes,
    write,
    write_tar,
)


def test_tars_of_img2dataset(tmp_path):
    """KEY.jpg, KEY.txt with the caption, KEY.json with what is known of it (an address among it)."""
    for shard in range(2):
        members = {}
        for n in range(3):
            key = f"{shard:05d}{n:04d}"
            members[f"{key}.jpg"] = image_bytes(10 * shard + n)
            members[f"{key}.json"] = {"caption": "other", "url": "https://example.invalid/1.jpg", "status": "success"}
            members[f"{key}.txt"] = f"caption {shard} {n}"
        write_tar(tmp_path / f"{shard:05d}.tar", members)
        write(tmp_path / f"{shard:05d}_stats.json", {})
    make("webdataset", tmp_path, out=tmp_path / "out")
    written_samples = samples(tmp_path / "out")
    assert [fields_of_sample["caption"] for _, fields_of_sample, _ in written_samples] == [
        f"caption {s} {n}" for s in range(2) for n in range(3)
    ]
    assert [key for key, _, _ in written_samples][3] == "000000003-000010000"
    make("webdataset", tmp_path / "*.tar", out=tmp_path / "draw", form="draw", text_field=("caption",))
    assert fields(tmp_path / "draw")[0]["conversations"][0] == {"role": USER, "content": "caption 0 0"}


def test_tars_with_the_prompt_in_the_json(tmp_path):
    """jackyhate/text-to-image-2M."""
    tar = write_tar(tmp_path / "data_000000.tar", {"1.jpg": image_bytes(1), "1.json": {"prompt": "a dog"}})
    make("webdataset", tar, out=tmp_path / "out", text_field=("prompt",))
    assert fields(tmp_path / "out") == [{"caption": "a dog"}]


def test_tars_with_classes_folders_and_odd_members(tmp_path):
    members = {
        "train/a.b/n1.cls": "1",
        "train/a.b/n1.jpg": image_bytes(1),
        "train/a.b/n1.pyd": b"a pickle that nobody opens",
        "train/n2.JPG": image_bytes(2),
        "train/n2.cls": b"0\n",
        "._n2.jpg": b"a leftover",
        "README": "no ending",
    }
    names = write(tmp_path / "names.json", ["goldfish", "tench, Tinca tinca"])
    make("webdataset", write_tar(tmp_path / "x.tar", members), out=tmp_path / "out", classes=str(names))
    assert [(key, fields_of_sample["class_name"]) for key, fields_of_sample, _ in samples(tmp_path / "out")] == [
        ("000000000-n1", "tench"),
        ("000000001-n2", "goldfish"),
    ]


def test_tars_with_several_images_and_with_texts_alone(tmp_path):
    turns = [{"from": "human", "value": "<image><image>Which?"}, {"from": "gpt", "value": "The first."}]
    members = {
        "a.0.png": image_bytes(0, "PNG"),
        "a.10.png": image_bytes(2, "PNG"),
        "a.2.png": image_bytes(1, "PNG"),
        "a.json": {"conversations": [{"from": "human", "value": "<image>" * 3 + "?"}, turns[1]]},
        "c.json": {"question": "Q?", "answer": "A."},
        "c.webp": image_bytes(3, "WEBP"),
    }
    tars = [write_tar(tmp_path / "x.tar", members), write_tar(tmp_path / "y.tar", {"b.txt": "only words"})]
    make("webdataset", *tars, out=tmp_path / "out")
    written_samples = samples(tmp_path / "out")
    assert written_samples[0][2] == [image_bytes(n, "PNG") for n in range(3)]
    assert [fields_of_sample for _, fields_of_sample, _ in written_samples[1:]] == [
        {"question": "Q?", "answer": "A."},
        {"text": "only words"},
    ]


def test_rewriting_our_own_shards_keeps_everything(tmp_path):
    records = [{"image": f"{n}.jpg", "caption": f"caption {n}"} for n in range(3)]
    for n in range(3):
        write(tmp_path / f"{n}.jpg", image_bytes(n))
    make("captions", write(tmp_path / "x.jsonl", records), out=tmp_path / "one")
    make("webdataset", tmp_path / "one", out=tmp_path / "two")
    assert [fields_of_sample[1:] for fields_of_sample in samples(tmp_path / "one")] == [
        fields_of_sample[1:] for fields_of_sample in samples(tmp_path / "two")
    ]


@pytest.mark.parametrize("fault", ["cut", "header", "gzip", "empty", "no sample", "no end"])
def test_damaged_tars_are_refused_before_anything_is_written(tmp_path, fault):
    tar_data = tar_bytes(
        {f"{n}.{ending}": image_bytes(n) if ending == "jpg" else "x" for n in range(9) for ending in ("jpg", "txt")}
    )
    damaged_tars = {
        "cut": tar_data[: len(tar_data) // 2 + 100],
        "header": tar_data[:4096] + b"\xff" * 512 + tar_data[4096 + 512 :],
        "gzip": gzip.compress(tar_data),
        "empty": b"",
        "no sample": tar_bytes({"a.pdf": b"x"}),
        "no end": tar_data.rstrip(b"\0")[: -(len(tar_data.rstrip(b"\0")) % 512) or None],
    }[fault]
    good_tar = write_tar(tmp_path / "good.tar", {"1.jpg": image_bytes(1), "1.txt": "x"})
    bad_tar = write(tmp_path / "bad.tar", damaged_tars)
    with pytest.raises(UserError, match=r"bad\.tar"):
        make("webdataset", good_tar, bad_tar, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_members_of_one_name(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, data in [("a.jpg", image_bytes(1)), ("a.txt", b"1"), ("a.txt", b"2")]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with pytest.raises(UserError, match="1 of 1 records cannot be used"):
        make("webdataset", tmp_path / "x.tar", out=tmp_path / "out")
    assert skipped(tmp_path / "out")[0]["reason"] == "two members of the sample have one name"


# ------------------------------------------------------------------------------------- names with dots, and other orders


def keys_and_captions(out):
    return [(key, fields_of_sample.get("caption")) for key, fields_of_sample, _ in samples(out)]


def test_names_with_dots_are_samples_of_their_own(tmp_path):
    """Also where a unit begins among the samples of one key, and just as ``index`` reads them."""
    members = {}
    for number in range(600):
        members[f"d.x/photo.v{number}.png"] = image_bytes(number, "PNG")
        members[f"d.x/photo.v{number}.txt"] = f"caption {number}"
    tar = write_tar(tmp_path / "x.tar", members)
    result = make("webdataset", tar, out=tmp_path / "out")
    assert (result["samples"], result["skipped"], result["unused"]) == (600, {}, {})
    assert keys_and_captions(tmp_path / "out") == [
        (f"{number:09d}-photo-v{number}", f"caption {number}") for number in range(600)
    ]
    assert [images[0] for _, _, images in samples(tmp_path / "out")] == [image_bytes(n, "PNG") for n in range(600)]
    make("webdataset", tar, out=tmp_path / "two", workers=2)
    assert contents(tmp_path / "out") == contents(tmp_path / "two")
    write_index(tar)
    source = ShardSource([tar])
    assert [record.fields["caption"] for record in source] == [f"caption {number}" for number in range(600)]


def test_what_has_no_partner_and_what_is_not_clear_is_counted_and_named(tmp_path):
    members = {
        **{
            f"good{number}.{ending}": data
            for number in range(7)
            for ending, data in (("jpg", image_bytes(number)), ("txt", "x"))
        },
        "photo.v1.png": image_bytes(1, "PNG"),
        "photo.v2.png": image_bytes(2, "PNG"),
        "photo.txt": "which?",
        "lonely.v2.png": image_bytes(3, "PNG"),
        "words.txt": "no image",
        "good0x.jpg": image_bytes(4),
        "good0x.mask.png": image_bytes(5, "PNG"),
        "good0x.txt": "with a mask",
        "good0x.npy": b"x",
        "link.pdf": b"x",
        "__MACOSX/good0.jpg": b"x",
        "._good0.jpg": b"x",
    }
    result = make("webdataset", write_tar(tmp_path / "x.tar", members), out=tmp_path / "out", max_bad=0.5)
    assert result["samples"] == 8
    assert [
        (record["where"].rpartition(", ")[2], record["reason"].partition(" (")[0])
        for record in skipped(tmp_path / "out")
    ] == [
        (
            "photo",
            "it is not clear which image belongs to which text: a key ends at the first dot of a name: rename the members",
        ),
        ("lonely.v2", "an image without a text"),
        ("words", "a text without an image, in a tar with images"),
    ]
    assert result["unused"] == {
        "hidden members": 2,
        "members .pdf": 1,
        "members .mask.png beside the sample's own": 1,
        "members .npy": 1,
        "members .v1.png beside the sample's own": 1,
        "members .v2.png beside the sample's own": 1,
    }
    result = make("webdataset", tmp_path / "x.tar", out=tmp_path / "images", max_bad=0.5, min_pictures=1)
    assert sum(result["skipped"].values()) == 2 and list(result["left_out"].values()) == [1]


def test_words_that_are_not_used_are_counted(tmp_path):
    members = {"a.jpg": image_bytes(1), "a.txt": "x", "a.caption": "y", "a.cls": "cat"}
    tar = write_tar(tmp_path / "x.tar", members)
    result = make("webdataset", tar, out=tmp_path / "out", text_field=("caption",))
    assert keys_and_captions(tmp_path / "out") == [("000000000-a", "x")]
    assert result["unused"] == {
        "members .caption beside the sample's own": 1,
        "members .cls of samples with words": 1,
    }


@pytest.fixture
def scattered_tar(tmp_path):
    """All images, then all texts."""
    members = {f"{number}.jpg": image_bytes(number) for number in range(40)}
    members |= {f"{number}.txt": f"caption {number}" for number in reversed(range(40))}
    return write_tar(tmp_path / "x.tar", members)


def test_members_that_do_not_stand_together(tmp_path, scattered_tar, monkeypatch):
    monkeypatch.setattr("janus_train.datatools.prepare.items.UNIT_RECORDS", 7)
    with pytest.raises(UserError, match=r"do not stand together \(38\.jpg, further on 38\.txt\): --sort"):
        make("webdataset", scattered_tar, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    result = make("webdataset", scattered_tar, out=tmp_path / "out", sort=True)
    assert (result["samples"], result["skipped"], result["unused"]) == (40, {}, {})
    assert keys_and_captions(tmp_path / "out") == [(f"{n:09d}-{n}", f"caption {n}") for n in range(40)]
    assert [images for _, _, images in samples(tmp_path / "out")] == [[image_bytes(n)] for n in range(40)]


def test_the_commands_say_the_remedy(tmp_path, scattered_tar):
    def run(*words):
        command = [sys.executable, "-m", "janus_train.cli", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True)

    result = run("prepare", "webdataset", scattered_tar, "--out", tmp_path / "out")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1) and "--sort reads such tars" in result.stderr
    result = run("prepare", "webdataset", scattered_tar, "--sort", "--out", tmp_path / "out")
    assert result.stdout.startswith("40 samples, 1 shards"), result.stderr
    result = run("index", scattered_tar)
    assert result.returncode == 0
    assert (
        "the members of 39 samples do not stand together" in result.stderr
        and "prepare webdataset --sort" in result.stderr
    )
    assert run("index", tmp_path / "out/shard-00000.tar").stderr == ""


def test_a_key_that_comes_again_whole_is_another_sample(tmp_path):
    """Tars that were joined."""
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, data in [("a.jpg", image_bytes(1)), ("a.txt", b"1"), ("b.txt", b"2"), ("b.jpg", image_bytes(2))] * 2:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    make("webdataset", tmp_path / "x.tar", out=tmp_path / "out")
    assert [caption for _, caption in keys_and_captions(tmp_path / "out")] == ["1", "2", "1", "2"]
