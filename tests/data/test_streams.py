"""Streams are exact: the same rows for any number of processes and workers, from the start and from any state."""

from __future__ import annotations

import json
import threading

import pytest
import torch

from janus_train.data.batch import collate
from janus_train.data.encode import Encoder
from janus_train.data.loader import RowLoader, split, streams_of
from janus_train.data.packing.best_fit import BestFitPacker
from janus_train.data.recipe import Recipe
from janus_train.data.streams import DocumentSampler
from janus_train.data.types import Row
from janus_train.errors import UserError
from tests.helpers import config_of, encoded, make_shard, plain_image

R = 4


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Three kinds, four sources; one of them has fewer samples than there are streams."""
    folder = tmp_path_factory.mktemp("recipe")
    for shard in range(3):
        members: dict[str, object] = {}
        for i in range(7):
            members |= {
                f"p{shard}-{i}.json": {"caption": "dog " * (i + 1)},
                f"p{shard}-{i}.png": encoded(plain_image((i, shard, 0))),
            }
        make_shard(folder / f"images-{shard}.tar", members)  # type: ignore[arg-type]
    make_shard(folder / "texts.tar", {f"t{i}.json": {"text": "word " * (3 * i + 2)} for i in range(11)})
    make_shard(folder / "few.tar", {f"f{i}.json": {"text": "few"} for i in range(3)})
    sources = [
        {"name": "draw", "kind": "generation", "template": "text_to_image", "paths": ["images-*.tar"], "weight": 1},
        {
            "name": "look",
            "kind": "understanding",
            "template": "image_caption",
            "paths": ["images-*.tar"],
            "weight": 1,
        },
        {"name": "texts", "kind": "text", "template": "text", "paths": ["texts.tar"], "weight": 3},
        {"name": "few", "kind": "text", "template": "text", "paths": ["few.tar"], "weight": 1},
    ]
    recipe = {"name": "r", "licence": "none", "sources": [{"type": "shards", **source} for source in sources]}
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return Recipe(str(folder / "recipe.yaml"), config_of("+stage=2").ratio, 64)


def sampler(recipe: Recipe, encoder: Encoder, seed: int = 0, row_tokens: int = 256) -> DocumentSampler:
    return DocumentSampler(
        recipe, encoder, seed=seed, num_streams=R, row_tokens=row_tokens, guidance_dropout=0.3, first_sentence=0.25
    )


def read_rows(
    recipe: Recipe,
    encoder: Encoder,
    number: int,
    world: int = 1,
    workers: int = 0,
    states: dict | None = None,
    seed: int = 0,
) -> list[list[Row]]:  # type: ignore[type-arg]
    """The rows of ``number`` global steps as ``world`` processes see them together."""
    packer = BestFitPacker(256, recipe.shares, 3)
    draws = sampler(recipe, encoder, seed)
    ranks = [RowLoader(draws, packer, streams_of(rank, world, R), states or {}, workers) for rank in range(world)]
    return [[row for rank in ranks for row in next(rank)] for _ in range(number)]


def digests(steps_of_rows: list[list[Row]]) -> list[list[str]]:
    return [[row.digest for row in rows] for rows in steps_of_rows]


def test_rows_do_not_depend_on_processes_or_workers(recipe: Recipe, encoder: Encoder) -> None:
    truth = digests(read_rows(recipe, encoder, 12))
    assert len({d for rows in truth for d in rows}) > 40  # they differ among each other
    assert digests(read_rows(recipe, encoder, 12, world=2)) == truth
    assert digests(read_rows(recipe, encoder, 12, world=4)) == truth
    assert digests(read_rows(recipe, encoder, 12, workers=1)) == truth
    assert digests(read_rows(recipe, encoder, 12, workers=3)) == truth
    assert digests(read_rows(recipe, encoder, 12, world=2, workers=2)) == truth
    assert digests(read_rows(recipe, encoder, 12, seed=1)) != truth


def test_tokens_are_the_same_too(recipe: Recipe, encoder: Encoder) -> None:
    rows_at_1, rows_at_2 = read_rows(recipe, encoder, 6), read_rows(recipe, encoder, 6, world=2, workers=1)
    for row, same in zip([r for rows in rows_at_1 for r in rows], [r for rows in rows_at_2 for r in rows], strict=True):
        for a, b in zip(row.documents, same.documents, strict=True):
            assert (a.input_ids == b.input_ids).all() and (a.labels == b.labels).all()


def test_a_thread_makes_a_steps_micro_batches_and_pins_them_for_a_gpu(
    recipe: Recipe, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[str] = set()

    def pinned(tensor: torch.Tensor) -> torch.Tensor:
        threads.add(threading.current_thread().name)
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", pinned)
    loader = RowLoader(sampler(recipe, encoder), BestFitPacker(256, recipe.shares, 3), range(R), micro_rows=2)
    rows = next(loader)
    shape = encoder.tokens_per_image, encoder.image_size
    for pin in (False, True):
        batches = list(loader.micro_batches(rows, pin))
        assert bool(threads) == pin and all(name.startswith("collate") for name in threads)
        for batch, expected in zip(batches, (collate(rows[:2], *shape), collate(rows[2:], *shape)), strict=True):
            for name, value in vars(expected).items():
                other = getattr(batch, name)
                assert torch.equal(other, value) if isinstance(value, torch.Tensor) else other == value, name


@pytest.mark.parametrize("consumed", [1, 5, 9])
def test_going_on_from_any_state_at_another_world_size(recipe: Recipe, encoder: Encoder, consumed: int) -> None:
    truth = read_rows(recipe, encoder, 12)
    states = {row.stream: json.loads(json.dumps(row.state)) for row in truth[consumed - 1]}  # a state is JSON
    remaining_rows = read_rows(recipe, encoder, 12 - consumed, world=2, workers=1, states=states)
    assert digests(remaining_rows) == digests(truth[consumed:])


def test_every_sample_comes_once_an_epoch_over_all_streams(recipe: Recipe, encoder: Encoder) -> None:
    draws = sampler(recipe, encoder)
    for name, (_, source) in recipe.sources.items():
        n = len(source)
        references = [
            draws.sample(name, stream, draw).document.reference for draw in range(3 * n) for stream in range(R)
        ]
        for epoch in range(3 * R):
            indices = sorted(r.index for r in references if r.epoch == epoch)
            assert indices == list(range(n)), name  # `few` has 3 samples for 4 streams: it wraps


def test_ratio_and_weights_hold(recipe: Recipe, encoder: Encoder) -> None:
    rows = [row for step in read_rows(recipe, encoder, 40) for row in step]
    for step in range(40):
        documents = [d for row in rows[step * R : (step + 1) * R] for d in row.documents]
        for kind, share in {"understanding": 0.2, "text": 0.3, "generation": 0.5}.items():
            assert abs(sum(d.kind == kind for d in documents) - share * len(documents)) <= R
    texts = [d.reference.source for row in rows for d in row.documents if d.kind == "text"]
    assert abs(texts.count("few") / len(texts) - 0.25) < 0.05


def test_a_source_without_a_usable_sample_ends_the_run_with_a_key_and_a_reason(
    recipe: Recipe, encoder: Encoder
) -> None:
    """No image fits a row of 66 tokens."""
    draws = sampler(recipe, encoder, row_tokens=66)
    wanted = (
        r"source 'draw': 100 samples in a row cannot be used, the last is 'p\d-\d': \d+ tokens do not fit a row of 66"
    )
    with pytest.raises(UserError, match=wanted):
        draws.sample("draw", 0, 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_mistake_in_a_worker_is_one_line(recipe: Recipe, encoder: Encoder, workers: int) -> None:
    packer = BestFitPacker(66, recipe.shares, 3)
    with pytest.raises(UserError, match="do not fit") as error:
        next(RowLoader(sampler(recipe, encoder, row_tokens=66), packer, range(R), {}, workers))
    assert "\n" not in str(error.value)


def test_world_sizes_that_do_not_divide_the_batch_are_refused_with_those_that_do() -> None:
    assert [list(streams_of(r, 2, 4)) for r in range(2)] == [[0, 1], [2, 3]]
    with pytest.raises(UserError, match="use 1, 2, 4"):
        streams_of(0, 3, 4)


def test_split_is_even_and_whole() -> None:
    for items in range(20):
        for parts in range(1, 8):
            blocks = [split(items, parts, part) for part in range(parts)]
            assert [i for block in blocks for i in block] == list(range(items))
            assert max(map(len, blocks)) - min(map(len, blocks)) <= 1
