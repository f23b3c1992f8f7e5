"""A model's folder: what is written comes back, what is missing is named in one line."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from janus_train.config import UserError
from janus_train.infer.generate import generate_codes
from janus_train.infer.load import load_model


@pytest.fixture
def folder(tmp_path, janus, tokenizer):
    janus.save_pretrained(tmp_path / "final")
    tokenizer.save_pretrained(tmp_path / "final")
    return tmp_path / "final"


def test_round_trip(folder, janus, encoder):
    loaded = load_model(folder)
    assert loaded.encoder.special == encoder.special
    assert (loaded.encoder.tokens_per_picture, loaded.encoder.image_size) == (16, 16)
    state = loaded.janus.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in janus.state_dict().items())
    prompt = [loaded.encoder.generation_prompt_ids("a red apple")]
    options = {"pad_id": encoder.special.pad, "guidance": 2.0, "temperature": 1.0, "seeds": [1]}
    assert torch.equal(generate_codes(loaded.janus, prompt, **options), generate_codes(janus, prompt, **options))


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_what_is_missing_is_named(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(UserError, match=missing):
        load_model(folder)


def test_run_folder_is_told_from_its_model(folder):
    with pytest.raises(UserError, match=r"did you mean .*final"):
        load_model(folder.parent)
    with pytest.raises(UserError, match="no folder"):
        load_model(folder / "nowhere")


def test_damaged_weights_are_one_line(folder):
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError) as error:
        load_model(folder)
    assert "\n" not in str(error.value)


def test_missing_parts_are_named(folder, janus, capfd):
    state = {name: value for name, value in janus.state_dict().items() if "generation_head" not in name}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="it lacks image_head"):
        load_model(folder)
    assert capfd.readouterr().err == "", "the error is one line: transformers' own report stays away"
