"""Parquet in a store: the records of the local file, only the ranges that they need, and a refusal of changed data."""

from __future__ import annotations

import multiprocessing
import pickle
import time
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from torch.utils.data import DataLoader

from janus_train.data.recipe import Recipe
from janus_train.data.sources import parquet as module
from janus_train.data.sources import parquet_files
from janus_train.data.sources.parquet import ParquetConfig, open_parquet
from janus_train.data.sources.parquet_files import ParquetFiles
from janus_train.data.sources.rows import RowSource
from janus_train.data.templates import get_template
from janus_train.data.types import BadSample, Record
from janus_train.errors import UserError
from tests.data.storage.fake_hub import BLOCK, FakeHub, use_fake_hub
from tests.helpers import config_of, encoded, plain_image

SET = "hf://datasets/people/pets"
PATTERN = f"{SET}/data/train-*.parquet"
COLUMNS: dict[str, Any] = {"caption": "text", "image": "jpg"}
ROWS, GROUP = 12, 4


def image(number: int) -> bytes:
    return encoded(plain_image((number, 0, 0)))


def table(start: int, stop: int) -> pa.Table:
    """Rows with a text, an image as `datasets` stores it, and a column that nothing reads, of 3 KB of noise each."""
    noise = [bytes((i * 7919 + n * n) % 251 for n in range(3000)) for i in range(start, stop)]
    return pa.table(
        {
            "text": [f"row {i}" for i in range(start, stop)],
            "unread": noise,
            "jpg": [{"bytes": image(i), "path": None} for i in range(start, stop)],
        }
    )


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[FakeHub]:
    """Two files of three row groups each, beside a file of another split."""
    hub = use_fake_hub(tmp_path, monkeypatch)
    folder = tmp_path / "hub/people/pets/data"
    folder.mkdir(parents=True)
    for number in range(2):
        part = table(number * ROWS, (number + 1) * ROWS)
        pq.write_table(part, folder / f"train-0000{number}-of-00002.parquet", row_group_size=GROUP, compression="none")
    pq.write_table(table(100, 103), folder / "test-00000-of-00001.parquet")
    return hub


def config(**options: Any) -> ParquetConfig:
    values = {"name": "pets", "kind": "generation", "type": "parquet", "template": "text_to_image", "weight": 1.0}
    return ParquetConfig.model_validate({"paths": [PATTERN], "columns": COLUMNS} | values | options)


def opened(**options: Any) -> RowSource:
    from janus_train.data.storage.remote import find, locate

    chosen = config(**options)
    return open_parquet(chosen, [file for path in chosen.paths for file in find(locate(path, Path("/")))], 64)


def caption_and_red(record: Record) -> tuple[str, int]:
    return record.fields["caption"], record.images[0].convert("RGB").getpixel((0, 0))[0]  # type: ignore[return-value,index]


def test_the_records_are_those_of_the_files(hub: type[FakeHub]) -> None:
    source = opened()
    assert len(source) == 2 * ROWS and source.shard_sizes == [GROUP] * 6
    assert [caption_and_red(source[i]) for i in (23, 0, 11, 12)] == [(f"row {i}", i) for i in (23, 0, 11, 12)]
    local = opened(paths=[str(hub.root / "people/pets/data/train-*.parquet")])
    assert [caption_and_red(record) for record in local] == [caption_and_red(record) for record in source]
    with pytest.raises(IndexError):
        source[24]


def test_opening_reads_footers_and_a_row_reads_its_groups_columns(hub: type[FakeHub]) -> None:
    source = opened()
    files = {path for path, *_ in hub.reads}
    assert files == {f"data/train-0000{n}-of-00002.parquet" for n in range(2)} and len(hub.reads) == 2
    hub.reads.clear()
    metadata = pq.read_metadata(hub.root / "people/pets/data/train-00000-of-00002.parquet")
    group = metadata.row_group(1)
    spans = []
    for number in range(group.num_columns):
        column = group.column(number)
        if column.path_in_schema.split(".")[0] in ("text", "jpg"):
            start = column.dictionary_page_offset or column.data_page_offset
            spans.append((start, start + column.total_compressed_size))
    assert caption_and_red(source[GROUP]) == ("row 4", 4)
    assert {path for path, *_ in hub.reads} == {"data/train-00000-of-00002.parquet"}
    for _, start, end in hub.reads:  # in blocks of the cache, each of which has a byte of what is needed
        assert end - start <= BLOCK and any(start < stop and begin < end for begin, stop in spans)
    assert sum(end - start for _, start, end in hub.reads) < 0.5 * group.total_byte_size
    hub.reads.clear()
    assert [caption_and_red(source[GROUP + n])[1] for n in range(GROUP)] == [4, 5, 6, 7]
    assert not hub.reads, "the row group is kept"


def test_another_process_finds_footers_and_row_groups_on_the_disk(hub: type[FakeHub]) -> None:
    first = opened()
    records = [caption_and_red(record) for record in first]
    hub.reads.clear()
    assert [caption_and_red(record) for record in opened()] == records
    assert not hub.reads
    copy = pickle.loads(pickle.dumps(first))  # noqa: S301 - our own object
    assert caption_and_red(copy[7]) == records[7] and len(pickle.dumps(first)) < 20_000


@pytest.mark.parametrize("gib", ["0", "1"])
def test_workers_open_the_files_for_themselves(hub: type[FakeHub], monkeypatch: pytest.MonkeyPatch, gib: str) -> None:
    monkeypatch.setenv("JANUS_CACHE_GIB", gib)
    source = opened()
    source[0]  # the parent has an open file of its own
    loader = DataLoader(
        source, batch_size=None, num_workers=2, collate_fn=caption_and_red, multiprocessing_context="fork"
    )
    assert list(loader) == [(f"row {i}", i) for i in range(2 * ROWS)]


def test_few_row_groups_are_kept(hub: type[FakeHub], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROUPS_BYTES", 0)
    source = opened()
    for i in range(2 * ROWS):
        source[i]
        assert len(source._rows._group_cache) == 1  # type: ignore[attr-defined]


def test_a_read_error_is_tried_again(hub: type[FakeHub]) -> None:
    source = opened()
    hub.failures["data/train-00001-of-00002.parquet"] = 3
    assert caption_and_red(source[23]) == ("row 23", 23)
    hub.failures["data/train-00000-of-00002.parquet"] = 99
    with pytest.raises(UserError, match=r"train-00000-of-00002\.parquet cannot be read, 5 tries failed"):
        source[0]


def test_a_damaged_cache_is_read_again_from_the_store(hub: type[FakeHub], tmp_path: Path) -> None:
    whole = [caption_and_red(record) for record in opened()]
    for path in (tmp_path / "cache").rglob("*"):
        if path.is_file() and path.stat().st_size == BLOCK:
            path.write_bytes(b"\0" * BLOCK)
    assert [caption_and_red(record) for record in opened()] == whole


def test_the_digest_follows_the_content_and_not_the_place(hub: type[FakeHub]) -> None:
    before = opened().data_digest()
    assert opened().data_digest() == before
    path = hub.root / "people/pets/data/train-00001-of-00002.parquet"
    data = path.read_bytes()
    changed = data.replace(b"row 15", b"row 51")
    assert len(changed) == len(data) and changed != data
    path.write_bytes(changed)
    source = opened()
    assert source.data_digest() != before and caption_and_red(source[15])[0] == "row 51", "nothing old is in the cache"
    path.write_bytes(data)
    assert opened().data_digest() == before


def test_a_store_without_versions_is_told_apart_by_footers(tmp_path: Path, hub: type[FakeHub]) -> None:
    files = fsspec.filesystem("memory")
    data = (hub.root / "people/pets/data/train-00000-of-00002.parquet").read_bytes()
    files.pipe("/bucket/a.parquet", data)
    source = opened(paths=["memory://bucket/*.parquet"])
    assert [caption_and_red(source[i])[1] for i in range(ROWS)] == list(range(ROWS))
    files = ParquetFiles(["memory://bucket/a.parquet"])
    files._states = [type(files._states[0])(files._states[0].size, "")]
    digest = files.data_digest()
    files._footers_digest = "other"
    assert files.data_digest() != digest


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (None, r"source 'pets' needs columns, for example columns: .*; its data has text, unread, jpg"),
        ({"caption": "words"}, r"has no column 'words'; it has text, unread, jpg"),
        ({"caption": "text", "image": "png"}, r"has no column 'png'; it has text, unread, jpg"),
        ({"caption": "text", "image": "jpg", "images": ["jpg"]}, "columns has both image and images"),
        ({"caption": ["text", "unread"], "image": "jpg"}, r"columns.caption is a list: only image and images"),
    ],
)
def test_columns_that_cannot_be(hub: type[FakeHub], columns: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        opened(columns=columns)


def test_files_that_cannot_be_read(hub: type[FakeHub], tmp_path: Path) -> None:
    folder = hub.root / "people/pets/data"
    (folder / "cut.parquet").write_bytes((folder / "test-00000-of-00001.parquet").read_bytes()[:-20])
    pq.write_table(pa.table({"text": ["a"]}), folder / "other.parquet")
    cases = {
        f"{SET}/data/cut.parquet": r"cut\.parquet is not a Parquet file, or it is cut off",
        f"{SET}/data/*.parquet": r"cut\.parquet is not a Parquet file",
        f"{SET}/data/[ot]*.parquet": r"other\.parquet has no column 'jpg'; it has text",
        f"{SET}/data": "cut.parquet is not a Parquet file",
        str(tmp_path / "hub/people"): "is neither a Parquet file .* nor a folder with some",
        "hf://datasets/people/none/data/*.parquet": r"hf://datasets/people/none: the hub has no such repository",
    }
    for path, message in cases.items():
        with pytest.raises(UserError, match=message) as error:
            opened(paths=[path])
        assert "\n" not in str(error.value)
    pq.write_table(table(0, 1), folder / "new.parquet")  # of which nothing is in the cache
    hub.gated.add("people/pets")
    with pytest.raises(UserError, match=r"cannot be read: no permission: accept its terms on its page .* HF_TOKEN"):
        opened(paths=[f"{SET}/data/new.parquet"])


def test_editing_and_conversations_by_their_columns(hub: type[FakeHub]) -> None:
    """Two columns of images in order; turns whose parts stand for the images beside them."""
    parts = [{"type": "image", "text": None}, {"type": "text", "text": "What is it?"}]
    turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": [{"type": "text", "text": "Red."}]}]
    as_struct = [{"bytes": image(n), "path": "x.png"} for n in (1, 2)]
    pq.write_table(
        pa.table(
            {
                "original_image": as_struct[:1],
                "edit_prompt": ["Make it red."],
                "edited_image": as_struct[1:],
                "messages": [turns],
                "pictures": [as_struct[:1]],
                "links": [{"bytes": None, "path": "http://a.b/c.png"}],
            }
        ),
        hub.root / "people/pets/edits.parquet",
    )
    paths = [f"{SET}/edits.parquet"]
    edit = opened(paths=paths, columns={"instruction": "edit_prompt", "images": ["original_image", "edited_image"]})[0]
    assert [p.convert("RGB").getpixel((0, 0))[0] for p in edit.images] == [1, 2]  # type: ignore[index]
    roles = [segment.role for segment in get_template("editing").build(edit)]
    assert roles == ["text", "image_in", "text", "image_out", "text"]
    talk = opened(paths=paths, columns={"conversations": "messages", "images": "pictures"})[0]
    assert [segment.role for segment in get_template("conversation").build(talk)][:3] == ["text", "image_in", "text"]
    with pytest.raises(BadSample, match="column 'links' has a path where the image's bytes should be"):
        opened(paths=paths, columns={"instruction": "edit_prompt", "image": "links"})[0]


def test_a_recipe_names_them(hub: type[FakeHub], tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "name: r\nlicence: mine\nsources:\n  - {name: pets, kind: generation, type: parquet, template: text_to_image, "
        f"weight: 1, paths: ['{PATTERN}'], columns: {{caption: text, image: jpg}}}}\n"
    )
    ratio = config_of("+stage=2", "ratio.understanding=0", "ratio.text=0").ratio
    recipe = Recipe(str(path), ratio, 64)
    assert recipe.lengths == {"pets": 2 * ROWS} and set(recipe.digests()) == {"recipe", "pets"}


def test_of_processes_that_open_at_once_one_reads_the_footers(
    hub: type[FakeHub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "footers"
    read = parquet_files._read_footer

    def recorded(file: Any, size: int | None) -> bytes:
        with log.open("a") as stream:
            stream.write(f"{file}\n")
        time.sleep(0.2)
        return read(file, size)

    monkeypatch.setattr(parquet_files, "_read_footer", recorded)
    processes = [multiprocessing.get_context("fork").Process(target=opened) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert len(log.read_text().split()) == 2
