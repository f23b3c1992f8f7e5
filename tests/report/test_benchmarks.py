"""The report's table of published benchmarks: this model's figures beside the papers', and nothing that data smuggles in."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from janus_train.errors import UserError
from janus_train.evaluate.benchmarks.result import Published, Result, share_of
from janus_train.report import build
from tests.pages.parsed import Page
from tests.report.making import make_evaluation, make_run

ATTACK = "<script>alert(1)</script>"


def task(result: Result, published: Published, title: str, **more: Any) -> dict[str, Any]:
    manifest = {"protocol": "deepseek", "num_samples": 200}
    values = {"title": title, **result.values(), "published": asdict(published), "warnings": [], "manifest": manifest}
    return json.loads(json.dumps(values | more))


def make_benchmarks(folder: Path) -> Path:
    right = share_of("accuracy", 150, 200)
    colours = share_of("accuracy", 30, 50, f"colours {ATTACK}")
    judged_elsewhere = Result((), None, note="Give mmvet.json to the judge.")
    results = {
        "tasks": {
            "pope": task(
                Result((right, colours), right, num_unparsed=7),
                Published(87.0, 86.2, None, "the report"),
                "POPE",
                warnings=["pope: only the first 200 samples were answered"],
            ),
            "mmvet": task(judged_elsewhere, Published(34.3, 39.8, 50.0, "the report"), "MM-Vet"),
        }
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    return folder


def test_a_row_has_the_score_with_its_interval_beside_the_papers(tmp_path: Path) -> None:
    html = build(make_benchmarks(tmp_path / "out")).read_text(encoding="utf-8")
    page = Page(html)
    for text in ("Published benchmarks", "POPE", "75.0", "68.6 to 80.5", "87.0", "86.2", "Janus-Pro-7B", "deepseek"):
        assert text in page.text
    for text in ("Give mmvet.json to the judge.", "only the first 200 samples", "the report", "39.8"):
        assert text in page.text
    assert "60.0" in page.text and f"accuracy, colours {ATTACK}" in page.text and ATTACK not in html


def test_a_run_shows_the_benchmarks_in_its_folder_beside_its_curves_and_its_evaluation(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 3)
    make_evaluation(run / "evaluation")
    make_benchmarks(run / "benchmarks")
    page = Page(build(run).read_text(encoding="utf-8"))
    ids = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert {"results", "benchmarks", "parts", "run-1"} <= set(ids) and len(ids) == len(set(ids))
    assert {attributes["href"][1:] for tag, attributes in page.tags if tag == "a"} == set(ids)


def test_damaged_results_are_one_line(tmp_path: Path) -> None:
    folder = make_benchmarks(tmp_path / "out")
    results = json.loads((folder / "results.json").read_text())
    del results["tasks"]["pope"]["headline"]["value"]
    (folder / "results.json").write_text(json.dumps(results))
    with pytest.raises(UserError, match=r"results.json are not as janus-train benchmark writes them \(KeyError"):
        build(folder)
