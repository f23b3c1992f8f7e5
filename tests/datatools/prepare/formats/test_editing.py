"""Edits in the layouts in which they are published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Image, Value

from janus_train.data.sources.shards import ShardSource
from janus_train.data.templates import get_template
from janus_train.errors import UserError
from tests.datatools.prepare.making import contents, fields, image_bytes, make, samples, skipped, write
from tests.helpers import Run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images 1.png to 5.png."""
    for number in range(1, 6):
        write(tmp_path / f"images/{number}.png", image_bytes(number, "PNG"))
    return tmp_path


def png(*numbers: int) -> list[bytes]:
    return [image_bytes(number, "PNG") for number in numbers]


def prepare(folder: Path, records: list[dict[str, Any]], out: str = "out", **options: Any) -> dict[str, Any]:
    file = write(folder / "edits.json", records)
    return make("editing", file, out=folder / out, images=str(folder / "images"), **options)


def test_sharegpt_4o_image(folder: Path) -> None:
    """One input image or several, in a list or alone; without any, as in text_to_image.json, the words are all there is."""
    records = [
        {"input_prompt": "Make it red.", "input_image": ["1.png"], "output_image": "2.png"},
        {"input_prompt": "Add the second.", "input_image": ["1.png", "2.png"], "output_image": "3.png", "kind": "add"},
        {"input_prompt": "Alone.", "input_image": "4.png", "output_image": ["5.png"]},
        {"input_prompt": "A dog.", "output_image": "5.png"},
        {"input_prompt": "A cat.", "input_image": [], "output_image": "5.png"},
    ]
    prepared = prepare(folder, records)
    assert [sample["instruction"] for sample in fields(folder / "out")] == [
        "Make it red.",
        "Add the second.",
        "Alone.",
        "A dog.",
        "A cat.",
    ]
    assert [images for *_, images in samples(folder / "out")] == [png(1, 2), png(1, 2, 3), png(4, 5), png(5), png(5)]
    assert prepared["unused"] == {"fields 'kind'": 1} and prepared["samples"] == 5
    source = ShardSource(sorted((folder / "out").glob("*.tar")))
    roles = [segment.role for segment in get_template("editing").build(source[1])]
    assert roles == ["text", "image_in", "text", "image_in", "text", "image_out", "text"]


def test_what_cannot_be_used_is_listed(folder: Path) -> None:
    good = {"input_prompt": "Make it red.", "input_image": "1.png", "output_image": "2.png"}
    records = [
        good,
        good | {"output_image": None},
        good | {"output_image": ["1.png", "2.png"]},
        good | {"input_prompt": ""},
        good | {"input_prompt": "Like <image> here."},
        good | {"input_image": "gone.png"},
        good | {"input_image": 7},
    ]
    prepare(folder, records, max_bad=0.9)
    assert [entry["reason"] for entry in skipped(folder / "out")] == [
        "the record has no edited image, or several",
        "the record has no edited image, or several",
        "the instruction is missing, empty or not a string",
        "field 'instruction' has the tag <image>: it would be learned as words",
        "the image is missing",
        "an image is neither a path nor bytes",
    ]
    prepared = prepare(folder, [good, {"input_prompt": "A dog.", "output_image": "5.png"}], "pairs", min_pictures=2)
    assert prepared["samples"] == 1 and prepared["left_out"] == {"more or fewer images than asked for": 1}


@pytest.mark.parametrize(
    "names", [("original_image", "edit_prompt", "edited_image"), ("source_img", "instruction", "target_img")]
)
def test_parquet_with_images_inside(folder: Path, names: tuple[str, str, str]) -> None:
    """Only the columns that are needed are read; the others are counted."""
    before, words, after = names
    rows = {
        before: [{"bytes": data, "path": None} for data in png(1, 2, 3)],
        words: ["Red.", "Blue.", "Green."],
        after: [{"bytes": data, "path": None} for data in png(3, 4, 5)],
        "mask_img": [{"bytes": data, "path": None} for data in png(1, 1, 1)],
    }
    features = Features({name: Value("string") if name == words else Image() for name in rows})
    Dataset.from_dict(rows, features=features).to_parquet(folder / "edits.parquet", batch_size=2)
    prepared = make("editing", folder / "edits.parquet", out=folder / "out")
    assert fields(folder / "out") == [{"instruction": text} for text in ("Red.", "Blue.", "Green.")]
    assert [images for *_, images in samples(folder / "out")] == [png(1, 3), png(2, 4), png(3, 5)]
    assert prepared["unused"] == {"fields 'mask_img'": 3}
    again = make("editing", folder / "edits.parquet", out=folder / "again", workers=2)
    assert contents(folder / "out") == contents(folder / "again") and again["samples"] == 3


def test_parquet_with_paths_and_chosen_columns(folder: Path) -> None:
    table = {"frm": ["1.png", "2.png"], "said": [["Red.", "Make it red."], ["Blue."]], "to": ["3.png", "4.png"]}
    pq.write_table(pa.table(table), folder / "edits.parquet")
    chosen = {"image_field": "frm", "text_field": ("said",), "output_field": "to"}
    prepared = make("editing", folder / "edits.parquet", out=folder / "out", images=str(folder / "images"), **chosen)
    assert fields(folder / "out") == [{"instruction": "Red."}, {"instruction": "Blue."}]
    assert [images for *_, images in samples(folder / "out")] == [png(1, 3), png(2, 4)]
    assert prepared["unused"] == {"further instructions of an edit": 1}


def test_folders_of_instruct_pix2pix(tmp_path: Path) -> None:
    """A sample for each pair; the scores in metadata.jsonl, seeds.json and what has no partner are counted."""
    for name, seeds in (("0001", (11, 12)), ("0002", (7,))):
        prompt = {"input": "a dog", "edit": f"Edit {name}.", "output": "a red dog"}
        write(tmp_path / f"data/{name}/prompt.json", prompt)
        write(tmp_path / f"data/{name}/metadata.jsonl", [{"seed": seed, "clip_sim_0": 0.2} for seed in seeds])
        for seed in seeds:
            for side in (0, 1):
                write(tmp_path / f"data/{name}/{seed}_{side}.jpg", image_bytes(10 * seed + side))
    write(tmp_path / "data/0002/8_0.jpg", image_bytes(1))
    write(tmp_path / "data/0003/prompt.json", {"edit": "Nothing here."})
    write(tmp_path / "data/seeds.json", [["0001", [11, 12]], ["0002", [7]]])
    prepared = make("editing", tmp_path / "data", out=tmp_path / "out")
    assert [(sample["instruction"], images) for _, sample, images in samples(tmp_path / "out")] == [
        (f"Edit {name}.", [image_bytes(10 * seed), image_bytes(10 * seed + 1)])
        for name, seed in (("0001", 11), ("0001", 12), ("0002", 7))
    ]
    assert [key.partition("-")[2] for key, *_ in samples(tmp_path / "out")] == ["0001-11", "0001-12", "0002-7"]
    assert prepared["unused"] == {
        "fields 'prompt.json input'": 3,
        "fields 'prompt.json output'": 3,
        "files .json": 1,
        "files .jsonl": 2,
        "files prompt.json without a pair of images": 1,
        "images without their partner": 1,
    }
    write(tmp_path / "data/0002/prompt.json", "{")
    make("editing", tmp_path / "data", out=tmp_path / "bad", max_bad=0.5)
    [entry] = skipped(tmp_path / "bad")
    assert entry["reason"] == "its prompt.json cannot be read" and "7_0.jpg" in entry["where"]


def test_a_folder_with_metadata_names_its_files(tmp_path: Path) -> None:
    for number in (1, 2):
        write(tmp_path / f"data/{number}.png", image_bytes(number, "PNG"))
    line = {"input_image_file_name": "1.png", "edit_prompt": "Red.", "edited_image_file_name": "2.png"}
    write(tmp_path / "data/metadata.jsonl", [line])
    make("editing", tmp_path / "data", out=tmp_path / "out")
    assert [(sample, images) for _, sample, images in samples(tmp_path / "out")] == [
        ({"instruction": "Red."}, png(1, 2))
    ]


def test_the_command_says_what_is_wrong(folder: Path, run: Run) -> None:
    write(folder / "images/edits.json", [{"prompt": "Red.", "before": "1.png", "after": "2.png"}])
    code, _, said = run("prepare", "editing", folder / "images/edits.json", "--out", folder / "out")
    assert code == 2 and "none of these is known as the edited image; name it with --output-field" in said
    code, output, said = run(
        *("prepare", "editing", folder / "images/edits.json", "--out", folder / "out"),
        *("--output-field", "after", "--image-field", "before"),
    )
    assert code == 0 and output.startswith("1 samples, 1 shards")
    code, _, said = run(
        "prepare", "editing", folder / "images/edits.json", "--out", folder / "x", "--output-field", "edited"
    )
    assert code == 2 and "--output-field 'edited': no such field is in" in said
    code, _, said = run(
        "prepare", "captions", folder / "images/edits.json", "--out", folder / "x", "--output-field", "a"
    )
    assert code == 2 and "--output-field has no effect for captions" in said
    write(folder / "pairs/1/prompt.json", {"edit": "Red."})
    with pytest.raises(UserError, match=r"--text-field has no effect for .*: its folders have a prompt.json"):
        make("editing", folder / "pairs", out=folder / "y", text_field=("edit",))
    assert json.loads((folder / "out/prepared.json").read_text())["samples"] == 1
