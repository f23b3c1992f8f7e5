"""Processes that are stopped, killed, suspended or poisoned: how the others end, and how the run resumes."""

from __future__ import annotations

import errno
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from janus_train.errors import UserError
from tests.helpers import read_lines
from tests.processes import SMALL, digests, job, metrics
from tests.train.backend_worker import BACKENDS

STEPS = 10
PLAN = ("+stage=2", f"run.steps={STEPS}", "run.checkpoint_every=3", *SMALL)


@pytest.fixture(scope="module")
def whole(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    with job(folder / "log", (*PLAN, f"init_from={random_base}", f"output_dir={folder / 'run'}")) as undisturbed:
        assert undisturbed.codes() == [0], undisturbed.said()
    return folder / "run"


@pytest.fixture
def words(random_base: Path, tmp_path: Path) -> tuple[str, ...]:
    return (*PLAN, f"init_from={random_base}", f"output_dir={tmp_path / 'run'}")


def finish(words: tuple[str, ...], whole: Path, world_size: int, **environment: str) -> Path:
    """Run the same command again: it resumes from the committed checkpoint, and finishes with the undisturbed run's batches."""
    folder = whole_folder(words)
    committed = list(folder.glob("checkpoints/step-*/manifest.json"))
    with job(folder.parent / "again", words, world_size, **environment) as again:
        assert again.codes() == [0] * world_size, again.said()
        assert ("starts from its checkpoint" in again.said(0)) == bool(committed)
    assert digests(folder) == digests(whole)
    return folder


def whole_folder(words: tuple[str, ...]) -> Path:
    return Path(next(word for word in words if word.startswith("output_dir=")).removeprefix("output_dir="))


@pytest.mark.parametrize(
    ("backend", "world_size"),
    [
        ("one", 1),
        ("ddp", 2),
        *(pytest.param(b, 2, marks=pytest.mark.slow) for b in ("zero1", "zero2", "zero3", "fsdp2")),
    ],
)
def test_kill_at_any_step_then_the_same_batches(
    words: tuple[str, ...], whole: Path, tmp_path: Path, backend: str, world_size: int
) -> None:
    """kill -9 of the last rank at a random step past the first checkpoint; the others end by themselves, with a line."""
    # The steps that are left take longer than the kill waits.
    step, within_s = random.randint(4, STEPS - 5), random.random() * 0.2
    print(f"killed {within_s:.3f} s after step {step}")
    environment = BACKENDS[backend]
    with job(tmp_path / "log", words, world_size, **environment) as cut:
        cut.wait_for_step(tmp_path / "run", step)
        time.sleep(within_s)
        os.kill(cut.pid(world_size - 1), signal.SIGKILL)
        killed = time.monotonic()
        codes = cut.codes(timeout_s=60)
        assert time.monotonic() - killed < 30
    assert codes[-1] == -9 and codes[:-1] == [76] * (world_size - 1), cut.said()
    if world_size > 1:
        last = cut.said(0).strip().splitlines()[-1]
        assert last.startswith("error: rank 0 on ") and "another process is gone" in last
        assert "Traceback" not in cut.said(0)
    assert not (tmp_path / "run/final").exists()
    folder = finish(words, whole, world_size, **environment)
    if world_size == 1:
        a, b = (load_file(run / "final/model.safetensors") for run in (whole, folder))
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_one_rank_stops_all_with_a_checkpoint(
    words: tuple[str, ...], whole: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """Sent twice, and to the loader's workers too, as schedulers do."""
    words = (*words, "data.num_workers=1")
    with job(tmp_path / "log", words, 2) as stopped:
        stopped.wait_for_step(tmp_path / "run", 1)
        workers = children(stopped.pid(1))
        assert workers
        for pid in (*workers, stopped.pid(1), stopped.pid(1)):
            os.kill(pid, number)
        assert stopped.codes() == [75, 75], stopped.said()
    step = metrics(tmp_path / "run")[-1]["step"]
    assert f"stopped by {number.name} (to rank 1 on " in stopped.said(0) and f"step {step} is saved" in stopped.said(0)
    assert step < STEPS and (tmp_path / f"run/checkpoints/step-{step:06d}/manifest.json").is_file()
    finish(words, whole, 2)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_ctrl_c_is_one_line(words: tuple[str, ...], tmp_path: Path) -> None:
    with job(tmp_path / "log", words) as stopped:
        stopped.wait_for_step(tmp_path / "run", 1)
        os.kill(stopped.pid(0), signal.SIGINT)
        assert stopped.codes() == [75]
    step = metrics(tmp_path / "run")[-1]["step"]
    lines = stopped.said().splitlines()
    assert [line for line in lines if line.startswith("SIGINT: ")] == [
        "SIGINT: stopping after this step, with a checkpoint (Ctrl-C again: at once)"
    ]
    assert lines[-1] == f"stopped by SIGINT (to rank 0 on {os.uname().nodename}): step {step} is saved; run the same command again to resume"  # fmt: skip


def test_a_suspended_rank_is_noticed_by_the_other(words: tuple[str, ...], whole: Path, tmp_path: Path) -> None:
    with job(tmp_path / "log", (*words, "run.timeout_s=4"), 2) as hung:
        hung.wait_for_step(tmp_path / "run", 4)
        os.kill(hung.pid(1), signal.SIGSTOP)
        since = time.monotonic()
        assert hung.code(0, timeout_s=30) == 76
        assert time.monotonic() - since < 30
    said = hung.said(0)
    assert "rank 0 on " in said and "for 4 s; it hangs here:" in said
    assert "train/trainer.py" in said and "most recent call first" in said  # the stacks of all threads
    finish(words, whole, 2)


def poison(rank: int) -> None:
    """From the third backward pass on, rank 1's loss is not a number."""
    from janus_train.model.janus import PackedJanus

    forward, calls = PackedJanus.forward, [0]

    def poisoned(self, batch):  # type: ignore[no-untyped-def]
        sums = forward(self, batch)
        calls[0] += 1
        if rank == 1 and calls[0] >= 3:
            return sums._replace(total=sums.total * float("nan"), generation=sums.generation * float("nan"))
        return sums

    PackedJanus.forward = poisoned  # type: ignore[method-assign]


def test_one_ranks_bad_loss_is_applied_by_none(words: tuple[str, ...], tmp_path: Path) -> None:
    with job(tmp_path / "log", (*words, "run.checkpoint_every=1"), 2, sabotage=poison) as poisoned:
        assert poisoned.codes() == [1, 1], poisoned.said()
    for rank in (0, 1):
        assert "3 steps in a row had a loss or gradient that is not finite" in poisoned.said(rank)
    lines = read_lines(tmp_path / "run/bad_steps.jsonl")
    assert [(line["step"], line["reason"], line["loss"]) for line in lines] == [
        (s, "not finite", None) for s in (3, 4, 5)
    ]
    assert all(len(line["samples"]) >= 2 and ":" in line["samples"][0] for line in lines)
    saved = [load_file(path) for path in (tmp_path / "run/checkpoints").glob("step-*/*.safetensors")]
    assert saved and all(torch.isfinite(tensor).all() for weights in saved for tensor in weights.values())
    assert not (tmp_path / "run/final").exists()


def mistake(rank: int) -> None:
    """In its third step rank 1 finds an error that only a person can fix."""
    _fail_in_third_step(rank, UserError("shard a.tar cannot be read: Input/output error"))


def defect(rank: int) -> None:
    """In its third step rank 1 meets an error that nobody thought of."""
    _fail_in_third_step(rank, KeyError("weight"))


def _fail_in_third_step(rank: int, error: Exception) -> None:
    from janus_train.model.janus import PackedJanus

    forward, calls = PackedJanus.forward, [0]

    def failing(self, batch):  # type: ignore[no-untyped-def]
        calls[0] += rank
        if calls[0] == 3:
            raise error
        return forward(self, batch)

    PackedJanus.forward = failing  # type: ignore[method-assign]


def test_one_ranks_mistake_ends_all_as_a_mistake(words: tuple[str, ...], tmp_path: Path) -> None:
    """So that no scheduler tries again: whichever rank's code it takes, and whoever's log one reads first."""
    with job(tmp_path / "log", words, 2, sabotage=mistake) as failed:
        assert failed.codes() == [1, 1], failed.said()
    what = "shard a.tar cannot be read: Input/output error"
    assert failed.said(0).strip().splitlines()[-1] == f"error: rank 1 on {os.uname().nodename}: {what}"
    assert failed.said(1).strip().splitlines()[-1] == f"error: {what}"
    assert "Traceback" not in failed.said()


def test_one_ranks_defect_is_named_by_the_others(words: tuple[str, ...], whole: Path, tmp_path: Path) -> None:
    """With its trace in its own log; the same command may resume."""
    with job(tmp_path / "log", words, 2, sabotage=defect) as failed:
        assert failed.codes(timeout_s=60) == [76, 1], failed.said()
    last, host = failed.said(0).strip().splitlines()[-1], os.uname().nodename
    assert last == f"error: rank 0 on {host}: rank 1 on {host} failed: KeyError: 'weight'; run the same command again to resume from the latest checkpoint"  # fmt: skip
    assert "Traceback" not in failed.said(0) and "in failing" in failed.said(1)


def stale(rank: int) -> None:
    """Rank 1's file server has forgotten a file of the newest checkpoint."""
    from janus_train.train.checkpoint import store

    real = store.file_sha256

    def failing(path: Path) -> str:
        if rank == 1:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return real(path)

    store.file_sha256 = failing  # type: ignore[assignment]


def unseen(rank: int) -> None:
    """Rank 1 does not see the run's manifest."""
    from janus_train.train.run_dir import RunDir

    if rank == 1:
        RunDir.manifest = lambda self: {}  # type: ignore[method-assign]
        RunDir._refuse_orphans = lambda self: None  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("sabotage", "what"),
    [
        (stale, "cannot be read (Stale file handle): nothing was changed"),
        (unseen, "is not the same folder for all processes"),
    ],
)
def test_what_one_rank_cannot_read_ends_all_with_one_line(
    words: tuple[str, ...], tmp_path: Path, sabotage: Callable[[int], None], what: str
) -> None:
    """The same on all ranks, at once, and nothing is changed."""
    short = (*words, "run.planned_steps=8", "run.checkpoint_every=1")
    with job(tmp_path / "begun", (*short, "run.steps=2")) as begun:
        assert begun.codes() == [0], begun.said()
    run = tmp_path / "run"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with job(tmp_path / "log", (*short, "run.steps=3"), 2, sabotage=sabotage) as refused:
        assert refused.codes(timeout_s=60) == [1, 1], refused.said()
    last = [refused.said(rank).strip().splitlines()[-1] for rank in (0, 1)]
    assert last[0] == last[1] and last[0].startswith("error: ") and what in last[0]
    assert "Traceback" not in refused.said()
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def slow(rank: int) -> None:
    """Rank 1's forward passes take 0.3 s more."""
    from janus_train.model.janus import PackedJanus

    forward = PackedJanus.forward

    def slowed(self, batch):  # type: ignore[no-untyped-def]
        time.sleep(0.3 * rank)
        return forward(self, batch)

    PackedJanus.forward = slowed  # type: ignore[method-assign]


def test_the_slow_host_is_named(words: tuple[str, ...], tmp_path: Path) -> None:
    short = (*words, "run.steps=4", "run.checkpoint_every=0", "run.rank_times_every=2")
    with job(tmp_path / "log", short, 2, sabotage=slow) as uneven:
        assert uneven.codes() == [0, 0], uneven.said()
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines if "rank_compute_s" in line] == [2, 4]
    assert all(len(line[key]) == 2 for line in lines[1::2] for key in ("rank_compute_s", "rank_data_s"))
    fast, slowed = lines[3]["rank_compute_s"]
    assert slowed > 0.3 > fast
    assert f"step 4: slow host {os.uname().nodename}: rank 1 needs" in uneven.said(0)
    assert "slow host" not in uneven.said(1)
