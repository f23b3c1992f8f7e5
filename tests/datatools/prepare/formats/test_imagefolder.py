"""Folders and tars of images by class."""

from __future__ import annotations

import io
import json

import pytest
from PIL import Image

from janus_train.data import image_files
from janus_train.data.images import to_rgb
from janus_train.data.sources.shards import ShardSource
from janus_train.data.templates import get_template
from janus_train.errors import UserError
from tests.datatools.prepare.making import fields, image_bytes, make, samples, tar_bytes, write, write_tar

SYNSETS = "n01440764 tench, Tinca tinca\nn01443537 goldfish, Carassius auratus\nn01484850 great white shark\n"
CLASSES = {"n01440764": "tench", "n01443537": "goldfish", "n01484850": "great white shark"}


def ilsvrc_train(path, images_per_class=4):
    """ILSVRC2012_img_train.tar: a tar of a tar for each class."""
    inner = {}
    for number, class_id in enumerate(CLASSES):
        images = {f"{class_id}_{i}.JPEG": image_bytes(100 * number + i) for i in range(images_per_class)}
        inner[f"{class_id}.tar"] = tar_bytes(images)
    return write_tar(path, inner)


def test_ilsvrc_tar_of_tars(tmp_path):
    tar = ilsvrc_train(tmp_path / "ILSVRC2012_img_train.tar")
    names = write(tmp_path / "LOC_synset_mapping.txt", SYNSETS)
    result = make("imagefolder", tar, out=tmp_path / "out", classes=str(names))
    written_samples = samples(tmp_path / "out")
    assert result["samples"] == len(written_samples) == 12
    for key, value, images in written_samples:
        class_id, number = key[10:].split("_")
        assert value == {"class_name": CLASSES[class_id]}
        assert images == [image_bytes(100 * list(CLASSES).index(class_id) + int(number))], "kept byte for byte"
    source = ShardSource([tmp_path / "out/shard-00000.tar"])
    assert get_template("class_to_image").build(source[0])[0].text == written_samples[0][1]["class_name"]


def test_every_shard_has_its_share_of_every_class(tmp_path):
    tar = ilsvrc_train(tmp_path / "train.tar", images_per_class=8)
    names = write(tmp_path / "names.json", CLASSES)
    make("imagefolder", tar, out=tmp_path / "out", classes=str(names), shard_samples=6)
    for path in sorted((tmp_path / "out").glob("*.tar")):
        source = ShardSource([path])
        assert {source[i].fields["class_name"] for i in range(len(source))} == set(CLASSES.values())


@pytest.mark.parametrize(
    "mapping",
    [CLASSES, {str(i): [key, name] for i, (key, name) in enumerate(CLASSES.items())}],
    ids=["id to name", "imagenet_class_index.json"],
)
def test_a_folder_with_a_mapping(tmp_path, mapping):
    for number, class_id in enumerate(CLASSES):
        write(tmp_path / "train" / class_id / "images" / f"{number}.png", image_bytes(number, "PNG"))
        write(tmp_path / "train" / class_id / "boxes.txt", "no image")
    names = write(tmp_path / "names.json", mapping)
    make("imagefolder", tmp_path / "train", out=tmp_path / "out", classes=str(names))
    assert sorted(record["class_name"] for record in fields(tmp_path / "out")) == sorted(CLASSES.values())


def test_folders_are_called_as_they_are(tmp_path):
    write(tmp_path / "raw/great_white_shark/1.jpg", image_bytes(1))
    make("imagefolder", tmp_path / "raw", out=tmp_path / "out")
    assert fields(tmp_path / "out") == [{"class_name": "great white shark"}]


def test_all_names_of_a_class(tmp_path):
    names = write(tmp_path / "names.txt", SYNSETS)
    write(tmp_path / "raw/n01440764/1.jpg", image_bytes(1))
    make("imagefolder", tmp_path / "raw", out=tmp_path / "out", classes=str(names), class_names="all")
    assert fields(tmp_path / "out") == [{"class_name": "tench, Tinca tinca"}]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "give --classes"),
        ("n01440764 tench\n", "has no class 'n01443537'"),
        ("n01440764\n", "has no name after the id"),
        ("{broken", "is not valid JSON"),
        ("", "contains no class"),
        ('{"n01440764": 3}', "is not a string"),
        ('{"n01440764": " "}', "has no name"),
    ],
)
def test_wrong_classes_are_one_line_and_nothing_is_written(tmp_path, content, says):
    for class_id in CLASSES:
        write(tmp_path / "raw" / class_id / "1.jpg", image_bytes(1))
    options = {} if content is None else {"classes": str(write(tmp_path / "names", content))}
    with pytest.raises(UserError, match=says):
        make("imagefolder", tmp_path / "raw", out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_links_to_nothing_and_hidden_files(tmp_path):
    write(tmp_path / "raw/cat/1.jpg", image_bytes(1))
    write(tmp_path / "raw/cat/._1.jpg", "a leftover")
    write(tmp_path / "raw/.cache/1.jpg", image_bytes(1))
    (tmp_path / "raw/cat/2.jpg").symlink_to(tmp_path / "nowhere.jpg")
    result = make("imagefolder", tmp_path / "raw", out=tmp_path / "out", max_bad=0.5)
    assert (result["samples"], result["skipped"]) == (1, {"the image is missing": 1})


# ------------------------------------------------------------------------------------- what is not read of a class


@pytest.fixture
def no_decoders(monkeypatch):
    """A machine without decoders for AVIF and HEIC."""
    monkeypatch.setattr(image_files, "_UNREADABLE", {"AVIF", "HEIF"})
    readable = tuple(
        ending for ending in image_files.IMAGE_ENDINGS if ending not in (".avif", ".heic", ".heif", ".hif")
    )
    monkeypatch.setattr(image_files, "IMAGE_ENDINGS", readable)


def test_unread_files_are_counted_per_class_and_said(tmp_path, no_decoders, run):
    for name in ("cat/1.jpg", "dog/1.jpg"):
        write(tmp_path / "raw" / name, image_bytes(1))
    for name in ("cat/2.HEIC", "cat/3.heic", "dog/2.avif", "dog/boxes.txt", "dog/.DS_Store", "notes.txt"):
        write(tmp_path / "raw" / name, "not read")
    code, _, said = run("prepare", "imagefolder", tmp_path / "raw", "--out", tmp_path / "out", "--workers", 1)
    assert code == 0
    unused = json.loads((tmp_path / "out/prepared.json").read_text())["unused"]
    assert unused == {
        "files .heic (pip install pillow-heif) of the class 'cat'": 2,
        "files .avif (pip install 'pillow>=11.3') of the class 'dog'": 1,
        "files .txt of the class 'dog'": 1,
        "hidden files of the class 'dog'": 1,
        "files in no class's folder": 1,
    }
    assert "not used: 2 files .heic (pip install pillow-heif) of the class 'cat', " in said


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (["1.HEIC", "2.heic", "3.avif", "x.txt"], "2 files .heic (pip install pillow-heif), 1 files .avif"),
        (["x.txt"], "it contains 1 files .txt"),
        ([".1.jpg"], "it contains 1 hidden files"),
        ([], "it contains no file"),
    ],
)
def test_a_class_without_an_image_is_refused_by_name(tmp_path, no_decoders, run, files, says):
    write(tmp_path / "raw/cat/1.jpg", image_bytes(1))
    (tmp_path / "raw/dog").mkdir()
    for name in files:
        write(tmp_path / "raw/dog" / name, "not read")
    code, _, said = run("prepare", "imagefolder", tmp_path / "raw", "--out", tmp_path / "out", "--workers", 1)
    assert code == 2 and not (tmp_path / "out").exists()
    [line] = said.splitlines()
    assert "the class 'dog' has no image that can be read" in line and says in line


def test_a_class_of_a_tar_is_not_lost_either(tmp_path, no_decoders):
    fine, lost = tar_bytes({"1.jpg": image_bytes(1), "2.heic": b"x"}), tar_bytes({"1.heic": b"x"})
    write_tar(tmp_path / "inner.tar", {"cat.tar": fine, "dog.tar": lost})
    with pytest.raises(
        UserError, match=r"the class 'dog' has no image .* 1 members \.heic \(pip install pillow-heif\)"
    ):
        make("imagefolder", tmp_path / "inner.tar", out=tmp_path / "out")
    write_tar(tmp_path / "folders.tar", {"cat/1.jpg": image_bytes(1), "dog/1.heic": b"x"})
    with pytest.raises(UserError, match="the class 'dog' has no image"):
        make("imagefolder", tmp_path / "folders.tar", out=tmp_path / "out")
    members = {"README": "x", "cat/1.jpg": image_bytes(1), "cat/2.heic": b"x", "kit/readme.txt": "a tar's notes"}
    result = make("imagefolder", write_tar(tmp_path / "a.tar", members), out=tmp_path / "out")
    assert result["unused"] == {
        "members .heic (pip install pillow-heif) of the class 'cat'": 1,
        "members .txt of the class 'kit'": 1,
        "members in no class's folder": 1,
    }


def test_avif_is_read_where_pillow_reads_it(tmp_path):
    if "AVIF" not in image_files.SAFE_FORMATS:
        pytest.skip("this Pillow does not read AVIF")
    exif = Image.Exif()
    exif[0x0112] = 6
    write(tmp_path / "raw/cat/1.avif", image_bytes(1, "AVIF", exif=exif.tobytes()))
    assert make("imagefolder", tmp_path / "raw", out=tmp_path / "out")["unused"] == {}
    [(_, value, [data])] = samples(tmp_path / "out")
    with Image.open(io.BytesIO(data)) as image:
        assert (value, image.format, image.size) == ({"class_name": "cat"}, "PNG", (16, 24)), "upright"
        assert to_rgb(image).size == (16, 24), "and not turned again"
