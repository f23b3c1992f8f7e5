"""The launcher, with trainers of a few lines: signals reach them, their codes come back, its own errors are one line."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from janus_train.launch import exit_code, first_cause, launch
from janus_train.paths import ROOT
from tests.processes import free_port, wait_for

WAITS = """
import os, signal, sys, time
asked = []
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
    signal.signal(number, lambda n, _: asked.append(n))
open(sys.argv[1] + os.environ.get("RANK", "0"), "w").close()
while not asked:
    time.sleep(0.05)
time.sleep(1)  # saves a checkpoint
sys.exit(75)
"""
FAILS = """
import os, signal, time
if os.environ["RANK"] == "1":
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(60)
"""
NOTICES = """
import os, pathlib, signal, sys, time
path = pathlib.Path(sys.argv[1])
if os.environ["RANK"] == "1":
    path.with_suffix(".part").write_text(str(os.getpid()))
    path.with_suffix(".part").rename(path)
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)
while not path.is_file():
    time.sleep(0.01)
while pathlib.Path(f"/proc/{path.read_text()}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
    time.sleep(0.001)
os._exit(76)
"""


def start(script: Path, *options: str, arguments: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    common = ("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")
    command = [sys.executable, "-m", "janus_train.launch", *common, *options, str(script), *arguments]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("processes", "number"), [(1, signal.SIGINT), (2, signal.SIGTERM), (2, signal.SIGUSR1)], ids=str
)
def test_signals_reach_the_trainers_and_their_code_comes_back(
    tmp_path: Path, processes: int, number: signal.Signals
) -> None:
    (tmp_path / "waits.py").write_text(WAITS)
    several = ("--multi_gpu", "--main_process_port", str(free_port())) if processes > 1 else ()
    launcher = start(tmp_path / "waits.py", "--num_processes", str(processes), *several, arguments=(f"{tmp_path}/up-",))
    wait_for(lambda: len(list(tmp_path.glob("up-*"))) == processes, 120, "the trainers' start")
    launcher.send_signal(number)
    _, said = launcher.communicate(timeout=60)
    assert launcher.returncode == 75, said
    assert "Traceback" not in said


def test_a_module_is_launched_as_a_script_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_trainer.py").write_text("import sys; sys.exit(75 if sys.argv[1:] == ['+stage=1'] else 1)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    common = ["--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    assert launch([*common, "-m", "a_trainer", "+stage=1"]) == 75


def test_a_killed_trainer_ends_the_others(tmp_path: Path) -> None:
    (tmp_path / "fails.py").write_text(FAILS)
    launcher = start(tmp_path / "fails.py", "--num_processes", "2", "--multi_gpu", "--main_process_port", "0")
    _, said = launcher.communicate(timeout=120)
    assert launcher.returncode == 137
    assert said.strip().splitlines()[-1] == "rank 1 ended first on this node, with code 137"


def test_the_death_that_ended_the_others_gives_the_code(tmp_path: Path) -> None:
    """The others notice it within moments and end with 76, which the launcher may see in the same look."""
    (tmp_path / "notices.py").write_text(NOTICES)
    launcher = start(
        *(tmp_path / "notices.py", "--num_processes", "2", "--multi_gpu", "--main_process_port", "0"),
        arguments=(str(tmp_path / "pid"),),
    )
    _, said = launcher.communicate(timeout=120)
    assert launcher.returncode == 137
    assert said.strip().splitlines()[-1] == "rank 1 ended first on this node, with code 137"


@pytest.mark.parametrize(
    ("ends", "first"),
    [
        ({0: (76, 1), 1: (-9, 1)}, (1, 137)),
        ({0: (76, 1), 1: (-9, 2)}, (1, 137)),
        ({0: (1, 2), 1: (-9, 1)}, (1, 137)),
        ({0: (76, 1), 1: (1, 1)}, (1, 1)),
        ({0: (76, 2), 1: (76, 1)}, (1, 76)),
        ({0: (75, 1)}, (0, 75)),
    ],
)
def test_that_another_is_gone_is_nobodys_own_reason(ends: dict[int, tuple[int, int]], first: tuple[int, int]) -> None:
    failures: Any = {rank: SimpleNamespace(exitcode=code, timestamp=time) for rank, (code, time) in ends.items()}
    assert first_cause(failures) == first


def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "waits.py").write_text(WAITS)
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        port = str(other.getsockname()[1])
        nodes = ("--num_machines", "2", "--machine_rank", "0", "--main_process_ip", "127.0.0.1")
        launcher = start(
            tmp_path / "waits.py", "--multi_gpu", "--num_processes", "2", *nodes, "--main_process_port", port
        )
        _, said = launcher.communicate(timeout=120)
    assert launcher.returncode == 1
    [line] = [line for line in said.splitlines() if line.startswith("error: ")]
    assert f"port `{port}`" in line and "Traceback" not in said


def test_codes_are_as_a_shell_has_them() -> None:
    assert [exit_code(code) for code in (0, 1, 75, -9, -15)] == [0, 1, 75, 137, 143]
