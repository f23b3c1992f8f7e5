"""A folder of LoRA adapters, opened as a model: base and adapters together, wherever a model is read; or one line."""

from __future__ import annotations

import copy
import json
import re
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
from janus_train.infer.load import load_model
from janus_train.interop import adapter as adapters_in_files
from janus_train.interop.adapter import CONFIG
from janus_train.interop.convert import export_model, import_official
from janus_train.interop.model_folder import open_folder
from janus_train.model import lora
from tests.helpers import Run
from tests.interop.conftest import same, small_model, stored

WEIGHTS = "adapter_model.safetensors"
PARTS = ("language_model", "image_head")
OPTIONS = PeftConfig(rank=2, alpha=6.0, dropout=0.0, use_rslora=False, use_dora=False, parts=PARTS)
METHODS = [(True, False), (False, True), (True, True)]
"""use_rslora, use_dora"""


def write_adapter(
    folder: Path,
    plain: JanusForConditionalGeneration,
    base: Path,
    full: tuple = (),
    options: PeftConfig = OPTIONS,
) -> dict[str, Any]:
    """Random adapters in ``folder``; returns the merged weights."""
    torch.manual_seed(5)
    janus = copy.deepcopy(plain)
    lora.add_lora(janus, options)
    with torch.no_grad():
        for name, parameter in janus.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.1)
            if f".{lora.MAGNITUDE}." in name:
                parameter.mul_(torch.rand_like(parameter) + 0.5)
    adapters_in_files.write_adapter(janus, janus.state_dict(), options, folder, str(base), full, {"step": 3})
    return lora.merge_lora(janus.state_dict(), options)


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


@pytest.mark.parametrize(("use_rslora", "use_dora"), METHODS)
def test_rslora_and_dora_are_what_peft_makes_of_them(
    whole, tokenizer, tmp_path: Path, use_rslora: bool, use_dora: bool
) -> None:
    """Written and read here, and read by peft: the same weights, and the outputs of adapters that are not merged."""
    from peft import PeftModel

    base, folder = whole[0] / "base", tmp_path / "adapter"
    plain = JanusForConditionalGeneration.from_pretrained(base).eval()
    options = OPTIONS.model_copy(update={"use_rslora": use_rslora, "use_dora": use_dora})
    merged = write_adapter(folder, plain, base, options=options)
    assert same(dict(open_folder(folder).tensors()), merged)
    ids = torch.arange(8)[None]
    with torch.no_grad():
        before = plain(input_ids=ids).logits
        peft = PeftModel.from_pretrained(plain, folder).eval()
        unmerged = peft.base_model.model(input_ids=ids).logits
        by_peft = peft.merge_and_unload().state_dict()
        plain.load_state_dict(merged)
        after = plain(input_ids=ids).logits
    assert merged.keys() == by_peft.keys()
    assert all(torch.allclose(merged[name], by_peft[name], atol=1e-6) for name in merged)
    assert torch.allclose(unmerged, after, atol=1e-5) and not torch.allclose(before, after, atol=1e-2)


@pytest.mark.parametrize("use_rslora", [False, True])
def test_ranks_and_alphas_by_layer(whole, tmp_path: Path, use_rslora: bool) -> None:
    """As peft writes and merges them."""
    from peft import LoraConfig, PeftModel, get_peft_model

    base = whole[0] / "base"
    config = LoraConfig(
        r=2,
        lora_alpha=6,
        target_modules=r".*language_model.*(q_proj|down_proj)",
        rank_pattern={"down_proj": 4, r"layers\.0\.self_attn\.q_proj": 1},
        alpha_pattern={r".*\.1\.mlp\.down_proj": 20},
        use_rslora=use_rslora,
        init_lora_weights=False,
    )
    torch.manual_seed(6)
    get_peft_model(JanusForConditionalGeneration.from_pretrained(base), config).save_pretrained(tmp_path / "a")
    by_peft = PeftModel.from_pretrained(JanusForConditionalGeneration.from_pretrained(base), tmp_path / "a")
    expected, read = by_peft.merge_and_unload().state_dict(), dict(open_folder(tmp_path / "a").tensors())
    assert expected.keys() == read.keys()
    assert all(torch.allclose(expected[name], read[name], atol=1e-5) for name in read)
    changed = {name for name, tensor in stored(base).items() if not tensor.equal(read[name])}
    assert {name.split(".")[-2] for name in changed} == {"q_proj", "down_proj"}


def test_over_another_model_than_their_own_base(whole, tokenizer, tmp_path: Path, run: Run) -> None:
    """By each command that takes --adapter; two of them, one after the other; and merge writes the same weights."""
    root, _ = whole
    torch.manual_seed(9)
    other = small_model(tokenizer)
    other.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    expected = write_adapter(tmp_path / "unused", other, root / "base")
    assert same(dict(open_folder(tmp_path / "other", [str(root / "adapter")]).tensors()), expected)
    options = OPTIONS.model_copy(update={"use_dora": True})
    janus = copy.deepcopy(other)
    janus.load_state_dict(expected)
    both = write_adapter(tmp_path / "second", janus, Path("/no/such/base"), options=options)
    adapters = ("--adapter", root / "adapter", "--adapter", tmp_path / "second")
    code, out, err = run("merge", tmp_path / "other", *adapters, "--out", tmp_path / "merged")
    assert (code, out) == (0, f"{tmp_path}/merged\n"), err
    assert same(stored(tmp_path / "merged"), both) and not (tmp_path / "merged/adapter_config.json").exists()
    prompt = ("--prompt", "a dog", "--device", "cpu", "--num-images", 1)
    assert run("generate", tmp_path / "other", *adapters, *prompt, "--out", tmp_path / "one")[0] == 0
    assert run("generate", tmp_path / "merged", *prompt, "--out", tmp_path / "two")[0] == 0
    assert (tmp_path / "one/000-0.png").read_bytes() == (tmp_path / "two/000-0.png").read_bytes()
    name = f"{tmp_path}/other + {root}/adapter + {tmp_path}/second"
    assert json.loads((tmp_path / "one/metadata.jsonl").read_text())["model"] == name
    assert load_model(tmp_path / "other", adapters=[root / "adapter", tmp_path / "second"]).name == name
    code, _, err = run("export", tmp_path / "other", *adapters, "--out", tmp_path / "out", "--format", "official")
    assert code == 0, err
    import_official(str(tmp_path / "out"), tmp_path / "back")
    assert same(stored(tmp_path / "back"), both)


def test_merge_writes_adapters_and_their_base(whole, tmp_path: Path, run: Run) -> None:
    root, merged = whole
    assert run("merge", root / "adapter", "--out", tmp_path / "merged")[0] == 0
    assert same(stored(tmp_path / "merged"), merged)


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "nothing to merge": (("{base}",), "is a whole model, there is nothing to merge: .* add --adapter DIR"),
    "no such adapters": (("{base}", "--adapter", "/no/such"), "--adapter /no/such: there is no such folder"),
    "a model for adapters": (("{base}", "--adapter", "{base}"), "--adapter .*/base is a whole model: give it as MODEL"),
    "no adapters in it": (
        ("{base}", "--adapter", "{root}"),
        "not a folder of adapters: adapter_config.json is missing",
    ),
    "the same twice": (("{root}/adapter", "--adapter", "{root}/adapter"), "has these adapters already"),
    "its own result": (("{root}/final", "--adapter", "{root}/adapter"), "/final has these adapters already"),
    "the same run": (("{root}/final", "--adapter", "{root}"), "/final has these adapters already"),
    "another shape": (("{wide}", "--adapter", "{root}/adapter"), "adapters of another base: one is of .*, which is"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_added_is_one_line(whole, tokenizer, tmp_path: Path, run: Run, name: str) -> None:
    source, wide = whole[0], tmp_path / "wide"
    shutil.copytree(source / "adapter", tmp_path / "run/adapter")
    shutil.copytree(source / "base", tmp_path / "run/final")
    small_model(tokenizer, intermediate_size=88).save_pretrained(wide)
    tokenizer.save_pretrained(wide)
    words, message = REFUSED[name]
    if name == "no adapters in it":
        shutil.rmtree(tmp_path / "run/adapter")
    places = {"base": source / "base", "root": tmp_path / "run", "wide": wide}
    code, out, err = run("merge", *(word.format(**places) for word in words), "--out", tmp_path / "out")
    assert (code, out) == (2, "") and re.search(message, err) and err.count("\n") == 1, err
    assert not (tmp_path / "out").exists()


def test_adapters_beside_parts_that_trained_in_full_are_a_warning_over_a_model_that_is_named(
    whole, tokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = whole[0] / "base"
    merged = write_adapter(
        tmp_path / "adapter", JanusForConditionalGeneration.from_pretrained(base), base, ("image_head",)
    )
    assert same(dict(open_folder(base, [str(tmp_path / "adapter")]).tensors()), merged)
    assert "trained image_head in full, which they do not hold: the model's own are used" in caplog.text


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
        lambda f: change_config(f, modules_to_save=["lm_head"]),
        "adapters with modules_to_save, which is not read",
    ),
    "a start that changes the base": (
        lambda f: change_config(f, init_lora_weights="pissa"),
        "adapters with init_lora_weights pissa, which is not read",
    ),
    "DoRA without magnitudes": (lambda f: change_config(f, use_dora=True), "has no lora_magnitude_vector"),
    "magnitudes without DoRA": (
        lambda f: change_weights(f, lambda w: w.update({f"{FIRST}magnitude_vector": torch.ones(32)})),
        "has lora_magnitude_vector, but adapter_config.json does not say use_dora",
    ),
    "rank of words": (lambda f: change_config(f, r="two"), "r and lora_alpha must be numbers"),
    "rank zero": (lambda f: change_config(f, r=0), "r and lora_alpha must be numbers"),
    "another rank": (lambda f: change_config(f, r=3), "are of rank 2, adapter_config.json says 3"),
    "a pattern that is none": (lambda f: change_config(f, rank_pattern={"(": 3}), "rank_pattern and alpha_pattern map"),
    "a pattern that never ends": (
        lambda f: change_config(f, rank_pattern={"((a|[a-z_.0-9])+)+!": 3}),
        "rank_pattern and alpha_pattern map",
    ),
    "an alpha that is no number": (lambda f: change_config(f, lora_alpha=float("nan")), "must be numbers above 0"),
    "patterns in a list": (lambda f: change_config(f, alpha_pattern=[1]), "rank_pattern and alpha_pattern map"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), rf"{WEIGHTS} is missing"),
    "damaged weights": (lambda f: (f / WEIGHTS).write_bytes(b"words"), rf"{WEIGHTS} cannot be read"),
    "a half": (lambda f: change_weights(f, lambda w: w.pop(f"{FIRST}A.weight")), "has no lora_A"),
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
