"""Whichever rank sees no image, no code or no text: no hang, and one process's update. Property tests over assignments.

For each backend two processes live through all of its examples: they are handed an assignment of kinds to their
micro-batches, and take one step on it from the same weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from janus_train.data.types import KINDS
from janus_train.train.distributed.context import Distributed
from tests.helpers import config_of
from tests.processes import serving
from tests.train.backend_measures import Assignment, OneStep
from tests.train.backend_worker import choose
from tests.train.conftest import SMALL

RANKS, MICRO_BATCHES = 2, 2
"""Micro-batches of each rank."""
TOLERANCE = 1e-5
STEP_S = 60
"""A step takes a fraction of a second; two ranks that wait for each other would wait for ever."""


def overrides(base: Path) -> tuple[str, ...]:
    """All parts train that can. Epsilon is above most gradients: AdamW would blow up what is rounding alone."""
    rows = ("batch.rows_per_step=4", "batch.micro_rows=1")
    return ("+stage=3", f"init_from={base}", *SMALL, *rows, "optim.eps=1e-3", "optim.learning_rate=1e-2")


def work(connection: Connection, backend: str, base: Path, weights: Path) -> None:
    """A rank's life: assignments in, loss and norm out; rank 0 leaves the weights in a file."""
    torch.set_num_threads(1)
    choose(backend)
    config = config_of(*overrides(base))
    step = OneStep(config, Distributed(config))
    while True:
        loss, norm, whole = step.on(connection.recv())
        if whole is not None:
            save_file({name: tensor.contiguous() for name, tensor in whole.items()}, weights)
        connection.send((loss, norm))


Update = Callable[[Assignment], tuple[float, float, dict[str, torch.Tensor]]]


@pytest.fixture(scope="module")
def one_process(random_base: Path) -> Update:
    """Each assignment once: the examples are the same for all backends."""
    config = config_of(*overrides(random_base))
    step, done = OneStep(config, Distributed(config)), {}

    def update(assignment: Assignment) -> tuple[float, float, dict[str, torch.Tensor]]:
        key = json.dumps(assignment)
        if key not in done:
            loss, norm, whole = step.on(assignment)
            assert whole is not None
            done[key] = loss, norm, whole
        return done[key]

    return update


SLOW = pytest.mark.slow


@pytest.fixture(scope="module", params=["ddp", pytest.param("zero1", marks=SLOW), "zero2", "zero3", "fsdp2"])
def two_processes(
    request: pytest.FixtureRequest, random_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Update]:
    folder = tmp_path_factory.mktemp("assignments")
    weights = folder / "weights.safetensors"
    with serving(work, request.param, random_base, weights, world_size=RANKS, log=folder / "log") as ranks:

        def update(assignment: Assignment) -> tuple[float, float, dict[str, torch.Tensor]]:
            for rank in ranks:
                rank.send(assignment)
            found = []
            for number, rank in enumerate(ranks):
                if not rank.poll(STEP_S):
                    raise AssertionError(f"rank {number} hangs: {assignment}")
                try:
                    found.append(rank.recv())
                except EOFError:
                    raise AssertionError((folder / f"log-{number}.log").read_text()) from None
            assert found[0] == found[1]
            return *found[0], load_file(weights)

        yield update


@st.composite
def assignments(draw: st.DrawFn) -> Assignment:
    """Each rank has some of the kinds only, and in each micro-batch documents of some of those."""
    found: Assignment = []
    for _ in range(RANKS):
        kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=3, unique=True))
        micro_batch = st.lists(st.sampled_from(kinds), min_size=1, max_size=2)
        found += draw(st.lists(micro_batch, min_size=MICRO_BATCHES, max_size=MICRO_BATCHES))
    return found


@settings(max_examples=3, derandomize=True, deadline=None, database=None)
@given(assignment=assignments())
@example([["text"], ["text"], ["generation"], ["generation"]])
@example([["generation"], ["generation"], ["text"], ["text"]])
@example([["understanding"], ["understanding"], ["generation"], ["generation"]])
@example([["text"]] * 4)
def test_whatever_kinds_the_ranks_see(two_processes: Update, one_process: Update, assignment: Assignment) -> None:
    loss, norm, expected = one_process(assignment)
    found_loss, found_norm, found = two_processes(assignment)
    assert found_loss == pytest.approx(loss, abs=TOLERANCE)
    assert found_norm == pytest.approx(norm, rel=1e-4)  # DeepSpeed adds squares up in fp64, the others in fp32
    assert found.keys() == expected.keys()
    assert max((found[name] - expected[name]).abs().max().item() for name in expected) < TOLERANCE


def test_the_update_that_is_compared_is_far_above_the_tolerance(one_process: Update, random_base: Path) -> None:
    """And differs from assignment to assignment."""
    base = load_file(random_base / "model.safetensors")
    text, generation = (one_process([[kind]] * 4)[2] for kind in ("text", "generation"))
    for one, other in ((base, text), (base, generation), (text, generation)):
        assert max((one[name] - other[name]).abs().max().item() for name in base) > 100 * TOLERANCE
