"""Peak rates: of known GPUs by their names, of a CPU by measuring, of others none."""

from __future__ import annotations

import pytest
import torch

from janus_train.errors import UserError
from janus_train.planning import gpus
from janus_train.planning.gpus import GPUS, gpu_named, gpu_of, measured_cpu_flops, peak_flops


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA A100-PCIE-40GB", "a100-40gb"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA A100 80GB PCIe", "a100-80gb"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA GeForce RTX 3090", "rtx3090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_gpus_are_recognised_by_torchs_names(device: str, name: str | None) -> None:
    gpu = gpu_of(device)
    assert (gpu.name if gpu else None) == name


def test_peak_of_a_gpu_follows_the_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100-SXM4-40GB")
    cuda = torch.device("cuda", 0)
    allow_tf32 = torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = False
        assert (peak_flops(cuda, "bf16"), peak_flops(cuda, "fp32")) == (312e12, 19.5e12)
        torch.backends.cuda.matmul.allow_tf32 = True
        assert (peak_flops(cuda, "bf16"), peak_flops(cuda, "fp32")) == (312e12, 156e12)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allow_tf32
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU of tomorrow")
    assert peak_flops(cuda, "bf16") is None


def test_a_cpu_is_measured_in_a_fraction_of_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock of our own: each product takes 10 ms by it but one, which takes 4."""
    ticks = iter([0.0, *(t for n in range(100) for t in (n * 0.01, n * 0.01 + (0.004 if n == 7 else 0.01)))])
    monkeypatch.setattr(gpus.time, "thread_time", lambda: next(ticks))
    assert measured_cpu_flops(torch.float32) == pytest.approx(2 * 1024**3 / 0.004)
    assert next(ticks) < 0.5


def test_an_unknown_gpu_is_refused_with_the_list_of_names() -> None:
    with pytest.raises(UserError, match=r"--gpu a1000: no such GPU, choose a100-40gb, .*rtx4090"):
        gpu_named("a1000")
    assert all(gpu.bf16 >= gpu.tf32 >= gpu.fp32 and gpu.link >= gpu.network for gpu in GPUS.values())
