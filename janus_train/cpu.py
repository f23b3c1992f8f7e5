"""Counts the CPU cores that this process may use."""

from __future__ import annotations

import os


def available_cores() -> int:
    """Returns the cores in this process's affinity mask where the system has one (Linux), else all of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
