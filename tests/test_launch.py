"""The launcher, with trainers of a few lines: signals reach them, their codes come back, its own errors are one line."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from janus_train.launch import exit_code
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
    _, stderr = launcher.communicate(timeout=60)
    assert launcher.returncode == 75, stderr
    assert "Traceback" not in stderr


def test_a_killed_trainer_ends_the_others(tmp_path: Path) -> None:
    (tmp_path / "fails.py").write_text(FAILS)
    launcher = start(tmp_path / "fails.py", "--num_processes", "2", "--multi_gpu", "--main_process_port", "0")
    _, stderr = launcher.communicate(timeout=120)
    assert launcher.returncode == 137
    assert stderr.strip().splitlines()[-1] == "rank 1 ended first on this node, with code 137"


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
        _, stderr = launcher.communicate(timeout=120)
    assert launcher.returncode == 1
    [line] = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert f"port `{port}`" in line and "Traceback" not in stderr


def test_codes_are_as_a_shell_has_them() -> None:
    assert [exit_code(code) for code in (0, 1, 75, -9, -15)] == [0, 1, 75, 137, 143]
