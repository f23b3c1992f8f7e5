"""A GPU that torch cannot use is noticed and explained, with a fake /dev and torch's own messages; another is let be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from janus_train import gpu

TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version 12020). Please update your GPU driver by downloading and "
    "installing a new version from the URL: http://www.nvidia.com/Download/index.aspx Alternatively, go to: ..."
)
BAD_PAIR = (
    "Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling NumCudaDevices() that "
    "might have already set an error?\n Error 803: system has unsupported display driver / cuda driver combination"
)


@pytest.fixture
def dev(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The /dev of a machine without a GPU, with no variable set and no nvidia-smi."""
    monkeypatch.setattr(gpu, "DEV", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    for variable in ("ACCELERATE_USE_CPU", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return tmp_path


def cuda_build(monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    """A build with CUDA, which fails to start with ``message``."""

    def init() -> None:
        raise RuntimeError(message)

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", init)


def fake_smi(folder: Path, listing: str, code: int = 0) -> None:
    command = folder / "nvidia-smi"
    command.write_text(f'#!/bin/sh\n[ "$1" = -L ] || exit 9\necho "{listing}"\nexit {code}\n')
    command.chmod(0o755)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (TOO_OLD, "cannot use it: The NVIDIA driver on your system is too old (found version 12020); drivers from 580"),
        (BAD_PAIR, "Error 803: system has unsupported display driver / cuda driver combination; drivers from 580"),
        ("No CUDA GPUs are available", "cannot use it: No CUDA GPUs are available; drivers from 580"),
    ],
)
def test_a_driver_that_does_not_fit_is_named_by_torchs_reason(
    dev: Path, monkeypatch: pytest.MonkeyPatch, message: str, reason: str
) -> None:
    (dev / "nvidia0").touch()
    cuda_build(monkeypatch, message)
    problem = gpu.unusable_gpu()
    assert problem is not None and "\n" not in problem
    assert reason in problem and f"an NVIDIA GPU ({dev}/nvidia0)" in problem and "docs/clusters.md" in problem


def test_a_build_without_cuda_beside_a_gpu_is_named(dev: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (dev / "nvidiactl").touch()
    monkeypatch.setattr(torch.version, "cuda", None)
    assert f"torch {torch.__version__} cannot use it: it is a build without CUDA" in str(gpu.unusable_gpu())


def test_a_device_number_that_does_not_exist_is_named(dev: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (dev / "nvidia0").touch()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    cuda_build(monkeypatch, "No CUDA GPUs are available")
    assert "No CUDA GPUs are available (CUDA_VISIBLE_DEVICES=7)" in str(gpu.unusable_gpu())


def test_without_device_nodes_nvidia_smi_tells(dev: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on WSL; an nvidia-smi that fails, as on a login node, is no GPU."""
    cuda_build(monkeypatch, TOO_OLD)
    fake_smi(dev, "GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-1)")
    assert "an NVIDIA GPU (nvidia-smi -L lists it)" in str(gpu.unusable_gpu())
    fake_smi(dev, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", code=9)
    assert gpu.unusable_gpu() is None


def test_nothing_is_wrong_without_a_gpu_or_with_one_that_works(dev: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (dev / "nvidia-uvm-tools").touch()
    assert gpu.unusable_gpu() is None
    (dev / "nvidia0").touch()
    assert gpu.unusable_gpu() is not None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert gpu.unusable_gpu() is None


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ACCELERATE_USE_CPU", "true"),
        ("ACCELERATE_USE_CPU", "True"),
        ("CUDA_VISIBLE_DEVICES", ""),
        ("CUDA_VISIBLE_DEVICES", "-1"),
        ("CUDA_VISIBLE_DEVICES", "NoDevFiles"),
    ],
)
def test_whoever_asks_for_the_cpu_gets_it(
    dev: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    (dev / "nvidia0").touch()
    monkeypatch.setenv(variable, value)
    assert gpu.unusable_gpu() is None
    monkeypatch.setenv(variable, "0")
    assert gpu.unusable_gpu() is not None


def test_a_gpu_is_named_with_its_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100-SXM2-32GB")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    assert gpu.name() == "Tesla V100-SXM2-32GB (sm_70)"
