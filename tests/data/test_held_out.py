"""Held-out samples: the same ones everywhere, never trained on, and all of them found for validation."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from janus_train.data.encode import Encoder
from janus_train.data.held_out import (
    SAMPLES_PER_BLOCK,
    blocks_of,
    held_out_indices,
    held_out_sources,
    is_held_out,
    read_documents,
    samples_digest,
)
from janus_train.data.loader import RowLoader, streams_of
from janus_train.data.packing.best_fit import BestFitPacker
from janus_train.data.recipe import Recipe
from janus_train.data.sources.jsonl import ImageFolderSource, JsonlSource
from janus_train.data.sources.registry import sample_key
from janus_train.data.streams import DocumentSampler, reassign_streams
from janus_train.data.types import BadSample, Record, Row
from janus_train.errors import UserError
from tests.helpers import config_of, encoded, make_shard, plain_image

R = 4
SHARE = 0.3


def make_recipe(folder: Path, **changes: Any) -> Recipe:
    """Captions in both directions from the same 40 images, and 60 texts of which every tenth is empty."""
    members: dict[str, Any] = {}
    for i in range(40):
        members |= {f"p{i}.json": {"caption": "dog " * (i % 5 + 1)}, f"p{i}.png": encoded(plain_image((i, 0, 0)))}
    make_shard(folder / "images.tar", members)
    make_shard(folder / "texts.tar", {f"t{i}.json": {"text": "word " * (i % 10)} for i in range(60)})
    common = {"type": "shards", "weight": 1, "held_out": SHARE}
    sources = [
        {"name": "draw", "kind": "generation", "template": "text_to_image", "paths": ["images.tar"]},
        {"name": "look", "kind": "understanding", "template": "image_caption", "paths": ["images.tar"]},
        {"name": "texts", "kind": "text", "template": "text", "paths": ["texts.tar"]},
    ]
    values = {"name": "r", "licence": "none", "sources": [common | source for source in sources]} | changes
    (folder / "recipe.yaml").write_text(json.dumps(values))
    return Recipe(str(folder / "recipe.yaml"), config_of("+stage=2").ratio, 64)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return make_recipe(tmp_path)


def sampler(recipe: Recipe, encoder: Encoder, seed: int = 0) -> DocumentSampler:
    return DocumentSampler(
        recipe, encoder, seed=seed, num_streams=R, row_tokens=256, guidance_dropout=0.1, first_sentence=0.25
    )


def rows_of(
    recipe: Recipe, encoder: Encoder, steps: int, world: int = 1, states: dict[int, Any] | None = None, seed: int = 0
) -> list[list[Row]]:
    draws, packer = sampler(recipe, encoder, seed), BestFitPacker(256, recipe.shares, 3)
    ranks = [RowLoader(draws, packer, streams_of(rank, world, R), states or {}) for rank in range(world)]
    return [[row for rank in ranks for row in next(rank)] for _ in range(steps)]


def trained(steps: list[list[Row]]) -> set[tuple[str, str]]:
    return {(d.reference.source, d.reference.key) for rows in steps for row in rows for d in row.documents}


def held_out_of(recipe: Recipe) -> set[tuple[str, str]]:
    return {
        (name, sample_key(source, index))
        for name, (_, source) in recipe.sources.items()
        for index in held_out_indices(source, SHARE)
    }


def test_what_is_held_out_is_never_trained_on_and_everything_else_is(recipe: Recipe, encoder: Encoder) -> None:
    """Over several epochs, for two seeds, at two world sizes and after resumes; also in place of unusable samples."""
    held_out = held_out_of(recipe)
    everything = {(n, s.key(i)) for n, (_, s) in recipe.sources.items() for i in range(len(s))}
    unusable = {("texts", f"t{i}") for i in range(0, 60, 10)}
    assert unusable - held_out and unusable & held_out
    first = rows_of(recipe, encoder, 30)
    states = {row.stream: row.state for row in first[11]}
    assert max(d.reference.epoch for rows in first for row in rows for d in row.documents) >= 3
    for steps in (first, rows_of(recipe, encoder, 30, seed=1), rows_of(recipe, encoder, 30, 2, states)):
        assert trained(steps) == everything - held_out - unusable
    forced = reassign_streams(states.values(), 2 * R)
    assert all(state["held_out"] for state in forced.values())


def test_a_resume_goes_on_with_the_same_rows(recipe: Recipe, encoder: Encoder) -> None:
    truth = rows_of(recipe, encoder, 12)
    states = {row.stream: json.loads(json.dumps(row.state)) for row in truth[4]}
    later = rows_of(recipe, encoder, 7, world=2, states=states)
    assert [[row.digest for row in rows] for rows in later] == [[row.digest for row in rows] for rows in truth[5:]]
    assert [row.state for row in later[-1]] == [row.state for row in truth[-1]]


def test_every_other_sample_comes_once_an_epoch_and_what_was_passed_over_is_counted(
    recipe: Recipe, encoder: Encoder
) -> None:
    draws, (_, source) = sampler(recipe, encoder), recipe.sources["draw"]
    kept = [index for index in range(40) if not is_held_out(source.key(index), SHARE)]
    found: dict[int, list[int]] = {}
    for stream in range(R):
        number = 0
        while (sample := draws.sample("draw", stream, number)).document.reference.epoch < 3:
            found.setdefault(sample.document.reference.epoch, []).append(sample.document.reference.index)
            number = sample.number + 1
    assert all(sorted(indices) == kept for indices in found.values())
    steps = rows_of(recipe, encoder, 20)
    counts = Counter[str]()
    for row in steps[-1]:
        counts.update(row.state["held_out"])
    assert sum(row.num_held_out for rows in steps for row in rows) == counts.total() > 20


def test_weights_count_what_is_trained_on(tmp_path: Path, encoder: Encoder) -> None:
    """A source that holds out half of its samples is drawn from as often as one of its weight that holds out nothing."""
    make_shard(tmp_path / "a.tar", {f"a{i}.json": {"text": "word " * 9} for i in range(400)})
    common = {"kind": "text", "type": "shards", "template": "text", "weight": 1, "paths": ["a.tar"]}
    sources = [common | {"name": "half", "held_out": 0.5}, common | {"name": "all"}]
    (tmp_path / "r.yaml").write_text(json.dumps({"name": "r", "licence": "none", "sources": sources}))
    ratio = config_of("+stage=2", "ratio.understanding=0", "ratio.generation=0").ratio
    steps = rows_of(Recipe(str(tmp_path / "r.yaml"), ratio, 64), encoder, 10)
    counts = Counter(d.reference.source for rows in steps for row in rows for d in row.documents)
    assert abs(counts["half"] - counts["all"]) <= R


def test_the_hash_holds_out_about_the_share_and_a_larger_one_more_of_the_same() -> None:
    keys = [f"{number:06d}-cat" for number in range(20_000)]
    small, large = ({key for key in keys if is_held_out(key, share)} for share in (0.01, 0.05))
    assert small < large and abs(len(small) - 200) < 50 and abs(len(large) - 1000) < 120
    assert sorted(small)[:3] == FIRST_THREE, "the hash may never change: resumed runs would train on what was held out"


FIRST_THREE = ["000086-cat", "000171-cat", "000275-cat"]


def test_both_directions_hold_out_the_same_images(recipe: Recipe) -> None:
    keys = {name: {key for source, key in held_out_of(recipe) if source == name} for name in ("draw", "look")}
    assert keys["draw"] == keys["look"] and 4 < len(keys["draw"]) < 20


def test_validation_gets_what_is_held_out_in_blocks(tmp_path: Path, encoder: Encoder) -> None:
    entry = {"name": "more", "kind": "text", "type": "shards", "template": "text", "paths": ["texts.tar"]}
    recipe = make_recipe(tmp_path, validation=[entry])
    sources = held_out_sources(recipe, None)
    assert [source.config.name for source in sources] == ["draw", "look", "texts", "more"]
    assert sorted(sources[3].indices) == list(range(60)) != sources[3].indices  # a validation source as a whole
    assert {("texts", f"t{i}") for i in sources[2].indices} == {k for k in held_out_of(recipe) if k[0] == "texts"}
    few = held_out_sources(recipe, 5)
    assert [source.indices for source in few] == [source.indices[:5] for source in sources]
    blocks = blocks_of(sources)
    assert [i for block in blocks if block.source is sources[3] for i in block.indices] == sources[3].indices
    assert max(len(block.indices) for block in blocks) == SAMPLES_PER_BLOCK
    results = [result for block in blocks for result in read_documents(block, encoder, 256)]
    unusable = [sample.key for _, sample in results if sample is not None and sample.source == "more"]
    assert sorted(unusable) == ["t0", "t10", "t20", "t30", "t40", "t50"]
    again = [d for block in blocks for d, _ in read_documents(block, encoder, 256)]
    for (document, _), other in zip(results, again, strict=True):  # without chance
        assert (document is None) == (other is None)
        assert document is None or other is None or document.input_ids.tolist() == other.input_ids.tolist()
    digests = recipe.digests()
    assert samples_digest(sources, digests) != samples_digest(few, digests)
    assert samples_digest(sources, digests) != samples_digest(sources, digests | {"validation/more": "other"})


def test_a_kind_without_a_share_is_not_validated_on(tmp_path: Path) -> None:
    make_recipe(tmp_path)
    recipe = Recipe(str(tmp_path / "recipe.yaml"), config_of("+stage=2", "ratio.text=0").ratio, 64)
    assert [source.config.name for source in held_out_sources(recipe, 3)] == ["draw", "look"]


def test_the_share_belongs_to_the_digest_of_the_recipe(tmp_path: Path) -> None:
    """So that no run resumes with another share; without one the digest is that of recipes before there were shares."""
    digests = [make_recipe(tmp_path).digests()]
    values = json.loads((tmp_path / "recipe.yaml").read_text())
    for share in (0.2, 0.0, None):
        for source in values["sources"]:
            source.pop("held_out", None)
            source |= {} if share is None else {"held_out": share}
        (tmp_path / "recipe.yaml").write_text(json.dumps(values))
        digests.append(Recipe(str(tmp_path / "recipe.yaml"), config_of("+stage=2").ratio, 64).digests())
    assert digests[0]["recipe"] != digests[1]["recipe"] != digests[2]["recipe"] == digests[3]["recipe"]
    assert digests[0]["texts"] == digests[3]["texts"]


ENTRY = {"name": "more", "kind": "text", "type": "shards", "template": "text", "paths": ["texts.tar"]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation": [ENTRY | {"weight": 1}]}, "a source for validation has no weight"),
        ({"validation": [ENTRY | {"held_out": 0.1}]}, "held out as a whole: remove held_out"),
        ({"validation": [ENTRY | {"name": "draw"}]}, "two sources are called 'draw'"),
        ({"validation": [ENTRY | {"template": "poem"}]}, "source 'more': there is no template 'poem'"),
        ({"validation": [ENTRY | {"paths": ["no.tar"]}]}, "source 'more': nothing is at 'no.tar'"),
        ({"sources": [ENTRY | {"weight": 1, "held_out": 0.9}]}, "held_out: Input should be less than or equal to 0.5"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        make_recipe(tmp_path, **changes)
    assert "\n" not in str(error.value) and "recipe.yaml" in str(error.value)


def test_a_source_of_which_nothing_is_left_says_so(tmp_path: Path, encoder: Encoder) -> None:
    key = next(f"k{number}" for number in range(9999) if is_held_out(f"k{number}", 0.01))
    make_shard(tmp_path / "one.tar", {f"{key}.json": {"text": "word"}})
    source = ENTRY | {"name": "one", "weight": 1, "paths": ["one.tar"], "held_out": 0.01}
    (tmp_path / "r.yaml").write_text(json.dumps({"name": "r", "licence": "none", "sources": [source]}))
    ratio = config_of("+stage=2", "ratio.understanding=0", "ratio.generation=0").ratio
    recipe = Recipe(str(tmp_path / "r.yaml"), ratio, 64)
    with pytest.raises(UserError, match=r"source 'one': held_out: 0\.01 leaves nothing of its 1 samples to train on"):
        sampler(recipe, encoder).sample("one", 0, 0)


def test_every_source_names_a_sample_as_its_record_does(tmp_path: Path, recipe: Recipe) -> None:
    (tmp_path / "a.png").write_bytes(encoded(plain_image()))
    (tmp_path / "lines.jsonl").write_text('{"image": "a.png"}\n\n{"text": "x"}\n')
    (tmp_path / "classes/dog").mkdir(parents=True)
    (tmp_path / "classes/dog/1.png").write_bytes(encoded(plain_image()))
    sources: list[Any] = [JsonlSource([tmp_path / "lines.jsonl"]), ImageFolderSource(tmp_path / "classes")]
    for source in [*sources, recipe.sources["draw"][1], Plain()]:
        for index in islice(range(len(source)), 3):
            assert sample_key(source, index) == (source[index].key if index != 2 or len(source) != 3 else "bad")


class Plain:
    """A source of a plug-in, without ``key``; its last sample cannot be used."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Record:
        if index == 2:
            raise BadSample("no", key="bad")
        return Record(f"plain-{index}", {})
