"""Documents with images in them, in every layout in which they are published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from janus_train.data.sources.hf_dataset import HfDatasetSource
from janus_train.data.sources.jsonl import JsonlSource
from janus_train.data.sources.shards import ShardSource
from janus_train.data.special_tokens import EOS, PLACEHOLDER
from janus_train.data.templates import get_template
from janus_train.errors import UserError
from tests.datatools.prepare.making import contents, fields, image_bytes, make, samples, skipped, write
from tests.helpers import Run

IMAGE = PLACEHOLDER


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images 1.jpg to 5.jpg."""
    for number in range(1, 6):
        write(tmp_path / f"images/{number}.jpg", image_bytes(number))
    return tmp_path


def prepare(folder: Path, records: list[dict[str, Any]], out: str = "out", **options: Any) -> dict[str, Any]:
    file = write(folder / "documents.jsonl", records)
    return make("interleaved", file, out=folder / out, images=str(folder / "images"), **options)


def texts(folder: Path, out: str = "out") -> list[str]:
    return [fields["text"] for fields in fields(folder / out)]


def test_obelics(folder: Path) -> None:
    """Parallel lists; what is remote or has no file is left out of its document, and said."""
    records = [
        {
            "texts": ["Melt it.\n\nStir.", None, None, "Done.", None, None],
            "images": [None, "1.jpg", "2.jpg", None, "https://a.b/3.jpg", None],
            "metadata": '[{"document_url": "https://a.b"}]',
            "general_metadata": "{}",
        },
        {"texts": [None, "Look."], "images": ["gone.jpg", None]},
        {"texts": ["No image."], "images": [None]},
        {"texts": ["Two", "texts"], "images": ["1.jpg"]},
        {"texts": ["Where?"], "images": ["1.jpg"]},
        {"texts": ["Also gone", None, None], "images": [None, "gone.jpg", "5.jpg"]},
    ]
    prepared = prepare(folder, records, max_bad=0.5)
    assert texts(folder) == [f"Melt it.\n\nStir.\n{IMAGE}\n{IMAGE}\nDone.", f"Also gone\n{IMAGE}"]
    assert [images for _, _, images in samples(folder / "out")] == [[image_bytes(1), image_bytes(2)], [image_bytes(5)]]
    assert prepared["unused"] == {
        "fields 'metadata'": 1,
        "links to images (nothing is downloaded)": 1,
        "images without a file in the folder": 1,
        "places without text and image": 1,
    }
    assert prepared["left_out"] == {"no image of the document is here": 1, "the document has no image": 1}
    assert prepared["skipped"] == {
        "a place has a text and an image, so that their order is not known": 1,
        "texts and images are not two lists of one length": 1,
    }


MMC4 = {
    "url": "https://a.b",
    "text_list": ["Snow fell.", "A dog came.", "It was brown."],
    "image_info": [
        {"image_name": "2.jpg", "raw_url": "https://a.b/2.jpg", "matched_text_index": 1, "matched_sim": 0.3},
        {"image_name": "3.jpg", "matched_text_index": 1, "face_detections": None},
        {"raw_url": "https://a.b/9.jpg", "matched_text_index": 0},
    ],
    "similarity_matrix": [[0.1, 0.2, 0.3]],
    "could_have_url_duplicate": 0,
}


def test_mmc4(folder: Path) -> None:
    """Images stand before the sentence that they match, or after it."""
    prepared = prepare(folder, [MMC4])
    assert texts(folder) == [f"Snow fell.\n{IMAGE}\n{IMAGE}\nA dog came. It was brown."]
    assert [image for _, _, images in samples(folder / "out") for image in images] == [image_bytes(2), image_bytes(3)]
    assert prepared["unused"] == {
        "fields 'could_have_url_duplicate'": 1,
        "fields 'image_info.matched_sim'": 1,
        "fields 'image_info.raw_url'": 1,
        "fields 'similarity_matrix'": 1,
        "fields 'url'": 1,
        "links to images (nothing is downloaded)": 1,
    }
    prepare(folder, [MMC4], "after", image_place="after")
    assert texts(folder, "after") == [f"Snow fell. A dog came.\n{IMAGE}\n{IMAGE}\nIt was brown."]
    wrong = MMC4 | {"image_info": [{"image_name": "2.jpg", "matched_text_index": 3}]}
    prepare(folder, [wrong, MMC4], "wrong", max_bad=0.5)
    assert skipped(folder / "wrong")[0]["reason"] == "an image's matched_text_index is not that of a text"


def test_wikihow_vgsi(folder: Path) -> None:
    """WikihowText_data.json: JSON lines whose images are files called by the step's id."""
    write(folder / "images/10_0_0.png", image_bytes(7, "PNG"))
    write(folder / "images/10_1_0.png", image_bytes(8, "PNG"))
    steps = [
        {"headline": "Find a door.", "description": "A wide one.", "img": "https://a.b/x.jpg", "step_id": "10_0_0"},
        {"headline": "Hang it.", "description": "", "img": "https://a.b/y.jpg", "step_id": "10_0_1"},
    ]
    article = {
        "file_id": "10",
        "goal": "How to Hang an Ironing Board",
        "goal_description": "It is easy.",
        "category_hierarchy": ["Home"],
        "methods": [
            {"name": "Over a Door", "steps": steps},
            {"name": "On a Hook", "steps": [{"headline": "Buy a hook.", "img_license": "CC", "step_id": "10_1_0"}]},
        ],
    }
    prepared = prepare(folder, [article], image_field="{step_id}.png")
    assert texts(folder) == [
        f"How to Hang an Ironing Board\nIt is easy.\nOver a Door\n{IMAGE}\nFind a door.\nA wide one.\nHang it.\n"
        f"On a Hook\n{IMAGE}\nBuy a hook."
    ]
    assert prepared["unused"] == {
        "fields 'category_hierarchy'": 1,
        "fields 'file_id'": 1,
        "fields 'methods.steps.img'": 2,
        "fields 'methods.steps.img_license'": 1,
        "images without a file in the folder": 1,
    }


def test_a_title_and_steps(folder: Path) -> None:
    record = {
        "id": "a7",
        "title": "Tea",
        "steps": [{"text": "Boil.", "image": "1.jpg"}, "Wait.", {"text": "Pour.", "image": None}, {"image": "2.jpg"}],
    }
    prepare(folder, [record])
    assert texts(folder) == [f"Tea\n{IMAGE}\nBoil.\nWait.\nPour.\n{IMAGE}"]
    prepare(folder, [record], "after", image_place="after")
    assert texts(folder, "after") == [f"Tea\nBoil.\n{IMAGE}\nWait.\nPour.\n{IMAGE}"]
    assert samples(folder / "out")[0][0] == "000000000-a7"


def test_texts_with_placeholders_stay_as_they_are(folder: Path) -> None:
    prepare(folder, [{"text": f" A{IMAGE}B {IMAGE}{IMAGE}\n\nC ", "images": ["1.jpg", "gone.jpg", "2.jpg"]}])
    assert texts(folder) == [f" A{IMAGE}B {IMAGE}\n\nC "]
    prepare(folder, [{"text": f"One {IMAGE}", "image": "3.jpg"}], "one")
    assert texts(folder, "one") == [f"One {IMAGE}"]


def test_what_the_template_would_not_take_is_skipped_with_its_reason(folder: Path) -> None:
    good = {"text": f"One {IMAGE}", "images": ["1.jpg"]}
    bad = [{"text": f"{words} {IMAGE}", "images": ["1.jpg"]} for words in ("<image>", "<|User|>", " ")]
    prepare(folder, [good, *bad, {"text": f"{IMAGE}{IMAGE}x", "images": ["1.jpg"]}], max_bad=0.9)
    reasons = [line["reason"] for line in skipped(folder / "out")]
    assert [reason[:40] for reason in reasons] == [
        "field 'text' has the tag <image>: it wou",
        "field 'text' contains the special token ",
        "field 'text' has no words beside the pla",
        "placeholders and images differ in number",
    ]
    source = ShardSource([folder / "out/shard-00000.tar"])
    assert [s.role for s in get_template("interleaved").build(source[0])] == ["text", "image_in", "text"]


def test_parquet_with_names_and_with_images_inside(folder: Path) -> None:
    """The same documents in any number of processes."""
    lists = [{"texts": [f"Number {n}.", None], "images": [None, f"{1 + n % 5}.jpg"]} for n in range(7)]
    pq.write_table(pa.Table.from_pylist(lists), folder / "names.parquet", row_group_size=3)
    out = {}
    for workers in (1, 2):
        out[workers] = folder / f"names-{workers}"
        make("interleaved", folder / "names.parquet", out=out[workers], images=str(folder / "images"), workers=workers)
    assert contents(out[1]).keys() == contents(out[2]).keys()
    assert (out[1] / "shard-00000.tar").read_bytes() == (out[2] / "shard-00000.tar").read_bytes()
    assert texts(folder, "names-1") == [f"Number {n}.\n{IMAGE}" for n in range(7)]
    inside = [{"texts": [None, "Inside."], "images": [{"bytes": image_bytes(3), "path": None}, None]}]
    pq.write_table(pa.Table.from_pylist(inside), folder / "inside.parquet")
    make("interleaved", folder / "inside.parquet", out=folder / "inside")
    assert samples(folder / "inside")[0][1:] == ({"text": f"{IMAGE}\nInside."}, [image_bytes(3)])


def test_mistakes_are_one_line(folder: Path, run: Run) -> None:
    obelics = {"texts": ["A", None], "images": [None, "1.jpg"]}

    def error(records: list[dict[str, Any]], **options: Any) -> str:
        with pytest.raises(UserError) as info:
            prepare(folder, records, "never", **options)
        assert "\n" not in str(info.value) and not (folder / "never").exists()
        return str(info.value)

    assert "documents.jsonl has 'body': these are the fields of no known layout (obelics: texts" in error([{"body": 1}])
    assert "--layout mmc4 needs text_list and image_info: " in error([obelics], layout="mmc4")
    remote = {"texts": ["A", None], "images": [None, "https://a.b/1.jpg"]}
    assert "the images are addresses, such as https://a.b/1.jpg, and none is a file here" in error([remote])
    gone = {"texts": ["A", None], "images": [None, "gone.jpg"]}
    assert "none of the 1 images exists, such as" in error([gone])
    above = {"texts": ["A", None], "images": [None, "../x.jpg"]}
    assert "leaves the image folder" in error([obelics, above])
    write(folder / "x.csv", "texts,images\n1,2\n")
    code, _, err = run("prepare", "interleaved", str(folder / "x.csv"), "--out", str(folder / "never"))
    assert code == 2 and err.count("\n") == 1 and "x.csv is not a file of documents: its name should end in" in err
    code, _, err = run("prepare", "captions", str(folder / "x.csv"), "--layout", "mmc4", "--out", str(folder / "never"))
    assert code == 2 and "--layout has no effect for captions: it is for interleaved; leave it out" in err


def test_the_command_says_what_it_did_not_use(folder: Path, run: Run) -> None:
    file = write(folder / "docs.jsonl", [MMC4])
    words = ("prepare", "interleaved", str(file), "--images", str(folder / "images"), "--out", str(folder / "out"))
    code, out, err = run(*words)
    assert code == 0 and out.startswith("1 samples, 1 shards"), err
    assert "not used: 1 link to images (nothing is downloaded), " in err
    assert run(*words)[:2] == (0, out), "the same command again does nothing"
    assert json.loads((folder / "out/prepared.json").read_text())["arguments"]["layout"] is None


def test_sources_read_such_documents_without_a_conversion(folder: Path) -> None:
    """JSON lines with images in a folder, and a data set with the images inside."""
    record = {"text": f"One {IMAGE} two {IMAGE}.", "images": ["1.jpg", "2.jpg"]}
    lines = JsonlSource([write(folder / "x.jsonl", [record])], "images")
    inside = [{"bytes": image_bytes(number), "path": None} for number in (1, 2)]
    pq.write_table(pa.Table.from_pylist([record | {"images": inside}]), folder / "x.parquet")
    table = HfDatasetSource([folder / "x.parquet"], {"text": "text"}, ["images"])
    template = get_template("interleaved")
    segments = [[(s.role, s.text) for s in template.build(source[0])] for source in (lines, table)]
    assert (
        segments[0]
        == segments[1]
        == [("text", "One "), ("image_in", ""), ("text", " two "), ("image_in", ""), ("text", f".{EOS}")]
    )
