"""The quick check of GenEval's images by a detector of one's own, and that it never passes for the paper's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from janus_train.evaluate.benchmarks.drawing import quick_check as checking
from tests.evaluate.benchmarks.drawing.geneval_data import LINES, draw, write_lines
from tests.evaluate.tiny_models import make_clip, make_mask2former
from tests.helpers import Run, read_lines

pytest.importorskip("scipy", reason="the extra evaluation is not installed")


@pytest.fixture(scope="module")
def drawn(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(random_base, tmp_path_factory.mktemp("drawn"), [LINES[0], LINES[3]])


@pytest.fixture
def words(drawn: Path, random_base: Path, tmp_path: Path) -> list[object]:
    """The command, whose images are drawn."""
    shutil.copytree(drawn, tmp_path, dirs_exist_ok=True)
    return ["benchmark", random_base, "--tasks", "geneval", "--data", tmp_path / "data", "--out", tmp_path / "out"]


def results_of(tmp_path: Path) -> dict[str, Any]:
    return json.loads((tmp_path / "out/results.json").read_text())["tasks"]["geneval"]


def test_without_clip_colours_are_left_out_and_said(run: Run, words: list[object], tmp_path: Path) -> None:
    detector = make_mask2former(tmp_path / "mine", always="dog")
    code, stdout, stderr = run(*words, "--detector", detector)
    assert code == 0, stderr
    lines = read_lines(tmp_path / "out/geneval/detections.jsonl")
    assert [line["image"] for line in lines] == [f"00000/samples/{n:04d}.png" for n in range(4)]
    assert all(each["class"] == "dog" for line in lines for each in line["objects"]) and lines[0]["objects"]
    results = results_of(tmp_path)
    label = "quick check with Mask2Former in mine, not the paper's detector"
    assert results["headline"]["name"] == f"mean over the tasks ({label})"
    assert results["headline"]["value"] == 100.0, "a dog is seen in everything"
    assert results["judged_by"]["quick_check"]["detector"]["name"] == "mine"
    assert len(results["judged_by"]["quick_check"]["detector"]["sha256"]) == 64
    assert f"{label}: 4 of 8 images are judged" in results["note"]
    assert "not judged these images yet" in results["note"] and results["commands"]
    assert "not the paper's" in " ".join(stdout.split())


def test_with_clip_colours_are_judged_too(run: Run, words: list[object], tmp_path: Path) -> None:
    detector, clip = make_mask2former(tmp_path / "mine", always="dog"), make_clip(tmp_path / "clip", seed=2)
    code, _, stderr = run(*words, "--detector", detector, "--clip", clip)
    assert code == 0, stderr
    lines = read_lines(tmp_path / "out/geneval/detections.jsonl")
    assert [line["image"][:5] for line in lines] == ["00000"] * 4 + ["00001"] * 4
    for line in lines:
        coloured = [each for each in line["objects"] if "color" in each]
        assert len(coloured) == (1 if line["image"].startswith("00001") else 0), "the one that decides"
        assert all(each["score"] == max(other["score"] for other in line["objects"]) for each in coloured)
    red = sum(any(each.get("color") == "red" for each in line["objects"]) for line in lines)
    by_group = {score["group"]: score for score in results_of(tmp_path)["scores"]}
    assert by_group["colors"]["right"] == red and by_group["colors"]["n"] == 4
    assert "and CLIP in clip, not the paper's" in by_group["colors"]["name"]


def test_it_goes_on_behind_what_is_there_and_begins_again_for_another_detector(
    run: Run, words: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = make_mask2former(tmp_path / "mine", always="dog")
    looked: list[str] = []
    objects = checking._objects

    def watched(path: Path, *more: Any) -> Any:
        looked.append(path.name)
        return objects(path, *more)

    monkeypatch.setattr(checking, "_objects", watched)
    monkeypatch.setattr(checking, "_BATCH", 1)
    assert run(*words, "--detector", detector)[0] == 0
    path = tmp_path / "out/geneval/detections.jsonl"
    whole = path.read_text()
    path.write_text("".join(whole.splitlines(keepends=True)[:2]) + '{"image": "0000')  # as a kill leaves it
    check = tmp_path / "out/geneval/quick_check.json"
    check.write_text(check.read_text().replace("true", "false"))
    assert run(*words)[0] == 0 and results_of(tmp_path)["headline"] is None, "half a check is none"
    looked.clear()
    assert run(*words, "--detector", detector)[0] == 0
    assert looked == ["0002.png", "0003.png"] and path.read_text() == whole
    looked.clear()
    make_mask2former(detector, always="cat")  # other weights in the same folder
    assert run(*words, "--detector", detector)[0] == 0
    assert len(looked) == 4 and results_of(tmp_path)["headline"]["value"] == 0.0


def test_the_scorers_own_judgement_stays_the_headline(run: Run, words: list[object], tmp_path: Path) -> None:
    detector = make_mask2former(tmp_path / "mine", always="dog")
    assert run(*words, "--detector", detector)[0] == 0
    file = write_lines(tmp_path / "results.jsonl", [{"tag": "colors", "correct": n == 0} for n in range(4)])
    assert run(*words, "--score", file)[0] == 0
    results = results_of(tmp_path)
    assert results["headline"]["name"] == "mean over the tasks" and results["headline"]["value"] == 25.0
    assert [score["value"] for score in results["scores"] if "quick check" in score["name"]] == [100.0] * 3


def test_a_broken_image_and_a_wrong_task_are_one_line(run: Run, words: list[object], tmp_path: Path) -> None:
    detector = make_mask2former(tmp_path / "mine")
    (tmp_path / "out/geneval/images/00000/samples/0001.png").write_bytes(b"no image")
    code, _, stderr = run(*words, "--detector", detector)
    assert code == 2 and "0001.png cannot be read as an image" in stderr.splitlines()[-1]
    words[3] = "pope"
    code, _, stderr = run(*words, "--detector", detector)
    assert code == 2 and "--detector checks GenEval's images: give --tasks geneval" in stderr
