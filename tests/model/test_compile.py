"""When a run compiles, and that it says no where it cannot."""

from __future__ import annotations

import shutil

import pytest
import torch

from janus_train.errors import UserError
from janus_train.model.compile import should_compile
from tests.helpers import config_of

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("option", "device", "gathers", "expected"),
    [
        ("null", CPU, False, False),
        ("null", GPU, False, True),
        ("null", GPU, True, False),
        ("true", CPU, False, True),
        ("false", GPU, False, False),
        ("false", GPU, True, False),
    ],
)
def test_null_is_on_a_gpu_where_layers_stay_whole(
    option: str, device: torch.device, gathers: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name)
    assert should_compile(config_of("+stage=2", f"run.compile={option}"), device, gathers) is expected


def test_without_a_c_compiler_it_is_left_out_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert not should_compile(config_of("+stage=2"), GPU, False)
    assert should_compile(config_of("+stage=2", "run.compile=true"), GPU, False)


def test_samples_that_have_rows_of_their_own_are_not_filled_up_unless_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name)
    assert not should_compile(config_of("+stage=2", "batch.unit=samples"), GPU, False)
    assert should_compile(config_of("+stage=2", "batch.unit=samples", "run.compile=true"), GPU, False)


def test_zero_3_and_compiling_exclude_each_other() -> None:
    with pytest.raises(UserError, match=r"fsdp2\.yaml"):
        should_compile(config_of("+stage=2", "run.compile=true"), GPU, True)
