"""Processes that do not find each other: an error in bounded time that names what is missing."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from janus_train.train.distributed import context, process_group
from janus_train.train.distributed.context import Distributed
from janus_train.train.distributed.process_group import is_lost_peer, missing_ranks
from tests.helpers import config_of
from tests.processes import SMALL, free_port, job

WAIT_S = 4
AT_ONCE = "run.join_timeout_s=1"
"""Where nobody comes."""


@pytest.fixture
def words(random_base: Path, tmp_path: Path) -> tuple[str, ...]:
    plan = ("+stage=2", "run.steps=1", f"run.join_timeout_s={WAIT_S}", *SMALL)
    return (*plan, f"init_from={random_base}", f"output_dir={tmp_path / 'run'}")


def ends_with(line: str, words: tuple[str, ...], tmp_path: Path, *arguments: object, **options: object) -> None:
    """Every process ends with code 1 and a last line that says ``line``; nothing is left in the run's folder."""
    with job(tmp_path / "log", words, *arguments, **options) as started:
        began = time.monotonic()
        codes = started.codes(timeout_s=90)
    assert codes == [1] * len(codes), started.said()
    assert time.monotonic() - began < 60
    for rank in range(len(codes)):
        said = started.said(rank)
        assert said.strip().splitlines()[-1].startswith("error: ") and line in said, said
        assert "Traceback" not in said
    assert not (tmp_path / "run").exists()


def test_missing_ranks_are_named_by_those_that_came(words: tuple[str, ...], tmp_path: Path) -> None:
    ends_with("ranks have not come to 127.0.0.1", words, tmp_path, 4, ranks=(0, 2))
    assert ": 1, 3 (2 of 4)" in (tmp_path / "log-0.log").read_text()


def test_a_master_that_is_not_there(words: tuple[str, ...], tmp_path: Path) -> None:
    ends_with("rank 0 cannot be reached at 127.0.0.1:", (*words, AT_ONCE), tmp_path, 2, ranks=(1,))


def test_a_master_that_no_name_server_knows(words: tuple[str, ...], tmp_path: Path) -> None:
    ends_with("check MASTER_ADDR", (*words, AT_ONCE), tmp_path, 2, ranks=(1,), MASTER_ADDR="no-such-host.invalid")


def test_a_port_that_is_taken(words: tuple[str, ...], tmp_path: Path) -> None:
    port = free_port()
    with socket.socket() as other:
        other.bind(("0.0.0.0", port))
        other.listen()
        ends_with(f"port {port} is taken", words, tmp_path, 2, ranks=(0,), MASTER_PORT=str(port))


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_missing_names_exactly_those(case: tuple[int, set[int]]) -> None:
    world_size, present = case
    names, _, count = missing_ranks(world_size, sorted(present)).rpartition(" (")
    named = set[int]()
    for part in names.split(", ") if names else []:
        first, _, last = part.partition("-")
        named |= set(range(int(first), int(last or first) + 1))
    assert named == set(range(world_size)) - present
    assert count == f"{len(named)} of {world_size})"


def test_other_errors_are_not_taken_for_a_lost_peer() -> None:
    assert is_lost_peer(RuntimeError("[.../gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.1]:33000"))
    assert not is_lost_peer(RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"))
    assert not is_lost_peer(ValueError("Connection closed by peer"))


@pytest.mark.parametrize("on_gpu", [False, True])
def test_what_is_in_host_memory_goes_by_gloo_and_a_gpus_by_nccl(on_gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The group of rank 11 of 16 on nodes of 8 GPUs, and of its CPU twin, as it would be opened."""
    groups: list[dict[str, Any]] = []
    monkeypatch.setattr(process_group, "_open_store", lambda *_: dist.HashStore())
    monkeypatch.setattr(process_group, "_wait_for_all", lambda *_: None)
    monkeypatch.setattr(
        dist, "init_process_group", lambda backend, **options: groups.append({"is": backend, **options})
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: on_gpu)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    for name, value in (("WORLD_SIZE", 16), ("RANK", 11), ("LOCAL_RANK", 3), ("MASTER_ADDR", "a"), ("MASTER_PORT", 1)):
        monkeypatch.setenv(name, str(value))
    process_group.join(config_of("+stage=1").run)
    [group] = groups
    assert (group["rank"], group["world_size"]) == (11, 16)
    expected = ("cpu:gloo,cuda:nccl", torch.device("cuda", 3)) if on_gpu else ("gloo", None)
    assert (group["is"], group["device_id"]) == expected
    backends = dist.distributed_c10d.BackendConfig(dist.Backend(group["is"])).get_device_backend_map()
    assert backends["cpu"] == "gloo" and backends["cuda"] == ("nccl" if on_gpu else "gloo")


@pytest.mark.parametrize(
    ("option", "variable", "threads", "are_users"), [(None, "3", 3, True), (2, "3", 2, False), (None, None, 5, False)]
)
def test_threads_are_the_options_then_the_users_then_a_share(
    monkeypatch: pytest.MonkeyPatch, option: int | None, variable: str | None, threads: int, are_users: bool
) -> None:
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    monkeypatch.setattr(context, "available_cores", lambda: 5)
    try:
        group = Distributed(config_of("+stage=1", *([f"run.cpu_threads={option}"] if option else [])))
        assert (torch.get_num_threads(), group.threads_are_users) == (threads, are_users)
    finally:
        torch.set_num_threads(before)
