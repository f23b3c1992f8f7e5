"""Peak rates, memory and links of devices: known GPUs by the maker's figures, a CPU by measuring it.

Rates are dense (no sparsity) and without accumulation in fp16. Sources: NVIDIA's data sheets of A100, H100 and H200, the white
papers of GA102 and AD102. Memory is what torch reports as the GPU's total. ``network`` is an assumption, not a
property of the GPU: per GPU between nodes, as common clusters have it (A100: 200 Gbit/s, H100 and H200: 400, consumer
GPUs: 25); ``link`` is one direction between the GPUs of a node (NVLink, or PCIe 4.0 x16 for consumer GPUs).
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from janus_train.errors import UserError

if TYPE_CHECKING:
    import torch

TFLOPS = 1e12
GIB = 1 << 30
GPUS_PER_NODE = 8


@dataclass(frozen=True)
class GPU:
    """One GPU. Rates in FLOP/s, memory in bytes, links in bytes per second."""

    name: str
    pattern: str  # regular expression of the name that torch reports
    memory: float
    bf16: float
    tf32: float
    fp32: float
    link: float
    network: float

    def peak(self, precision: str) -> float:
        """The peak rate of ``bf16``, ``tf32`` or ``fp32`` products."""
        return {"bf16": self.bf16, "tf32": self.tf32, "fp32": self.fp32}[precision]


def _gpu(name: str, pattern: str, gib: float, rates: tuple[float, float, float], link: float, network: float) -> GPU:
    bf16, tf32, fp32 = (TFLOPS * rate for rate in rates)
    return GPU(name, pattern, gib * GIB, bf16, tf32, fp32, link * 1e9, network * 1e9)


_A100, _H100 = (312.0, 156.0, 19.5), (989.4, 494.7, 66.9)
GPUS: dict[str, GPU] = {
    gpu.name: gpu
    for gpu in (
        _gpu("a100-40gb", r"A100(?!.*80GB)", 39.4, _A100, 300, 25),
        _gpu("a100-80gb", r"A100.*80GB", 79.1, _A100, 300, 25),
        _gpu("h100", r"H100(?! PCIe| NVL)", 79.1, _H100, 450, 50),
        _gpu("h100-pcie", r"H100 PCIe", 79.1, (756.0, 378.0, 51.2), 64, 50),
        _gpu("h200", r"H200(?! NVL)", 139.8, _H100, 450, 50),
        _gpu("rtx4090", r"RTX 4090$", 23.6, (165.2, 82.6, 82.6), 32, 3.1),
        _gpu("rtx3090", r"RTX 3090$", 23.6, (71.0, 35.6, 35.6), 32, 3.1),
    )
}


def gpu_named(name: str) -> GPU:
    """Returns the GPU that ``--gpu`` names. Raises `UserError` with the list of names if there is none."""
    if name not in GPUS:
        raise UserError(f"--gpu {name}: no such GPU, choose {', '.join(GPUS)}")
    return GPUS[name]


def gpu_of(device_name: str) -> GPU | None:
    """The GPU that torch calls ``device_name``; None if it is not in `GPUS`."""
    return next((gpu for gpu in GPUS.values() if re.search(gpu.pattern, device_name)), None)


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Peak FLOP/s of ``device`` in the matrix products of a run with ``precision`` (bf16 or fp32).

    A CPU is measured, which takes `CPU_SECONDS`; the result is None for a GPU that is not in `GPUS`.
    """
    import torch  # here, so that the options of `janus-train plan` can name the GPUs at once

    if device.type == "cpu":
        return measured_cpu_flops(torch.bfloat16 if precision == "bf16" else torch.float32)
    gpu = gpu_of(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    if gpu is None:
        return None
    if precision == "fp32" and torch.backends.cuda.matmul.allow_tf32:
        precision = "tf32"
    return gpu.peak(precision)


CPU_SECONDS = 0.1
"""CPU seconds to measure for; on a busy machine that takes longer by the clock."""
_SIZE = 1024


def measured_cpu_flops(dtype: torch.dtype) -> float:
    """The best rate of 1024 x 1024 matrix products seen in `CPU_SECONDS`, with torch's threads as they are set.

    It counts the CPU time of this thread, which works as long as the others do: other load on the machine changes nothing.
    """
    import torch

    a, b = torch.randn(_SIZE, _SIZE).to(dtype), torch.randn(_SIZE, _SIZE).to(dtype)
    torch.mm(a, b)
    shortest, end = float("inf"), time.thread_time() + CPU_SECONDS
    while (start := time.thread_time()) < end:
        torch.mm(a, b)
        shortest = min(shortest, time.thread_time() - start)
    return 2 * _SIZE**3 / shortest
