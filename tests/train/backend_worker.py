"""What every process of a group does: the runs that a test has listed, one after the other.

A group that is started once and runs many configurations is much cheaper than one start per case.
"""

from __future__ import annotations

import errno
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from accelerate.state import AcceleratorState

from janus_train.errors import UserError
from janus_train.train import run as loop
from janus_train.train.checkpoint import saver
from janus_train.train.distributed.context import Distributed
from tests.helpers import config_of
from tests.processes import serving
from tests.train.backend_measures import memory

BACKENDS: dict[str, dict[str, str]] = {
    "one": {},
    "ddp": {},
    **{f"zero{n}": {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(n)} for n in (1, 2, 3)},
    "fsdp2": {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"},
    "hsdp": {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_SHARDING_STRATEGY": "HYBRID_SHARD"},
}
"""The variables that ``accelerate launch`` sets for each file in launch/accelerate/."""
OFFLOAD = {
    "zero2_offload": ("zero2", {"ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu"}),
    "zero3_offload": (
        "zero3",
        {
            "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu",
            "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "cpu",
        },
    ),
}
BACKENDS |= {name: BACKENDS[base] | more for name, (base, more) in OFFLOAD.items()}


def choose(backend: str) -> None:
    """Have the next `Distributed` be of ``backend``."""
    AcceleratorState._reset_state(reset_partial_state=True)
    for variable in {name for variables in BACKENDS.values() for name in variables}:
        os.environ.pop(variable, None)
    os.environ.update(BACKENDS[backend])
    # All are on one machine, but for HSDP each pair is a node.
    os.environ["LOCAL_WORLD_SIZE"] = "2" if backend == "hsdp" else os.environ["WORLD_SIZE"]


def run_case(case: dict[str, Any]) -> Any:
    choose(case["backend"])
    config = config_of(*case["overrides"])
    if case["kind"] == "run":
        with failing_at(case.get("fails")):
            loop.run(config)
        return None
    assert case["kind"] == "memory"
    with mock.patch("janus_train.train.backends.zero.BUCKET_ELEMENTS", 1 << 15):  # not as large as the tiny model
        return memory(config, Distributed(config))


class failing_at:
    """Inside, the given rank's disk is full at the given steps' saves."""

    def __init__(self, fails: dict[str, Any] | None):
        self.fails = fails

    def __enter__(self) -> None:
        self.kept = write = saver.write_files

        def write_or_fail(staging: Path, rank: int, *rest: Any) -> Any:
            if (
                self.fails
                and rank == self.fails["rank"]
                and any(f"{s:06d}" in staging.name for s in self.fails["steps"])
            ):
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(staging, rank, *rest)

        saver.write_files = write_or_fail  # type: ignore[assignment]

    def __exit__(self, *_: object) -> None:
        saver.write_files = self.kept


Work = Callable[[Connection, list[dict[str, Any]]], None]


def run_cases(connection: Connection, cases: list[dict[str, Any]]) -> None:
    """Sends the results when all are done: by the case's name its value or its error."""
    torch.set_num_threads(1)
    results = {}
    for case in cases:
        try:
            results[case["name"]] = {"value": run_case(case)}
        except UserError as error:
            results[case["name"]] = {"error": str(error)}
        except Exception:
            results[case["name"]] = {"error": traceback.format_exc()}
        print(case["name"], results[case["name"]], flush=True)
    torch.distributed.destroy_process_group()
    connection.send(results)


def run_in_processes(
    cases: list[dict[str, Any]], world_size: int, log: Path, work: Work = run_cases
) -> tuple[dict[str, Any], str]:
    """Rank 0's results of the cases (`run_cases`), done by so many processes, and what they have printed."""
    logs = [log.with_name(f"{log.name}-{rank}.log") for rank in range(world_size)]
    with serving(work, cases, world_size=world_size, log=log, OMP_NUM_THREADS="1") as ranks:
        ready = wait(ranks, timeout=1500)  # the first to end, well or not
        try:
            results = [rank.recv() for rank in ranks if ready and rank.poll(60)]
        except EOFError:
            results = []
    assert len(results) == world_size, "\n".join(path.read_text(errors="replace")[-4000:] for path in logs)
    return results[0], "".join(path.read_text(errors="replace") for path in logs)
