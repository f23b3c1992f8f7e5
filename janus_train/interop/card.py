"""Writes the model card from the model's configuration and its run's manifest."""

from __future__ import annotations

from typing import Any, Literal

from transformers import JanusConfig

_LOAD = {
    "hf": """```python
from transformers import JanusForConditionalGeneration, JanusProcessor

model = JanusForConditionalGeneration.from_pretrained(FOLDER)
processor = JanusProcessor.from_pretrained(FOLDER)
```""",
    "official": """```python
from janus.models import MultiModalityCausalLM, VLChatProcessor  # the official code, deepseek-ai/Janus

model = MultiModalityCausalLM.from_pretrained(FOLDER)
processor = VLChatProcessor.from_pretrained(FOLDER)
```""",
}


def model_card(config: JanusConfig, manifest: dict[str, Any] | None, layout: Literal["hf", "official"]) -> str:
    """Returns the README.md; ``manifest`` is that of the run that trained the model, None if it is not known."""
    text, vision, vq = config.text_config, config.vision_config, config.vq_config
    lines = [
        "---",
        *(["library_name: transformers"] if layout == "hf" else []),
        "pipeline_tag: any-to-any",
        "tags: [janus, multimodal, text-to-image, image-to-text]",
        "---",
        "",
        f"# {_title(manifest)}",
        "",
        "A Janus model: one transformer that understands images, writes text and generates images. Trained and exported "
        "with janus_train."
        if manifest
        else "A Janus model: one transformer that understands images, writes text and generates images. Converted by "
        "janus_train; what it was trained on is not recorded here.",
        "",
        _LOAD[layout],
        "",
        "| part | |",
        "|---|---|",
        f"| language model | {text.model_type}, {text.num_hidden_layers} layers, width {text.hidden_size}, vocabulary "
        f"{text.vocab_size}, context {text.max_position_embeddings} |",
        f"| understanding encoder | SigLIP, {vision.num_hidden_layers} layers, width {vision.hidden_size}, images of "
        f"{vision.image_size}, patches of {vision.patch_size} |",
        f"| generation encoder | VQ, {vq.num_embeddings} codes of dimension {vq.embed_dim} |",
        f"| tokens per image | {vision.num_image_tokens} |",
    ]
    if manifest:
        lines += ["", "## Training", "", *_training(manifest)]
    return "\n".join(lines) + "\n"


def _title(manifest: dict[str, Any] | None) -> str:
    return f"{manifest['config']['model']['name']}, stage {manifest['stage']}" if manifest else "Janus model"


def _training(manifest: dict[str, Any]) -> list[str]:
    config = manifest["config"]
    ratio, optim, batch = config["ratio"], config["optim"], config["batch"]
    trained_parts = [name for name, part in manifest["parts"].items() if part["trains"]]
    lora_parts = [name for name, part in manifest["parts"].items() if part.get("adapter")]
    if lora_parts:
        peft = config["peft"]
        method = ("rs" if peft.get("use_rslora") else "") + ("DoRA" if peft.get("use_dora") else "LoRA")
        trained_parts.append(f"{', '.join(lora_parts)} by {method} of rank {peft['rank']}, merged")
    steps = manifest.get("steps", config["run"]["steps"])
    lines = [
        "| | |",
        "|---|---|",
        f"| stage | {manifest['stage']} |",
        f"| steps | {steps}{'' if manifest.get('finished') else ' (not finished)'} |",
        f"| started from | {manifest['start']} |",
        f"| trained parts | {', '.join(trained_parts)} |",
        f"| recipe | {config['data']['recipe']} |",
        f"| understanding : text : generation | {ratio['understanding']} : {ratio['text']} : {ratio['generation']} |",
        f"| learning rate | {optim['learning_rate']}, {optim['schedule']}, {optim['warmup_steps']} steps of warm-up |",
        f"| batch per step | {batch['rows_per_step']} rows of {batch['row_tokens']} tokens |",
        f"| seed | {config['seed']} |",
        *([f"| code | commit {manifest['commit']} |"] if manifest.get("commit") else []),
        f"| versions | {', '.join(f'{name} {version}' for name, version in manifest['versions'].items())} |",
        "",
        "Digests of the training data:",
        "",
        "| data | SHA-256 |",
        "|---|---|",
    ]
    return lines + [f"| {name} | `{digest}` |" for name, digest in manifest["data"].items()]
