"""Two hosts, as network namespaces with a cable between them, which is cut in the middle of a run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from janus_train.paths import ROOT
from janus_train.train.run import run
from tests.helpers import config_of
from tests.processes import SMALL, digests, metrics, wait_for

CPU_CONFIG = (
    "{distributed_type: MULTI_GPU, compute_environment: LOCAL_MACHINE, mixed_precision: 'no', num_processes: 2}\n"
)
DEADLINE_S = 6


def ip(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=check)


class Hosts:
    """Host 0 is 10.77.0.1, host 1 is 10.77.0.2."""

    def __init__(self) -> None:
        self.names = [f"janus{os.getpid()}-{number}" for number in (0, 1)]

    def begin(self) -> None:
        for name in self.names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("link", "add", "cable", "netns", self.names[0], "type", "veth", "peer", "name", "cable", "netns", self.names[1])  # fmt: skip
        for number, name in enumerate(self.names):
            ip("-n", name, "address", "add", f"10.77.0.{number + 1}/24", "dev", "cable")
        self.connect(True)

    def connect(self, plugged: bool) -> None:
        for name in self.names:
            ip("-n", name, "link", "set", "cable", "up" if plugged else "down")

    def end(self) -> None:
        for name in self.names:
            ip("netns", "delete", name, check=False)

    def start(self, number: int, *words: str, log: Path, **environment: str) -> subprocess.Popen[bytes]:
        command = ["ip", "netns", "exec", self.names[number], *words]
        with log.open("ab") as output:
            return subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, stdout=output, stderr=output)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    if shutil.which("ip") is None or os.geteuid():
        pytest.skip("namespaces: need iproute2 and root")
    made = Hosts()
    try:
        made.begin()
    except subprocess.CalledProcessError as error:
        made.end()
        pytest.skip(f"namespaces: not permitted here ({error.stderr.strip()})")
    yield made
    made.end()


@pytest.mark.namespaces
def test_a_cut_cable_ends_both_sides_and_the_run_goes_on(hosts: Hosts, random_base: Path, tmp_path: Path) -> None:
    (tmp_path / "cpu.yaml").write_text(CPU_CONFIG)
    folder = tmp_path / "run"
    words = ("+stage=2", "run.steps=40", "run.checkpoint_every=2", *SMALL, f"init_from={random_base}")
    launcher = (
        *(sys.executable, "-m", "janus_train.launch", "--config_file", str(tmp_path / "cpu.yaml")),
        *("--num_machines", "2", "--num_processes", "2", "--main_process_ip", "10.77.0.1"),
        *("--main_process_port", "29400"),
    )
    sides = [
        hosts.start(
            number,
            *launcher,
            *("--machine_rank", str(number), "train.py", *words),
            *(f"output_dir={folder}", f"run.timeout_s={DEADLINE_S}"),
            log=tmp_path / f"host-{number}.log",
            ACCELERATE_USE_CPU="true",
            GLOO_SOCKET_IFNAME="cable",
        )
        for number in (0, 1)
    ]

    def said(number: int) -> str:
        return (tmp_path / f"host-{number}.log").read_text()

    def reached_or_ended() -> bool:
        return len(metrics(folder)) >= 4 or any(side.poll() is not None for side in sides)

    try:
        wait_for(reached_or_ended, 180, "step 4")
        hosts.connect(False)
        cut = time.monotonic()
        codes = [side.wait(timeout=60) for side in sides]
        assert codes == [76, 76], said(0) + said(1)
        assert time.monotonic() - cut < DEADLINE_S + 30
    finally:
        for side in sides:
            side.kill()
    for number in (0, 1):
        assert f"rank {number} on " in said(number) and "it hangs here" in said(number)
    done = metrics(folder)[-1]["step"]
    assert 4 <= done < 40 and not (folder / "final").exists()

    # plugged in again, but one host is enough: the batches are the same for any number
    last = f"run.steps={done + 3}"
    resumed = run(config_of(*words, last, f"run.planned_steps={done + 3}", f"output_dir={folder}"))
    whole = run(config_of(*words, last, f"run.planned_steps={done + 3}", f"output_dir={tmp_path / 'whole'}"))
    assert digests(resumed) == digests(whole) and digests(whole)[-1][0] == done + 3
