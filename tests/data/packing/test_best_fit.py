"""Rows: the ratio within one sample, never over T, nobody waits too long, and nearly full on lengths like the paper's."""

from __future__ import annotations

import random
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.packing import STAGES, simulate
from janus_train.data.packing.best_fit import (
    BestFitPacker,
    Choice,
    Cut,
    RatioUnit,
    WaitingDocument,
    front_of,
    smallest_piece,
)
from janus_train.data.types import Kind

T = 128


class SimulatedStream:
    """Documents of random lengths that wait, as a stream keeps them."""

    def __init__(self, packer: BestFitPacker, rng: random.Random, longest: int):
        self.packer, self.rng, self.longest = packer, rng, longest
        self.documents: dict[Kind, list[list[int]]] = {kind: [] for kind in packer.shares}  # [left, whole, row]
        self.placed_weights: dict[Kind, float] = dict.fromkeys(packer.shares, 0.0)
        self.row, self.longest_seen, self.max_rows_waited = 0, 1, 0

    def next_row(self) -> list[Choice]:
        for kind, documents in self.documents.items():
            while len(documents) < self.packer.lookahead or sum(free for free, _, _ in documents) < T:
                tokens = self.rng.randint(5, self.longest if kind == "text" else min(self.longest, T))
                self.longest_seen = max(self.longest_seen, min(tokens, T))
                documents.append([tokens, tokens, self.row])
        candidates = {
            kind: [WaitingDocument(free, total, kind == "text", self.row - since) for free, total, since in documents]
            for kind, documents in self.documents.items()
        }
        choices = self.packer.choose(candidates, self.placed_weights, phase=7, longest=self.longest_seen)
        for choice in choices:
            document = self.documents[choice.kind][choice.place]
            assert choice.tokens == document[0] or (choice.kind == "text" and choice.tokens < document[0])
            if choice.tokens < document[0]:  # a piece: in "long" only of what a row cannot hold
                assert self.packer.cut == "fit" or document[0] > T
                assert min(choice.tokens, document[0] - choice.tokens) >= self.packer.smallest_piece
            self.placed_weights[choice.kind] += self.packer.weight(candidates[choice.kind][choice.place], choice.tokens)
            self.max_rows_waited = max(self.max_rows_waited, self.row - document[2])
        for choice in choices:
            self.documents[choice.kind][choice.place][0] -= choice.tokens
        for kind, documents in self.documents.items():
            self.documents[kind] = [document for document in documents if document[0]]
        self.row += 1
        return choices


@settings(max_examples=60, deadline=None)
@given(
    stage=st.sampled_from(list(STAGES.values())),
    seed=st.integers(0, 1000),
    lookahead=st.integers(1, 12),
    longest=st.integers(20, 3 * T),
    cut=st.sampled_from(["long", "fit"]),
    unit=st.sampled_from(["samples", "tokens"]),
    max_wait=st.integers(1, 20),
)
def test_a_row_holds_the_ratio_within_one_sample_and_at_most_its_tokens(
    stage: dict[Kind, float], seed: int, lookahead: int, longest: int, cut: Cut, unit: RatioUnit, max_wait: int
) -> None:
    packer = BestFitPacker(T, stage, lookahead, cut=cut, unit=unit, max_wait=max_wait)
    stream = SimulatedStream(packer, random.Random(seed), longest)
    for _ in range(40):
        weights_before = dict(stream.placed_weights)
        choices = stream.next_row()
        assert choices
        assert len({(choice.kind, choice.place) for choice in choices}) == len(choices)
        assert sum(choice.tokens for choice in choices) <= T
        sample = 1 if unit == "samples" else stream.longest_seen
        row_weights = {kind: stream.placed_weights[kind] - weights_before[kind] for kind in stage}
        for kind, share in stage.items():
            assert abs(row_weights[kind] - share * sum(row_weights.values())) <= sample * (1 + 1e-6)
            assert abs(stream.placed_weights[kind] - share * sum(stream.placed_weights.values())) <= sample * (1 + 1e-6)


@settings(max_examples=30, deadline=None)
@given(
    stage=st.sampled_from(list(STAGES.values())),
    seed=st.integers(0, 1000),
    lookahead=st.integers(1, 8),
    cut=st.sampled_from(["long", "fit"]),
    max_wait=st.integers(1, 20),
)
def test_no_document_waits_longer_than_it_may(
    stage: dict[Kind, float], seed: int, lookahead: int, cut: Cut, max_wait: int
) -> None:
    """Half of all documents want a row nearly for themselves: the case in which best fit alone starves them."""
    packer = BestFitPacker(T, stage, lookahead, cut=cut, max_wait=max_wait)
    stream = SimulatedStream(packer, random.Random(seed), T)
    max_waiting = 0
    for _ in range(150):
        stream.next_row()
        max_waiting = max(max_waiting, *(len(documents) for documents in stream.documents.values()))
    turns = ceil(1 / min(stage.values())) + 1
    assert stream.max_rows_waited <= max_wait + turns * (max_waiting + 1)


def test_oldest_comes_first_and_best_fit_fills_the_end() -> None:
    packer = BestFitPacker(100, {"text": 1.0}, 1)
    items = [WaitingDocument(tokens, tokens, False, 0) for tokens in (60, 50, 30, 38, 10)]
    assert packer.choose({"text": items}, {}) == [Choice("text", 0, 60), Choice("text", 3, 38)]
    items = [WaitingDocument(tokens, tokens, False, 0) for tokens in (60, 50, 30, 70)]
    assert [c.place for c in packer.choose({"text": items}, {})] == [3, 2], "exchanged: 70 + 30 is full"


def test_who_has_waited_too_long_comes_first_and_is_not_exchanged() -> None:
    packer = BestFitPacker(100, {"text": 0.5, "generation": 0.5}, 1, max_wait=8)
    items = {
        "text": [WaitingDocument(95, 95, False, 8)],
        "generation": [WaitingDocument(40, 40, False, 0), WaitingDocument(96, 96, False, 0)],
    }
    assert packer.choose(items, {}) == [Choice("text", 0, 95)]
    items["text"] = [WaitingDocument(95, 95, False, 7)]
    assert Choice("text", 0, 95) not in packer.choose(items, {"text": 1.0, "generation": 0.0})


def test_text_longer_than_a_row_is_cut_and_goes_on_where_it_stopped() -> None:
    packer = BestFitPacker(100, {"text": 1.0}, 1)
    assert packer.choose({"text": [WaitingDocument(250, 250, True, 0)]}, {}) == [Choice("text", 0, 100)]
    assert packer.choose({"text": [WaitingDocument(150, 250, True, 1)]}, {}) == [Choice("text", 0, 100)]
    remainder, document = WaitingDocument(50, 250, True, 2), WaitingDocument(60, 60, True, 0)
    assert packer.choose({"text": [remainder, document]}, {}) == [Choice("text", 0, 50)]
    fit = BestFitPacker(100, {"text": 1.0}, 1, cut="fit")
    assert fit.choose({"text": [remainder, document]}, {}) == [Choice("text", 0, 50), Choice("text", 1, 50)]


@pytest.mark.parametrize(("stage", "cut", "asked"), [(1, "long", 93), (2, "long", 98), (3, "long", 95), (2, "fit", 99)])
def test_rows_are_full_on_lengths_like_the_papers(stage: int, cut: Cut, asked: float) -> None:
    result = simulate(stage, cut, num_rows=150)
    assert 100 * result.fill >= asked
    assert result.longest_wait <= 64 + 16


@settings(max_examples=200, deadline=None)
@given(
    segments=st.lists(st.tuples(st.booleans(), st.integers(1, T)), min_size=1, max_size=12),
    free=st.lists(st.integers(1, T), min_size=1, max_size=40),
)
def test_a_document_with_images_comes_in_pieces_without_a_cut_image(
    segments: list[tuple[bool, int]], free: list[int]
) -> None:
    """Whatever room rows leave: each empty row takes a piece, so that none waits forever."""
    spans, total = [], 0
    for is_image, tokens in segments:
        spans += [(total, total + tokens)] if is_image else []
        total += tokens
    at, room = 0, iter([*free, *[T] * (2 * len(segments) + total // (T // 2) + 2)])
    while at < total:
        free_tokens = next(room)
        images = tuple((start - at, stop - at) for start, stop in spans if start >= at)
        tokens = front_of(WaitingDocument(total - at, total, True, 0, images), free_tokens, T)
        assert tokens <= free_tokens and (tokens or free_tokens < T)
        assert not any(start < at + tokens < stop for start, stop in spans)
        assert total - at > T or tokens in (0, total - at), "what fits a row is not cut"
        at += tokens


def test_pieces_are_not_tiny_unless_an_image_forces_it() -> None:
    def front(tokens: int, images: tuple[tuple[int, int], ...], free: int) -> int:
        return front_of(WaitingDocument(tokens, tokens, True, 0, images), free, T)

    assert smallest_piece(T) == 2
    assert front(T + 40, ((50, 90),), 60) == 50, "an image that does not fit begins the next piece"
    assert front(T + 40, ((1, 90),), 60) == 0, "one token alone is no piece"
    assert front(T + 1, ((0, T),), T) == T, "an image that fills a row leaves what there is to leave"
    assert front(T + 2, ((1, T + 1),), T) == 1, "and takes what there is to take"
    assert front(T + 1, ((0, T),), T - 1) == 0


def test_only_plain_text_is_cut_to_fill_a_row() -> None:
    packer = BestFitPacker(T, {"understanding": 1.0}, 1, cut="fit")
    for images, choices in (
        ((), [Choice("understanding", 0, 100), Choice("understanding", 1, 28)]),
        (((9, 19),), None),
    ):
        waiting = [WaitingDocument(100, 100, False, 0), WaitingDocument(90, 90, True, 0, images)]
        assert packer.choose({"understanding": waiting}, {}) == (choices or [Choice("understanding", 0, 100)])
