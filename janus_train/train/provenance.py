"""Where a run's results come from: the commit, the versions of what matters, and the machine; for its manifest."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
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


def pillow_warning(recorded: Mapping[str, Any]) -> str | None:
    """What to say when a run continues with another major version of Pillow than its manifest's versions; None: nothing.

    Pillow 13 resizes narrow images (1:3 and narrower) otherwise than Pillow 12, by up to 5 of 255 levels.
    """
    before, now = recorded.get("pillow"), version("pillow")
    if not isinstance(before, str) or before.partition(".")[0] == now.partition(".")[0]:
        return None
    return (
        f"the run began with Pillow {before} and goes on with Pillow {now}, which can resize images a little otherwise: "
        f"pip install pillow=={before} for the same pixels"
    )


def hardware() -> dict[str, Any]:
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "cpus": len(os.sched_getaffinity(0)),
        "gpus": gpus,
    }
