"""The model card: what the run recorded, no more, and front matter that the hub reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from janus_train.data.recipe import Recipe
from janus_train.errors import UserError
from janus_train.interop.card import model_card
from janus_train.interop.model_folder import open_folder
from janus_train.interop.run_record import LAST_STEPS, RunRecord, read_run
from janus_train.jsonl import write_json_lines
from janus_train.paths import ROOT
from tests.helpers import config_of

SOURCES = [
    {
        "name": "documents",
        "kind": "understanding",
        "type": "shards",
        "template": "question_answer",
        "weight": 3.0,
        "licence": "MIT",
        "home": "huggingface.co/datasets/HuggingFaceM4/Docmatix",
        "samples": 2400,
        "share": 0.5,
    },
    {
        "name": "own|pictures",
        "kind": "generation",
        "type": "shards",
        "template": "text_to_image",
        "weight": 1.0,
        "samples": 80,
        "share": 0.5,
    },
    {
        "name": "unused",
        "kind": "text",
        "type": "shards",
        "template": "text",
        "weight": 1.0,
        "home": "huggingface.co/datasets/not/used",
        "samples": 5,
        "share": None,
    },
]
RECIPE: dict[str, Any] = {"name": "mine", "licence": "each source's own", "sources": SOURCES, "validation": []}


@pytest.fixture(scope="module")
def janus_config(random_base):
    return open_folder(random_base).config


def manifest_of(**changes: Any) -> dict[str, Any]:
    config = config_of("+stage=2").model_dump(mode="json")
    parts = {"language_model": {"parameters": 9, "trains": True}, "image_head": {"parameters": 9, "trains": False}}
    values = {"stage": 2, "finished": True, "steps": 30, "start": "the base", "start_folder": "/models/base"}
    return values | {"config": config, "data": {"recipe": "abc"}, "parts": parts, "versions": {"torch": "2"}} | changes


def record(**changes: Any) -> RunRecord:
    return RunRecord(Path("/run"), manifest_of(recipe=RECIPE), **changes)


def front_matter(card: str) -> dict[str, Any]:
    assert card.startswith("---\n")
    return yaml.safe_load(card.split("---\n")[1])


def test_the_sources_stand_there_with_shares_and_licences(janus_config) -> None:
    card = model_card(janus_config, record(), "hf")
    assert "| documents | understanding | question_answer | 50.0 % | 2,400 | MIT | huggingface.co/datasets/Hug" in card
    assert "| own\\|pictures | generation | text_to_image | 50.0 % | 80 | the recipe's | not recorded |" in card
    assert "Recipe mine (" in card and "Licence: each source's own." in card and "not/used" not in card
    assert front_matter(card)["datasets"] == ["HuggingFaceM4/Docmatix"]


def test_what_is_not_recorded_is_said_and_not_guessed(janus_config) -> None:
    card = model_card(janus_config, RunRecord(Path("/run"), manifest_of()), "official")
    for text in (
        "Its sources are not recorded.",
        "The losses are not recorded.",
        "No evaluation is recorded.",
        "The licence of this model is not recorded.",
        "| code | commit not recorded |",
    ):
        assert text in card, text
    assert front_matter(card).keys() == {"pipeline_tag", "tags"}
    unknown = model_card(janus_config, None, "hf")
    assert "what it was trained on is not recorded" in unknown and "## Training" not in unknown


def test_the_licence_is_the_users_to_say(janus_config) -> None:
    card = model_card(janus_config, record(), "hf", "apache-2.0")
    assert front_matter(card)["license"] == "apache-2.0" and "The licence of this model is apache-2.0." in card
    assert front_matter(model_card(janus_config, None, "hf", "mit"))["license"] == "mit"


def test_losses_are_those_at_the_models_step(janus_config) -> None:
    metrics = [{"step": step, "loss": float(step), "loss/text": None if step % 2 else 1.0} for step in range(1, 31)]
    metrics[9] |= {"validation/loss": 0.5, "validation/source/documents": 0.25, "validation/samples": 8}
    metrics[9] |= {"validation_ema/loss": 0.4}
    metrics[29] |= {"validation/loss": 0.75, "validation/samples": 8, "validation_ema/loss": 0.6}
    last = model_card(janus_config, record(metrics=metrics), "hf")
    mean = sum(range(31 - LAST_STEPS, 31)) / LAST_STEPS
    assert f"| {mean:.4f} |" in last and "| validation/loss at step 30, 8 samples | 0.7500 |" in last
    assert "| steps | 30 |" in last and "validation_ema" not in last
    model = {"step": 10, "best": {"metric": "validation/loss", "step": 10, "value": 0.5}}
    best = model_card(janus_config, record(metrics=metrics, model=model), "hf")
    assert "| steps | 10 (the best validation/loss of the run, 0.5000) |" in best
    assert "| validation/source/documents at step 10, 8 samples | 0.2500 |" in best and "| 5.5000 |" in best
    plain_best = {"metric": "validation/loss", "step": 30, "value": 0.75}
    model = {"step": 30, "ema": 0.999, "best": plain_best}
    average = model_card(janus_config, record(metrics=metrics, model=model), "hf")
    assert "| steps | 30 (average of the weights with decay 0.999) |" in average, "the best is the other model"
    assert "| validation_ema/loss at step 30, 8 samples | 0.6000 |" in average


def test_lora_and_an_unfinished_run(janus_config) -> None:
    manifest = manifest_of(finished=False, parts={"language_model": {"trains": False, "adapter": 5}})
    manifest["config"]["peft"] = {"rank": 16}
    card = model_card(janus_config, RunRecord(Path("/run"), manifest), "hf")
    assert "| trained parts | language_model by LoRA of rank 16, merged |" in card
    assert "| steps | 30 (the run is not finished) |" in card


def test_the_base_model_is_the_hubs_at_the_start_of_the_stages(janus_config, tmp_path) -> None:
    cache = "/home/me/.cache/huggingface/hub/models--deepseek-ai--Janus-Pro-1B/snapshots/" + "a" * 40
    for stage, start in ((2, cache), (3, str(tmp_path / "stage2/final"))):
        folder = tmp_path / f"stage{stage}"
        (folder / "final").mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps(manifest_of(stage=stage, start_folder=start)))
    run = read_run(tmp_path / "stage3/final")
    assert run is not None and run.base_model == "deepseek-ai/Janus-Pro-1B"
    card = model_card(janus_config, run, "hf")
    assert front_matter(card)["base_model"] == "deepseek-ai/Janus-Pro-1B"
    assert "It was trained from deepseek-ai/Janus-Pro-1B, whose licence applies too." in card
    (tmp_path / "stage2/manifest.json").write_text(json.dumps(manifest_of(start_folder=str(tmp_path / "stage2/final"))))
    assert read_run(tmp_path / "stage3").base_model is None, "a run that names itself ends the search"


def test_data_writes_no_markup_into_the_card(janus_config) -> None:
    evil = {**SOURCES[0], "name": "a\n## b <script>", "licence": "`x`"}
    run = RunRecord(Path("/run"), manifest_of(recipe=RECIPE | {"sources": [evil], "name": "x\n---"}))
    card = model_card(janus_config, run, "hf")
    assert "\n## b" not in card and "<script>" not in card and "x ---" in card


def test_a_manifest_without_the_training_is_one_line(janus_config) -> None:
    manifest = manifest_of()
    del manifest["parts"]
    with pytest.raises(UserError, match=r"manifest\.json does not say what was trained$"):
        model_card(janus_config, RunRecord(Path("/run"), manifest), "hf")


def test_the_records_of_a_run_are_read_with_its_figures(tmp_path) -> None:
    (tmp_path / "run/best").mkdir(parents=True)
    (tmp_path / "run/manifest.json").write_text(json.dumps(manifest_of()))
    (tmp_path / "run/best/training.json").write_text('{"step": 10, "best": null}')
    write_json_lines(tmp_path / "run/metrics.jsonl", [{"step": 10, "loss": 1.0}])
    best, final = read_run(tmp_path / "run/best"), read_run(tmp_path / "run")
    assert best is not None and final is not None
    assert (best.steps, final.steps) == (10, 30) and best.training_losses() == [("loss", 1.0)]
    assert read_run(tmp_path) is None


def test_a_recipe_records_what_it_consists_of() -> None:
    config = config_of("+stage=2", "data=demo")
    recipe = Recipe(str(ROOT / "data_recipes/demo/stage2.yaml"), config.ratio, config.model.image_size)
    values = recipe.record()
    shares = {source["name"]: source["share"] for source in values["sources"]}
    assert shares == {"text_to_image": 0.5, "image_to_text": 0.2, "definitions": 0.3}
    assert values["licence"].startswith("MIT: ") and values["sources"][0]["samples"] == 200_000
    assert json.loads(json.dumps(values)) == values
