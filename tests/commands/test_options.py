"""What --device stands for on machines without a GPU, with one, and with one that torch cannot use."""

from __future__ import annotations

import pytest
import torch

from janus_train import gpu
from janus_train.commands.options import device_kind
from janus_train.errors import UserError

PROBLEM = "this machine has an NVIDIA GPU that torch cannot use"


@pytest.mark.parametrize(
    ("device", "available", "kind"),
    [
        ("auto", False, "cpu"),
        ("auto", True, "cuda"),
        ("cpu", True, "cpu"),
        ("cuda", True, "cuda"),
    ],
)
def test_auto_is_a_gpu_if_there_is_one(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    device: str,
    available: bool,
    kind: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(gpu, "unusable_gpu", lambda: None)
    assert device_kind(device) == kind
    assert capsys.readouterr().err == ""


def test_a_gpu_that_cannot_be_used_is_a_warning_and_an_error_for_who_asks_for_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpu, "unusable_gpu", lambda: PROBLEM)
    assert device_kind("auto") == "cpu"
    assert capsys.readouterr().err == f"warning: {PROBLEM}; going on with the CPU, which --device cpu would choose\n"
    assert device_kind("cpu") == "cpu" and capsys.readouterr().err == ""
    with pytest.raises(UserError, match=f"^--device cuda: {PROBLEM}$"):
        device_kind("cuda")


def test_asking_for_a_gpu_where_there_is_none_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpu, "unusable_gpu", lambda: None)
    with pytest.raises(UserError, match="--device cuda: torch sees no GPU here"):
        device_kind("cuda")
