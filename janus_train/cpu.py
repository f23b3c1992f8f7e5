"""The CPU cores that this process may use, and the number of threads that its user asks for."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

_THREADS_OPTION = b"--num_cpu_threads_per_process"
"""Accelerate's option that sets ``OMP_NUM_THREADS`` for its processes."""


def available_cores() -> int:
    """Returns the cores in this process's affinity mask where the system has one (Linux), else all of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def requested_threads(is_launched: bool = False) -> int | None:
    """Returns the user's ``OMP_NUM_THREADS``; None if it is not set, or if the value is that of the process's launcher.

    ``accelerate launch`` and torchrun set the variable where the user has not, to 1 or to a share of the machine's cores
    that may be more than this process may use. Linux shows with which variables and options the launcher was started;
    where that cannot be seen, a value of 1 counts as the launcher's.
    """
    threads = _threads_in(os.environ)
    if threads is None or not is_launched:
        return threads
    launcher = Path(f"/proc/{os.getppid()}")
    try:
        variables = dict(entry.partition(b"=")[::2] for entry in (launcher / "environ").read_bytes().split(b"\0"))
        is_option = _THREADS_OPTION in re.split(rb"[\0=]", (launcher / "cmdline").read_bytes())
    except OSError:
        return threads if threads > 1 else None
    return threads if is_option or variables.get(b"OMP_NUM_THREADS") else None


def _threads_in(variables: Mapping[str, str]) -> int | None:
    """The first number of a list such as ``4,2``, whose others are for nested loops; None if it is not above 0."""
    with suppress(ValueError):
        threads = int(variables.get("OMP_NUM_THREADS", "").split(",")[0])
        return threads if threads > 0 else None
    return None
