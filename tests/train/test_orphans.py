"""Killed trainers and killed launchers, with loader workers: nothing of the job lives on, and its port is free."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from janus_train.paths import ROOT
from tests.processes import SMALL, free_port, job, metrics, wait_for

WITHIN_S = 5
STEPS = 300
"""More than the tests wait for."""
PLAN = (
    "+stage=2",
    f"run.steps={STEPS}",
    "run.checkpoint_every=2",
    *SMALL,
    "batch.rows_per_step=4",
    "data.num_workers=2",
)


@pytest.fixture
def words(random_base: Path, tmp_path: Path) -> tuple[str, ...]:
    return (*PLAN, f"init_from={random_base}", f"output_dir={tmp_path / 'run'}")


def running(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def wait_for_the_end_of(processes: list[psutil.Process]) -> None:
    wait_for(lambda: not running(processes), WITHIN_S, f"the end of {processes}")


def tcp_sockets(process: psutil.Process) -> set[str]:
    """Inodes of the TCP sockets that a process holds open."""
    tables = [Path(f"/proc/{process.pid}/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    inodes = {line.split()[9] for table in tables for line in table}
    links = [str(descriptor.readlink()) for descriptor in Path(f"/proc/{process.pid}/fd").iterdir()]
    return inodes & {found[1] for link in links if (found := re.fullmatch(r"socket:\[(\d+)\]", link))}


def take(port: int) -> None:
    """Listen there for a moment, as the next start would."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        probe.listen()


def listen(rank: int) -> None:
    """The trainer keeps a port."""
    server = socket.create_server(("127.0.0.1", int(os.environ["KEPT_PORT"])))
    sys.modules["kept"] = server  # type: ignore[assignment]


def listen_and_hang(rank: int) -> None:
    """The same, and its third step never ends."""
    from janus_train.model.janus import PackedJanus

    listen(rank)
    forward, calls = PackedJanus.forward, [0]

    def hanging(self, batch):  # type: ignore[no-untyped-def]
        calls[0] += 1
        if calls[0] > 10:
            time.sleep(1000)
        return forward(self, batch)

    PackedJanus.forward = hanging  # type: ignore[method-assign]


@pytest.mark.parametrize("way", ["kill", "watchdog"])
def test_workers_end_with_their_trainer_and_free_its_port(words: tuple[str, ...], tmp_path: Path, way: str) -> None:
    port, killed = free_port(), way == "kill"
    sabotage, code = (listen, -9) if killed else (listen_and_hang, 76)
    with job(tmp_path / "log", (*words, "run.timeout_s=4"), sabotage=sabotage, KEPT_PORT=str(port)) as cut:
        cut.wait_for_step(tmp_path / "run", 1)
        trainer = psutil.Process(cut.pid(0))
        workers = trainer.children(recursive=True)
        assert len(workers) == 2 and tcp_sockets(trainer)
        if killed:
            trainer.kill()
        assert cut.codes(60) == [code], cut.said()
        take(port)
        wait_for_the_end_of(workers)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_is_noticed_at_once_and_its_port_is_free(
    words: tuple[str, ...], tmp_path: Path, victim: int
) -> None:
    """Rank 0 keeps the port where all meet; the deadlines are the usual quarter of an hour."""
    port = str(free_port())
    with job(tmp_path / "log", words, 2, MASTER_PORT=port) as cut:
        cut.wait_for_step(tmp_path / "run", 3)
        trainers = [psutil.Process(cut.pid(rank)) for rank in (0, 1)]
        workers = [worker for trainer in trainers for worker in trainer.children(recursive=True)]
        assert len(workers) == 4
        assert all(tcp_sockets(trainer) for trainer in trainers) and not any(map(tcp_sockets, workers))
        trainers[victim].kill()
        assert cut.code(1 - victim, timeout_s=WITHIN_S) == 76, cut.said()
        assert cut.code(victim) == -9
        wait_for_the_end_of(workers)
    step = metrics(tmp_path / "run")[-1]["step"]
    with job(tmp_path / "again", (*words, f"run.steps={step + 2}", "resume=force"), 2, MASTER_PORT=port) as again:
        assert again.codes() == [0, 0], again.said()
        assert "starts from its checkpoint" in again.said(0)


@contextmanager
def launched(module: str, words: tuple[str, ...], log: Path, *options: str) -> Iterator[psutil.Popen]:
    """A launcher with its trainers; no process of it outlives the block."""
    common = ("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")
    command = [sys.executable, "-m", module, *common, *options, "train.py", *words]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    with log.open("a") as file:
        started = psutil.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)
    family: list[psutil.Process] = []
    try:
        wait_for(lambda: started.poll() is not None or _begun(log, words), 120, "a step")
        assert started.poll() is None, log.read_text()
        family = [started, *started.children(recursive=True)]
        yield started
    finally:
        for process in family:
            if process.is_running():
                process.kill()
        started.wait()


def _begun(log: Path, words: tuple[str, ...]) -> bool:
    """The line is said once all ranks have drawn, so that their workers are there, and metrics.jsonl is cut back."""
    return "stage 2 starts from" in log.read_text() and bool(metrics(_folder(words)))


def _folder(words: tuple[str, ...]) -> Path:
    return Path(next(word for word in words if word.startswith("output_dir=")).removeprefix("output_dir="))


LAUNCHERS = {"accelerate": "accelerate.commands.launch", "ours": "janus_train.launch"}


@pytest.mark.parametrize(
    ("launcher", "processes"),
    [
        ("ours", 2),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("ours", 1), ("accelerate", 1), ("accelerate", 2))),
    ],
)
def test_nothing_is_left_of_a_launched_job_whose_trainer_is_killed(
    words: tuple[str, ...], tmp_path: Path, launcher: str, processes: int
) -> None:
    """And it starts again, with the same port."""
    port = str(free_port())
    several = ("--multi_gpu", "--main_process_port", port) if processes > 1 else ()
    options = ("--num_processes", str(processes), *several)
    with launched(LAUNCHERS[launcher], words, tmp_path / "log", *options) as started:
        trainers = started.children()
        family = started.children(recursive=True)
        assert len(trainers) == processes and len(family) == processes * (1 + 2)
        wait_for(lambda: metrics(tmp_path / "run")[-1]["step"] >= 4, 60, "a checkpoint")
        trainers[-1].kill()
        assert started.wait(timeout=60) != 0
        wait_for_the_end_of(family)
    before = metrics(tmp_path / "run")[-1]["step"]
    with launched(LAUNCHERS[launcher], words, tmp_path / "again", *options):
        wait_for(lambda: metrics(tmp_path / "run")[-1]["step"] > before, 60, "a step more")
        assert "starts from its checkpoint" in (tmp_path / "again").read_text()


@pytest.mark.parametrize(
    ("launcher", "processes"),
    [
        ("accelerate", 1),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("accelerate", 2), ("ours", 1), ("ours", 2))),
    ],
)
def test_trainers_stop_with_a_checkpoint_when_their_launcher_is_killed(
    words: tuple[str, ...], tmp_path: Path, launcher: str, processes: int
) -> None:
    several = ("--multi_gpu", "--main_process_port", "0") if processes > 1 else ()
    options = ("--num_processes", str(processes), *several)
    with launched(LAUNCHERS[launcher], words, tmp_path / "log", *options) as started:
        family = started.children(recursive=True)
        assert len(family) == processes * (1 + 2)
        started.kill()
        wait_for(lambda: not running(family), 2 * WITHIN_S, f"the end of {family}")
    said, step = (tmp_path / "log").read_text(), metrics(tmp_path / "run")[-1]["step"]
    [line] = [line for line in said.splitlines() if "is gone" in line]
    assert line == f"rank 0 on {os.uname().nodename}: its launcher (pid {started.pid}) is gone, which is taken as SIGTERM"  # fmt: skip
    assert f"step {step} is saved" in said and step < STEPS
    assert (tmp_path / f"run/checkpoints/step-{step:06d}/manifest.json").is_file()


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_killed_worker_is_one_line_on_all_ranks(words: tuple[str, ...], tmp_path: Path, world_size: int) -> None:
    """As when the memory runs out: the kernel kills one of the processes that hold it."""
    with job(tmp_path / "log", words, world_size) as hit:
        hit.wait_for_step(tmp_path / "run", 1)
        workers = psutil.Process(hit.pid(world_size - 1)).children()
        assert len(workers) == 2
        workers[0].kill()
        assert hit.codes(timeout_s=60) == [1] * world_size, hit.said()
    line = (
        f"a data worker (pid {workers[0].pid}) on {os.uname().nodename} is gone: most likely it was killed because the"
    )
    for rank in range(world_size):
        assert line in hit.said(rank).strip().splitlines()[-1]
    assert "Traceback" not in hit.said()
