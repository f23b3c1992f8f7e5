"""Data sets on the hub by their ids: which files are a split's, and one line for what is not there."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfFileSystem

from janus_train.data.recipe import Recipe, read_recipe
from janus_train.data.sources.registry import Source
from janus_train.data.storage import remote
from janus_train.data.storage.hub import is_data_set, split_files
from janus_train.errors import UserError
from tests.data.storage.fake_hub import FakeHub, use_fake_hub
from tests.data.storage.hub_server import serving
from tests.helpers import config_of, encoded, plain_image

URL = "hf://datasets/people/pets"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[FakeHub]:
    return use_fake_hub(tmp_path, monkeypatch)


def write(hub: type[FakeHub], path: str, text: str = "", data_set: str = "people/pets") -> None:
    """A Parquet file with one row, or a text."""
    file = hub.root / data_set / path
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        rows = {"text": [f"in {path}"], "jpg": [{"bytes": encoded(plain_image()), "path": None}]}
        pq.write_table(pa.table(rows), file)
    else:
        file.write_text(text)


def names(files: list[str]) -> list[str]:
    return [file.removeprefix(URL) for file in files]


def test_splits_by_the_files_names(hub: type[FakeHub]) -> None:
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        write(hub, f"data/{name}.parquet")
    write(hub, "README.md", "# Pets\n")
    assert names(split_files(URL, "train", None)) == [f"/data/train-0000{n}-of-00002.parquet" for n in (0, 1)]
    assert names(split_files(URL, "test", None)) == ["/data/test-00000-of-00001.parquet"]
    with pytest.raises(UserError, match=f"{URL} has the splits train, test: choose one with split: NAME"):
        split_files(URL, None, None)
    with pytest.raises(UserError, match=f"{URL} has no split 'val'; it has train, test"):
        split_files(URL, "val", None)


def test_a_data_set_without_splits_is_one(hub: type[FakeHub]) -> None:
    write(hub, "b.parquet")
    write(hub, "a.parquet")
    assert names(split_files(URL, None, None)) == ["/a.parquet", "/b.parquet"]


README = """---
license: mit
configs:
- config_name: small
  data_files:
  - split: train
    path: small/tr*
  - split: test
    path: [small/te-0.parquet, small/te-1.parquet]
- config_name: large
  default: true
  data_files: large/**
---
# Pets
"""


def test_subsets_and_splits_by_the_readme(hub: type[FakeHub]) -> None:
    for path in ("small/tr-0", "small/te-0", "small/te-1", "large/x/0", "large/1"):
        write(hub, f"{path}.parquet")
    write(hub, "README.md", README)
    assert names(split_files(URL, "test", "small")) == ["/small/te-0.parquet", "/small/te-1.parquet"]
    assert names(split_files(URL, None, None)) == ["/large/1.parquet", "/large/x/0.parquet"]
    with pytest.raises(UserError, match=f"{URL} has no subset 'tiny'; it has small, large"):
        split_files(URL, None, "tiny")
    write(hub, "README.md", README.replace("  default: true\n", ""))
    with pytest.raises(UserError, match="has the subsets small, large: choose one with subset: NAME"):
        split_files(URL, None, None)


@pytest.mark.parametrize("pattern", ["/etc/*", "s3://other/x.parquet", "../cats/*.parquet", "zip://a::b.zip"])
def test_a_readme_that_names_other_places_is_refused(hub: type[FakeHub], pattern: str) -> None:
    write(hub, "a.parquet")
    write(hub, "README.md", f"---\nconfigs:\n- config_name: default\n  data_files: '{pattern}'\n---\n")
    with pytest.raises(UserError, match=r"its README.md names files outside of it .*, which are not read"):
        split_files(URL, None, None)


def test_other_formats_are_read_as_the_hub_has_converted_them(hub: type[FakeHub]) -> None:
    write(hub, "pets.csv", "a,b\n1,2\n")
    with pytest.raises(UserError, match=f"{URL} has no Parquet files, and the hub has not made any of it"):
        split_files(URL, None, None)
    converted = "people/pets@refs%2Fconvert%2Fparquet"
    write(hub, "default/train/0000.parquet", data_set=converted)
    write(hub, "default/test/0000.parquet", data_set=converted)
    files = split_files(URL, "train", None)
    assert files == [f"{URL}@refs%2Fconvert%2Fparquet/default/train/0000.parquet"]
    with pytest.raises(UserError, match="has no split 'dev'; it has test, train"):
        split_files(URL, "dev", None)


def test_which_urls_are_data_sets() -> None:
    assert is_data_set(URL) and is_data_set(f"{URL}@v1") and is_data_set(f"{URL}/")
    assert not is_data_set(f"{URL}/data") and not is_data_set("hf://people/pets") and not is_data_set("s3://a/b")


# -- in a recipe


def opened(tmp_path: Path, **options: Any) -> Source:
    values = {"name": "pets", "kind": "generation", "type": "hf_dataset", "template": "text_to_image", "weight": 1}
    values |= {"path": "people/pets", "columns": {"caption": "text", "image": "jpg"}} | options
    path = tmp_path / "recipe.yaml"
    lines = "".join(f"    {name}: {value}\n" for name, value in values.items() if value is not None)
    path.write_text(f"name: r\nlicence: mine\nsources:\n  -\n{lines}")
    ratio = config_of("+stage=2", "ratio.understanding=0", "ratio.text=0").ratio
    return Recipe(str(path), ratio, 64).sources["pets"][1]


def test_a_recipe_names_a_data_set_by_its_id(hub: type[FakeHub], tmp_path: Path) -> None:
    for split in ("train", "test"):
        write(hub, f"data/{split}-00000-of-00001.parquet")
    source = opened(tmp_path, split="test")
    assert source[0].fields == {"caption": "in data/test-00000-of-00001.parquet"} and len(source[0].images) == 1
    [written] = read_recipe(tmp_path / "recipe.yaml").sources
    assert written.paths == ("hf://datasets/people/pets",)
    same = opened(tmp_path, path=None, paths="[hf://datasets/people/pets]", split="test")
    assert same.data_digest() == source.data_digest()
    write(hub, "data/test-00000-of-00001.parquet", data_set="people/pets@v2")
    assert opened(tmp_path, path="people/pets@v2")[0].fields == source[0].fields


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "people/none"}, r"hf://datasets/people/none: the hub has no such repository, or it is a private one"),
        ({"path": "pets"}, r"sources.0: path: 'pets' is not a data set on the hub, OWNER/NAME"),
        ({"path": "../data/pets"}, r"is not a data set on the hub"),
        ({"paths": "[x]"}, r"path and paths exclude each other"),
        ({"split": "dev"}, r"hf://datasets/people/pets has no split 'dev'; it has train"),
        ({"columns": "{caption: words}"}, r"train-00000-of-00001.parquet has no column 'words'; it has text, jpg"),
        ({"columns": None}, r"source 'pets' needs columns, .*; its data has text, jpg"),
        ({"fields": "{caption: text}"}, r"columns says what fields and pictures say"),
        ({"type": "shards"}, r"columns is an option of type"),
    ],
)
def test_mistakes_are_one_line(hub: type[FakeHub], tmp_path: Path, options: dict[str, Any], message: str) -> None:
    write(hub, "data/train-00000-of-00001.parquet")
    with pytest.raises(UserError, match=message) as error:
        opened(tmp_path, **options)
    assert "\n" not in str(error.value)


def test_a_gated_data_set_says_what_to_do(hub: type[FakeHub], tmp_path: Path) -> None:
    write(hub, "data/train-00000-of-00001.parquet")
    hub.gated.add("people/pets")
    with pytest.raises(UserError, match=r"no permission: accept its terms on its page on the hub, and set HF_TOKEN"):
        opened(tmp_path)
    assert len(hub.reads) == 1, "it is not tried again"


def test_the_hubs_own_file_system_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`huggingface_hub`'s file system instead of the fake one, its API answered by a local server: ranges and refusals."""
    use_fake_hub(tmp_path, monkeypatch)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("JANUS_CACHE_GIB", "0")
    noise = random.Random(0).randbytes(600_000)
    for name in ("pets", "closed"):
        file = tmp_path / f"hub/people/{name}/data/train-00000-of-00001.parquet"
        file.parent.mkdir(parents=True)
        rows = {
            "text": [f"pet {i}" for i in range(4)],
            "jpg": [{"bytes": encoded(plain_image((i, 0, 0))), "path": None} for i in range(4)],
            "unread": [noise] * 4,
        }
        pq.write_table(pa.table(rows), file, row_group_size=2, use_dictionary=False)
    with serving(tmp_path / "hub", gated="people/closed") as server:

        class LocalHub(HfFileSystem):  # type: ignore[misc]
            def __init__(self, *arguments: Any, **options: Any):
                super().__init__(*arguments, **options | {"endpoint": server.url})

        monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, "hf", LocalHub)
        remote._file_system.cache_clear()
        source = opened(tmp_path, split="train")
        assert [record.fields["caption"] for record in map(source.__getitem__, range(4))] == [
            f"pet {i}" for i in range(4)
        ]
        ranges = [range for path, range in server.requests if path.endswith(".parquet")]
        assert ranges and all(ranges), "no file is asked for as a whole"
        spans = [tuple(map(int, text.removeprefix("bytes=").split("-"))) for text in ranges]
        assert sum(stop - start + 1 for start, stop in spans) < 200_000, "the unread column is 2.4 MB"
        assert opened(tmp_path, split="train").data_digest() == source.data_digest()
        with pytest.raises(
            UserError, match=r"hf://datasets/people/none: the hub has no such repository, or it is a priv"
        ):
            opened(tmp_path, path="people/none")
        num_requests = len(server.requests)
        with pytest.raises(
            UserError, match=r"no permission: accept its terms on its page on the hub, and set HF_TOKEN"
        ):
            opened(tmp_path, path="people/closed")
        assert len(server.requests) < num_requests + 10, "it is not tried again"
    remote._file_system.cache_clear()
