"""Results and detections of GenEval's images, read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from janus_train.errors import UserError
from janus_train.evaluate.benchmarks.drawing.geneval_files import image_name, read_judgements
from janus_train.evaluate.benchmarks.drawing.geneval_prompts import GenevalPrompt, read_geneval_prompts
from tests.evaluate.benchmarks.drawing.geneval_data import write_lines, write_prompts

DOG = {"class": "dog", "box": [0, 0, 10, 10], "score": 0.95}


@pytest.fixture
def prompts(tmp_path: Path) -> list[GenevalPrompt]:
    return read_geneval_prompts(write_prompts(tmp_path / "data"))


def test_images_are_named_as_published() -> None:
    assert image_name(12, 3) == "00012/samples/0003.png"


def test_the_scorers_results_are_read(tmp_path: Path, prompts: list[GenevalPrompt]) -> None:
    lines: list[dict[str, Any]] = [
        {"filename": "/far/images/00002/samples/0001.png", "tag": "counting", "correct": True, "reason": ""},
        {"filename": "images/00003/samples/0000.png", "tag": "colors", "correct": False},
        {"tag": "position", "correct": 1},  # other scorers write neither names nor booleans
    ]
    judged, kind = read_judgements(write_lines(tmp_path / "results.jsonl", lines), prompts)
    assert kind == "results"
    assert [(each.image, each.tag, each.correct) for each in judged] == [
        ("00002/samples/0001.png", "counting", True),
        ("00003/samples/0000.png", "colors", False),
        ("", "position", True),
    ]


def test_detections_are_judged_by_the_rule(tmp_path: Path, prompts: list[GenevalPrompt]) -> None:
    lines: list[dict[str, Any]] = [
        {"image": "00000/samples/0000.png", "objects": [DOG]},
        {"image": "00000/samples/0001.png", "objects": []},
        {"image": "00002/samples/0000.png", "objects": [DOG, DOG]},
        {"image": "00003/samples/0003.png", "objects": [DOG | {"color": "blue"}]},
    ]
    judged, kind = read_judgements(write_lines(tmp_path / "detections.jsonl", lines), prompts)
    assert kind == "detections"
    assert [(each.tag, each.correct) for each in judged] == [
        ("single_object", True),
        ("single_object", False),
        ("counting", True),
        ("colors", False),
    ]
    assert judged[3].reasons == ("dog: red expected, blue found",)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"tag": "colours", "correct": True}, "tag 'colours' is none of"),
        ({"tag": "colors"}, "correct is None, not true or false"),
        ({"tag": "colors", "correct": "yes"}, "correct is 'yes', not true or false"),
        (
            {"tag": "colors", "correct": True, "filename": "00009/samples/0000.png"},
            "is none of the images, such as 00000/",
        ),
        (
            {"tag": "colors", "correct": True, "filename": "00000/samples/0000.png"},
            "has single_object: these are other",
        ),
        ({"tag": "single_object", "correct": True, "filename": "x/00001/samples/0000.png"}, "has two_object"),
        ({"image": "00000/samples/0001.png", "objects": []}, "is one of detections, and earlier lines are not"),
        ({"tag": "two_object", "correct": True, "filename": "00001/samples/0002.png"}, "stands there twice"),
    ],
)
def test_a_broken_line_of_results_is_named(
    tmp_path: Path, prompts: list[GenevalPrompt], line: dict[str, Any], message: str
) -> None:
    good = {"tag": "two_object", "correct": True, "filename": "00001/samples/0002.png"}
    with pytest.raises(UserError, match=rf"results\.jsonl: line 2.*{message}") as error:
        read_judgements(write_lines(tmp_path / "results.jsonl", [good, line]), prompts)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("dog", "'dog' has no class"),
        ({"class": "dog", "box": [1, 2, 3], "score": 0.5}, r"box \[1, 2, 3\], not \[left"),
        ({"class": "dog", "box": [1, 2, 3, "4"], "score": 0.5}, "not .left, top"),
        ({"class": "dog", "box": [1, 2, 3, float("nan")], "score": 0.5}, "not .left, top"),
        (DOG | {"score": None}, "score None, not a number"),
        (DOG | {"color": "grey"}, "color 'grey', none of red"),
    ],
)
def test_a_broken_object_is_named(tmp_path: Path, prompts: list[GenevalPrompt], value: Any, message: str) -> None:
    path = write_lines(tmp_path / "detections.jsonl", [{"image": "00000/samples/0000.png", "objects": [value]}])
    with pytest.raises(UserError, match=rf"detections\.jsonl: line 1: .*{message}"):
        read_judgements(path, prompts)


def test_a_colour_that_decides_and_is_missing_is_named(tmp_path: Path, prompts: list[GenevalPrompt]) -> None:
    path = write_lines(tmp_path / "detections.jsonl", [{"image": "00003/samples/0000.png", "objects": [DOG]}])
    with pytest.raises(UserError, match=r"line 1: the dog with score 0\.95 has no color"):
        read_judgements(path, prompts)
