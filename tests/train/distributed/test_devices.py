"""What a run computes on: refused where it would not be what was meant, and else said. With GPUs made of words."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from janus_train import gpu
from janus_train.config import Config
from janus_train.errors import UserError
from janus_train.paths import ROOT
from janus_train.train.distributed.context import Distributed
from janus_train.train.distributed.devices import check_gpu_is_used, check_precision, description
from janus_train.train.run import run
from tests.helpers import config_of

A100, H100 = "NVIDIA A100-SXM4-40GB", "NVIDIA H100 80GB HBM3"
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def group(device: torch.device, names: list[str], backend: str = "ddp", **zero: Any) -> Any:
    """What `description` asks of a group whose ranks have the devices ``names``."""
    plugin = SimpleNamespace(deepspeed_config={"zero_optimization": zero})
    accelerator = SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=plugin))
    made = Distributed.__new__(Distributed)
    made.backend, made.accelerator = backend, accelerator  # type: ignore[assignment]
    return SimpleNamespace(
        device=device,
        world_size=len(names),
        backend=backend,
        backend_name=made.backend_name,
        gather=lambda items: names,
        threads_are_users=False,
    )


@pytest.mark.parametrize(
    ("made", "precision", "is_compiled", "expected"),
    [
        (group(CUDA, [A100] * 2, "zero", stage=1), "bf16", True, f"2 x {A100}, bf16, compiled, ZeRO-1"),
        (group(CUDA, [A100]), "bf16", True, f"1 x {A100}, bf16, compiled"),
        (group(CUDA, [A100, H100, A100]), "bf16", False, f"2 x {A100} and 1 x {H100}, bf16, DDP"),
        (group(CUDA, [H100] * 8, "fsdp2"), "bf16", True, f"8 x {H100}, bf16, compiled, FSDP2"),
        (
            group(CUDA, [A100] * 8, "zero", stage=3, offload_param={"device": "cpu"}),
            "bf16",
            False,
            f"8 x {A100}, bf16, ZeRO-3 with offloading",
        ),
        (
            group(CPU, ["", ""], "zero", stage=2, offload_optimizer={"device": "none"}),
            "fp32",
            False,
            "2 processes on the CPU (4 threads each), fp32, ZeRO-2",
        ),
        (group(CPU, [""]), "fp32", False, "1 process on the CPU (4 threads), fp32"),
    ],
)
def test_a_start_says_on_what_it_runs(
    monkeypatch: pytest.MonkeyPatch, made: Any, precision: str, is_compiled: bool, expected: str
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "this rank's own")
    assert description(made, config_of("+stage=1", f"precision={precision}"), is_compiled) == expected


def test_a_gpu_that_does_not_compute_in_bf16_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100-SXM2-32GB")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    bf16, fp32 = (config_of("+stage=1", f"precision={precision}") for precision in ("bf16", "fp32"))
    with pytest.raises(UserError, match=r"Tesla V100-SXM2-32GB \(sm_70\) does not compute in bf16.*precision=fp32"):
        check_precision(bf16, CUDA)
    check_precision(fp32, CUDA)
    check_precision(bf16, CPU)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    check_precision(bf16, CUDA)


def test_a_gpu_that_cannot_be_used_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "unusable_gpu", lambda: "this machine has a GPU")
    with pytest.raises(UserError, match=r"^this machine has a GPU; with CUDA_VISIBLE_DEVICES= \(empty\) a run trains"):
        check_gpu_is_used()
    monkeypatch.setattr(gpu, "unusable_gpu", lambda: None)
    check_gpu_is_used()


@pytest.fixture
def unused_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose nvidia-smi lists a GPU that this torch cannot use."""
    if torch.cuda.is_available():
        pytest.skip("torch can use a GPU here")
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA A100-SXM4-40GB'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for variable in ("ACCELERATE_USE_CPU", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(variable, raising=False)


def test_the_command_does_not_train_on_the_cpu_in_silence(unused_gpu: None, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "train.py"), "+stage=1", f"output_dir={tmp_path / 'run'}"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 1 and not (tmp_path / "run").exists()
    [line] = refused.stderr.splitlines()
    assert re.match(r"error: this machine has an NVIDIA GPU \(.*\), but torch .* cannot use it: ", line)


def test_it_does_if_it_is_asked_to(
    unused_gpu: None,
    small: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    run(small(1, "run.steps=1"))
    assert "\n  runs on 1 process on the CPU (1 thread), fp32\n" in capfd.readouterr().err
