"""A folder of LoRA adapters, opened as a model: base and adapters together, wherever a model is read; or one line."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import JanusForConditionalGeneration

from janus_train.config import PeftConfig
from janus_train.errors import UserError
from janus_train.interop.adapter import CONFIG
from janus_train.interop.convert import export_model, import_official
from janus_train.interop.model_folder import open_folder
from janus_train.model import lora
from tests.helpers import Run
from tests.interop.conftest import same, small_model, stored

WEIGHTS = "adapter_model.safetensors"
OPTIONS = PeftConfig(rank=2, alpha=6.0, dropout=0.0, parts=("language_model", "image_head"))


def write_adapter(folder: Path, plain: JanusForConditionalGeneration, base: Path, full: tuple = ()) -> dict[str, Any]:
    """Random adapters in ``folder``; returns the merged weights."""
    torch.manual_seed(5)
    janus = copy.deepcopy(plain)
    lora.add_lora(janus, OPTIONS)
    with torch.no_grad():
        for name, parameter in janus.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.1)
    adapter.write_adapter(janus, janus.state_dict(), options, folder, str(base), full, {"step": 3})
    return lora.merge_lora(janus.state_dict(), OPTIONS)


@pytest.fixture(scope="module")
def whole(tokenizer, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """(a folder with base/, official/ and adapter/, the merged weights)"""
    root = tmp_path_factory.mktemp("lora")
    torch.manual_seed(4)
    janus = small_model(tokenizer)
    janus.save_pretrained(root / "base")
    tokenizer.save_pretrained(root / "base")
    return root, write_adapter(root / "adapter", janus, root / "base")


@pytest.fixture
def adapter(whole, tmp_path: Path) -> Path:
    """A copy of the adapters, to be changed."""
    return Path(shutil.copytree(whole[0] / "adapter", tmp_path / "adapter"))


def test_it_is_read_as_the_merged_model(whole) -> None:
    root, merged = whole
    folder = open_folder(root / "adapter")
    folder.check_complete()
    assert (folder.path, folder.origin) == (root / "base", root / "adapter")
    assert same(dict(folder.tensors()), merged)
    assert not same(dict(folder.tensors()), stored(root / "base"))
    assert dict(folder.tensors("lm_head.")).keys() == {"lm_head.weight"}


def test_it_is_exported_over_a_base_in_the_official_layout_too(whole, adapter: Path, tmp_path: Path) -> None:
    root, merged = whole
    export_model(str(root / "adapter"), tmp_path / "out", "official")
    import_official(str(tmp_path / "out"), tmp_path / "back")
    assert same(stored(tmp_path / "back"), merged)
    export_model(str(root / "base"), tmp_path / "base", "official")
    change_config(adapter, base_model_name_or_path=str(tmp_path / "base"))
    assert same(dict(open_folder(adapter).tensors()), merged)


def test_adapters_that_were_trained_on_adapters(whole, tokenizer, tmp_path: Path) -> None:
    root, merged = whole
    janus = small_model(tokenizer)
    janus.load_state_dict(merged)
    both = write_adapter(tmp_path / "second", janus, root / "adapter")
    assert same(dict(open_folder(tmp_path / "second").tensors()), both)


def test_generate_and_chat_take_it(whole, tmp_path: Path, run: Run) -> None:
    root, _ = whole
    prompt = ("--prompt", "a dog", "--device", "cpu")
    code, _, err = run("generate", root / "adapter", *prompt, "--num-images", 1, "--out", tmp_path / "images")
    assert code == 0, err
    assert f'"model": "{root}/adapter"' in (tmp_path / "images/metadata.jsonl").read_text()
    code, _, err = run("chat", root / "adapter", *prompt, "--max-new-tokens", 2)
    assert code == 0, err


def change_config(folder: Path, **values: object) -> None:
    config = json.loads((folder / CONFIG).read_text()) | values
    (folder / CONFIG).write_text(json.dumps(config))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS)


FIRST = "base_model.model.model.language_model.layers.0.mlp.down_proj.lora_"
BREAKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no base named": (lambda f: change_config(f, base_model_name_or_path=None), "does not name their base"),
    "the base is gone": (
        lambda f: change_config(f, base_model_name_or_path="/no/such/base"),
        r"holds LoRA adapters, not a model, and of their base /no/such/base: there is no such folder",
    ),
    "another method": (lambda f: change_config(f, peft_type="IA3"), "adapters of another kind than LoRA"),
    "an option that is not read": (
        lambda f: change_config(f, use_dora=True),
        "adapters with use_dora, which is not read",
    ),
    "rank of words": (lambda f: change_config(f, r="two"), "r and lora_alpha must be numbers"),
    "rank zero": (lambda f: change_config(f, r=0), "r and lora_alpha must be numbers"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), rf"{WEIGHTS} is missing"),
    "damaged weights": (lambda f: (f / WEIGHTS).write_bytes(b"words"), rf"{WEIGHTS} cannot be read"),
    "a half": (lambda f: change_weights(f, lambda w: w.pop(f"{FIRST}A.weight")), "has only one of A and B"),
    "an embedding's": (
        lambda f: change_weights(f, lambda w: w.update({"base_model.model.x.lora_embedding_A": torch.zeros(2, 2)})),
        "is not the A or B of a linear layer",
    ),
    "another base": (
        lambda f: change_weights(
            f,
            lambda w: w.update({f"base_model.model.x.lora_{m}.weight": torch.zeros(2, 2) for m in "AB"}),
        ),
        "of another base: one is of x, which is not there",
    ),
    "another shape": (
        lambda f: change_weights(f, lambda w: w.update({f"{FIRST}B.weight": torch.zeros(3, 2)})),
        r"of another base: one is of model\.language_model\.layers\.0\.mlp\.down_proj, which is \(",
    ),
    "its own base": (lambda f: change_config(f, base_model_name_or_path=str(f)), "adapters again and again"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_what_cannot_be_merged_is_one_line(adapter: Path, tmp_path: Path, name: str) -> None:
    change, message = BREAKS[name]
    change(adapter)
    with pytest.raises(UserError, match=message) as error:
        export_model(str(adapter), tmp_path / "out", "hf")
    assert "\n" not in str(error.value) and str(adapter) in str(error.value)
    assert not (tmp_path / "out").exists()


def test_the_merged_model_of_the_same_run_is_named(whole, adapter: Path, tokenizer, tmp_path: Path) -> None:
    shutil.copytree(whole[0] / "base", tmp_path / "final")
    change_config(adapter, base_model_name_or_path="/no/such/base")
    with pytest.raises(UserError, match=rf"no such folder; the merged model is {tmp_path}/final"):
        open_folder(adapter)
    write_adapter(adapter, small_model(tokenizer), whole[0] / "base", full=("understanding_adaptor",))
    with pytest.raises(
        UserError, match=rf"trained understanding_adaptor in full.*; the merged model is {tmp_path}/final"
    ):
        export_model(str(adapter), tmp_path / "out", "hf")
