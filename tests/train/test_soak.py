"""Runs that are killed at random moments and started again until they are done end as the run that nothing disturbed.

A short one each time, long ones under ``-m slow``. The moments come from a seed: JANUS_SOAK_SEED repeats or varies them.
"""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.processes import SMALL, Job, digests, job, metrics
from tests.train.backend_worker import BACKENDS

SEED = int(os.environ.get("JANUS_SOAK_SEED", "0"))
MOST_STARTS = 4
"""Starts for a kill: one may fall into the start, before anything is trained."""


@dataclass(frozen=True)
class Plan:
    """How long the run is, and how often it is killed."""

    steps: int
    kills: int
    world_size: int = 1
    backend: str = "one"
    words: tuple[str, ...] = ()

    def train_words(self, base: Path, folder: Path) -> tuple[str, ...]:
        plan = ("+stage=2", f"run.steps={self.steps}", "run.checkpoint_every=2", "run.keep_checkpoints=2", *SMALL)
        return (*plan, f"init_from={base}", f"output_dir={folder}", *self.words)


@dataclass
class Soak:
    """A run that is killed and started again."""

    plan: Plan
    folder: Path
    words: tuple[str, ...]
    chance: random.Random
    started: float = 1.0
    """Seconds that a start took until its first step: kills fall into starts, steps and saves alike."""
    kills: list[str] = field(default_factory=list)

    def start(self, number: int) -> Job:
        environment = BACKENDS[self.plan.backend] if self.plan.world_size > 1 else {}
        return Job(self.folder.parent / f"start{number}", self.words, self.plan.world_size, **environment)

    def until_done(self) -> None:
        """Start, kill, start again; after the last kill the run is left alone."""
        for number in range(MOST_STARTS * self.plan.kills + 1):
            before = self.last_step()
            running = self.start(number)
            try:
                if len(self.kills) < self.plan.kills:
                    self.kill_at_random(running, before)
                codes = running.codes()
            finally:
                end(running)
            if codes == [0] * self.plan.world_size:
                return
            assert set(codes) <= {-signal.SIGKILL, 76}, (self.kills, codes, running.said())
            assert "Traceback" not in running.said(), running.said()
        raise AssertionError(f"not done after {number + 1} starts: {self.kills}")

    def last_step(self) -> int:
        lines = metrics(self.folder)
        return lines[-1]["step"] if lines else 0

    def kill_at_random(self, running: Job, before: int) -> None:
        """One rank, or all at once: within the start in one of four, else some steps later or between them."""
        later = self.chance.random() * 0.25
        since = time.monotonic()
        if self.chance.random() < 0.25:
            later = self.chance.random() * self.started
        else:
            more = self.chance.randint(1, 3)
            while self.last_step() < min(before + more, self.plan.steps) and running_still(running):
                time.sleep(0.01)
            self.started = (
                max(0.2, min(self.started, time.monotonic() - since)) if self.kills else time.monotonic() - since
            )
        time.sleep(later)
        ranks = range(self.plan.world_size)
        for rank in self.chance.choice([ranks, [self.chance.choice(ranks)]]):
            if running.processes[rank].exitcode is None:
                os.kill(running.pid(rank), signal.SIGKILL)
                self.kills.append(f"rank {rank} at step {self.last_step()}")


def running_still(running: Job) -> bool:
    return all(process.exitcode is None for process in running.processes)


def end(running: Job) -> None:
    for process in running.processes:
        if process.exitcode is None:
            process.kill()
        process.join()


def soak(plan: Plan, base: Path, tmp_path: Path) -> None:
    whole, folder = tmp_path / "whole/run", tmp_path / "soaked/run"
    for one in (whole, folder):
        one.parent.mkdir()
    environment = BACKENDS[plan.backend] if plan.world_size > 1 else {}
    with job(whole.parent / "log", plan.train_words(base, whole), plan.world_size, **environment) as undisturbed:
        assert undisturbed.codes() == [0] * plan.world_size, undisturbed.said()
    soaked = Soak(plan, folder, plan.train_words(base, folder), random.Random(SEED))
    soaked.until_done()
    print(soaked.kills)
    assert len(soaked.kills) >= plan.kills
    assert digests(folder) == digests(whole)
    wanted, found = ([line["loss"] for line in metrics(one)] for one in (whole, folder))
    ours, theirs = (load_file(one / "final/model.safetensors") for one in (folder, whole))
    assert ours.keys() == theirs.keys()
    if plan.world_size == 1:
        assert found == wanted and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    else:  # the order in which two processes' gradients are added is the library's
        assert found == pytest.approx(wanted, rel=1e-5)
        assert all(torch.allclose(ours[name], theirs[name], rtol=1e-4, atol=1e-5) for name in theirs)
    left = [path.name for path in (folder / "checkpoints").iterdir()]
    assert all(name.startswith("step-") for name in left) and not list(folder.rglob("*.part"))


def test_a_run_killed_again_and_again_ends_as_if_it_had_not_been(random_base: Path, tmp_path: Path) -> None:
    soak(Plan(steps=8, kills=2), random_base, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "plan",
    [
        Plan(steps=60, kills=20),
        Plan(steps=40, kills=10, words=("data.num_workers=2",)),
        Plan(steps=60, kills=20, world_size=2, backend="ddp"),
    ],
    ids=["one process", "with loader workers", "two processes"],
)
def test_twenty_kills(random_base: Path, tmp_path: Path, plan: Plan) -> None:
    soak(plan, random_base, tmp_path)
