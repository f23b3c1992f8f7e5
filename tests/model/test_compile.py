"""When a run compiles, and that it says no where it cannot."""

from __future__ import annotations

import shutil

import pytest
import torch

from janus_train.errors import UserError
from janus_train.model.compile import should_compile
from tests.helpers import config_of

CPU, GPU = torch.device("cpu"), torch.device("cuda")
BF16 = "precision=bf16"


@pytest.mark.parametrize(
    ("option", "device", "precision", "gathers", "expected"),
    [
        ("null", CPU, "bf16", False, False),
        ("null", GPU, "bf16", False, True),
        ("null", GPU, "fp32", False, False),
        ("null", GPU, "bf16", True, False),
        ("true", GPU, "bf16", False, True),
        ("true", CPU, "fp32", False, True),
        ("false", GPU, "bf16", False, False),
        ("false", GPU, "bf16", True, False),
    ],
)
def test_null_is_on_a_gpu_in_bf16_where_layers_stay_whole(
    option: str,
    device: torch.device,
    precision: str,
    gathers: bool,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name)
    config = config_of("+stage=2", f"run.compile={option}", f"precision={precision}")
    assert should_compile(config, device, gathers) is expected


def test_the_default_model_trains_on_a_gpu_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """`+stage=1` alone: the tiny model in fp32."""
    monkeypatch.setattr(shutil, "which", lambda name: name)
    assert not should_compile(config_of("+stage=1"), GPU, False)


def test_compiling_fp32_on_a_gpu_is_one_line() -> None:
    with pytest.raises(UserError, match=r"run\.compile=true on a GPU needs precision=bf16"):
        should_compile(config_of("+stage=2", "run.compile=true", "precision=fp32"), GPU, False)


def test_without_a_c_compiler_it_is_left_out_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert not should_compile(config_of("+stage=2", BF16), GPU, False)
    assert should_compile(config_of("+stage=2", BF16, "run.compile=true"), GPU, False)


def test_samples_that_have_rows_of_their_own_are_not_filled_up_unless_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name)
    assert not should_compile(config_of("+stage=2", BF16, "batch.unit=samples"), GPU, False)
    assert should_compile(config_of("+stage=2", BF16, "batch.unit=samples", "run.compile=true"), GPU, False)


def test_zero_3_and_compiling_exclude_each_other() -> None:
    with pytest.raises(UserError, match=r"fsdp2\.yaml"):
        should_compile(config_of("+stage=2", BF16, "run.compile=true"), GPU, True)
