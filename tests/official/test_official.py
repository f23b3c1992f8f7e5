"""A script for the official package with its import lines changed, over folders in both layouts, and what imports do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from janus_train.interop.processor import SYSTEM_PROMPT
from tests.interop.conftest import PATCH, SIZE
from tests.official.conftest import ENVIRONMENT, ask, run_script


@pytest.fixture(scope="module")
def found(folders: dict[str, Path], ported: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """Layout -> what the script found there."""
    asked = ask(tmp_path_factory.mktemp("script"))
    return {layout: run_script(ported, folder, asked) for layout, folder in folders.items()}


def test_a_script_finds_the_same_in_both_layouts(found: dict[str, dict]) -> None:
    first, second = found["final"], found["official"]
    assert first.keys() == second.keys()
    for name, value in first.items():
        if value.dtype.kind == "f":
            np.testing.assert_allclose(value, second[name], rtol=0, atol=1e-5, err_msg=name)
        else:  # ids, masks, codes, texts
            assert np.array_equal(value, second[name]), name


def test_it_asks_with_the_official_shapes_and_prompts(found: dict[str, dict]) -> None:
    batch = {key.removeprefix("batch/"): value for key, value in found["official"].items() if "batch/" in key}
    rows, tokens = batch["input_ids"].shape
    places = (SIZE // PATCH) ** 2
    assert rows == 3 and batch["attention_mask"].shape == batch["images_seq_mask"].shape == (3, tokens)
    assert batch["pixel_values"].shape == (3, 2, 3, SIZE, SIZE)
    assert batch["images_emb_mask"].sum((1, 2)).tolist() == [places, 2 * places, 0]
    assert batch["images_seq_mask"].sum(1).tolist() == [places, 2 * places, 0]
    assert not batch["pixel_values"][0, 1].any() and not batch["pixel_values"][2].any()
    texts = batch["sft_format"].tolist()
    assert all(text.startswith(f"{SYSTEM_PROMPT}\n\n") for text in texts), "text-only conversations have it too"
    assert texts[2].endswith("\n\n<|User|>: Hello  there\n\n<|Assistant|>:")
    assert "\n\nUser: <image_placeholder> is" in texts[1] and "亮？\n\nAssistant: Blue. 苹果<｜end" in texts[1]
    assert batch["greedy"].shape[0] == 3 and batch["greedy"].shape[1] <= 8, "new tokens only"
    assert len({tuple(row) for row in batch["greedy"].tolist()}) > 1


def test_left_padding_changes_no_answer(found: dict[str, dict]) -> None:
    values = found["official"]
    for row in range(3):
        alone, padded = values[f"ask{row}/logits"][0, -1], values["batch/logits"][row, -1]
        np.testing.assert_allclose(padded, alone, rtol=0, atol=2e-4)
        answer = values[f"ask{row}/greedy"][0]
        assert values["batch/greedy"][row, : len(answer)].tolist() == answer.tolist()


def test_it_draws_sixteen_images(found: dict[str, dict]) -> None:
    values = found["official"]
    places = (SIZE // PATCH) ** 2
    assert values["draw/codes"].shape == (16, places)
    assert len({tuple(codes) for codes in values["draw/codes"].tolist()}) == 16
    assert values["draw/pixels"].shape == (16, 3, SIZE, SIZE) and values["draw/pixels"].dtype == np.float32
    assert values["draw/encoded"].shape == (16 * places,)


@pytest.mark.parametrize(("dtype", "attention"), [("bfloat16", "eager"), ("float16", "sdpa")])
def test_other_types_and_attentions(
    folders: dict[str, Path], ported: Path, tmp_path: Path, dtype: str, attention: str
) -> None:
    values = run_script(ported, folders["official"], ask(tmp_path, dtype=dtype, attention=attention, number=2))
    assert np.isfinite(values["batch/logits"]).all() and np.isfinite(values["draw/pixels"]).all()


def test_importing_it_is_what_registers_it_and_twice_does_no_harm(folders: dict[str, Path]) -> None:
    program = f"""
import importlib, sys
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, JanusForConditionalGeneration
paths = {[str(path) for path in folders.values()]}
for path in paths:
    try:
        AutoModelForCausalLM.from_pretrained(path)
    except (KeyError, ValueError):
        continue
    sys.exit("it was known before")
for _ in range(2):
    import janus_train.official
    for path in paths:
        config = AutoConfig.from_pretrained(path)
        assert config.language_config.hidden_size == 48, config
        model = AutoModelForCausalLM.from_pretrained(path, trust_remote_code=True)
        assert type(model).__name__ == "MultiModalityCausalLM" and not model.training
    for name in [name for name in sys.modules if name.startswith("janus_train.official")]:
        del sys.modules[name]
assert type(AutoModelForImageTextToText.from_pretrained(paths[0])) is JanusForConditionalGeneration
"""
    done = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
