"""Streams under hypothesis: any recipe, with unusable samples, long texts and long documents with images, read in any way,
gives the same rows."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from janus_train.data.encode import Encoder
from janus_train.data.loader import RowLoader, streams_of
from janus_train.data.packing.best_fit import BestFitPacker, Packer
from janus_train.data.packing.one_per_row import OnePerRowPacker
from janus_train.data.sources.registry import SourceConfig
from janus_train.data.streams import DocumentSampler
from janus_train.data.types import IMAGE_CODE, BadSample, Document, Kind, Record, Row
from tests.helpers import plain_image

R, T = 8, 192
SHARES: dict[Kind, float] = {"understanding": 0.2, "text": 0.3, "generation": 0.5}
SOURCES: dict[str, dict[str, str]] = {
    "look": {"kind": "understanding", "template": "conversation"},
    "pages": {"kind": "understanding", "template": "interleaved", "images": "in"},
    "read": {"kind": "text", "template": "text"},
    "more": {"kind": "text", "template": "text"},
    "draw": {"kind": "generation", "template": "text_to_image"},
    "comics": {"kind": "generation", "template": "interleaved", "images": "both"},
}


class SyntheticSource:
    """A source of one template; every ``bad_every``-th sample cannot be used, and texts are up to ``longest`` words."""

    def __init__(self, kind: Kind, template: str, number: int, bad_every: int, longest: int):
        self.kind, self.template, self.number, self.bad_every, self.longest = kind, template, number, bad_every, longest

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: int) -> Record:
        key = f"{self.kind}-{index}"
        if self.bad_every and index % self.bad_every == 1:
            raise BadSample("made bad", key=key, damaged=index % 2 == 0)
        words = " ".join(f"w{index}x{i}" for i in range(1 + index * 7 % self.longest))
        if self.template == "text":
            return Record(key, {"text": words})
        if self.template == "interleaved":  # up to five images, some of them side by side
            colours = [(index % 256, number, 0) for number in range(1 + index % 5)]
            text = words[:300].replace(" ", "<image_placeholder>", len(colours))
            text += "<image_placeholder>" * (len(colours) - text.count("<image_placeholder>"))
            return Record(key, {"text": text}, list(map(plain_image, colours)))
        if self.kind == "generation":
            return Record(key, {"caption": words[:40]}, [plain_image((index % 256, 0, 0))])
        turns = [
            {"role": role, "content": content}
            for number in range(1 + index % 4)
            for role, content in (
                ("user", "<image_placeholder> what?" if number == 0 else f"and {words[:60]}?"),
                ("assistant", f"It is {index} {number} {words[:60]}."),
            )
        ]
        return Record(key, {"conversations": turns}, [plain_image((0, index % 256, 0))])


class SyntheticRecipe:
    """As much of a `Recipe` as streams need."""

    def __init__(self, sizes: dict[str, int], bad_every: int, longest: int):
        self.shares = SHARES
        self.sources = {
            name: (self._config(name), self._source(name, sizes[name], bad_every, longest)) for name in SOURCES
        }

    @staticmethod
    def _config(name: str) -> SourceConfig:
        values = {"name": name, "type": "shards", "weight": 1.0, "paths": ["x"]}
        return SourceConfig.model_validate(values | SOURCES[name])

    @staticmethod
    def _source(name: str, number: int, bad_every: int, longest: int) -> SyntheticSource:
        kind, template = SOURCES[name]["kind"], SOURCES[name]["template"]
        return SyntheticSource(kind, template, number, bad_every, longest)  # type: ignore[arg-type]

    def by_kind(self) -> dict[Kind, list[SourceConfig]]:
        return {kind: [c for c, _ in self.sources.values() if c.kind == kind] for kind in SHARES}


sizes = st.fixed_dictionaries({name: st.integers(3, 9 if name == "more" else 40) for name in SOURCES})
recipes = st.builds(SyntheticRecipe, sizes, st.sampled_from([0, 2, 5, 100]), st.integers(1, 200))
cuts = st.sampled_from(["long", "fit"])
units = st.sampled_from(["samples", "tokens", "one a row"])
"""What the ratio counts; or one document a row, where it counts samples."""


def parts(recipe: SyntheticRecipe, encoder: Encoder, seed: int, cut: Any, unit: Any) -> tuple[DocumentSampler, Packer]:
    sampler = DocumentSampler(
        recipe,  # type: ignore[arg-type]
        encoder,
        seed=seed,
        num_streams=R,
        row_tokens=T,
        guidance_dropout=0.2,
        first_sentence=0.25,
    )
    if unit == "one a row":
        return sampler, OnePerRowPacker(T, {kind: round(10 * share) for kind, share in SHARES.items()}, R)
    return sampler, BestFitPacker(T, SHARES, 3, cut=cut, unit=unit, max_wait=8)


def read_rows(
    sampler: DocumentSampler, packer: Packer, number: int, world: int, workers: int, states: Any = None
) -> list[list[Row]]:
    ranks = [RowLoader(sampler, packer, streams_of(rank, world, R), states or {}, workers) for rank in range(world)]
    return [[row for rank in ranks for row in next(rank)] for _ in range(number)]


def observable(rows_by_step: list[list[Row]]) -> list[list[Any]]:
    """All that may not depend on who reads: the rows, what was quarantined, and the streams' states."""
    return [[(row.stream, row.digest, row.quarantined, row.state) for row in rows] for rows in rows_by_step]


def states_after(rows: list[Row]) -> dict[int, Any]:
    return {row.stream: json.loads(json.dumps(row.state)) for row in rows}


@settings(max_examples=6, deadline=None)
@given(recipe=recipes, seed=st.integers(0, 99), cut=cuts, unit=units, stop=st.integers(1, 5))
def test_the_same_rows_for_any_world_and_after_a_stop_at_any_step(
    encoder: Encoder, recipe: SyntheticRecipe, seed: int, cut: Any, unit: Any, stop: int
) -> None:
    sampler, packer = parts(recipe, encoder, seed, cut, unit)
    truth = read_rows(sampler, packer, 6, world=1, workers=0)
    for world in (2, 8):
        assert observable(read_rows(sampler, packer, 6, world, 0)) == observable(truth)
    for world in (1, 4):
        remaining_rows = read_rows(sampler, packer, 6 - stop, world, 0, states_after(truth[stop - 1]))
        assert observable(remaining_rows) == observable(truth[stop:])


@settings(max_examples=2, deadline=None)
@given(recipe=recipes, seed=st.integers(0, 99), stop=st.integers(1, 3))
def test_the_same_rows_for_any_number_of_workers(
    encoder: Encoder, recipe: SyntheticRecipe, seed: int, stop: int
) -> None:
    sampler, packer = parts(recipe, encoder, seed, "fit", "samples")
    truth = observable(read_rows(sampler, packer, 4, world=1, workers=0))
    for world, workers in ((1, 1), (2, 3)):
        assert observable(read_rows(sampler, packer, 4, world, workers)) == truth
    half = read_rows(sampler, packer, stop, world=2, workers=1)
    assert observable(read_rows(sampler, packer, 4 - stop, 1, 3, states_after(half[-1]))) == truth[stop:]


@settings(max_examples=8, deadline=None)
@given(numbers=sizes, longest=st.integers(1, 200), seed=st.integers(0, 99), cut=cuts, unit=units)
def test_every_token_of_a_sample_is_trained_once_an_epoch(
    encoder: Encoder, numbers: dict[str, int], longest: int, seed: int, cut: Any, unit: Any
) -> None:
    """Pieces of a document follow each other without a gap, with their own images; what was drawn was placed whole, or
    still waits."""
    recipe = SyntheticRecipe(numbers, 0, longest)
    sampler, packer = parts(recipe, encoder, seed, cut, unit)
    rows = read_rows(sampler, packer, 10, world=1, workers=0)
    pieces_of_sample: dict[tuple[str, int, int], list[Document]] = {}
    for row in (row for step in rows for row in step):
        assert row.num_tokens <= T and row.documents
        for document in row.documents:
            reference = document.reference
            pieces_of_sample.setdefault((reference.source, reference.epoch, reference.index), []).append(document)
    num_complete: Counter[str] = Counter()
    for (source, epoch, index), pieces in pieces_of_sample.items():
        full_document, at = sampler._document(source, epoch, index), 0
        for document in pieces:
            start, stop = document.reference.piece or (0, len(full_document))
            assert start == at
            assert np.array_equal(document.labels, full_document.labels[start:stop])
            assert np.array_equal(document.input_ids, full_document.input_ids[start:stop])
            num_images = sum(start <= first < stop for first, _ in full_document.image_spans)
            num_codes = len(document.codes_have_loss)
            assert len(document.understanding_pixels) + num_codes == num_images == len(document.record_images)
            assert (document.modality == IMAGE_CODE).sum() == encoder.tokens_per_image * num_codes
            assert document.share == (stop - start) / len(full_document)
            at = stop
        num_complete[source] += at == len(full_document)
    for name in recipe.sources:
        num_samples = sum(row.state["draws"].get(name, 0) for row in rows[-1])
        num_pending = sum(
            entry[0] == name for row in rows[-1] for kind in row.state["pending"].values() for entry in kind
        )
        assert num_complete[name] == num_samples - num_pending


@settings(max_examples=6, deadline=None)
@given(recipe=recipes, seed=st.integers(0, 99), cut=cuts, unit=units)
def test_the_ratio_of_every_step_is_within_one_sample_a_stream(
    encoder: Encoder, recipe: SyntheticRecipe, seed: int, cut: Any, unit: Any
) -> None:
    sampler, packer = parts(recipe, encoder, seed, cut, unit)
    for step in read_rows(sampler, packer, 10, world=1, workers=0):
        weights: Counter[str] = Counter()
        for document in (document for row in step for document in row.documents):
            weight_of_unit = {"tokens": len(document), "samples": document.share, "one a row": 1}
            weights[document.kind] += weight_of_unit[unit]  # type: ignore[assignment]
        sample = max(row.state["longest"] for row in step) if unit == "tokens" else 1
        for kind, share in SHARES.items():
            limit = 1 if unit == "one a row" else R * sample
            assert abs(weights[kind] - share * sum(weights.values())) <= limit * (1 + 1e-6)


def test_bad_samples_are_written_down_once_and_others_come_in_their_place(encoder: Encoder) -> None:
    recipe = SyntheticRecipe({name: 9 if name == "more" else 40 for name in SOURCES}, bad_every=5, longest=9)
    sampler, packer = parts(recipe, encoder, 0, "long", "samples")
    rows = [row for step in read_rows(sampler, packer, 10, world=1, workers=0) for row in step]
    quarantined = [sample for row in rows for sample in row.quarantined]
    assert quarantined and all(
        sample.index % 5 == 1 and sample.reason == "made bad" and sample.key.endswith(f"-{sample.index}")
        for sample in quarantined
    )
    assert {sample.damaged for sample in quarantined} == {True, False}
    assert not any(document.reference.index % 5 == 1 for row in rows for document in row.documents)
    num_by_source = Counter(sample.source for sample in quarantined)
    for name in recipe.sources:
        assert sum(row.state["bad"].get(name, 0) for row in rows[-R:]) == num_by_source[name]
    states = states_after(rows[-R:])
    quarantined_later = [
        sample for step in read_rows(sampler, packer, 3, 1, 0, states) for row in step for sample in row.quarantined
    ]
    go_on = [sample for step in read_rows(sampler, packer, 13, 1, 0)[10:] for row in step for sample in row.quarantined]
    assert quarantined_later == go_on


def test_a_conversation_that_is_too_long_loses_whole_trailing_turns(encoder: Encoder) -> None:
    recipe = SyntheticRecipe({name: 40 if name == "look" else 3 for name in SOURCES}, bad_every=0, longest=9)
    sampler, _ = parts(recipe, encoder, 0, "long", "samples")
    whole = sampler._document("look", 0, 3)
    sampler.row_tokens = len(whole) - 1
    shorter = sampler._document("look", 0, 3)
    assert len(shorter) < len(whole) and np.array_equal(shorter.input_ids, whole.input_ids[: len(shorter)])
    assert shorter.input_ids[-1] == encoder.special.eos and len(shorter.understanding_pixels) == 1
