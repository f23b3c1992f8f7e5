"""One owner of a run's folder: a second start is refused and disturbs nothing, a dead owner's folder is free at once."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from janus_train.errors import UserError
from janus_train.paths import ROOT
from janus_train.train import run_lock
from janus_train.train.run_lock import NAME, RunLock
from tests.processes import SMALL, digests, job, metrics, wait_for

HOLD = """
import sys, time
from pathlib import Path
from janus_train.errors import UserError
from janus_train.train.run_lock import RunLock

with RunLock(Path(sys.argv[1])) as lock:
    try:
        lock.acquire()
    except UserError as error:
        sys.exit(str(error))
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def holder(run: Path, seconds: float = 60) -> subprocess.Popen[str]:
    """Another process that wants the folder."""
    words = [sys.executable, "-c", HOLD, str(run), str(seconds)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@contextmanager
def held(run: Path) -> Iterator[subprocess.Popen[str]]:
    process = holder(run)
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_folder_in_use_is_refused_with_its_owner_and_is_free_once_that_is_killed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with held(run) as owner:
        with pytest.raises(UserError) as refused, RunLock(run) as lock:
            lock.acquire()
        said = str(refused.value)
        assert said.startswith(
            f"output_dir {run} is in use by a run on host {os.uname().nodename} (pid {owner.pid}), started 20"
        )
        assert said.endswith(": wait for it, stop it, or choose another output_dir") and "\n" not in said
        owner.kill()
        owner.wait()
        with RunLock(run) as lock:
            lock.acquire()  # its .lock is still there
            assert json.loads((run / NAME).read_text())["pid"] == os.getpid()
    assert not (run / NAME).exists()


def test_of_many_starts_at_once_one_gets_the_folder(tmp_path: Path) -> None:
    starts = [holder(tmp_path / "run", 3) for _ in range(5)]
    ends = [start.communicate(timeout=60) for start in starts]
    assert sorted(start.returncode for start in starts) == [0, 1, 1, 1, 1], ends
    assert all("is in use by a run" in said for printed, said in ends if printed != "held\n")


def test_nothing_is_left_of_a_lock_and_what_the_run_has_written_stays(tmp_path: Path) -> None:
    for written in (False, True):
        with RunLock(tmp_path / "new/run") as lock:
            assert not (tmp_path / "new").exists()
            lock.acquire()
            if written:
                (tmp_path / "new/run/config.yaml").touch()
        assert (tmp_path / "new").exists() == written
    assert [path.name for path in (tmp_path / "new/run").iterdir()] == ["config.yaml"]


def test_a_lock_survives_that_its_folder_is_deleted(tmp_path: Path) -> None:
    with RunLock(tmp_path / "run") as lock:
        lock.acquire()
        shutil.rmtree(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that has no locks."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    monkeypatch.setattr(run_lock, "_SETTLE_S", 0.01)
    monkeypatch.setattr(run_lock, "HEARTBEAT_S", 0.05)


def acquired(run: Path) -> bool:
    with RunLock(run) as lock:
        try:
            lock.acquire()
        except UserError as error:
            assert "is in use by a run on host" in str(error)
            return False
        return True


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_heartbeat_tells_whether_the_owner_lives(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with RunLock(run) as lock:
        lock.acquire()
        assert not acquired(run)
        before = (run / NAME).stat().st_mtime_ns
        wait_for(lambda: (run / NAME).stat().st_mtime_ns > before, 5, "a heartbeat")
    assert not run.exists() and acquired(run)

    run.mkdir()
    elsewhere = {"host": "another", "pid": 1, "started": "then", "token": "x"}
    here = elsewhere | {"host": os.uname().nodename, "pid": dead_pid()}
    now = time.time()
    for owner, age_s, free in ((elsewhere, 5, False), (elsewhere, run_lock.STALE_S + 5, True), (here, 0, True)):
        (run / NAME).write_text(json.dumps(owner))
        os.utime(run / NAME, (now - age_s, now - age_s))
        assert acquired(run) == free, (owner, age_s)
    assert [path.name for path in run.iterdir()] == []


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


PLAN = ("+stage=2", "run.steps=2000", "run.checkpoint_every=20", *SMALL)


def test_a_second_start_is_refused_on_all_ranks_and_disturbs_nothing(random_base: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = (*PLAN, f"init_from={random_base}", f"output_dir={run}")
    with job(tmp_path / "first", words) as first:
        first.wait_for_step(run, 2)
        with job(tmp_path / "second", words, 2) as second:
            assert second.codes() == [1, 1], second.said()
        assert first.code(0, timeout_s=0) is None, "it was still at work"
        line = f"error: output_dir {run} is in use by a run on host {os.uname().nodename} (pid {first.pid(0)})"
        for rank in (0, 1):
            assert second.said(rank).strip().splitlines()[-1].startswith(line)
        assert "Traceback" not in second.said()
        os.kill(first.pid(0), signal.SIGKILL)
        first.codes()
    done = metrics(run)[-1]["step"]
    with job(tmp_path / "again", (*words, f"run.steps={done + 2}", "run.planned_steps=2000"), 1) as again:  # at once
        assert again.codes() == [0], again.said()
    with job(tmp_path / "finished", (*words, f"run.steps={done + 2}", "run.planned_steps=2000"), 1) as finished:
        assert finished.codes() == [0] and "is finished at step" in finished.said()
    assert [step for step, _ in digests(run)] == list(range(1, done + 3))
    assert not (run / NAME).exists()
