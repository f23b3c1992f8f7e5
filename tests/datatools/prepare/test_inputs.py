"""Inputs are recognised by their content: changed ones are refused, copied and touched ones are not read for changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from datasets import Dataset

from janus_train.data.unused import counting
from janus_train.datatools.prepare.inputs import expand
from janus_train.datatools.prepare.workers import _InProcess
from janus_train.errors import UserError
from tests.datatools.prepare.making import contents, image_bytes, make, tar_bytes, write

BMP = {seed: image_bytes(seed, "BMP") for seed in range(8)}  # all of one size


def captions(folder, seed, words="a red apple"):
    write(folder / "0.bmp", BMP[seed])
    return write(folder / "x.jsonl", [{"image": "0.bmp", "caption": words}])


def texts(folder, seed, words="a red apple"):
    return write(folder / "x.jsonl", [{"text": f"{words} {seed}"}])


def pairs(folder, seed, words="a red apple"):
    write(folder / "raw/0.bmp", BMP[seed])
    write(folder / "raw/0.txt", words)
    return folder / "raw"


def metadata(folder, seed, words="a red apple"):
    write(folder / "raw/0.bmp", BMP[seed])
    write(folder / "raw/metadata.csv", f"file_name,text\n0.bmp,{words}\n")
    return folder / "raw"


def csv(folder, seed, words="a red apple"):
    write(folder / "0.bmp", BMP[seed])
    return write(folder / "x.csv", f"image,caption\n0.bmp,{words}\n")


def coco(folder, seed, words="a red apple"):
    write(folder / "0.bmp", BMP[seed])
    images, annotations = [{"id": 1, "file_name": "0.bmp"}], [{"image_id": 1, "caption": words}]
    return write(folder / "x.json", {"images": images, "annotations": annotations})


def webdataset(folder, seed, words="a red apple"):
    return write(folder / "x.tar", tar_bytes({"0.bmp": BMP[seed], "0.txt": words}))


def classes(folder, seed, words="a red apple"):
    write(folder / "raw" / "apple" / "0.bmp", BMP[seed])
    return folder / "raw"


def class_tar(folder, seed, words="a red apple"):
    return write(folder / "x.tar", tar_bytes({"apple/0.bmp": BMP[seed]}))


def parquet(folder, seed, words="a red apple"):
    folder.mkdir(exist_ok=True)
    Dataset.from_dict({"image": [BMP[seed]], "caption": [words]}).to_parquet(folder / "x.parquet")
    return folder / "x.parquet"


def hf(folder, seed, words="a red apple"):
    shutil.rmtree(folder / "hf", ignore_errors=True)
    Dataset.from_dict({"image": [BMP[seed]], "caption": [words]}).save_to_disk(folder / "hf")
    return folder / "hf"


IMAGES = [
    ("captions", captions),
    ("captions", csv),
    ("captions", coco),
    ("captions", pairs),
    ("captions", metadata),
    ("webdataset", webdataset),
    ("imagefolder", classes),
    ("imagefolder", class_tar),
    ("parquet", parquet),
    ("hf", hf),
]


@pytest.mark.parametrize(("format_", "raw"), [*IMAGES, ("text", texts)])
def test_bytes_that_change_without_the_size_are_noticed(tmp_path, format_, raw):
    path = raw(tmp_path, 1)
    first_result = make(format_, path, out=tmp_path / "out")
    raw(tmp_path, 1)  # written again, with the same bytes
    assert make(format_, path, out=tmp_path / "out") == first_result
    before = contents(tmp_path / "out")
    raw(tmp_path, 2)
    with pytest.raises(UserError, match=r"the input has changed since .*out was started") as error:
        make(format_, path, out=tmp_path / "out")
    assert len(str(error.value).splitlines()) == 1
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("format_", "raw"),
    [(format_, raw) for format_, raw in [*IMAGES, ("text", texts)] if raw not in (classes, class_tar)],
)
def test_words_that_change_without_the_size_are_noticed(tmp_path, format_, raw):
    path = raw(tmp_path, 1, "a red apple")
    make(format_, path, out=tmp_path / "out")
    raw(tmp_path, 1, "a bad apple")
    with pytest.raises(UserError, match="the input has changed since"):
        make(format_, path, out=tmp_path / "out")


def test_another_file_with_the_same_size_and_time_is_noticed(tmp_path):
    path = captions(tmp_path, 1)
    make("captions", path, out=tmp_path / "out")
    times = (tmp_path / "0.bmp").stat()
    write(tmp_path / "0.bmp", BMP[2])
    os.utime(tmp_path / "0.bmp", ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(UserError, match=r"has changed since .* \(at or after .*x\.jsonl:1\)"):
        make("captions", path, out=tmp_path / "out")


def test_names_of_classes_that_change_are_noticed(tmp_path):
    names = write(tmp_path / "names.json", {"apple": "red"})
    make("imagefolder", classes(tmp_path, 1), out=tmp_path / "out", classes=str(names))
    write(names, {"apple": "bad"})
    with pytest.raises(UserError, match="the input has changed since"):
        make("imagefolder", tmp_path / "raw", out=tmp_path / "out", classes=str(names))


def test_only_what_was_touched_is_read_again_and_only_once(tmp_path, monkeypatch):
    monkeypatch.setattr("janus_train.datatools.prepare.items.UNIT_RECORDS", 2)
    records = [{"image": f"{seed}.bmp", "caption": "x"} for seed in BMP]
    for seed in BMP:
        write(tmp_path / f"{seed}.bmp", BMP[seed])
    path = write(tmp_path / "x.jsonl", records)
    make("captions", path, out=tmp_path / "out")
    units_read = []
    read_content = _InProcess.read_content

    def recorded(self, units):
        units = list(units)
        units_read.append([unit.first_record for unit in units])
        return read_content(self, units)

    monkeypatch.setattr(_InProcess, "read_content", recorded)
    os.utime(tmp_path / "5.bmp")
    os.utime(path)
    for _ in range(2):
        make("captions", path, out=tmp_path / "out")
    assert units_read == [[4], []]


@pytest.fixture
def half_done(tmp_path, monkeypatch):
    """Eight images in units of four and shards of three; stopped by the last one, which is no image."""
    monkeypatch.setattr("janus_train.datatools.prepare.items.UNIT_RECORDS", 4)
    for seed in BMP:
        write(tmp_path / f"{seed}.bmp", BMP[seed] if seed < 7 else bytes(len(BMP[7])))
    path = write(tmp_path / "x.jsonl", [{"image": f"{seed}.bmp", "caption": "x"} for seed in BMP])

    def prepare(workers=1):
        return make("captions", path, out=tmp_path / "out", shard_samples=3, workers=workers)

    with pytest.raises(UserError, match="1 of 8 records cannot be used"):
        prepare()
    assert len(list((tmp_path / "out").glob("*.tar"))) == 2
    return prepare


@pytest.mark.parametrize("changed", [0, 3, 4, 5])
def test_an_unfinished_folder_notices_a_change_in_what_it_has_written(tmp_path, half_done, changed):
    """The second shard ends inside the second unit, after image 5."""
    write(tmp_path / f"{changed}.bmp", BMP[7])
    write(tmp_path / "7.bmp", BMP[7])
    before = {path: path.read_bytes() for path in (tmp_path / "out").glob("*.tar")}
    with pytest.raises(UserError, match="the input has changed since"):
        half_done()
    assert {path: path.read_bytes() for path in (tmp_path / "out").glob("*.tar")} == before
    assert not (tmp_path / "out/prepared.json").exists()


def test_an_unfinished_folder_takes_new_bytes_of_what_it_has_not_written(tmp_path, half_done):
    for seed in BMP:
        write(tmp_path / f"{seed}.bmp", BMP[seed])  # the first seven as they were
    assert half_done()["samples"] == 8
    path = tmp_path / "x.jsonl"
    make("captions", path, out=tmp_path / "whole", shard_samples=3)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_the_command_says_it_in_a_line(tmp_path):
    path = captions(tmp_path, 1)
    command = [sys.executable, "-m", "janus_train.cli", "prepare", "captions", path, "--out", tmp_path / "out"]
    assert subprocess.run(command, capture_output=True, text=True).returncode == 0
    captions(tmp_path, 1, "a bad apple")
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: the input has changed since {tmp_path}/out was started")
    assert result.stderr.count("\n") == 1


# ---------------------------------------------------------------------------------------------------------- not used


def test_a_folders_other_files_are_counted(tmp_path):
    for name in ("a/1.csv", "a/._1.csv", "__MACOSX/a/1.csv", "README", "a/1.pdf", "2.PDF", "a/1.png", "b/x.csv"):
        write(tmp_path / "raw" / name, "x")
    (tmp_path / "raw/link").symlink_to(tmp_path)
    (tmp_path / "raw/gone.csv").symlink_to(tmp_path / "nothing")
    with counting() as unused:
        files = expand((str(tmp_path / "raw"),), (".csv",), "table", beside=(".png",))
    assert files == [str(tmp_path / "raw" / name) for name in ("a/1.csv", "b/x.csv")]
    assert unused == {
        "hidden files": 2,
        "files without an ending": 1,
        "files .pdf": 2,
        "links to folders": 1,
        "links to nothing, pipes or devices": 1,
    }


def test_what_is_not_used_stands_in_the_summary_and_on_any_number_of_processes(tmp_path):
    for number in range(3):
        write(tmp_path / f"raw/{number}.jsonl", [{"text": f"text {number}"}])
    write(tmp_path / "raw/notes.md", "x")
    result = make("text", tmp_path / "raw", out=tmp_path / "one")
    assert result["unused"] == {"files .md": 1}
    make("text", tmp_path / "raw", out=tmp_path / "two", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    command = [sys.executable, "-m", "janus_train.cli", "prepare", "text", tmp_path / "raw", "--out", tmp_path / "out"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("3 samples, 1 shards")
    assert result.stderr.endswith("not used: 1 files .md\n")
