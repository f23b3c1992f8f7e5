"""DPG-Bench from prompts to grids to scores, with a tiny random model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from janus_train.evaluate.benchmarks.drawing.drawings import image_seed
from janus_train.infer.load import load_model
from tests.evaluate.benchmarks.drawing.dpg_data import TEXTS, write_csv, write_texts
from tests.helpers import Run, read_lines


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_texts(tmp_path / "data/dpg_bench")
    write_csv(tmp_path / "data/dpg_bench")
    return tmp_path / "data"


def words(base: object, data: Path, out: Path, *more: object) -> list[object]:
    return ["benchmark", base, "--tasks", "dpg", "--data", data, "--out", out, *more]


def test_four_images_of_a_prompt_are_drawn_into_one_grid_and_judged_elsewhere(
    run: Run, random_base: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code, stdout, stderr = run(*words(random_base, data, out, "--batch-size", 3))
    assert code == 0, stderr
    images = out / "dpg/images"
    assert sorted(path.name for path in images.iterdir()) == ["cat.png", "dog.png"], (
        "the scorer opens all that is there"
    )
    seeds = [image_seed(0, TEXTS["cat"], sample) for sample in range(4)]
    assert read_lines(out / "dpg/answers.jsonl")[0] == {"key": "cat.png", "prompt": TEXTS["cat"], "seeds": seeds}
    expected = load_model(random_base).generate([TEXTS["cat"]] * 4, seeds=seeds, guidance=5.0, temperature=1.0)
    side = expected[0].width
    sheet = np.asarray(Image.open(images / "cat.png"))
    assert sheet.shape == (2 * side, 2 * side, 3)
    for number, image in enumerate(expected):
        top, left = side * (number // 2), side * (number % 2)
        assert np.array_equal(sheet[top : top + side, left : left + side], image)
    assert f"--image-root-path {images} --resolution {side} --pic-num 4" in stdout
    assert run(*words(random_base, data, out))[0] == 0  # nothing is left to draw
    assert len(read_lines(out / "dpg/answers.jsonl")) == 2


def test_the_scorers_answers_are_scored_in_both_ways(run: Run, random_base: Path, data: Path, tmp_path: Path) -> None:
    out, file = tmp_path / "out", tmp_path / "results_detail.txt"
    assert run(*words(random_base, data, out))[0] == 0
    boxes = ("(0, 0, 64, 64)", "(64, 0, 128, 64)", "(0, 64, 64, 128)", "(64, 64, 128, 128)")
    file.write_text(
        "".join(
            f"x/dog.png, {box}, is there a dog?, {answer}\n"
            for box, answer in zip(boxes, ("yes", "yes", "yes", "no"), strict=True)
        )
    )
    code, stdout, stderr = run(*words("NOT_LOADED", data, out, "--score", file))
    assert code == 0, stderr
    results = json.loads((out / "results.json").read_text())["tasks"]["dpg"]
    assert results["headline"]["value"] == 75.0 and results["published"]["janus_pro_7b"] == 84.19
    values = {score["name"]: score["value"] for score in results["scores"] if score["group"] == "entity"}
    assert values == {
        "right answers, all images": 75.0,
        "right answers, as the published script (last image)": 0.0,
    }
    assert "1 prompts are left out, because they have no answers: cat" in results["note"]
    assert sorted(results["judged_by"]) == ["dpg_bench.csv", "judgements.txt"]
    assert "75.0" in stdout and "compute_dpg_bench" not in stdout


def test_wrong_inputs_are_one_line_each(run: Run, random_base: Path, data: Path, tmp_path: Path) -> None:
    out, file = tmp_path / "out", tmp_path / "results_detail.txt"

    def refused(*words: object) -> str:
        code, stdout, stderr = run(*words)
        assert code == 2 and stdout == "" and stderr.count("\n") == 1, stderr
        return stderr

    assert "nowhere: there is no such folder" in refused(*words("X", tmp_path / "nowhere", out))
    assert "dpg_bench has neither prompts/*.txt nor dpg_bench.csv" in refused(*words("X", tmp_path, out))
    assert run(*words(random_base, data, out))[0] == 0
    file.write_text("x/cat.png, (0, 0, 64, 64), is there a cat?, yes\n")
    assert "not one prompt has answers to all its questions" in refused(*words("X", data, out, "--score", file))
    two = words("X", data, out, "--score", file)
    two[3] = "dpg,geneval"
    (data / "evaluation_metadata.jsonl").write_text(
        '{"tag": "colors", "include": [{"class": "a", "count": 1}], "prompt": "a"}'
    )
    assert "--score is about one task: give --tasks geneval or --tasks dpg" in refused(*two)
