"""Names models that are not Janus, so that a message says what a folder holds, what is taken and what helps.

In: a folder, or the values of its config.json. Out: a text, or None if it is a Janus model or there is nothing to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

TAKEN = "taken are Janus, Janus-Pro and what janus-train writes (model_type 'janus', or 'multi_modality' with a VQ tokenizer)"

_FLOW_SECTIONS = ("vision_gen_enc_config", "vision_gen_dec_config")
_LANGUAGE_ENDINGS = ("ForCausalLM", "LMHeadModel")
_SEES_SECTIONS = ("vision_config", "visual", "vision_tower", "mm_vision_tower", "vq_config", "vision_tokenizer")
"""Keys of config.json by which a model whose class is named as a language model's also sees or draws."""
_SEES_TYPES = ("emu", "chameleon", "show", "vl", "llava")
"""Parts of such a model's model_type, where its config.json has none of those keys."""


def other_model(values: Mapping[str, Any]) -> str | None:
    """What the model of this config.json is, as the end of a sentence; None for Janus and Janus-Pro."""
    model_type = values.get("model_type")
    if model_type == "janus":
        return None
    if model_type == "multi_modality":
        return _other_multi_modality(values)
    if model_type is None and "_class_name" in values:
        return f"a part of a diffusers model ({values['_class_name']}), not a Janus model"
    if model_type is None:
        return "a model without a model_type in its config.json, so not a Janus model"
    what = _class_of(values)
    name = f"{what} (model_type {model_type!r})" if what else f"a model of model_type {model_type!r}"
    if str(model_type).startswith("siglip"):
        return f"{name}, an image encoder alone: janus-train assemble --vision takes it"
    if what is not None and what.endswith(_LANGUAGE_ENDINGS) and not _sees(values):
        return f"{name}, a language model alone: janus-train assemble --llm takes it"
    return f"{name}, another architecture than Janus"


def _other_multi_modality(values: Mapping[str, Any]) -> str | None:
    """Janus, JanusFlow and DeepSeek-VL have the same model_type and the same class."""
    if any(section in values for section in _FLOW_SECTIONS):
        return "JanusFlow, which draws by rectified flow with a VAE, not by codes of a VQ tokenizer: another architecture than Janus"
    if "language_config" in values and not any(key.startswith("gen_") for key in values):
        return "DeepSeek-VL, which sees images and draws none: another architecture than Janus"
    return None


def _class_of(values: Mapping[str, Any]) -> str | None:
    classes = values.get("architectures")
    return str(classes[0])[:100] if isinstance(classes, list) and classes else None


def _sees(values: Mapping[str, Any]) -> bool:
    model_type = str(values.get("model_type")).lower()
    return any(key in values for key in _SEES_SECTIONS) or any(part in model_type for part in _SEES_TYPES)


def contents_without_config(folder: Path) -> str:
    """Why ``folder``, which has no config.json, is not a model, and what to give instead."""
    if (folder / "model_index.json").is_file():
        return "it is a pipeline of diffusers (model_index.json), another architecture than Janus"
    if any(folder.glob("*.gguf")):
        return f"config.json is missing; {_GGUF}"
    if any(folder.glob("checkpoints/step-*")):
        return "it is a run that has not finished: run the same command again to finish it, and its model is in final/"
    if names := [path.name for path in sorted(folder.glob("*")) if path.suffix in _WEIGHTS]:
        return f"config.json is missing; {names[0]} alone does not say which model it is: give the folder with all its files"
    return "config.json is missing"


def instead_of_file(path: Path) -> str:
    """What to give instead of the file ``path``."""
    if path.suffix == ".gguf":
        return f"is a file; {_GGUF}"
    return "is a file: give the folder of a model, with its config.json, tokenizer and weights"


_GGUF = "GGUF files are for llama.cpp and are not read: give the folder that they were converted from"
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
