"""The paper's recipes: they fit the schema, have what each stage draws, and their commands are commands."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
import yaml

from janus_train import cli
from janus_train.data.recipe import RecipeConfig
from janus_train.data.templates import get_template
from janus_train.data.types import KINDS
from janus_train.datatools.prepare import run
from janus_train.paths import ROOT
from tests.helpers import config_of

STAGES = (1, 2, 3)


def recipe(stage):
    content = (ROOT / f"data_recipes/stage{stage}.yaml").read_text(encoding="utf-8")
    return RecipeConfig.model_validate(yaml.safe_load(content))


SOURCES = [
    pytest.param(stage, source, id=f"{stage}-{source.name}") for stage in STAGES for source in recipe(stage).sources
]


@pytest.mark.parametrize("stage", STAGES)
def test_every_kind_that_the_stage_draws_has_a_source(stage):
    ratio = config_of(f"+stage={stage}", "model=janus_pro_1b").ratio
    required_kinds = {kind for kind in KINDS if getattr(ratio, kind)}
    assert {source.kind for source in recipe(stage).sources} == required_kinds
    names = [source.name for source in recipe(stage).sources]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(("stage", "source"), SOURCES)
def test_a_source_says_all_that_is_needed(stage, source):
    assert get_template(source.template)
    assert source.licence
    assert source.home
    assert source.prepare
    assert source.type == "shards"


@pytest.mark.parametrize(("stage", "source"), SOURCES)
def test_the_command_is_one_and_makes_the_shards(stage, source, monkeypatch, capsys):
    """Parsed by the command line itself; what it would convert fits the template."""
    calls = []

    def no_work(options, out, workers, max_bad, report, on_compare):
        options.check()
        calls.append((options, out))
        return {"samples": 1, "shards": 1, "bytes": 1, "skipped": {}, "left_out": {}, "unused": {}}

    monkeypatch.setattr(run, "prepare", no_work)
    monkeypatch.setattr(sys, "argv", shlex.split(source.prepare))
    with pytest.raises(SystemExit) as exit_info:
        cli.main()
    assert exit_info.value.code == 0, capsys.readouterr().err
    ((options, out),) = calls
    assert source.paths == (f"../{out}/*.tar",)
    assert all(path.startswith("data/raw/") for path in options.inputs)
    assert out.parent == Path("data")
    if source.template == "conversation":
        assert options.format == "conversations" or options.form != "plain" or options.samples == "conversation"
    elif source.template == "question_answer":
        assert options.samples == "pairs"
        assert options.max_pictures == 1, "the template takes one"
    else:
        assert options.form == "plain"


def test_what_has_the_same_shards_has_the_same_command():
    commands = {}
    for stage in STAGES:
        for source in recipe(stage).sources:
            assert commands.setdefault(source.paths, source.prepare) == source.prepare


@pytest.mark.parametrize("stage", (2, 3))
def test_real_and_synthetic_images_are_drawn_one_to_one(stage):
    weights = {"real": 0.0, "synthetic": 0.0}
    for source in recipe(stage).sources:
        if source.kind == "generation":
            weights[source.name.split("_")[0]] += source.weight
    assert weights["real"] == weights["synthetic"] > 0


def test_stage_1_is_the_papers():
    understanding, generation = recipe(1).sources
    assert (understanding.name, understanding.template) == ("sharegpt4v", "image_caption")
    assert (generation.name, generation.template, generation.expected) == ("imagenet", "class_to_image", 1_281_167)
    assert all("imagenet" not in source.name for source in recipe(2).sources), "Pro: no ImageNet in stage 2"


def test_fine_tuning_mixes_own_data_one_to_one_with_sources_of_stage_3():
    content = (ROOT / "data_recipes/fine_tuning.yaml").read_text(encoding="utf-8")
    stage_3 = {source.name: source for source in recipe(3).sources}
    own, old = dict.fromkeys(KINDS, 0.0), dict.fromkeys(KINDS, 0.0)
    for source in RecipeConfig.model_validate(yaml.safe_load(content)).sources:
        assert source.held_out, "the validation says what is learned and what is forgotten"
        is_own = source.name.startswith("own_")
        (own if is_own else old)[source.kind] += source.weight
        if not is_own:
            others = {"weight": source.weight, "held_out": source.held_out}
            assert source == stage_3[source.name].model_copy(update=others)
    assert own == old | {"text": 0.0} and all(old.values())
