"""Sources without conversion: JSON Lines and folders by class, alone and from a recipe."""

from __future__ import annotations

import base64
import hashlib
import json
import multiprocessing
import os
import pickle
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from janus_train.data import image_files
from janus_train.data.image_files import read_image_file
from janus_train.data.recipe import Recipe
from janus_train.data.sources import jsonl as sources
from janus_train.data.sources.jsonl import ImageFolderSource, JsonlSource, Lines
from janus_train.data.storage import remote as storage
from janus_train.data.templates import get_template
from janus_train.data.types import BadSample, Record, digest
from janus_train.errors import UserError
from janus_train.jsonl import is_blank
from tests.helpers import config_of, encoded, make_shard, plain_image


def jsonl(path: Path, *lines: object) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def write_image(path: Path, form: str = "PNG", colour: tuple[int, int, int] = (200, 30, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(plain_image(colour), form))
    return path


def bad_sample(source: object, index: int, message: str) -> BadSample:
    with pytest.raises(BadSample, match=message) as error:
        source[index]  # type: ignore[index]
    assert error.value.key and not error.value.damaged
    return error.value


# ---------------------------------------------------------------------------------------------------------------- lines


LINE = st.one_of(
    st.binary(max_size=30).map(lambda data: data.replace(b"\n", b"x")),
    st.sampled_from([b"", b" ", b"\t\r", b"\xef\xbb\xbf", b"{}", b" {}"]),
)


@settings(max_examples=120, deadline=None)
@given(
    lines=st.lists(LINE, max_size=70),
    chunk=st.integers(1, 200),
    last_newline=st.booleans(),
)
def test_lines_come_by_their_number(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], chunk: int, last_newline: bool
) -> None:
    path = tmp_path_factory.mktemp("l") / "x.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n" * last_newline)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "_CHUNK", chunk)
        expected = [(number, line) for number, line in enumerate(lines, 1) if not is_blank(line)]
        if not expected:
            with pytest.raises(UserError, match="the file is empty"):
                Lines(path)
            return
        found = Lines(path)
    assert [found.read(i) for i in range(len(found))] == expected
    assert found.has_gaps == ([number for number, _ in expected] != list(range(1, len(expected) + 1)))


def test_lines_take_half_a_byte_each(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", *["{}"] * 10_000)
    assert Lines(path)._offsets.nbytes == 8 * 625 and len(pickle.dumps(Lines(path))) < 6000


def test_of_long_lines_no_more_is_read_than_the_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = jsonl(tmp_path / "x.jsonl", *[{"text": "x" * 20_000, "n": n} for n in range(20)])
    lines, sizes = Lines(path), []
    reader = lines._open()
    monkeypatch.setattr(lines, "_reader", lambda: reader)
    monkeypatch.setattr(reader, "read", lambda offset, size: sizes.append(size) or path.read_bytes()[offset:][:size])
    assert json.loads(lines.read(17)[1])["n"] == 17 and sizes[0] < 21_000


def test_blank_lines_are_no_records_and_keys_keep_the_lines_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'\xef\xbb\xbf\r\n{"text": "a"}\n\n  \t\n' + b'{"text": "b"}\r\n\n' * 40 + b"\n\n")
    source = JsonlSource([path])
    assert [source[i].key for i in (0, 1, 2, 40)] == ["x.jsonl:2", "x.jsonl:5", "x.jsonl:7", "x.jsonl:83"]
    assert len(source) == 41 and source[40].fields == {"text": "b"}
    digest_before = source.data_digest()
    path.write_bytes(b'{"text": "a"}\n\n')  # at the end they move no number
    source, without = JsonlSource([path]), digest([hashlib.sha256(path.read_bytes()).hexdigest()])
    assert len(source) == 1 and source.data_digest() == without != digest_before


def test_a_file_that_changes_under_way_ends_the_run(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", {"text": "a"}, {"text": "b"})
    source = pickle.loads(pickle.dumps(JsonlSource([path])))  # noqa: S301 - our own object
    jsonl(path, {"text": "another"})
    with pytest.raises(UserError, match=r"x\.jsonl was changed or removed"):
        source[0]


def test_a_file_that_changes_under_way_and_keeps_its_size_ends_the_run(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", {"text": "a"}, {"text": "b"})
    source, other = JsonlSource([path]), JsonlSource([path])
    jsonl(path, {"text": "a"}, {"text": "b"})  # written again, with the same bytes
    os.utime(path, ns=(1, 1))
    assert source[0].fields == {"text": "a"}
    jsonl(path, {"text": "c"}, {"text": "b"})
    with pytest.raises(UserError, match=r"x\.jsonl was changed or removed"):
        other[0]


# ---------------------------------------------------------------------------------------------------------------- JSONL


@pytest.fixture
def lines_source(tmp_path: Path) -> JsonlSource:
    write_image(tmp_path / "pictures/a.png")
    write_image(tmp_path / "pictures/deep/b.gif", "GIF")
    path = jsonl(
        tmp_path / "train.jsonl",
        {"caption": "红苹果", "image": "a.png"},
        {"conversations": [], "images": ["deep/b.gif", "a.png"]},
        {"text": "words"},
        {"text": "words", "image": None, "images": []},
    )
    return JsonlSource([path, jsonl(tmp_path / "more.jsonl", {"text": "z", "image": ["./a.png"]})], "pictures")


def test_jsonl_records(lines_source: JsonlSource) -> None:
    records = [lines_source[i] for i in range(len(lines_source))]
    assert [r.key for r in records] == [
        "train.jsonl:1",
        "train.jsonl:2",
        "train.jsonl:3",
        "train.jsonl:4",
        "more.jsonl:1",
    ]
    assert [len(r.images) for r in records] == [1, 2, 0, 0, 1]
    assert records[0].fields == {"caption": "红苹果"} and records[1].fields == {"conversations": []}
    assert records[1].images[0].size == (80, 60) and records[1].codes == [None, None]
    with pytest.raises(IndexError):
        lines_source[5]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "its JSON cannot be read"),
        ("[]", "not an object"),
        ({"image": "no.png"}, "image 'no.png' is missing"),
        ({"image": "folder"}, "image 'folder' is missing"),
        ({"image": "text.png"}, "image 'text.png' is not an image"),
        ({"image": "/etc/passwd"}, "not a path inside the source's folder"),
        ({"image": "../x.jsonl"}, "not a path inside"),
        ({"image": "a/../../x.jsonl"}, "not a path inside"),
        ({"image": "https://host/a.png"}, "is an address: download it"),
        ({"image": "file:///etc/passwd"}, "not a path inside"),
        ({"image": "a\0.png"}, "not a path inside"),
        ({"image": ""}, "not a path inside"),
        ({"image": "data:image/png;base64," + "A" * 9000}, "its embedded image is not an image of the formats"),
        ({"image": "data:image/png;base64,A-"}, "its embedded image is a data: URI whose base64 is damaged"),
        ({"image": "data:image/png"}, "its embedded image is a data: URI that has no comma"),
        ({"image": "A" * 9000}, "longer than a path can be"),
        ({"image": 3}, "neither a path nor a list of paths"),
        ({"images": ["a", 3]}, "neither a path nor a list of paths"),
        ({"image": "a.png", "images": ["a.png"]}, "both 'image' and 'images'"),
    ],
)
def test_jsonl_lines_that_are_bad_samples(tmp_path: Path, line: object, message: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.png").write_text("no image")
    error = bad_sample(JsonlSource([jsonl(tmp_path / "x.jsonl", {"text": "fine"}, line, {"text": "fine"})]), 1, message)
    assert error.key == "x.jsonl:2" and len(str(error)) < 200


def test_separators_of_windows(tmp_path: Path) -> None:
    write_image(tmp_path / "deep/a.png")
    write_image(tmp_path / "deep\\b.png")
    lines = [{"image": name} for name in ("deep\\a.png", ".\\deep\\a.png", "deep\\b.png", "..\\a.png", "C:\\a.png")]
    source = JsonlSource([jsonl(tmp_path / "x.jsonl", *lines)])
    assert [len(source[index].images) for index in range(3)] == [1, 1, 1]
    bad_sample(source, 3, "not a path inside")
    bad_sample(source, 4, "is missing")


def test_bad_utf_8_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "\xff"}\n{"text": "b"}\r\n')
    source = JsonlSource([tmp_path / "x.jsonl"])
    bad_sample(source, 0, "its JSON cannot be read")
    assert source[1].fields == {"text": "b"}


def test_jsonl_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such file"):
        JsonlSource([tmp_path / "no.jsonl"])
    with pytest.raises(UserError, match=r"its folder of images .*/no does not exist"):
        JsonlSource([jsonl(tmp_path / "x.jsonl", {})], "no")


def test_the_digest_of_jsonl_follows_every_line(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", {"text": "a"}, {"text": "b"})
    digest_before = JsonlSource([path]).data_digest()
    assert JsonlSource([path]).data_digest() == digest_before
    jsonl(path, {"text": "a"}, {"text": "c"})
    assert JsonlSource([path]).data_digest() != digest_before


def test_unreadable_images_are_tried_again_then_end_the_run(
    lines_source: JsonlSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [0]

    def sometimes(path: Path) -> bytes:
        calls[0] += 1
        if calls[0] < 3:
            raise OSError(116, "Stale file handle")
        return read_image_file(path)

    monkeypatch.setattr(storage.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(sources, "read_image_file", sometimes)
    assert len(lines_source[0].images) == 1 and calls[0] == 3
    calls[0] = -99
    with pytest.raises(UserError, match=r"a\.png cannot be read, 5 tries failed"):
        lines_source[0]


QUESTION = "<image>\nWhat is it?"
OPENAI = {"role": "assistant", "content": "A dog."}


def layouts() -> dict[str, dict[str, object]]:
    data = base64.b64encode(encoded(plain_image((0, 0, 250)))).decode()
    qwen = {"role": "user", "content": "Picture 1: <img>a.png</img>\nWhat is it?"}
    return {
        "LLaVA": {"image": "a.png", "conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": "A dog."}]},
        "Qwen-VL": {"messages": [qwen, OPENAI], "image": ""},
        "OpenAI": {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.png"}}]}, OPENAI]},
        "data: URI": {"image": f"data:image/png;base64,{data}", "messages": [{"role": "user", "content": QUESTION}, OPENAI]},
        "base64": {"messages": [{"role": "user", "content": [{"type": "image", "image": data}]}, OPENAI]},
        "an object": {"images": [{"path": "a.png", "bytes": None}], "messages": [{"role": "user", "content": QUESTION}, OPENAI]},
    }  # fmt: skip


@pytest.mark.parametrize("layout", layouts())
def test_every_layout_of_conversations_is_read_without_prepare(tmp_path: Path, layout: str) -> None:
    write_image(tmp_path / "a.png", colour=(0, 0, 250))
    record = JsonlSource([jsonl(tmp_path / "x.jsonl", layouts()[layout])])[0]
    assert [image.size for image in record.images] == [(80, 60)]
    roles = [segment.role for segment in get_template("conversation").build(record)]
    assert roles == ["text", "image_in", "text", "text", "text"]
    assert record.images[0].convert("RGB").getpixel((5, 5)) == (0, 0, 250)


def test_images_of_turns_and_images_beside_them_keep_their_order(tmp_path: Path) -> None:
    for number, name in enumerate("abc"):
        write_image(tmp_path / f"{name}.png", colour=(number, 0, 0))
    user = {"role": "user", "content": "<image> <img>b.png</img> <image>?"}
    record = JsonlSource([jsonl(tmp_path / "x.jsonl", {"images": ["a.png", "c.png"], "messages": [user, OPENAI]})])[0]
    assert [image.convert("RGB").getpixel((5, 5))[0] for image in record.images] == [0, 1, 2]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"tools": [{"name": "f"}]}, "tools are not supported"),
        ({"videos": ["v.mp4"]}, "videos and audio are not supported"),
        ({"messages": [{"role": "user", "content": "<video>?"}, OPENAI]}, "a turn has the tag <video>"),
        ({"messages": [{"role": "user", "content": "<image>?"}, OPENAI]}, "1 placeholders but 0 images"),
        ({"image": "a.png"}, "0 placeholders but 1 images"),
    ],
)
def test_what_a_conversation_cannot_be_learned_from_is_a_bad_sample(
    tmp_path: Path, fields: dict[str, object], reason: str
) -> None:
    write_image(tmp_path / "a.png")
    good = {"messages": [{"role": "user", "content": "Hello"}, OPENAI]}
    record = JsonlSource([jsonl(tmp_path / "x.jsonl", good | fields)])[0]
    with pytest.raises(BadSample, match=reason):
        get_template("conversation").build(record)


# --------------------------------------------------------------------------------------------------------- imagefolder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in (
        "n02/b.JPEG",
        "n02/a.jpg",
        "n01/sub/c.png",
        "n01/._c.png",
        "n01/notes.txt",
        ".cache/x.png",
        "n03/d.tiff",
    ):
        write_image(tmp_path / "root" / name, "TIFF" if name.endswith("tiff") else "PNG")
    write_image(tmp_path / "root/stray.png")
    return tmp_path / "root"


def test_imagefolder_records(root: Path) -> None:
    source = ImageFolderSource(root)
    assert [(r.key, r.fields) for r in (source[i] for i in range(len(source)))] == [
        ("n01/sub/c.png", {"class_name": "n01"}),
        ("n02/a.jpg", {"class_name": "n02"}),
        ("n02/b.JPEG", {"class_name": "n02"}),
        ("n03/d.tiff", {"class_name": "n03"}),
    ]
    assert source[3].images[0].size == (80, 60) and source[3].codes == [None]
    for index in (-1, 4):
        with pytest.raises(IndexError):
            source[index]


def test_imagefolder_with_names_for_its_classes(root: Path) -> None:
    (root.parent / "names.json").write_text(json.dumps({"n01": "tench", "n02": "金鱼", "n03": "shark", "n99": "other"}))
    source = ImageFolderSource(root, "../names.json")
    assert [source[i].fields["class_name"] for i in range(4)] == ["tench", "金鱼", "金鱼", "shark"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"n01": "tench"}, "has no name for 2 folders, the first is 'n02'"),
        ({"0": ["n01", "tench"]}, "must be an object"),
        ({"n01": " ", "n02": "b", "n03": "c"}, "must be an object"),
        ([], "is not a JSON object"),
        ("{", "is not a JSON object"),
    ],
)
def test_wrong_names_are_refused(root: Path, content: object, message: str) -> None:
    (root / "names.json").write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError, match=f"names.json.*{message}"):
        ImageFolderSource(root, "names.json")


def test_imagefolder_mistakes(root: Path) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        ImageFolderSource(root / "no")
    with pytest.raises(UserError, match=r"class_names: there is no file .*no\.json"):
        ImageFolderSource(root, "no.json")
    with pytest.raises(UserError, match="has no folder in it"):
        ImageFolderSource(root / "n02")
    (root / "empty").mkdir()
    with pytest.raises(UserError, match="the class 'empty' has no image"):
        ImageFolderSource(root)


def test_imagefolder_says_what_it_does_not_read(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(image_files, "_UNREADABLE", {"HEIF"})
    monkeypatch.setattr(image_files, "IMAGE_ENDINGS", (".jpg", ".jpeg", ".png", ".tiff"))
    (root / "n02/c.HEIC").write_bytes(b"")
    ImageFolderSource(root)
    assert "not used: 1 file .heic (pip install pillow-heif), 1 file .txt, 1 hidden file" in caplog.text
    (root / "n04").mkdir()
    (root / "n04/c.HEIC").write_bytes(b"")
    with pytest.raises(UserError, match=r"'n04' has no image .* 1 file \.heic \(pip install pillow-heif\)"):
        ImageFolderSource(root)


def test_imagefolder_digest_and_missing_image(root: Path) -> None:
    source = ImageFolderSource(root)
    digest_before = source.data_digest()
    assert ImageFolderSource(root).data_digest() == digest_before
    data = (root / "n02/a.jpg").read_bytes()
    (root / "n02/a.jpg").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))  # of the same size
    assert ImageFolderSource(root).data_digest() != digest_before
    (root / "n02/a.jpg").write_bytes(b"no image")
    assert ImageFolderSource(root).data_digest() != digest_before
    bad_sample(source, 1, "is not an image of the formats")
    (root / "n02/a.jpg").unlink()
    assert bad_sample(source, 1, "image 'n02/a.jpg' is missing").key == "n02/a.jpg"


def test_names_of_files_that_are_no_utf_8(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    (Path(str(folder)) / b"\xff.png".decode("utf-8", "surrogateescape")).write_bytes(encoded(plain_image()))
    record = ImageFolderSource(tmp_path)[0]
    assert record.key == r"c/\xff.png" and record.images[0].size == (80, 60)


# --------------------------------------------------------------------------------------------------------- all of them


def _contents(source: object) -> list[tuple[str, dict[str, object], int]]:
    records: list[Record] = [source[i] for i in range(len(source))]  # type: ignore[index,arg-type]
    return [(record.key, record.fields, len(record.images)) for record in records]


@pytest.fixture
def recipe(tmp_path: Path, root: Path, lines_source: JsonlSource) -> Path:
    from datasets import Dataset, Image

    data = {"words": ["a", "b"], "seen": [{"bytes": encoded(plain_image()), "path": None}] * 2}
    Dataset.from_dict(data).cast_column("seen", Image()).save_to_disk(tmp_path / "saved")
    (tmp_path / "shards").mkdir()
    make_shard(tmp_path / "shards/a.tar", {"a.json": {"caption": "c"}, "a.png": encoded(plain_image())})
    (tmp_path / "names.json").write_text(json.dumps({f"n0{i}": f"class {i}" for i in range(9)}))
    sources = [
        {"name": "tars", "type": "shards", "paths": ["shards"], "kind": "generation", "template": "text_to_image"},
        {
            "name": "lines",
            "type": "jsonl",
            "paths": ["*.jsonl"],
            "folder": "pictures",
            "kind": "text",
            "template": "text",
        },
        {
            "name": "rows",
            "type": "hf_dataset",
            "paths": ["saved"],
            "fields": {"caption": "words"},
            "pictures": ["seen"],
            "kind": "understanding",
            "template": "image_caption",
        },
        {
            "name": "classes",
            "type": "imagefolder",
            "paths": ["root"],
            "class_names": "../names.json",
            "kind": "generation",
            "template": "class_to_image",
        },
    ]
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump({"name": "r", "licence": "none", "sources": [{"weight": 1, **s} for s in sources]}))
    return path


def open_recipe(path: Path) -> Recipe:
    return Recipe(str(path), config_of("+stage=2").ratio, 64)


def test_a_recipe_opens_every_type_and_all_travel_to_processes(recipe: Path) -> None:
    sources = {name: source for name, (_, source) in open_recipe(recipe).sources.items()}
    contents = {name: _contents(source) for name, source in sources.items()}
    assert {name: len(records) for name, records in contents.items()} == {
        "tars": 1,
        "lines": 5,
        "rows": 2,
        "classes": 4,
    }
    assert contents["rows"][1] == ("1", {"caption": "b"}, 1) and contents["classes"][0][1] == {"class_name": "class 1"}
    with multiprocessing.get_context("fork").Pool(1) as pool:  # with what the parent has open already
        assert dict(zip(sources, pool.map(_contents, sources.values()), strict=True)) == contents
    copies = pickle.loads(pickle.dumps(sources))  # noqa: S301 - as a spawned worker gets them
    assert {name: _contents(source) for name, source in copies.items()} == contents


def test_every_source_has_a_digest_that_stays(recipe: Path) -> None:
    digest_before = open_recipe(recipe).digests()
    assert (
        list(digest_before) == ["recipe", "tars", "lines", "rows", "classes"] and len(set(digest_before.values())) == 5
    )
    assert open_recipe(recipe).digests() == digest_before


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("tars", {"paths": ["shards/b.tar"]}, "nothing is at 'shards/b.tar'"),
        ("tars", {"paths": ["shards/b.tar", "shards/a.tar"]}, "nothing is at 'shards/b.tar'"),
        ("tars", {"paths": ["ftp://host/a.tar"]}, "URLs may begin with"),
        ("tars", {"folder": "x"}, "folder is an option of type jsonl, the source 'tars' is of type shards"),
        ("lines", {"paths": ["memory://x/a.jsonl"]}, "reads local files, URLs are for sources of type"),
        ("lines", {"class_names": "x.json"}, "class_names is an option of type imagefolder"),
        ("rows", {"fields": None}, "needs columns"),
        ("rows", {"fields": {"caption": "no"}}, "has no column 'no'; it has words, seen"),
        ("rows", {"pictures": ["no"]}, "has no column 'no'"),
        ("classes", {"paths": ["root", "pictures"]}, "takes one folder, paths give 2"),
        ("classes", {"fields": {"caption": "x"}}, "fields is an option of type hf_dataset"),
    ],
)
def test_mistakes_in_a_recipe(recipe: Path, name: str, changes: dict[str, object], message: str) -> None:
    import fsspec

    fsspec.filesystem("memory").pipe("/x/a.jsonl", b"{}")
    values = yaml.safe_load(recipe.read_text())
    for source in values["sources"]:
        if source["name"] == name:
            source.update(changes)
    recipe.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError) as error:
        open_recipe(recipe)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_options_left_out_do_not_count_in_a_recipes_digest(recipe: Path) -> None:
    """An option that a later version brings must not end the runs that began before it."""
    values = yaml.safe_load(recipe.read_text())
    [lines] = [source for source in values["sources"] if source["name"] == "lines"]
    del lines["folder"]
    recipe.write_text(yaml.safe_dump(values))
    digest_before = open_recipe(recipe).digests()["recipe"]
    lines["folder"] = None
    recipe.write_text(yaml.safe_dump(values))
    assert open_recipe(recipe).digests()["recipe"] == digest_before
