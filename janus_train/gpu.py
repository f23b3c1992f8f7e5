"""NVIDIA GPUs: whether this machine has one that torch cannot use, and what the current one computes in."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import warnings
from pathlib import Path

import torch

from janus_train.errors import one_line

DEV = Path("/dev")
_SMI_S = 30.0


def cpu_is_asked_for() -> bool:
    """Whether the environment asks for the CPU: `use_cpu: true` of a launch file, or no visible device."""
    use_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    return use_cpu or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1", "NoDevFiles")  # the last is Slurm's


def unusable_gpu() -> str | None:
    """Why torch cannot use this machine's NVIDIA GPU, and what would help, on one line.

    None if it can, if there is no GPU, or if the environment asks for the CPU.
    """
    if cpu_is_asked_for() or _is_available():
        return None
    sign = _sign_of_a_gpu()
    if sign is None:
        return None
    return (
        f"this machine has an NVIDIA GPU ({sign}), but torch {torch.__version__} cannot use it: {_reason()}; "
        "drivers from 580 on take torch's CUDA 13 build, from 525 on CUDA 12.6 (docs/clusters.md)"
    )


def name(device: torch.device | str | None = None) -> str:
    """A GPU's name and architecture: ``Tesla V100-SXM2-32GB (sm_70)``."""
    major, minor = torch.cuda.get_device_capability(device)
    return f"{torch.cuda.get_device_name(device)} (sm_{major}{minor})"


def computes_in_bf16() -> bool:
    """Whether the current GPU computes in bf16; below sm_80 torch only emulates it."""
    return torch.cuda.is_bf16_supported(including_emulation=False)


def _is_available() -> bool:
    with warnings.catch_warnings():  # torch warns of what `_reason` says
        warnings.simplefilter("ignore")
        return torch.cuda.is_available()


def _sign_of_a_gpu() -> str | None:
    """What shows that there is an NVIDIA GPU: a device node, or what nvidia-smi lists (WSL has no nodes)."""
    for node in (*sorted(DEV.glob("nvidia[0-9]*")), DEV / "nvidiactl"):
        if node.exists():
            return str(node)
    if shutil.which("nvidia-smi") is None:
        return None
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=_SMI_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return "nvidia-smi -L lists it" if listing.returncode == 0 and listing.stdout.startswith("GPU ") else None


def _reason() -> str:
    """torch's words for why it has no GPU, without its advice."""
    if torch.version.cuda is None:
        return "it is a build without CUDA"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        reason = re.split(r"\.? Please ", one_line(error, 300))[0]
        return f"{reason} (CUDA_VISIBLE_DEVICES={visible})" if visible else reason
    return "it counts no GPU"
