"""GenEval from prompts to images to scores, with a tiny random model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from janus_train.evaluate.benchmarks import run as running
from janus_train.evaluate.benchmarks.drawing.drawings import image_seed
from janus_train.evaluate.benchmarks.registry import Context
from janus_train.evaluate.benchmarks.tasks.geneval import Geneval
from janus_train.files import file_sha256
from janus_train.infer.load import load_model
from tests.evaluate.benchmarks.drawing.geneval_data import LINES, draw, write_lines, write_prompts
from tests.evaluate.benchmarks.making import short_protocol
from tests.helpers import Run, read_lines

TWO = [LINES[0], LINES[2]]
"""single_object and counting."""


@pytest.fixture(scope="module")
def drawn(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders ``data`` and ``out``, in which all images are drawn."""
    return draw(random_base, tmp_path_factory.mktemp("drawn"), TWO)


@pytest.fixture
def data(drawn: Path, tmp_path: Path) -> Path:
    """The prompts, with all images in ``tmp_path``/out."""
    shutil.copytree(drawn, tmp_path, dirs_exist_ok=True)
    return tmp_path / "data"


def words(base: Path, data: Path, out: Path, *more: object) -> list[object]:
    return ["benchmark", base, "--tasks", "geneval", "--data", data, "--out", out, *more]


def results_of(out: Path) -> dict[str, Any]:
    results = json.loads((out / "results.json").read_text())["tasks"]["geneval"]
    assert results == json.loads((out / "geneval/results.json").read_text())
    return results


def pixels(folder: Path) -> dict[str, np.ndarray]:
    return {str(path.relative_to(folder)): np.asarray(Image.open(path)) for path in sorted(folder.rglob("*.png"))}


def equal(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def test_images_stand_in_the_published_layout_and_the_commands_are_printed(
    run: Run, random_base: Path, data: Path, tmp_path: Path
) -> None:
    code, stdout, stderr = run(*words(random_base, data, tmp_path / "out"))
    assert code == 0, stderr
    images = tmp_path / "out/geneval/images"
    assert sorted(str(path.relative_to(images)) for path in images.rglob("*") if path.is_file()) == [
        f"{number:05d}/{name}"
        for number in range(2)
        for name in ("metadata.jsonl", *(f"samples/{sample:04d}.png" for sample in range(4)))
    ]
    assert [json.loads((images / f"{n:05d}/metadata.jsonl").read_text()) for n in range(2)] == TWO
    assert f"python evaluation/evaluate_images.py {images} --outfile {images.parent}/geneval_results.jsonl" in stdout
    results = results_of(tmp_path / "out")
    assert results["headline"] is None and results["scores"] == []
    assert "these are 2 prompts, the published ones are 553" in results["note"]
    assert results["manifest"]["roles"] == ["<|User|>", "<|Assistant|>"]
    assert results["published"]["janus_pro_1b"] == 73.0


def test_an_image_is_that_of_its_prompt_and_seed_with_the_protocols_settings(random_base: Path, drawn: Path) -> None:
    lines = read_lines(drawn / "out/geneval/answers.jsonl")
    assert lines[6]["key"] == "00001/samples/0002.png"
    assert lines[6]["seeds"] == [image_seed(0, TWO[1]["prompt"], 2)]
    assert len({line["seeds"][0] for line in lines}) == 8
    [image] = load_model(random_base).generate(
        [TWO[1]["prompt"]], seeds=lines[6]["seeds"], guidance=5.0, temperature=1.0
    )
    assert np.array_equal(image, Image.open(drawn / "out/geneval/images/00001/samples/0002.png"))


def test_roles_and_sampling_of_the_protocol_reach_the_images(random_base: Path, drawn: Path, tmp_path: Path) -> None:
    model, name = load_model(random_base), "images/00000/samples/0000.png"
    own = np.asarray(Image.open(drawn / "out/geneval" / name))
    generation = short_protocol().generation.model_dump()
    changes = ({"user": "User", "assistant": "Assistant"}, {"system": "Draw well."}, {"guidance": 1.0}, {"top_k": 2})
    for change in ({}, *changes):
        task = Geneval().open(drawn / "data", short_protocol(generation=generation | change))
        task.answer(Context(model, tmp_path, 0, 1), [0])
        assert np.array_equal(Image.open(tmp_path / name), own) == (change == {}), change


def test_a_run_goes_on_where_it_was_stopped_in_any_batch(
    run: Run, random_base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, out, whole = running.AnswerFile.append, tmp_path / "again", tmp_path / "out"

    def stop_at_the_second(self, lines):
        if lines[0]["key"] == "00000/samples/0003.png":
            raise KeyboardInterrupt
        append(self, lines)

    with monkeypatch.context() as patch:
        patch.setattr(running.AnswerFile, "append", stop_at_the_second)
        assert run(*words(random_base, data, out, "--batch-size", 3))[0] == 130
    assert [line["key"][-8:-4] for line in read_lines(out / "geneval/answers.jsonl")] == ["0000", "0001", "0002"]
    before = {path: path.stat().st_mtime_ns for path in out.rglob("000[012].png") if "00000/" in str(path)}
    assert run(*words(random_base, data, out, "--batch-size", 2))[0] == 0
    assert len(before) == 3 and all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert equal(pixels(out), pixels(whole))
    assert (out / "geneval/answers.jsonl").read_text() == (whole / "geneval/answers.jsonl").read_text()


def test_the_scorers_file_is_scored_and_kept(run: Run, random_base: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    right = [True, True, True, False, False, True, False, False]  # 3 of 4 and 1 of 4
    tags = ["single_object"] * 4 + ["counting"] * 4
    file = write_lines(
        tmp_path / "results.jsonl",
        [
            {"filename": f"/x/{n // 4:05d}/samples/{n % 4:04d}.png", "tag": tags[n], "correct": right[n]}
            for n in range(8)
        ],
    )
    code, stdout, stderr = run(*words("NOT_LOADED", data, out, "--score", file))
    assert code == 0, stderr
    results = results_of(out)
    assert results["headline"]["value"] == 50.0 and results["headline"]["n"] == 8
    by_group = {score["group"]: score for score in results["scores"]}
    assert (by_group["single_object"]["right"], by_group["single_object"]["value"]) == (3, 75.0)
    assert by_group["counting"]["value"] == 25.0 and by_group["all images"]["value"] == 50.0
    # Wilson: (0.75 + 1.96^2 / 8 -+ 1.96 * sqrt(0.75 * 0.25 / 4 + 1.96^2 / 64)) / (1 + 1.96^2 / 4)
    assert by_group["single_object"]["low"] == pytest.approx(30.06, abs=0.01)
    assert by_group["single_object"]["high"] == pytest.approx(95.44, abs=0.01)
    assert "over 2 of six tasks: no image of two_object, colors, position, color_attr is judged" in results["note"]
    assert results["commands"] == [] and "evaluate_images" not in stdout
    assert "50.0" in stdout and "30.1-95.4" in stdout
    file.unlink()
    assert run(*words(random_base, data, out))[0] == 0  # nothing is left to draw, and the scores stay
    assert results_of(out)["headline"]["value"] == 50.0


def test_detections_given_are_judged_by_the_rule_and_say_so(
    run: Run, random_base: Path, data: Path, tmp_path: Path
) -> None:
    out, dog = tmp_path / "out", {"class": "dog", "box": [0, 0, 9, 9], "score": 0.95}
    file = write_lines(
        tmp_path / "detections.jsonl",
        [
            {"image": "00000/samples/0000.png", "objects": [dog]},
            {"image": "00001/samples/0000.png", "objects": [dog]},
        ],
    )
    assert run(*words("NOT_LOADED", data, out, "--score", file))[0] == 0
    results = results_of(out)
    assert results["headline"]["name"] == "mean over the tasks (by the rule on the detections given)"
    assert results["headline"]["value"] == 50.0
    assert "by the rule on the detections given: 2 of 8 images are judged" in results["note"]
    judged = read_lines(out / "geneval/judgements_judged.jsonl")
    assert [(line["image"], line["correct"], line["reasons"]) for line in judged] == [
        ("00000/samples/0000.png", True, []),
        ("00001/samples/0000.png", False, ["dog: 2 expected, 1 found"]),
    ]
    assert results["judged_by"] == {"judgements.jsonl": file_sha256(file)}


def test_wrong_inputs_are_one_line_each(run: Run, random_base: Path, data: Path, tmp_path: Path) -> None:
    out, file = tmp_path / "out", write_lines(tmp_path / "results.jsonl", [{"tag": "counting", "correct": True}])

    def refused(*words: object) -> str:
        code, stdout, stderr = run(*words)
        assert code == 2 and stdout == "" and stderr.count("\n") == 1, stderr
        return stderr

    nowhere = tmp_path / "nowhere"
    assert "geneval has no images: draw them first" in refused(*words("X", data, nowhere, "--score", file))
    assert not nowhere.exists()
    assert "there is no such file; give the file that the scorer wrote" in refused(
        *words("X", data, out, "--score", tmp_path / "none")
    )
    write_lines(file, [{"tag": "counting"}])
    assert "results.jsonl: line 1: correct is None" in refused(*words("X", data, out, "--score", file))
    assert not list((out / "geneval").glob("judgements*")), "a file that is refused is not kept"
    assert "was drawn from other prompts, or by another protocol" in refused(
        *words("X", write_prompts(tmp_path / "other").parent, out, "--score", file)
    )
    answers = out / "geneval/answers.jsonl"
    whole = answers.read_text()
    answers.write_text("".join(whole.splitlines(keepends=True)[:5]))
    write_lines(file, [{"tag": "counting", "correct": True}])
    assert "geneval has 5 of 8 drawings: draw the others first" in refused(*words("X", data, out, "--score", file))
    answers.write_text(whole)
    (out / "geneval/images/00001/samples/0003.png").unlink()
    assert "00001/samples/0003.png was drawn and is gone (1 images are)" in refused(*words(random_base, data, out))
    assert "has no data of geneval: none of evaluation_metadata.jsonl" in refused(*words("X", tmp_path, out))
    assert "--clip names the colours" in refused(*words("X", data, out, "--clip", tmp_path))
    assert "--detector none: there is no such folder" in refused(*words("X", data, out, "--detector", "none"))
    assert "give --detector in another command" in refused(
        *words("X", data, out, "--detector", tmp_path, "--score", file)
    )
