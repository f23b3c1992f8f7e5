"""An evaluation from a model's folder to its files, with a random model; and with a model that only repeats the truth."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from janus_train.demo import generation, understanding
from janus_train.demo.evaluation import evaluate
from janus_train.demo.generation import prompt_of, round_trips
from janus_train.demo.grid import image_grid
from janus_train.demo.objects import NUM_SCENE_OBJECTS
from janus_train.demo.scenes import held_out_scenes, load_library, render
from janus_train.demo.table import results_table
from janus_train.demo.understanding import SORTS, ask, normalise
from janus_train.evaluate.options import EvaluationOptions
from janus_train.infer.load import load_model
from tests.helpers import read_lines

OPTIONS = EvaluationOptions(num_prompts=10, num_questions=12, seed=3, guidance=2.0, temperature=1.0, batch_size=8)


@pytest.fixture(scope="module")
def loaded_model(random_base):
    return load_model(random_base)


@pytest.fixture(scope="module")
def results(loaded_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluation")
    progress_calls = []
    return (
        evaluate(loaded_model, out, OPTIONS, lambda *calls: progress_calls.append(calls), num_dialogues=9),
        out,
        progress_calls,
    )


def test_files(results):
    scores, out, _ = results
    assert json.loads((out / "results.json").read_text(encoding="utf-8")) == scores
    images, answers = read_lines(out / "pictures.jsonl"), read_lines(out / "answers.jsonl")
    assert len(images) == 10 and len(answers) == 12
    for line in images:
        assert Image.open(out / line["picture"]).size == Image.open(out / line["true_picture"]).size == (64, 64)
    assert all((out / line["picture"]).is_file() for line in answers)
    assert [line["sort"] for line in answers] == ["colour", "count", "place", "object"] * 3
    assert Image.open(out / "grid.png").width > 600


def test_measures(results):
    scores, _, _ = results
    by_name = {m["name"]: m for m in scores["measures"]}
    drawing_measures = ("background", "count", "side", "side_one", "side_two", "object", "object_near")
    assert set(by_name) == {*drawing_measures, *(f"answer_{s}" for s in SORTS)}
    assert by_name["side"]["n"] == by_name["side_one"]["n"] + by_name["side_two"]["n"]
    for m in scores["measures"]:
        assert m["low"] <= m["percent"] <= m["high"] and m["right"] <= m["n"]
    for name, least in (("background", 90), ("count", 90), ("object", 75)):  # ten pictures: two of 20 objects may fail
        assert by_name[name]["true_pictures"]["percent"] >= least
        assert by_name[name]["round_trips"]["n"] == by_name[name]["n"]
    assert by_name["object"]["chance"] == pytest.approx(100 / NUM_SCENE_OBJECTS)
    assert by_name["object"]["right"] == 0, "a random model draws no object"
    assert by_name["answer_colour"]["asked"] == {"percent": 80.0} and by_name["answer_colour"]["reached"] is False
    vocabulary = 400
    assert 0.3 * vocabulary < scores["text"]["perplexity"] < 30 * vocabulary, "a random model knows nothing"


def test_progress_is_told_to_the_end(results):
    _, _, progress_calls = results
    for what, total in (("draw", 10), ("judge", 10), ("answer", 12), ("read", 9)):
        calls = [(done, of) for name, done, of in progress_calls if name == what]
        assert calls[-1] == (total, total) and calls == sorted(calls)


def test_same_seed_same_images(loaded_model, results, tmp_path):
    _, out, _ = results
    options = EvaluationOptions(num_prompts=3, num_questions=4, seed=3, guidance=2.0, temperature=1.0, batch_size=2)
    evaluate(loaded_model, tmp_path, options, num_dialogues=2)
    for n in range(3):
        one, other = (np.asarray(Image.open(folder / f"pictures/{n:04d}.png"), int) for folder in (tmp_path, out))
        assert abs(one - other).max() <= 1  # the VQ decoder rounds otherwise in another batch


def test_a_perfect_model_scores_like_the_truth(loaded_model, object_shards, tmp_path, monkeypatch):
    scenes, library = held_out_scenes(object_shards, 10), load_library(tuple(object_shards))
    answers = iter([a for n, scene in enumerate(scenes[:3]) for _, _, a in ask(scene, 3 + n)])
    monkeypatch.setattr(generation, "generate_images", lambda *a, **k: [render(scene, library) for scene in scenes])
    monkeypatch.setattr(
        understanding, "answer", lambda janus, encoder, requests, *a, **k: [next(answers).upper() for _ in requests]
    )
    scores = evaluate(loaded_model, tmp_path, OPTIONS, num_dialogues=2)
    for m in scores["measures"]:
        assert m["percent"] == (m["true_pictures"]["percent"] if m["group"] == "generation" else 100.0)
        assert m.get("reached", True)


def test_round_trips_are_images_of_the_models_size(loaded_model, object_shards):
    scene, library = held_out_scenes(object_shards, 1)[0], load_library(tuple(object_shards))
    assert [p.size for p in round_trips(loaded_model, [render(scene, library)] * 2)] == [(64, 64)] * 2


def test_prompts_are_the_training_sentences(object_shards):
    scene = held_out_scenes(object_shards, 1)[0]
    prompts = [prompt_of(scene, n) for n in range(5)]
    assert len(set(prompts)) == 4 and prompts[0] == prompts[4]
    for prompt in prompts:
        assert prompt[0].isupper() and prompt.endswith(".") and scene.background in prompt
        assert all(placed_object.object.name in prompt for placed_object in scene.objects)


def test_answers_are_compared_without_case_space_and_stop():
    assert normalise(" On the  left.\n") == normalise("on the left")
    assert normalise("A red apple.") != normalise("An apple.")
    assert normalise("") == ""


def test_grid_takes_any_number():
    image = Image.new("RGB", (64, 64), (200, 30, 30))
    for n in (1, 5, 7):
        grid = image_grid([("A very long prompt about a large red apple, on a blue background.", image, image)] * n)
        assert grid.width > 128 and grid.height > 128


def test_table_shows_every_measure(results):
    scores, _, _ = results
    console = Console(width=104, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(results_table(scores))
    text = console.export_text()
    for m in scores["measures"]:
        assert m["label"] in text and f"{m['right']}/{m['n']}" in text
    assert "10x no" in text and "perplexity" in text
