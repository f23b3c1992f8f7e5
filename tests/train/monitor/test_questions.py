"""Questions about held-out images while a run trains: the same ones each time, none of them trained on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from transformers import PreTrainedTokenizerFast

from janus_train.config import Config
from janus_train.data.encode import Encoder
from janus_train.data.held_out import is_held_out
from janus_train.data.loader import open_recipe
from janus_train.infer.chat import answer_ids, open_turn
from janus_train.infer.load import load_model
from janus_train.report import build
from janus_train.train.monitor.questions import MAX_NEW_TOKENS, NUM_QUESTIONS, find_questions
from janus_train.train.run import run
from tests.helpers import config_of, encoded, make_shard, plain_image
from tests.train.validating import held_out_recipe

Small = Callable[..., Config]


@pytest.fixture
def encoder(tokenizer: PreTrainedTokenizerFast) -> Encoder:
    model = config_of("+stage=3").model
    return Encoder(tokenizer, model.tokens_per_image, model.image_size, "Be kind.")


def talks(folder: Path, share: float = 0.5) -> str:
    """The option of a recipe with conversations, every third of them without an image, and captions."""
    members: dict[str, Any] = {}
    for i in range(60):
        turns = [f"<image_placeholder>\nWho is number {i}?", f"Tom {i}.", "And then?", "Ann."]
        turns[0] = turns[0] if i % 3 else f"Who is number {i}?"
        roles = ["User", "Assistant"] * 2
        conversation = [{"role": role, "content": text} for role, text in zip(roles, turns, strict=True)]
        members[f"t{i:02d}.json"] = {"conversations": conversation}
        if i % 3:
            members[f"t{i:02d}.png"] = encoded(plain_image((i, 0, 0)))
    make_shard(folder / "talks.tar", members)
    captions = {f"c{i}.json": {"caption": f"Caption {i}."} for i in range(20)}
    make_shard(folder / "captions.tar", captions | {f"c{i}.png": encoded(plain_image()) for i in range(20)})
    common = {"kind": "understanding", "type": "shards", "weight": 1, "held_out": share}
    sources = [
        common | {"name": "talks", "template": "conversation", "paths": ["talks.tar"]},
        common | {"name": "captions", "template": "image_caption", "paths": ["captions.tar"]},
    ]
    (folder / "r.yaml").write_text(yaml.safe_dump({"name": "r", "licence": "none", "sources": sources}))
    return f"data.recipe={folder / 'r.yaml'}"


def test_a_question_is_a_held_out_sample_up_to_its_first_answer(tmp_path: Path, encoder: Encoder) -> None:
    only = ("ratio.text=0", "ratio.generation=0")
    recipe = open_recipe(config_of("+stage=3", talks(tmp_path), *only))
    questions = find_questions(recipe, encoder, 2048)
    assert len(questions) == NUM_QUESTIONS
    asked, captioned = questions[::2], questions[1::2]  # the sources in turn
    for question in asked:
        number = int(question.expected.removeprefix("Tom ").removesuffix("."))
        assert question.text == f"Who is number {number}?" and is_held_out(f"t{number:02d}", 0.5)
        wanted = [{"role": "User", "content": f"<image_placeholder>\n{question.text}"}]
        assert question.prompt_ids == encoder.chat_prompt_ids(open_turn(wanted), 1)  # with the system prompt
        assert question.images[0].getpixel((48, 48)) == (number, 0, 0)
    for question in captioned:
        assert question.text == "" and question.expected.startswith("Caption ")
    assert find_questions(recipe, encoder, 2048) == find_questions(recipe, encoder, 2048)
    assert not find_questions(recipe, encoder, 60)  # no context for an answer
    assert not find_questions(open_recipe(config_of("+stage=3", talks(tmp_path, 0.0), *only)), encoder, 2048)


def test_a_run_answers_them_and_the_report_shows_them_by_step(small: Small, tmp_path: Path) -> None:
    config = small(2, f"data.recipe={held_out_recipe(tmp_path)}", "run.steps=2", "run.sample_every=1")
    folder = run(config, write_report=build)
    first, last = (json.loads((folder / f"samples/step-{step:06d}.json").read_text())["answers"] for step in (1, 2))
    assert [(line["question"], line["image"]) for line in first] == [(line["question"], line["image"]) for line in last]
    assert len(last) == NUM_QUESTIONS and all(line["question"] == "Describe the image in detail." for line in last)
    assert all(line["expected"].endswith(".") for line in last)
    with Image.open(folder / last[0]["image"]) as image:
        assert image.size == (96, 96)
    loaded = load_model(folder / "final")
    questions = find_questions(open_recipe(config), loaded.encoder, 2048)
    [ids] = answer_ids(loaded.janus, loaded.encoder, [questions[0].prompt_ids], questions[0].images, MAX_NEW_TOKENS)
    assert last[0]["answer"] == loaded.encoder.tokenizer.decode(ids, skip_special_tokens=True).strip()
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count("the held-out image asked about") == NUM_QUESTIONS
    assert page.index("<th>step 1</th>") < page.index("<th>step 2</th>") and last[0]["expected"] in page


def test_answers_are_the_same_after_a_resume(small: Small, tmp_path: Path) -> None:
    plan = (f"data.recipe={held_out_recipe(tmp_path)}", "run.sample_every=1", "run.planned_steps=2")
    whole = run(small(2, *plan, "run.steps=2", f"output_dir={tmp_path / 'whole'}"))
    folder = run(small(2, *plan, "run.steps=1"))
    shutil.rmtree(folder / "samples")
    run(small(2, *plan, "run.steps=2"))
    name = "samples/step-000002.json"
    assert (folder / name).read_bytes() == (whole / name).read_bytes()
