"""Long documents with images in the streams: nothing is lost or doubled, also if a run stops inside of one."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from janus_train.data.encode import Encoder
from janus_train.data.loader import RowLoader, streams_of
from janus_train.data.packing.best_fit import BestFitPacker, Packer
from janus_train.data.packing.one_per_row import OnePerRowPacker
from janus_train.data.recipe import Recipe
from janus_train.data.special_tokens import PLACEHOLDER
from janus_train.data.streams import DocumentSampler
from janus_train.data.types import Document, Row
from janus_train.errors import UserError
from tests.helpers import config_of, encoded, make_shard, plain_image

R, T, NUM_DOCUMENTS = 4, 256, 12
RATIO = ("ratio.understanding=2", "ratio.text=1", "ratio.generation=2")


def colour(document: int, image: int) -> tuple[int, int, int]:
    return document * 20, image * 20, 100


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Documents of 1 to 11 images, each of another colour: up to four rows long, twelve if they come twice."""
    folder = tmp_path_factory.mktemp("long")
    members: dict[str, Any] = {}
    for number in range(NUM_DOCUMENTS):
        texts = [f"Document {number} says {place} twice. " for place in range(number + 1)]
        members[f"d{number}.json"] = {"text": PLACEHOLDER.join(texts)}
        for place in range(number):
            members[f"d{number}.{place}.png"] = encoded(plain_image(colour(number, place)))
    make_shard(folder / "documents.tar", {k: v for k, v in members.items() if not k.startswith("d0.")})
    make_shard(folder / "texts.tar", {f"t{i}.json": {"text": "word " * (50 * i + 2)} for i in range(5)})
    pages = {"type": "shards", "template": "interleaved", "paths": ["documents.tar"], "weight": 1}
    sources = [
        {"name": "look", "kind": "understanding", **pages},
        {"name": "both", "kind": "generation", "images": "both", **pages},
        {"name": "draw", "kind": "generation", "images": "out", **pages},
        {"name": "read", "kind": "text", "type": "shards", "template": "text", "paths": ["texts.tar"], "weight": 1},
    ]
    (folder / "recipe.yaml").write_text(json.dumps({"name": "r", "licence": "none", "sources": sources}))
    return Recipe(str(folder / "recipe.yaml"), config_of("+stage=2", *RATIO).ratio, 64)


def packer_of(recipe: Recipe, name: str) -> Packer:
    if name == "best fit":
        return BestFitPacker(T, recipe.shares, 3)
    return OnePerRowPacker(T, {"understanding": 2, "text": 1, "generation": 2}, R)


def sampler_of(recipe: Recipe, encoder: Encoder, row_tokens: int = T) -> DocumentSampler:
    return DocumentSampler(
        recipe, encoder, seed=3, num_streams=R, row_tokens=row_tokens, guidance_dropout=0.5, first_sentence=0.5
    )


def rows_of(
    sampler: DocumentSampler, packer: Packer, number: int, world: int = 1, workers: int = 0, states: Any = None
) -> list[list[Row]]:
    ranks = [RowLoader(sampler, packer, streams_of(rank, world, R), states or {}, workers) for rank in range(world)]
    return [[row for rank in ranks for row in next(rank)] for _ in range(number)]


def images_seen(document: Document) -> list[bytes]:
    return [pixels.tobytes() for pixels in document.understanding_pixels]


@pytest.mark.parametrize("packer", ["best fit", "one a row"])
def test_over_an_epoch_each_segment_of_each_document_comes_exactly_once(
    recipe: Recipe, encoder: Encoder, packer: str
) -> None:
    sampler = sampler_of(recipe, encoder)
    num_steps = 60 if packer == "best fit" else 160
    pieces: dict[tuple[str, int], list[Document]] = defaultdict(list)
    for row in (row for step in rows_of(sampler, packer_of(recipe, packer), num_steps) for row in step):
        assert 0 < row.num_tokens <= T
        for document in row.documents:
            if document.reference.epoch == 0:
                pieces[document.reference.source, document.reference.index].append(document)
    num_cut = 0
    for name, (_, source) in recipe.sources.items():
        for index in range(len(source)):
            whole, parts = sampler._document(name, 0, index), pieces[name, index]
            for field in ("input_ids", "labels", "image_targets"):
                joined = np.concatenate([getattr(part, field) for part in parts])
                assert np.array_equal(joined, getattr(whole, field)), (name, index, field)
            assert [image for part in parts for image in images_seen(part)] == images_seen(whole)
            assert [n for part in parts for n in part.record_images] == whole.record_images
            assert sum(part.num_loss_tokens for part in parts) == whole.num_loss_tokens
            if len(parts) > 1:
                num_cut += 1
                assert len(whole) > T, "what fits a row is not cut"
    assert num_cut > 20


@pytest.mark.parametrize("packer", ["best fit", "one a row"])
def test_a_run_that_stops_inside_of_documents_goes_on_in_them_on_other_processes(
    recipe: Recipe, encoder: Encoder, packer: str
) -> None:
    sampler, choice = sampler_of(recipe, encoder), packer_of(recipe, packer)
    truth = rows_of(sampler, choice, 24)

    def observed(steps: list[list[Row]]) -> list[Any]:
        return [
            [(row.digest, row.state, [(d.input_ids.tolist(), images_seen(d)) for d in row.documents]) for row in step]
            for step in steps
        ]

    begun = defaultdict(set)
    for stop in (3, 9, 16):
        states = {row.stream: json.loads(json.dumps(row.state)) for row in truth[stop - 1]}
        for state in states.values():
            for source, _, _, start in (entry for entries in state["pending"].values() for entry in entries):
                begun[source].update({stop} if start else {})
        for world, workers in ((1, 0), (2, 1), (4, 0)):
            rest = rows_of(sampler, choice, 24 - stop, world, workers, states)
            assert observed(rest) == observed(truth[stop:]), (stop, world, workers)
    assert begun["look"] and begun["both"] and begun["draw"], "each stopped in the middle of a document"


def test_an_image_that_no_row_holds_is_refused_with_the_key(recipe: Recipe, encoder: Encoder) -> None:
    words = r"source 'look': 100 samples in a row cannot be used, the last is 'd\d+': an image of 66 tokens does not fit a row of 64"
    with pytest.raises(UserError, match=words):
        sampler_of(recipe, encoder, row_tokens=64).sample("look", 0, 0)


def test_two_documents_are_the_same_for_digests_only_if_their_pieces_are(recipe: Recipe, encoder: Encoder) -> None:
    """The digest of a row speaks of pieces; another row length makes other ones."""
    packed = {T_: rows_of(sampler_of(recipe, encoder, T_), BestFitPacker(T_, recipe.shares, 3), 6) for T_ in (T, 2 * T)}
    assert any("[" in d.reference.text() for step in packed[T] for row in step for d in row.documents)
    assert packed[T][0][0].digest != packed[2 * T][0][0].digest
