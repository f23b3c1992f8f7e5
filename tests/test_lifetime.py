"""What a forked child undoes, in children of a few lines."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from janus_train import lifetime
from tests.processes import wait_for

FORK = multiprocessing.get_context("fork")


def gone(pid: int) -> bool:
    """Also if it waits to be reaped by who adopted it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def _parent(end: Connection, child: Callable[[int], None]) -> None:
    process = FORK.Process(target=child, args=(os.getpid(),))
    process.start()
    end.send(process.pid)
    time.sleep(60)


def _ends_by_signal(parent: int) -> None:
    lifetime.end_with(parent, by_signal=True)
    time.sleep(60)


def _looks(parent: int) -> None:
    lifetime.end_with(parent, by_signal=False)
    while True:
        time.sleep(0.1)
        lifetime.end_if_orphan(parent)


def _asks_too_late(parent: int) -> None:
    wait_for(lambda: os.getppid() != parent, 30, "the parent's end")
    lifetime.end_with(parent, by_signal=True)
    time.sleep(60)


@pytest.mark.parametrize("child", [_ends_by_signal, _looks, _asks_too_late])
def test_a_child_ends_with_its_killed_parent(child: Callable[[int], None]) -> None:
    here, there = FORK.Pipe()
    parent = FORK.Process(target=_parent, args=(there, child))
    parent.start()
    pid = here.recv()
    time.sleep(0.2)  # it asks meanwhile
    assert not gone(pid)
    parent.kill()
    parent.join()
    try:
        wait_for(lambda: gone(pid), 5, "the child's end")
    finally:
        if not gone(pid):
            os.kill(pid, signal.SIGKILL)


def test_a_child_lets_go_of_internet_sockets_alone_and_keeps_their_numbers() -> None:
    unix, other = socket.socketpair()
    reading, writing = os.pipe()
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as datagrams,
    ):
        numbers = {"server": server.fileno(), "datagrams": datagrams.fileno(), "unix": unix.fileno(), "pipe": writing}
        here, there = FORK.Pipe()

        def child() -> None:
            lifetime.let_go_of_sockets()
            there.send({name: str(Path(f"/proc/self/fd/{number}").readlink()) for name, number in numbers.items()})

        process = FORK.Process(target=child)
        process.start()
        held = here.recv()
        process.join()
        with socket.create_connection(server.getsockname(), timeout=5):  # the parent's is as it was
            pass
    assert held["server"] == held["datagrams"] == os.devnull
    assert held["unix"].startswith("socket:") and held["pipe"].startswith("pipe:")
    for end in (unix, other):
        end.close()
    for pipe_end in (reading, writing):
        os.close(pipe_end)


@pytest.mark.parametrize(("variable", "watched"), [("TORCHELASTIC_RUN_ID", True), ("RANK", False)])
def test_only_a_launchers_end_counts_as_sigterm(variable: str, watched: bool) -> None:
    """A parent that is no launcher may go: nohup, a shell that is left."""
    here, there = FORK.Pipe()

    def trainer(parent: int) -> None:
        os.environ.pop("ACCELERATE_MIXED_PRECISION", None)
        os.environ.pop("TORCHELASTIC_RUN_ID", None)
        os.environ[variable] = "1"
        lifetime.LOOK_EVERY_S = 0.05
        signal.signal(signal.SIGTERM, lambda *_: (there.send("SIGTERM"), os._exit(0)))
        lifetime.stop_without_launcher()
        there.send("up")
        wait_for(lambda: os.getppid() != parent, 30, "the launcher's end")
        time.sleep(1)
        there.send("goes on")
        os._exit(0)

    launcher = FORK.Process(target=_parent, args=(FORK.Pipe()[1], trainer))
    launcher.start()
    assert here.recv() == "up"
    launcher.kill()
    launcher.join()
    assert here.recv() == ("SIGTERM" if watched else "goes on")
