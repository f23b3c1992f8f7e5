"""A model's folder: what is written comes back, what is missing is named in one line."""

from __future__ import annotations

import copy
import json
import os

import pytest
import torch
from safetensors.torch import save_file

from janus_train.errors import UserError
from janus_train.infer.generate import generate_codes
from janus_train.infer.load import load_model, quickest_dtype


@pytest.fixture
def folder(tmp_path, janus, tokenizer):
    janus.save_pretrained(tmp_path / "final")
    tokenizer.save_pretrained(tmp_path / "final")
    return tmp_path / "final"


def test_round_trip(folder, janus, encoder):
    loaded = load_model(folder)
    assert loaded.encoder.special == encoder.special
    assert (loaded.encoder.tokens_per_image, loaded.encoder.image_size) == (16, 16)
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
    with pytest.raises(UserError, match=r"no folder .* a model of the hub is named OWNER/NAME"):
        load_model("https://hub.example/owner/name")


def test_damaged_weights_are_one_line(folder):
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError) as error:
        load_model(folder)
    assert "\n" not in str(error.value)


def test_missing_parts_are_named(folder, janus, capfd):
    state = {name: value for name, value in janus.state_dict().items() if "generation_head" not in name}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"4 tensors are missing \(image_head\), the first is model\.generation_head"):
        load_model(folder)
    assert capfd.readouterr().err == "", "the error is one line: transformers' own report stays away"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "{", "config.json is not a JSON object"),
        ("generation_config.json", "{", "generation_config.json is not a JSON object"),
        ("generation_config.json", '{"guidance_scale": "much"}', "guidance_scale and temperature must be numbers"),
        ("processor_config.json", "[1]", "processor_config.json is not a JSON object"),
        ("tokenizer.json", "{}", "tokenizer.json cannot be read"),
        ("tokenizer.json", '{"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}}', "the tokenizer lacks Janus's special tokens"),
    ],
)  # fmt: skip
def test_damaged_settings_are_one_line_not_other_settings(folder, name, content, message):
    (folder / name).write_text(content)
    with pytest.raises(UserError, match=message) as error:
        load_model(folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": "x"}, "config.json is not the configuration of a Janus model"),
        ({"hidden_act": "none such"}, "model in its config.json cannot be built"),
        ({"hidden_size": 64}, r" is \(.*\), its config.json asks for \("),
    ],
)
def test_a_config_that_is_not_the_weights_is_one_line(folder, change, message):
    values = json.loads((folder / "config.json").read_text())
    values["text_config"] |= change
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=message) as error:
        load_model(folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        {"text_config": {"num_hidden_layers": 10_000_000}},
        {"vision_config": {"num_hidden_layers": 1e9}},
        {"vision_config": {"depth": 10_000_000}},
        {"vq_config": {"num_res_blocks": 10_000_000}},
        {"vq_config": {"channel_multiplier": [1] * 10_000}},
        {"text_config": {"num_experts": 10_000_000}},
    ],
)
def test_a_config_of_a_model_that_nobody_could_build_is_one_line_at_once(folder, change):
    values = json.loads((folder / "config.json").read_text())
    for section, changed in change.items():
        values[section] |= changed
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"config\.json: \w+ is .*, at most 4096 make a model") as error:
        load_model(folder)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_a_token_without_a_row_in_the_table_is_refused_before_it_is_looked_up(folder):
    values = json.loads((folder / "tokenizer.json").read_text())
    values["model"]["vocab"]["beyond"] = 4000
    (folder / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"tokens up to number 4000 \('beyond'\), the model has room for 400") as error:
        load_model(folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_tokens_that_were_added_without_room_for_them_are_one_line(folder, tokenizer, tmp_path, run, command):
    added = copy.deepcopy(tokenizer)
    assert added.add_tokens([f"<own-{number}>" for number in range(40)]) == 40
    added.save_pretrained(folder)
    code, out, err = run(
        command, folder, "--prompt", "<own-39> and a dog", *(["--out", tmp_path / "x"] * (command == "generate"))
    )
    assert code and not out and err.count("\n") == 1, err
    assert "tokens up to number 432 ('<own-39>'), the model has room for 400: call resize_token_embeddings" in err


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
def test_a_pipe_in_a_models_folder_holds_nothing_up(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    if name == "tokenizer_config.json":  # taken for missing
        load_model(folder)
        return
    with pytest.raises(UserError, match=name) as error:
        load_model(folder)
    assert "\n" not in str(error.value)


def test_bf16_leaves_the_vq_tokenizer_as_it_is_stored(folder, janus):
    loaded = load_model(folder, dtype=torch.bfloat16)
    state = loaded.janus.state_dict()
    for name, value in janus.state_dict().items():
        inside = name.startswith("model.vqmodel.")
        assert state[name].dtype == (torch.float32 if inside else torch.bfloat16)
        assert torch.equal(state[name], value.to(state[name].dtype)), name
    prompts = ["a red apple", "a dog"]
    assert [image.size for image in loaded.generate(prompts, seeds=[0, 1])] == [(16, 16)] * 2
    assert "".join(loaded.chat([{"role": "user", "content": "Hello"}], max_new_tokens=4))


@pytest.mark.parametrize(
    ("device", "supported", "wanted"),
    [("cpu", True, torch.float32), ("cuda", True, torch.bfloat16), ("cuda:1", False, torch.float32)],
)
def test_bf16_where_a_gpu_computes_in_it(monkeypatch, caplog, device, supported, wanted):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    assert quickest_dtype(device) == wanted
    fallback = "Tesla V100 (sm_70) does not compute in bf16: the model runs in fp32"
    assert caplog.messages == ([] if supported else [fallback])
