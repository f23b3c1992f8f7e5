"""Starts the process group: all processes of a job find each other, or each reports in bounded time who is missing.

In: the environment that torchrun, `accelerate launch` and Kubernetes set (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT).
Out: torch's process group, which Accelerate and DeepSpeed then use, with a collective timeout longer than the
watchdog's; and the store through which a rank that fails tells the others why (`propagate_errors`).
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from janus_train.config import RunConfig
from janus_train.errors import UserError, first_line
from janus_train.train.distributed.signals import PeerLost, Preempted

FAILURE_KEY = "failed"
POLL_EVERY_S = 5.0
GRACE_S = 60
"""Seconds by which collectives wait longer than the watchdog, which reports better where a process hangs."""


def join(options: RunConfig) -> dist.Store | None:
    """Start the process group if the environment says that there are several processes. Raises `UserError`."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1 or dist.is_initialized():
        return None
    rank, address, port = int(os.environ["RANK"]), os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = _open_store(rank, address, port, options.join_timeout_s)
    _wait_for_all(store, rank, world_size, options.join_timeout_s, f"{address}:{port}")
    collective_timeout_s = max(options.timeout_s, options.first_step_timeout_s) + GRACE_S
    try:
        dist.init_process_group(
            _backend(),
            store=dist.PrefixStore("group", store),
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=collective_timeout_s),
            device_id=_device(),
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"rank {rank} on {socket.gethostname()}: the processes met at {address}:{port} but cannot reach each other: "
            f"name the network with GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME ({first_line(error)})"
        ) from None
    return store


def is_lost_peer(error: BaseException) -> bool:
    """Whether ``error`` means that another rank is gone: by its type, or by the text of gloo's RuntimeError."""
    if isinstance(error, (dist.DistBackendError, dist.DistNetworkError, dist.DistStoreError)):
        return True
    words = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out waiting", "gloo")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


@contextmanager
def propagate_errors(store: dist.Store | None) -> Iterator[None]:
    """Inside the block, an error of this rank is written into ``store``, where the other ranks read it.

    When they notice that this rank is gone, they raise its `UserError`, or `PeerLost` with what is known of its error.
    """
    try:
        yield
    except Exception as error:
        if not dist.is_initialized():
            raise
        rank_name = f"rank {dist.get_rank()} on {socket.gethostname()}"
        if not is_lost_peer(error):
            _publish_error(store, rank_name, error)
            raise
        cause = _peer_error(store)
        if cause.get("mistake"):
            raise UserError(f"{cause['where']}: {cause['what']}") from error
        reason = (
            f"{cause['where']} failed: {cause['what']}" if cause else f"another process is gone ({first_line(error)})"
        )
        raise PeerLost(
            f"{rank_name}: {reason}; run the same command again to resume from the latest checkpoint"
        ) from error


def _publish_error(store: dist.Store | None, rank_name: str, error: Exception) -> None:
    """Write this rank's error into the store, unless another rank was first."""
    if store is None or isinstance(error, Preempted):
        return
    is_user_error = isinstance(error, UserError)
    message = str(error) if is_user_error else f"{type(error).__name__}: {first_line(error)}"
    with suppress(RuntimeError):  # the store may be gone with its host
        store.compare_set(FAILURE_KEY, "", json.dumps({"where": rank_name, "mistake": is_user_error, "what": message}))


def _peer_error(store: dist.Store | None) -> dict[str, Any]:
    """The error of the first rank that failed; empty if there is none."""
    if store is None:
        return {}
    try:
        return json.loads(store.get(FAILURE_KEY)) if store.check([FAILURE_KEY]) else {}
    except RuntimeError:
        return {}


def missing_ranks(world_size: int, present_ranks: Sequence[int]) -> str:
    """The ranks that are not present, as ``3, 8-15 (9 of 32)``."""
    absent_ranks = sorted(set(range(world_size)) - set(present_ranks))
    ranges: list[list[int]] = []
    for rank in absent_ranks:
        if ranges and rank == ranges[-1][1] + 1:
            ranges[-1][1] = rank
        else:
            ranges.append([rank, rank])
    names = ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in ranges)
    return f"{names} ({len(absent_ranks)} of {world_size})"


def _open_store(rank: int, address: str, port: int, timeout_s: float) -> dist.Store:
    """The store at the master's address: the launcher's if it has one, else rank 0's."""
    is_server = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    try:
        store = dist.TCPStore(
            address,
            port,
            is_master=is_server,
            timeout=timedelta(seconds=timeout_s),
            wait_for_workers=False,
            multi_tenant=True,
        )
    except (dist.DistError, RuntimeError, ValueError) as error:
        rank_name = f"rank {rank} on {socket.gethostname()}"
        if "EADDRINUSE" in str(error):
            message = f"port {port} is taken: choose another MASTER_PORT (accelerate launch --main_process_port)"
        elif is_server:
            message = f"cannot open {address}:{port}: MASTER_ADDR must name the host of rank 0 ({first_line(error)})"
        else:
            message = (
                f"rank 0 cannot be reached at {address}:{port} within {timeout_s:.0f} s: check MASTER_ADDR, MASTER_PORT "
                f"and the firewall, and that rank 0 runs ({first_line(error)})"
            )
        raise UserError(f"{rank_name}: {message}") from None
    return dist.PrefixStore(f"janus_train/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _wait_for_all(store: dist.Store, rank: int, world_size: int, timeout_s: float, location: str) -> None:
    """Wait until all ranks have joined.

    Raises `UserError` with the missing ranks, as last seen if rank 0 has given up.
    """
    keys = [f"here/{other}" for other in range(world_size)]
    present_ranks = [rank]
    deadline = time.monotonic() + timeout_s
    rank_name, reason = f"rank {rank} on {socket.gethostname()}", f"after {timeout_s:.0f} s (run.join_timeout_s)"
    try:
        store.set(keys[rank], socket.gethostname())
        while time.monotonic() < deadline:
            if _wait(store, keys, min(POLL_EVERY_S, timeout_s / 4)):
                return
            present_ranks = [other for other in range(world_size) if store.check([keys[other]])]
    except (dist.DistError, RuntimeError):
        reason = "rank 0 has given up, and"
    raise UserError(
        f"{rank_name}: {reason} these ranks have not come to {location}: {missing_ranks(world_size, present_ranks)}"
    )


def _wait(store: dist.Store, keys: list[str], seconds: float) -> bool:
    """Whether all ``keys`` are set within ``seconds``."""
    try:
        store.wait(keys, timedelta(seconds=seconds))
    except dist.DistStoreError:  # the time is up
        return False
    return True


def _backend() -> str:
    """gloo for what is in host memory, and on GPUs NCCL for what is in theirs."""
    return "cpu:gloo,cuda:nccl" if _on_gpu() else "gloo"


def _device() -> torch.device | None:
    """This process's GPU, as Accelerate chooses it: NCCL then connects at once, and a fault shows at the start."""
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count()) if _on_gpu() else None


def _on_gpu() -> bool:
    return torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU", "").lower() not in ("1", "true", "yes")
