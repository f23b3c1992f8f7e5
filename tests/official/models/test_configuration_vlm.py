"""The official configuration: attributes, the language model's part, and the way to JSON and back."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from transformers import AutoConfig, LlamaConfig

from janus_train.interop.model_folder import open_folder
from janus_train.official.models import MultiModalityConfig


def test_its_sections(folders: dict[str, Path]) -> None:
    config = AutoConfig.from_pretrained(folders["official"])
    assert type(config) is MultiModalityConfig and type(config.language_config) is LlamaConfig
    stored = json.loads((folders["official"] / "config.json").read_text())
    assert config.gen_vision_config.params.n_embed == stored["gen_vision_config"]["params"]["n_embed"]
    assert config.vision_config.cls == "CLIPVisionTower" and config.aligner_config.params.depth == 2
    config.gen_vision_config.params.n_embed = 3
    assert config.gen_vision_config["params"]["n_embed"] == 3
    with pytest.raises(AttributeError):
        _ = config.gen_vision_config.params.nothing


def test_the_language_models_part_is_that_of_the_model(folders: dict[str, Path]) -> None:
    language = AutoConfig.from_pretrained(folders["official"]).language_config
    own = open_folder(folders["official"]).config.text_config
    for key in ("rope_parameters", "rms_norm_eps", "num_key_value_heads", "max_position_embeddings", "vocab_size"):
        assert getattr(language, key) == getattr(own, key), key


def test_it_survives_json_and_copies(folders: dict[str, Path], tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(folders["official"])
    config.save_pretrained(tmp_path)
    for again in (AutoConfig.from_pretrained(tmp_path), copy.deepcopy(config)):
        assert again.gen_head_config == config.gen_head_config
        assert again.language_config.rope_parameters == config.language_config.rope_parameters
    assert MultiModalityConfig().language_config.model_type == "llama"
