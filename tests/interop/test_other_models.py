"""Models that are not Janus are refused by name, in one line that says what is taken; the first Janus is taken."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest

from janus_train.errors import UserError
from janus_train.interop.model_folder import open_folder, open_model
from janus_train.interop.other_models import TAKEN, other_model

LLAMA = {"hidden_size": 2048, "num_hidden_layers": 24, "model_type": "llama", "vocab_size": 102400}
OTHERS = {
    "JanusFlow": (
        {
            "architectures": ["MultiModalityCausalLM"],
            "model_type": "multi_modality",
            "language_config": LLAMA,
            "vision_und_enc_config": {"cls": "CLIPVisionTower", "model_type": "vision_und_enc", "params": {}},
            "vision_gen_enc_config": {"cls": "ShallowUViTEncoder", "model_type": "vision_gen_enc", "params": {}},
            "vision_gen_dec_config": {"cls": "ShallowUViTDecoder", "model_type": "vision_gen_dec", "params": {}},
        },
        "is JanusFlow, which draws by rectified flow with a VAE",
    ),
    "DeepSeek-VL": (
        {
            "architectures": ["MultiModalityCausalLM"],
            "model_type": "multi_modality",
            "aligner_config": {"cls": "MlpProjector", "model_type": "aligner", "params": {}},
            "language_config": LLAMA,
            "vision_config": {"cls": "HybridVisionTower", "model_type": "vision", "params": {}},
        },
        "is DeepSeek-VL, which sees images and draws none",
    ),
    "Qwen2-VL": (
        {
            "architectures": ["Qwen2VLForConditionalGeneration"],
            "model_type": "qwen2_vl",
            "vision_config": {"depth": 32},
        },
        "is Qwen2VLForConditionalGeneration (model_type 'qwen2_vl'), another architecture than Janus",
    ),
    "LLaVA": (
        {"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", "text_config": {}},
        "is LlavaForConditionalGeneration (model_type 'llava'), another architecture",
    ),
    "LLaVA of its own code": (
        {"architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava_llama", "mm_vision_tower": "openai/clip"},
        "is LlavaLlamaForCausalLM (model_type 'llava_llama'), another architecture",
    ),
    "Emu3": (
        {"architectures": ["Emu3ForCausalLM"], "model_type": "Emu3", "boi_token_id": 151852},
        "is Emu3ForCausalLM (model_type 'Emu3'), another architecture",
    ),
    "Show-o": (
        {"_class_name": "Showo", "_diffusers_version": "0.30.1", "codebook_size": 8192, "w_clip_vit": False},
        "is a part of a diffusers model (Showo), not a Janus model",
    ),
    "Llama": (
        {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096},
        "is LlamaForCausalLM (model_type 'llama'), a language model alone: janus-train assemble --llm takes it",
    ),
    "SigLIP": (
        {"architectures": ["SiglipModel"], "model_type": "siglip"},
        "is SiglipModel (model_type 'siglip'), an image encoder alone: janus-train assemble --vision takes it",
    ),
    "no type": ({"hidden_size": 1}, "is a model without a model_type"),
    "no text": ({"model_type": ["janus"]}, "is a model of model_type ['janus'], another architecture"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_model_is_named(tmp_path, name, run) -> None:
    values, message = OTHERS[name]
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError) as error:
        open_folder(tmp_path)
    assert str(error.value).startswith(f"{tmp_path} {message}") and str(error.value).endswith(TAKEN)
    for words in (
        ["import", tmp_path, "--out", tmp_path / "x"],
        ["export", tmp_path, "--out", tmp_path / "x"],
        ["generate", tmp_path, "--prompt", "a", "--out", tmp_path / "x"],
    ):
        code, output, errors = run(*words)
        assert code == 2 and not output and message in errors and errors.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


FILES = {
    "a pipeline of diffusers": (["model_index.json", "unet/config.json"], "it is a pipeline of diffusers"),
    "GGUF": (["model-q4.gguf"], "GGUF files are for llama.cpp and are not read: give the folder that they were"),
    "weights alone": (["pytorch_model.bin"], "pytorch_model.bin alone does not say which model it is"),
    "a run that goes on": (["manifest.json", "checkpoints/step-000005/x"], "it is a run that has not finished"),
    "nothing": ([], "config.json is missing"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_folder_without_a_model_says_what_it_holds(tmp_path, name, run) -> None:
    files, message = FILES[name]
    for path in (tmp_path / file for file in files):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    for words in (["export", tmp_path, "--out", tmp_path / "x"], ["chat", tmp_path, "--prompt", "a"]):
        code, _, errors = run(*words)
        assert code == 2 and message in errors and errors.count("\n") == 1, errors


@pytest.mark.parametrize("name", ["model.gguf", "pytorch_model.bin"])
def test_a_file_in_the_place_of_a_folder(tmp_path, name, run) -> None:
    (tmp_path / name).write_bytes(b"GGUF")
    for words in (["export", tmp_path / name, "--out", tmp_path / "x"], ["chat", tmp_path / name, "--prompt", "a"]):
        code, _, errors = run(*words)
        assert code == 2 and f"{name} is a file" in errors and "give the folder" in errors and errors.count("\n") == 1


def test_adapters_without_their_base_are_named(tmp_path, run) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": null}')
    (tmp_path / "adapter_model.safetensors").touch()
    code, _, errors = run("export", tmp_path, "--out", tmp_path / "x")
    assert code == 2 and "holds LoRA adapters and does not name their base" in errors and errors.count("\n") == 1


def test_the_first_janus_is_taken() -> None:
    """The fields of deepseek-ai/Janus-1.3B's config.json."""
    from janus_train.interop.from_folder import describe
    from janus_train.interop.official_config import from_official
    from janus_train.interop.official_fit import not_buildable

    values = {
        "architectures": ["MultiModalityCausalLM"],
        "model_type": "multi_modality",
        "aligner_config": {
            "cls": "MlpProjector",
            "model_type": "aligner",
            "params": {"depth": 2, "input_dim": 1024, "n_embed": 2048, "projector_type": "mlp_gelu"},
        },
        "gen_aligner_config": {
            "cls": "MlpProjector",
            "model_type": "gen_aligner",
            "params": {"depth": 2, "input_dim": 8, "n_embed": 2048, "projector_type": "mlp_gelu"},
        },
        "gen_head_config": {
            "cls": "vision_head",
            "model_type": "gen_head",
            "params": {"image_token_embed": 2048, "image_token_size": 16384, "n_embed": 2048},
        },
        "gen_vision_config": {
            "cls": "VQ-16",
            "model_type": "gen_vision",
            "params": {"image_token_size": 16384, "n_embed": 8},
        },
        "language_config": LLAMA
        | {
            "intermediate_size": 5632,
            "max_position_embeddings": 16384,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
        },
        "vision_config": {
            "cls": "CLIPVisionTower",
            "model_type": "vision",
            "params": {
                "image_size": 384,
                "model_name": "siglip_large_patch16_384",
                "select_feature": "same",
                "select_layer": -1,
            },
        },
    }
    assert other_model(values) is None
    config = from_official(values, None, None)
    assert not_buildable(config) == [] and describe(config)["text"]["hidden_size"] == 2048


def test_of_another_model_on_the_hub_no_weights_are_fetched(tmp_path, monkeypatch) -> None:
    (tmp_path / "config.json").write_text(json.dumps(OTHERS["Qwen2-VL"][0]))
    patterns = []

    def fetch(repository: str, allow_patterns: list[str], revision: str | None) -> str:
        patterns.extend(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    with pytest.raises(UserError, match="is Qwen2VLForConditionalGeneration"):
        open_model("some/vl", "init_from=")
    assert patterns and not any("safetensors" in pattern or "bin" in pattern for pattern in patterns)


def test_a_run_in_the_place_of_its_result_still_opens(random_base, tmp_path) -> None:
    folder = Path(shutil.copytree(random_base, tmp_path / "run/final"))
    assert open_folder(folder.parent).path == folder
