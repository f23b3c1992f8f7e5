"""Where a run's results come from: the commit, the versions of what matters, and the machine; for its manifest."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from typing import Any

import torch

from janus_train import __version__
from janus_train.paths import IS_CHECKOUT, ROOT

GIT_S = 10
"""Time limit for git to name the commit, in seconds."""


def commit() -> str | None:
    """The checkout's commit, or None.

    It is None without git, and for an installed package, even inside another project's repository.
    """
    if not IS_CHECKOUT:
        return None
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    try:
        return (
            subprocess.run(command, capture_output=True, text=True, check=False, timeout=GIT_S).stdout.strip() or None
        )
    except (OSError, subprocess.TimeoutExpired):  # git is not installed, or hangs
        return None


def versions(*packages: str) -> dict[str, str]:
    """The versions of this package, of ``packages`` and of Python."""
    others = {package: version(package) for package in packages}
    return {"janus_train": __version__, **others, "python": platform.python_version()}


def hardware() -> dict[str, Any]:
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "cpus": len(os.sched_getaffinity(0)),
        "gpus": gpus,
    }
