"""Tars made by others."""

from __future__ import annotations

import gzip
import io
import tarfile

import pytest

from janus_train.data.special_tokens import USER
from janus_train.errors import UserError
from tests.datatools.prepare.making import fields, image_bytes, make, samples, skipped, tar_bytes, write, write_tar


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
        "b.txt": "only words",
        "c.json": {"question": "Q?", "answer": "A."},
        "c.webp": image_bytes(3, "WEBP"),
    }
    make("webdataset", write_tar(tmp_path / "x.tar", members), out=tmp_path / "out")
    written_samples = samples(tmp_path / "out")
    assert written_samples[0][2] == [image_bytes(n, "PNG") for n in range(3)]
    assert [fields_of_sample for _, fields_of_sample, _ in written_samples[1:]] == [
        {"text": "only words"},
        {"question": "Q?", "answer": "A."},
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
