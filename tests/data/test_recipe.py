from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from janus_train.config import RatioConfig
from janus_train.data.recipe import Recipe, check_names, read_recipe
from janus_train.data.sources.registry import template_of
from janus_train.errors import UserError
from janus_train.paths import ROOT
from tests.helpers import make_shard

TEXT = RatioConfig(understanding=0, text=1, generation=0, unit="samples")


def recipe_with(folder: Path, **changes: object) -> Path:
    make_shard(folder / "a.tar", {"a.json": {"text": "a"}})
    source = {
        "name": "a",
        "kind": "text",
        "type": "shards",
        "template": "text",
        "weight": 1,
        "paths": ["*.tar"],
    } | changes
    path = folder / "r.yaml"
    path.write_text(yaml.safe_dump({"name": "r", "licence": "none", "sources": [source]}))
    return path


def test_a_recipe_opens_its_sources(tmp_path: Path) -> None:
    recipe = Recipe(str(recipe_with(tmp_path)), TEXT, 64)
    assert len(recipe.sources["a"][1]) == 1 and recipe.shares == {"text": 1.0}


def test_digests_follow_recipe_and_data(tmp_path: Path) -> None:
    digests_before = Recipe(str(recipe_with(tmp_path)), TEXT, 64).digests()
    assert Recipe(str(recipe_with(tmp_path)), TEXT, 64).digests() == digests_before
    assert Recipe(str(recipe_with(tmp_path, weight=2)), TEXT, 64).digests()["recipe"] != digests_before["recipe"]
    make_shard(tmp_path / "a.tar", {"a.json": {"text": "b"}})
    assert Recipe(str(tmp_path / "r.yaml"), TEXT, 64).digests()["a"] != digests_before["a"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"template": "poem"}, "source 'a': there is no template 'poem', known are class_to_image,"),
        (
            {"type": "janus_train.evil"},
            "r.yaml: sources.0: there is no source type 'janus_train.evil', known are hf_dataset,",
        ),
        ({"paths": ["b*.tar"]}, "nothing is at 'b*.tar'"),
        ({"paths": []}, "sources.0.paths"),
        ({"weight": 0}, "sources.0.weight"),
        ({"kind": "generation"}, "ratio asks for text (1) but no source"),
        ({"type": "scenes"}, "sources.0.view: Field required"),
        ({"colour": "red"}, "sources.0.colour"),
    ],
)
def test_mistakes_name_file_and_place(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as error:
        Recipe(str(recipe_with(tmp_path, **changes)), TEXT, 64)
    assert "r.yaml" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"), [("", "empty"), ("sources: []", "empty"), ("a: [", "is not valid YAML"), ("- 1", "empty")]
)
def test_empty_and_broken_recipes(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "r.yaml").write_text(content)
    with pytest.raises(UserError, match=message):
        Recipe(str(tmp_path / "r.yaml"), TEXT, 64)


def test_missing_recipe(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        Recipe(str(tmp_path / "no.yaml"), TEXT, 64)


def test_yaml_is_loaded_safely(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("!!python/object/apply:os.system ['touch " + str(tmp_path / "ran") + "']")
    with pytest.raises(UserError):
        Recipe(str(tmp_path / "r.yaml"), TEXT, 64)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("path", sorted((ROOT / "data_recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_recipes_are_valid(path: Path) -> None:
    recipe = read_recipe(path)
    check_names(recipe.all_sources, path)
    for source in recipe.sources:
        assert template_of(source, str(path)).name == source.template
        if source.name.startswith("own_"):  # the user's
            continue
        assert source.licence and source.home
        assert source.prepare or source.type == "hf_dataset", "what is not on the hub has a command that prepares it"
