"""Values by a path of names, paths that stay in their folder, keys that are safe, options that contradict each other."""

from __future__ import annotations

import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from janus_train.datatools.prepare.fields import pick
from janus_train.datatools.prepare.inputs import path_inside
from janus_train.datatools.prepare.options import PrepareOptions, byte_count
from janus_train.datatools.prepare.samples import encode, key
from janus_train.errors import UserError

RECORD = {
    "a": {"b": {"c": 1}},
    "a.b": 2,
    "list": [{"k": ""}, {"k": "x", "l": 1}, {"k": "y", "l": 2}],
    "lists": {"language": ["fr", "en"], "title": ["un", "one"], "short": ["un"]},
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("a.b.c", 1),
        ("a.b", 2),
        ("list.k", "x"),
        ("list[k=y].l", 2),
        ("list[k=z].l", None),
        ("lists[language=en].title", "one"),
        ("lists[language=en].short", None),
        ("lists[language=de].title", None),
        ("a.x.y", None),
        ("x", None),
    ],
)
def test_pick(path, value):
    assert pick(RECORD, path) == value


@pytest.mark.parametrize("path", ["a[", "a[b]", "", "a..b"])
def test_a_path_that_is_none(path):
    with pytest.raises(UserError, match="is not a path of field names"):
        pick(RECORD, path)


@pytest.mark.parametrize("folder", ["/data/pictures", "pictures", ".", "../pictures", "/"])
@pytest.mark.parametrize("name", ["a.jpg", "./a/../b/c.jpg", "a//b.jpg"])
def test_paths_inside(folder, name):
    assert path_inside(folder, name, "x:1").startswith(("/data", "pictures", "../pictures", "a", "b", "/a", "/b"))


@pytest.mark.parametrize("folder", ["/data/pictures", "pictures", ".", "../pictures"])
@pytest.mark.parametrize(
    "name", ["../a.jpg", "a/../../b.jpg", "/etc/passwd", "..", ".", "", "a\0b", "../pictures2/a.jpg"]
)
def test_paths_that_leave(folder, name):
    with pytest.raises(UserError, match=r"x:1: the image's path .* leaves the image folder"):
        path_inside(folder, name, "x:1")


@pytest.mark.parametrize("folder", ["images", "./images", "records/../images", "link"])
def test_an_absolute_path_inside_is_fine(tmp_path, monkeypatch, folder):
    (tmp_path / "images/deep").mkdir(parents=True)
    (tmp_path / "records").mkdir()
    (tmp_path / "link").symlink_to("images")
    monkeypatch.chdir(tmp_path)
    for name in (f"{tmp_path}/images/deep/a.jpg", f"{tmp_path}/link/deep/a.jpg", f"{tmp_path}/images/x/../a.jpg"):
        assert path_inside(folder, name, "x:1") == os.path.normpath(name)
    for name in (f"{tmp_path}/images", f"{tmp_path}/images2/a.jpg", f"{tmp_path}/images/../a.jpg"):
        with pytest.raises(UserError, match="leaves the image folder"):
            path_inside(folder, name, "x:1")


def test_two_dots_may_lead_from_the_records_into_the_folder():
    assert path_inside("data/images", "../images/a.jpg", "x:1", "data/records") == "data/images/a.jpg"
    assert path_inside("data/images", "b/../a.jpg", "x:1", "data/records") == "data/images/a.jpg"
    with pytest.raises(UserError, match="leaves the image folder"):
        path_inside("data/images", "../images2/a.jpg", "x:1", "data/records")


def test_what_to_do_about_a_path_that_leaves(tmp_path):
    (tmp_path / "a/records").mkdir(parents=True)
    (tmp_path / "a/images").mkdir()
    image = tmp_path / "a/images/1.jpg"
    image.write_bytes(b"")
    records = str(tmp_path / "a/records")
    for name in (str(image), "../images/1.jpg"):
        with pytest.raises(UserError, match=f"pass --images {re.escape(str(tmp_path / 'a'))}$"):
            path_inside(records, name, "x:1", records)
        assert path_inside(str(tmp_path / "a"), name, "x:1", records) == str(image), "that is what to do"
    with pytest.raises(UserError, match=f"pass --images {re.escape(str(tmp_path / 'a/images'))}$"):
        path_inside("/usr/share", str(image), "x:1", "/usr/share")
    with pytest.raises(UserError, match="write paths that start from there"):
        path_inside(records, "/home/somebody/else.jpg", "x:1", records)


def test_separators_of_windows(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("sub/p0.png", "sub\\p1.png"):
        (tmp_path / name).write_bytes(b"")
    folder = str(tmp_path)
    assert path_inside(folder, "sub\\p0.png", "x:1") == f"{folder}/sub/p0.png"
    assert path_inside(folder, ".\\sub\\p0.png", "x:1") == f"{folder}/sub/p0.png"
    assert path_inside(folder, "sub\\p1.png", "x:1") == f"{folder}/sub\\p1.png", "a file that is really called so"
    for name in ("..\\p0.png", "sub\\..\\..\\p0.png", "\\etc\\passwd"):
        with pytest.raises(UserError, match="leaves the image folder"):
            path_inside(folder, name, "x:1")
    with pytest.raises(UserError, match="is one of a Windows machine: write paths that start from the image folder"):
        path_inside(folder, "C:\\images\\p0.png", "x:1")


@pytest.mark.parametrize(
    "name", ["http://a/b.jpg", "https://a/b.jpg", "s3://a/b", "file:///etc/passwd", "data:image/png;base64,x"]
)
def test_addresses_are_refused(name):
    with pytest.raises(UserError, match=r"x:17: the image is an address .*download the images first"):
        path_inside("pictures", name, "x:17")


@given(st.text())
def test_no_path_leaves_whatever_is_in_it(name):
    try:
        path = path_inside("/data/pictures", name, "x:1")
    except UserError:
        return
    assert path.startswith("/data/pictures/")
    assert ".." not in path.split("/")


@given(st.integers(0, 10**12), st.one_of(st.none(), st.integers(0, 999)), st.text())
def test_keys_are_safe(number, part, name):
    sample_key = key(number, part, name)
    assert re.fullmatch(r"[A-Za-z0-9_-]{9,80}", sample_key)
    assert sample_key.startswith(f"{number:09d}")
    longest = max(len(f"{sample_key}.{ending}") for ending, _ in encode(sample_key, {}, [("webp", b"")] * 20).members)
    assert longest <= 100, "the names fit a header"


def test_members_of_a_sample():
    assert encode("a", {}, [("jpg", b"1")]).members == [("json", b"{}"), ("jpg", b"1")]
    assert [ending for ending, _ in encode("a", {}, [("jpg", b"1"), ("png", b"2")]).members] == [
        "json",
        "0.jpg",
        "1.png",
    ]
    assert encode("a", {}, [("jpg", b"1")]).tar_bytes == 4 * 512


@pytest.mark.parametrize(
    ("text", "size"),
    [("256MB", 256 * 10**6), ("1.5 GiB", 3 << 29), ("1000", 1000), ("64kib", 65536), ("2 g", 2 * 10**9)],
)
def test_sizes(text, size):
    assert byte_count(text) == size


@pytest.mark.parametrize("text", ["", "x", "-1", "1TB", "0"])
def test_sizes_that_are_none(text):
    with pytest.raises(UserError, match="--shard-size"):
        byte_count(text)


@pytest.mark.parametrize(
    ("format_", "options", "says"),
    [
        ("text", {"images": "x"}, "--images has no effect for text: it is for captions, conversations"),
        ("imagefolder", {"drop_empty": True}, "--drop-empty has no effect for imagefolder"),
        ("captions", {"form": "ask"}, "--form ask needs --question"),
        ("captions", {"question": "x"}, "--question has no effect without --form ask"),
        ("captions", {"min_pictures": 2, "max_pictures": 1}, "--max-pictures 1 is less than --min-pictures 2"),
    ],
)
def test_options_that_contradict(format_, options, says):
    with pytest.raises(UserError, match=says):
        PrepareOptions(format_, ("x",), **options).check()
