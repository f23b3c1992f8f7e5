"""An evaluation from a model's folder to its files, with a random model; and with a model that only repeats the truth."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from janus_train.demo import understanding
from janus_train.demo.evaluation import evaluate
from janus_train.demo.generation import prompt_of, round_trips
from janus_train.demo.grid import DRAWN_GAP, DRAWN_SIDE, drawn_sheet, image_grid
from janus_train.demo.objects import UNIT
from janus_train.demo.options import DemoOptions
from janus_train.demo.scenes import evaluation_scenes, held_out_scenes, load_library, render
from janus_train.demo.table import results_table
from janus_train.demo.understanding import SORTS, ask, choose_questions, normalise
from janus_train.demo.words import NUM_CAPTIONS, relation
from janus_train.infer.load import LoadedModel, load_model
from tests.helpers import read_lines

OPTIONS = DemoOptions(num_prompts=10, num_questions=12, seed=3, guidance=2.0, temperature=1.0, batch_size=8)


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
        assert Image.open(out / line["picture"]).size == Image.open(out / line["true_picture"]).size == (UNIT, UNIT)
        assert set(line["right"]) == {"background", "count", "place", "object"}
    assert all((out / line["picture"]).is_file() for line in answers)
    numbers = {sort: [line["sort"] for line in answers].count(sort) for sort in SORTS}
    assert numbers == {"colour": 3, "count": 3, "place": 2, "object": 2, "relation": 2}
    assert len(list((out / "pictures").glob("asked-*.png"))) == len({line["picture"] for line in answers})
    assert Image.open(out / "grid.png").width > 600 and Image.open(out / "drawn.png").width > 6 * DRAWN_SIDE


def test_measures(results, object_shards):
    scores, _, _ = results
    num_objects = sum(len(scene.objects) for scene in held_out_scenes(object_shards, 10))
    by_name = {m["name"]: m for m in scores["measures"]}
    drawing_measures = ("background", "count", "place", "object", "all")
    assert set(by_name) == {*drawing_measures, *(f"answer_{s}" for s in SORTS)}
    for m in scores["measures"]:
        assert m["low"] <= m["percent"] <= m["high"] and m["right"] <= m["n"]
    for name in drawing_measures:
        assert by_name[name]["true_pictures"]["percent"] == 100.0
        assert by_name[name]["round_trips"]["n"] == by_name[name]["n"] == (10 if name != "object" else num_objects)
    assert by_name["object"]["chance"] == pytest.approx(100 / len(load_library(tuple(object_shards)).scene_objects))
    assert 0 < by_name["all"]["chance"] < by_name["object"]["chance"] < by_name["place"]["chance"]
    assert by_name["object"]["right"] == by_name["all"]["right"] == 0, "a random model draws no object"
    assert by_name["answer_colour"]["asked"] == {"percent": 99.0} and by_name["answer_colour"]["reached"] is False
    assert "asked" not in by_name["answer_relation"] and by_name["answer_relation"]["n"] == 2
    assert sum(by_name[f"answer_{sort}"]["n"] for sort in SORTS) == scores["num_questions"]
    vocabulary = 400
    assert 0.3 * vocabulary < scores["text"]["perplexity"] < 30 * vocabulary, "a random model knows nothing"


def test_only_chosen_objects(loaded_model, tmp_path):
    names = ("fox", "key")
    options = DemoOptions(num_prompts=6, num_questions=15, only=names)
    scores = evaluate(loaded_model, tmp_path, options, num_dialogues=2)
    scenes = [line["scene"].split("@")[0].split("+") for line in read_lines(tmp_path / "pictures.jsonl")]
    assert {name for scene in scenes for name in scene} <= set(names)
    asked = [line for line in read_lines(tmp_path / "answers.jsonl") if line["sort"] == "object"]
    assert asked and all(any(name in line["expected"].lower() for name in names) for line in asked)
    assert next(m for m in scores["measures"] if m["name"] == "object")["chance"] == 50


def test_progress_is_told_to_the_end(results):
    _, _, progress_calls = results
    for what, total in (("draw", 10), ("judge", 10), ("answer", 12), ("read", 9)):
        calls = [(done, of) for name, done, of in progress_calls if name == what]
        assert calls[-1] == (total, total) and calls == sorted(calls)


def test_same_seed_same_images(loaded_model, results, tmp_path):
    _, out, _ = results
    options = DemoOptions(num_prompts=3, num_questions=4, seed=3, guidance=2.0, temperature=1.0, batch_size=2)
    evaluate(loaded_model, tmp_path, options, num_dialogues=2)
    for n in range(3):
        one, other = (np.asarray(Image.open(folder / f"pictures/{n:04d}.png"), int) for folder in (tmp_path, out))
        assert abs(one - other).max() <= 1  # the VQ decoder rounds otherwise in another batch


def test_a_perfect_model_scores_like_the_truth(loaded_model, object_shards, tmp_path, monkeypatch):
    scenes, library = held_out_scenes(object_shards, 10), load_library(tuple(object_shards))
    asked_questions, _ = choose_questions(evaluation_scenes(object_shards), 12, OPTIONS.seed)
    answers = iter([expected_reply for _, _, _, expected_reply in asked_questions])
    monkeypatch.setattr(LoadedModel, "generate", lambda *a, **k: [render(scene, library) for scene in scenes])
    monkeypatch.setattr(
        understanding, "answer", lambda janus, encoder, requests, *a, **k: [next(answers).upper() for _ in requests]
    )
    scores = evaluate(loaded_model, tmp_path, OPTIONS, num_dialogues=2)
    for m in scores["measures"]:
        assert m["percent"] == 100.0 and m.get("reached", True)


def test_as_many_questions_of_each_sort(object_shards):
    """Only every eighth scene has a relation; few have no place to ask for. All are asked of the first that have one."""
    chosen, asked_scenes = choose_questions(evaluation_scenes(object_shards), 100, seed=5)
    numbers = {sort: [n for n, of, _, _ in chosen if of == sort] for sort in SORTS}
    assert {len(of_sort) for of_sort in numbers.values()} == {20}
    assert numbers["colour"] == numbers["count"] == numbers["object"] == list(range(20))
    scenes = held_out_scenes(object_shards, numbers["relation"][-1] + 1)
    assert numbers["relation"] == [n for n, scene in enumerate(scenes) if relation(scene)]
    assert asked_scenes == {n: scenes[n] for n, *_ in chosen}
    assert all((sort, question, expected) in ask(scenes[n], 5 + n) for n, sort, question, expected in chosen)


def test_questions_end_with_the_scenes(object_shards):
    scenes = [scene for scene in held_out_scenes(object_shards, 30) if not relation(scene)][:10]
    chosen, _ = choose_questions(scenes, 50, seed=5)
    assert {sort for _, sort, _, _ in chosen} == set(SORTS) - {"relation"} and len(chosen) <= 40


def test_a_scene_is_not_asked_what_it_does_not_have(object_shards):
    twins = next(
        scene
        for scene in evaluation_scenes(object_shards)
        if len(scene.objects) == 2 and len({p.object.name for p in scene.objects}) == 1
    )
    assert [sort for sort, _, _ in ask(twins, 0)] == ["colour", "count", "object"]
    related = next(scene for scene in evaluation_scenes(object_shards) if relation(scene))
    assert [sort for sort, _, _ in ask(related, 0)] == list(SORTS)


def test_round_trips_are_images_of_the_models_size(loaded_model, object_shards):
    scene, library = held_out_scenes(object_shards, 1)[0], load_library(tuple(object_shards))
    assert [p.size for p in round_trips(loaded_model, [render(scene, library)] * 2)] == [(UNIT, UNIT)] * 2


def test_prompts_are_the_training_sentences(object_shards):
    scene = next(scene for scene in evaluation_scenes(object_shards) if relation(scene))
    prompts = [prompt_of(scene, n) for n in range(NUM_CAPTIONS + 1)]
    assert len(set(prompts)) == NUM_CAPTIONS and prompts[0] == prompts[NUM_CAPTIONS]
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


def test_drawn_images_stand_on_white_paper_with_round_corners():
    """Each pixel is a square, and what is beyond the corners shows the page, white or dark."""
    image = Image.new("RGB", (UNIT, UNIT), (200, 30, 30))
    image.putpixel((0, 0), (0, 0, 255))
    prompt = "A large red apple on the left, a green one on the right, on a blue background."
    for n in (1, 6, 8):
        sheet = drawn_sheet([(prompt, image)] * n)
        assert sheet.mode == "RGBA" and sheet.width == min(n, 6) * (DRAWN_SIDE + DRAWN_GAP) + DRAWN_GAP
        assert sheet.getpixel((0, 0))[3] == sheet.getpixel((sheet.width - 1, sheet.height - 1))[3] == 0
        assert sheet.getpixel((sheet.width // 2, 2)) == (255, 255, 255, 255)
        scale, last = DRAWN_SIDE // UNIT, DRAWN_GAP + (min(n, 6) - 1) * (DRAWN_SIDE + DRAWN_GAP)
        pixels = np.asarray(sheet.crop((last, DRAWN_GAP, last + DRAWN_SIDE, DRAWN_GAP + DRAWN_SIDE)).convert("RGB"))
        assert (pixels[:scale, :scale] == (0, 0, 255)).all() and (pixels[scale:] == (200, 30, 30)).all()
        below = sheet.crop((last, DRAWN_GAP + DRAWN_SIDE + 4, last + DRAWN_SIDE, DRAWN_GAP + DRAWN_SIDE + 80))
        assert (np.asarray(below.convert("L")) < 100).any(), "the prompt"


def test_table_shows_every_measure(results):
    scores, _, _ = results
    console = Console(width=104, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(results_table(scores))
    text = console.export_text()
    for m in scores["measures"]:
        assert m["label"] in text and f"{m['right']}/{m['n']}" in text
    assert "97 no" in text and "perplexity" in text
