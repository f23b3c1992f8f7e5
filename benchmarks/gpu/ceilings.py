"""Versions, and the rates that nothing on this card can pass: products, memory, copies from and to the host, launches."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import time

import torch

from benchmarks.gpu.measure import device, has_gpu, say, seconds, wait

PACKAGES = ("torch", "transformers", "accelerate", "deepspeed", "datasets", "triton")


def main() -> None:
    say(what="versions", **_versions())
    if shutil.which("nvidia-smi"):
        query = "--query-gpu=driver_version,clocks.max.sm,clocks.max.mem,power.limit"
        answer = subprocess.run(["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True)
        say(what="driver, clocks and power", answer=answer.stdout.strip())
    _products()
    _memory()
    if has_gpu():
        _copies()
        _launches()


def _versions() -> dict[str, object]:
    versions: dict[str, object] = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    versions |= {"cuda": torch.version.cuda, "cpus": os.cpu_count()}
    versions["tools"] = [name for name in ("cc", "gcc", "nvcc", "ninja", "git") if shutil.which(name)]
    if has_gpu():
        card = torch.cuda.get_device_properties(0)
        versions |= {
            "card": card.name,
            "cards": torch.cuda.device_count(),
            "memory_gib": card.total_memory / 2**30,
            "multiprocessors": card.multi_processor_count,
        }
    return versions


def _products() -> None:
    """Square products, and the 1B's over four rows: its down projection, and its text head in two sizes of chunk."""
    n = 8192 if has_gpu() else 256
    shapes = [(n, n, n)]
    shapes += [(16384, 5632, 2048), (640, 2048, 102400), (2560, 2048, 102400)] if has_gpu() else [(64, 32, 64)]
    for rows, inner, columns in shapes:
        a = torch.randn(rows, inner, device=device(), dtype=torch.bfloat16)
        b = torch.randn(columns, inner, device=device(), dtype=torch.bfloat16)
        _say_rate("bf16", rows, inner, columns, seconds(lambda a=a, b=b: a @ b.T))
    x, y = (torch.randn(n, n, device=device()) for _ in range(2))
    for name, precision in (("fp32", "highest"), ("tf32", "high")):
        torch.set_float32_matmul_precision(precision)
        _say_rate(name, n, n, n, seconds(lambda: x @ y, 5))
    torch.set_float32_matmul_precision("highest")


def _say_rate(precision: str, rows: int, inner: int, columns: int, time_s: float) -> None:
    say(
        what=f"{precision} product",
        shape=[rows, inner, columns],
        tflops=2 * rows * inner * columns / time_s / 1e12,
    )


def _memory() -> None:
    count = 1 << 30 if has_gpu() else 1 << 20
    source, target = (torch.empty(count, device=device()) for _ in range(2))
    say(what="copy on the device", gb_s=2 * 4 * count / seconds(lambda: target.copy_(source)) / 1e9)


def _copies() -> None:
    count = 1 << 28
    on_device = torch.empty(count, device=device())
    for name, host in (("pageable", torch.empty(count)), ("pinned", torch.empty(count, pin_memory=True))):
        to_device = seconds(lambda host=host: on_device.copy_(host, non_blocking=True), 3, 1)
        from_device = seconds(lambda host=host: host.copy_(on_device, non_blocking=True), 3, 1)
        say(what=f"copies, {name}", to_device_gb_s=4 * count / to_device / 1e9, from_gb_s=4 * count / from_device / 1e9)


def _launches() -> None:
    number = torch.zeros(1, device=device())
    wait()
    began = time.perf_counter()
    for _ in range(2000):
        number.add_(1)
    wait()
    say(what="a launch", microseconds=(time.perf_counter() - began) / 2000 * 1e6)


if __name__ == "__main__":
    main()
