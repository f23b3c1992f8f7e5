"""The page of an evaluation on own data: all of it is there, and nothing else gets in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from janus_train.errors import UserError
from janus_train.report import build
from janus_train.report.own_data import MAX_EXAMPLES, MAX_IMAGES
from tests.pages.parsed import Page
from tests.report.making import make_own_data, make_run

ATTACK = "<script>alert(1)</script>"


def page_of(folder: Path) -> Page:
    return Page(build(folder).read_text(encoding="utf-8"))


def test_everything_is_on_the_page(tmp_path: Path) -> None:
    page = page_of(make_own_data(tmp_path / "evaluation"))
    for text in ("mine.yaml", "outputs/mine/final", "20 samples", "25 questions asked", "6 images generated"):
        assert text in page.text
    for text in ("1,234", "1.5000", "4.48", "75.0 %", "80.0 %", "82.5 %", "70.0 to 90.0", "type: colour <1>"):
        assert text in page.text
    for text in ("3.25", "2.50 to 4.00", "23.45", "28.76", "45.67", "CLIP score: CLIP <x>", "FID: so many images"):
        assert text in page.text
    for text in ("Question 0?", "Red & blue.", "true: Green. / Lime.", "F1 50 %", "CIDEr-D 1.25", "Prompt 3, <red>."):
        assert text in page.text
    assert "CLIP score 20.50, of the true image 30.50" in page.text and "feedfacefeedface" in page.text
    assert "3 samples & more cannot be used" in page.text and "no image" not in page.text
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 6 + 2 * 6 + 1
    assert all(image["alt"] and image["src"].startswith("data:image/png;base64,") for image in images)


def test_the_menu_leads_to_the_sections_that_are_there(tmp_path: Path) -> None:
    folder = make_own_data(tmp_path / "evaluation", num_lines=0)
    results = json.loads((folder / "results.json").read_text())
    results |= {"answers": {}, "captions": {}, "images": {"n": 0, "problems": []}}
    (folder / "results.json").write_text(json.dumps(results))
    page = page_of(folder)
    ids = {attributes["id"] for tag, attributes in page.tags if tag == "section"}
    assert ids == {"own-data", "losses", "origin"}
    assert {attributes["href"][1:] for tag, attributes in page.tags if tag == "a"} == ids


def test_the_report_of_a_run_has_its_evaluation_too(tmp_path: Path) -> None:
    make_own_data(make_run(tmp_path / "run", 3) / "evaluation")
    page = page_of(tmp_path / "run")
    assert "tiny: stage 3" in page.text and "82.5 %" in page.text and "Question 0?" in page.text
    ids = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert len(ids) == len(set(ids)) == 7 + 3


def test_a_page_stays_small(tmp_path: Path) -> None:
    page = page_of(make_own_data(tmp_path / "evaluation", num_lines=60))
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 2 * MAX_EXAMPLES + 2 * MAX_IMAGES + 1


def test_values_of_forged_files_cannot_become_markup(tmp_path: Path) -> None:
    folder = make_own_data(tmp_path / "forged", num_lines=1)
    for name in ("results.json", "answers.jsonl", "images.jsonl"):
        text = (folder / name).read_text()
        for word in (
            "mine.yaml",
            "outputs/mine",
            "talks",
            "colour <1>",
            "cannot be used",
            "so many",
            "Question",
            "Lime",
        ):
            text = text.replace(word, f"{word} {ATTACK}")
        (folder / name).write_text(text.replace("Prompt", ATTACK))
    html = build(folder).read_text(encoding="utf-8")
    page = Page(html)
    assert "<script" not in html and page.text.count(ATTACK) >= 9
    assert page.text.count("no image") == 0


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("answers", "all", "exact", "percent"), "1%;background:url(http://x)"),
        (("answers", "all", "f1", "low"), "1%"),
        (("captions", "all", "cider", "mean"), None),
        (("losses", "by_kind"), [1]),
        (("sources", "talks", "num_used"), "many"),
        (("tasks",), 5),
        (("manifest",), "x"),
        (("notes",), 5),
    ],
)
def test_values_of_another_form_are_one_line(tmp_path: Path, path: tuple[str, ...], value: Any) -> None:
    folder = make_own_data(tmp_path / "forged")
    results = json.loads((folder / "results.json").read_text())
    place = results
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (folder / "results.json").write_text(json.dumps(results))
    with pytest.raises(
        UserError, match=r"forged: results\.json, images\.jsonl or answers\.jsonl are not as janus-train"
    ):
        build(folder)


def test_images_outside_the_folder_are_not_read(tmp_path: Path) -> None:
    folder = make_own_data(tmp_path / "evaluation", num_lines=2)
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "secret.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    for name in ("answers.jsonl", "images.jsonl"):
        lines = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        for line, other in zip(lines, ("../secret.png", "link.png"), strict=True):
            line |= {"images": [other, 5], "image": other, "true_image": str(tmp_path / "secret.png")}
            line.pop("input_image", None)
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = page_of(folder)
    assert page.text.count("no image") == 2 * 2 + 2 * 2 and not [tag for tag, _ in page.tags if tag == "img"]
