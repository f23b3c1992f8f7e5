"""Data sets of Hugging Face's ``datasets`` on disk: folders, Arrow and Parquet give the same records."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from PIL import Image as Pillow

from janus_train.data.sources import parquet as module
from janus_train.data.sources import rows
from janus_train.data.sources.hf_dataset import HfDatasetSource
from janus_train.data.types import BadSample
from janus_train.errors import UserError
from tests.helpers import encoded, plain_image

NAMES = ["cat", "dog", "bird"]


def row_of(number: int) -> dict[str, object]:
    return {"bytes": encoded(plain_image((number, 0, 0))), "path": None}


@pytest.fixture
def data() -> Dataset:
    rows = {
        "words": [f"row {i}" for i in range(10)],
        "label": [i % 3 for i in range(10)],
        "seen": [row_of(i) for i in range(10)],
        "several": [[row_of(i), row_of(100 + i)][: i % 3] for i in range(10)],
    }
    features = Features(
        {"words": Value("string"), "label": ClassLabel(names=NAMES), "seen": Image(), "several": List(Image())}
    )
    return Dataset.from_dict(rows, features=features)


def save_to(data: Dataset, folder: Path) -> list[Path]:
    data.save_to_disk(folder / "saved", num_shards=3)
    return [folder / "saved"]


def arrow(data: Dataset, folder: Path) -> list[Path]:
    data.save_to_disk(folder / "arrow", num_shards=3)
    return sorted((folder / "arrow").glob("*.arrow"))


def parquet(data: Dataset, folder: Path) -> list[Path]:
    for number in range(2):
        part = data.select(range(number * 6, min(10, number * 6 + 6)))
        part.to_parquet(folder / f"{number}.parquet", batch_size=4)
    return [folder / "0.parquet", folder / "1.parquet"]


FIELDS = {"caption": "words", "class_name": "label"}
forms = pytest.mark.parametrize("form", [save_to, arrow, parquet])
Form = Callable[[Dataset, Path], list[Path]]


@forms
def test_every_form_gives_the_same_records(data: Dataset, tmp_path: Path, form: Form) -> None:
    source = HfDatasetSource(form(data, tmp_path), FIELDS, ["seen", "several"])
    assert len(source) == 10 == sum(source.shard_sizes)
    for i in (9, 0, 5, 3):
        record = source[i]
        assert record.key == str(i)
        assert record.fields == {"caption": f"row {i}", "class_name": NAMES[i % 3]}
        reds = [p.convert("RGB").getpixel((0, 0))[0] for p in record.images]
        assert reds == [i, *[i, 100 + i][: i % 3]] and record.codes == [None] * len(reds)
    with pytest.raises(IndexError):
        source[10]


@forms
def test_it_travels_to_other_processes(data: Dataset, tmp_path: Path, form: Form) -> None:
    source = HfDatasetSource(form(data, tmp_path), FIELDS, ["seen"])
    source[0]
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301 - our own object
    assert copy[7].fields == source[7].fields and len(pickle.dumps(source)) < 20_000


@forms
def test_images_are_not_decoded_before_they_are_used(
    data: Dataset, tmp_path: Path, form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = HfDatasetSource(form(data, tmp_path), FIELDS, ["seen"])

    def refuse(*arguments: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", refuse)
    assert source[1].images[0].size == (80, 60)


@forms
def test_the_digest_follows_the_data(
    data: Dataset, tmp_path: Path, form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    digest_before = HfDatasetSource(form(data, tmp_path / "a"), FIELDS).data_digest()
    assert HfDatasetSource(form(data, tmp_path / "a"), FIELDS).data_digest() == digest_before or form is not parquet
    (tmp_path / "b").mkdir()
    changed_data = data.map(lambda row: {"words": row["words"].replace("9", "8")})
    assert HfDatasetSource(form(changed_data, tmp_path / "b"), FIELDS).data_digest() != digest_before
    monkeypatch.setattr(rows, "CONTENT_DIGEST_LIMIT", 0)
    assert HfDatasetSource(form(data, tmp_path / "a"), FIELDS).data_digest() != digest_before


def test_a_shuffled_data_set_keeps_its_order(data: Dataset, tmp_path: Path) -> None:
    data.select([4, 2, 7]).save_to_disk(tmp_path / "some")
    source = HfDatasetSource([tmp_path / "some"], FIELDS)
    assert [source[i].fields["caption"] for i in range(3)] == ["row 4", "row 2", "row 7"]


def test_parquet_keeps_few_row_groups(data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROUPS_BYTES", 0)
    source = HfDatasetSource(parquet(data, tmp_path), FIELDS)
    assert source.shard_sizes == [4, 2, 4]
    for i in range(10):
        assert source[i].fields["caption"] == f"row {i}" and len(source._rows._group_cache) == 1  # type: ignore[attr-defined]


def test_parquet_of_other_writers(tmp_path: Path) -> None:
    """Images as plain bytes, no description of ``datasets``."""
    table = pa.table({"text": ["a", "b"], "jpg": [encoded(plain_image(), "JPEG"), None], "label": [0, 1]})
    pq.write_table(table, tmp_path / "x.parquet")
    source = HfDatasetSource([tmp_path / "x.parquet"], {"caption": "text", "n": "label"}, ["jpg"])
    assert source[0].fields == {"caption": "a", "n": 0} and source[0].images[0].size == (80, 60)
    with pytest.raises(BadSample, match="column 'jpg' has no image") as error:
        source[1]
    assert error.value.key == "1"


@forms
def test_rows_that_are_bad_samples(tmp_path: Path, form: Form) -> None:
    outside_path = tmp_path / "outside.png"
    Pillow.new("RGB", (4, 4)).save(outside_path)
    rows = {
        "words": ["missing", "url", "path", "text", "label"],
        "label": [0, 0, 0, 0, None],
        "seen": [
            None,
            {"bytes": None, "path": "https://host.invalid/a.png"},
            {"bytes": None, "path": str(outside_path)},
            {"bytes": b"no image", "path": None},
            row_of(1),
        ],
    }
    storage = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table(
        {"words": rows["words"], "label": pa.array(rows["label"], pa.int64()), "seen": pa.array(rows["seen"], storage)}
    )
    features = Features({"words": Value("string"), "label": ClassLabel(names=NAMES), "seen": Image()})
    if form is parquet:
        pq.write_table(table.cast(features.arrow_schema), tmp_path / "x.parquet")
        paths = [tmp_path / "x.parquet"]
    else:
        with (
            pa.OSFile(str(tmp_path / "x.arrow"), "wb") as file,
            pa.ipc.new_stream(file, features.arrow_schema) as writer,
        ):
            writer.write_table(table.cast(features.arrow_schema))
        paths = [tmp_path / "x.arrow"]
    source = HfDatasetSource(paths, FIELDS, ["seen"])
    has_a_path = "has a path where the image's bytes should be"
    messages = ["has no image", has_a_path, has_a_path, "not an image of the formats", "has no class for None"]
    for i, message in enumerate(messages):
        with pytest.raises(BadSample, match=message) as error:
            source[i]
        assert error.value.key == str(i) and not error.value.damaged


def test_mistakes_are_one_line(data: Dataset, tmp_path: Path) -> None:
    DatasetDict({"train": data, "test": data}).save_to_disk(tmp_path / "splits")
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no parquet")
    (tmp_path / "x.arrow").write_bytes(b"no arrow at all")
    (tmp_path / "x.csv").write_text("a,b")
    data.select([]).to_parquet(tmp_path / "none.parquet")
    cases = [
        (["splits"], "has the splits train, test: choose one with split: NAME"),
        (["empty"], "cannot be opened"),
        (["x.parquet"], "is not a Parquet file, or it is cut off"),
        (["x.arrow"], "cannot be opened"),
        (["x.csv"], "one folder that save_to_disk wrote"),
        (["x.arrow", "x.parquet"], "one folder that save_to_disk wrote"),
        (["splits/train", "splits/test"], "one folder that save_to_disk wrote"),
        (["none.parquet"], "has no rows"),
    ]
    for names, message in cases:
        with pytest.raises(UserError, match=message) as error:
            HfDatasetSource([tmp_path / name for name in names], FIELDS)
        assert names[0] in str(error.value) and "\n" not in str(error.value)
    assert len(HfDatasetSource([tmp_path / "splits/test"], FIELDS)) == 10
    with pytest.raises(UserError, match="has no column 'no'; it has words, label, seen, several"):
        HfDatasetSource([tmp_path / "splits/test"], FIELDS, ["no"])


def test_a_parquet_file_that_breaks_under_way_ends_the_run(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("janus_train.data.storage.remote.FIRST_PAUSE_S", 0.0)
    paths = parquet(data, tmp_path)
    source = HfDatasetSource(paths, FIELDS)
    paths[1].write_bytes(paths[1].read_bytes()[:300])
    with pytest.raises(UserError, match=r"1\.parquet"):
        source[9]
    assert source[0].fields["caption"] == "row 0"
    paths[1].unlink()
    with pytest.raises(UserError, match=r"1\.parquet"):
        source[9]
