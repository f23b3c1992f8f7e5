"""The number of threads that the user asks for, told from what a launcher sets, with the real launchers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from janus_train.cpu import available_cores, requested_threads
from janus_train.paths import ROOT

SHOWS = """
import os, sys
from janus_train.cpu import requested_threads
from janus_train.lifetime import is_launched
if os.environ.get("RANK", "0") == "0":
    with open(sys.argv[1], "w") as file:
        print(is_launched(), os.environ.get("OMP_NUM_THREADS"), requested_threads(is_launched()), file=file)
"""
ACCELERATE = ("accelerate.commands.launch", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")
ONE = (*ACCELERATE, "--num_processes", "1")
TWO = (*ACCELERATE, "--num_processes", "2", "--multi_gpu", "--main_process_port", "0")
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.mark.parametrize(
    ("launcher", "user", "shown"),
    [
        (ONE, None, "True 1 None"),
        (ONE, "1", "True 1 1"),
        ((*ONE, "--num_cpu_threads_per_process", "3"), None, "True 3 3"),
        (TWO, None, "True 1 None"),
        (TWO, "1", "True 1 1"),
        pytest.param(TORCHRUN, None, "True 1 None", marks=pytest.mark.slow),
        pytest.param(TORCHRUN, "2", "True 2 2", marks=pytest.mark.slow),
    ],
)
def test_the_users_number_is_told_from_the_launchers(
    tmp_path: Path, launcher: tuple[str, ...], user: str | None, shown: str
) -> None:
    (tmp_path / "shows.py").write_text(SHOWS)
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment |= {"ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
    environment |= {} if user is None else {"OMP_NUM_THREADS": user}
    command = [sys.executable, "-m", *launcher, str(tmp_path / "shows.py"), str(tmp_path / "shown")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "shown").read_text().strip() == shown


@pytest.mark.parametrize(
    ("value", "threads"), [(None, None), ("1", 1), ("4,2", 4), (" 3 ", 3), ("0", None), ("-2", None), ("many", None)]
)
def test_without_a_launcher_the_variable_is_the_users(
    monkeypatch: pytest.MonkeyPatch, value: str | None, threads: int | None
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if value is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert requested_threads() == threads


@pytest.mark.parametrize(("value", "threads"), [("1", None), ("3", 3)])
def test_where_the_launcher_cannot_be_seen_1_counts_as_its_own(
    monkeypatch: pytest.MonkeyPatch, value: str, threads: int | None
) -> None:
    monkeypatch.setattr(os, "getppid", lambda: 0)
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert requested_threads(is_launched=True) == threads


def test_cores_are_those_that_this_process_may_use() -> None:
    assert available_cores() == len(os.sched_getaffinity(0))
