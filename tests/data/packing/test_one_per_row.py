"""One document a row: the ratio of every step and of every stream, long texts, and what is refused."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from janus_train.data.packing.best_fit import Choice, WaitingDocument
from janus_train.data.packing.one_per_row import OnePerRowPacker, kind_schedule
from janus_train.data.types import KINDS, Kind
from janus_train.errors import UserError
from tests.helpers import config_of

ratios = st.dictionaries(st.sampled_from(KINDS), st.integers(1, 9), min_size=1)


def kinds_of(packer: OnePerRowPacker, step: int, streams: int) -> list[Kind]:
    waiting = {kind: [WaitingDocument(5, 5, False, 0)] for kind in KINDS}
    rows = [packer.choose(waiting, {}, row=step, phase=stream, longest=5) for stream in range(streams)]
    assert all(len(row) == 1 for row in rows)
    return [row[0].kind for row in rows]


def off_by(ratio: dict[Kind, int], streams: int, step: int) -> float:
    """How many samples a step's kinds are from their shares, at the most."""
    counts = Counter(kinds_of(OnePerRowPacker(64, ratio, streams), step, streams))
    return max(abs(counts[kind] - streams * ratio.get(kind, 0) / sum(ratio.values())) for kind in KINDS)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_every_step_holds_the_stages_ratio_within_a_sample(stage: int) -> None:
    asked = config_of(f"+stage={stage}").ratio
    ratio: dict[Kind, int] = {kind: getattr(asked, kind) for kind in KINDS if getattr(asked, kind)}
    turns = range(sum(ratio.values()))  # then it begins again
    assert max(off_by(ratio, streams, step) for streams in range(1, 41) for step in turns) <= 1 + 1e-9


@given(ratio=ratios, streams=st.integers(1, 40), step=st.integers(0, 100))
def test_every_step_holds_any_ratio_within_a_sample_and_a_half(ratio: dict[Kind, int], streams: int, step: int) -> None:
    assert off_by(ratio, streams, step) < 1.5


@given(ratio=ratios, streams=st.integers(1, 12))
def test_every_stream_holds_the_ratio_over_a_turn_of_the_wheel(ratio: dict[Kind, int], streams: int) -> None:
    """Or the samples that are one stream's share of a source would never come."""
    packer = OnePerRowPacker(64, ratio, streams)
    steps = [kinds_of(packer, step, streams) for step in range(len(packer.schedule))]
    for stream in range(streams):
        counts = Counter(step[stream] for step in steps)
        assert counts == Counter(packer.schedule)


def test_the_wheel_spreads_the_kinds() -> None:
    assert kind_schedule({"understanding": 5, "text": 1, "generation": 4}) == kind_schedule(
        {"understanding": 10, "text": 2, "generation": 8}
    )
    assert kind_schedule({"understanding": 1, "generation": 3}) == [
        "generation",
        "understanding",
        "generation",
        "generation",
    ]


def test_a_long_text_comes_in_pieces() -> None:
    packer = OnePerRowPacker(128, {"text": 1}, 1)
    assert packer.choose({"text": [WaitingDocument(300, 300, True, 0)]}, {}, row=0, phase=0, longest=300) == [
        Choice("text", 0, 128)
    ]
    assert packer.choose({"text": [WaitingDocument(129, 300, True, 0)]}, {}, row=1, phase=0, longest=300) == [
        Choice("text", 0, 127)
    ]
    assert packer.wants_more(0, 0) and not packer.wants_more(1, 5)


def test_the_ratio_of_tokens_needs_rows() -> None:
    assert config_of("+stage=2", "batch.unit=samples").batch.unit == "samples"
    with pytest.raises(UserError, match=r"batch\.unit samples .* ratio\.unit tokens needs rows"):
        config_of("+stage=2", "batch.unit=samples", "ratio.unit=tokens")
