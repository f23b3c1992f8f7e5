"""What stands beside the weights: tokenizer, processor, chat template and generation settings, in either layout.

The chat template gives the official prompts to the letter (tests/golden/official_prompts.json), so that transformers'
own ``JanusProcessor`` makes the ids that this project trains on. That processor rounds where the official one
truncates when it scales an image's short side: its images can differ by a row of pixels, here as everywhere.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import GenerationConfig, JanusConfig, PreTrainedTokenizerFast

from janus_train.data.images import BACKGROUND, MIN_SIDE
from janus_train.data.prompt_format import chat_template
from janus_train.data.special_tokens import (
    BEGIN_OF_IMAGE,
    BOS,
    END_OF_IMAGE,
    EOS,
    PAD,
    PLACEHOLDER,
    SPECIAL_TOKENS,
    SpecialTokens,
    speakers,
)
from janus_train.errors import UserError, one_line
from janus_train.files import os_errors_of_rust, read_json_object_if_any, write_json, write_text

SYSTEM_PROMPT = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
"""What the official template puts before a conversation with images: for folders that do not say (official ones)."""

GUIDANCE, TEMPERATURE = 5.0, 1.0
"""The official values for generating images (Janus-Pro's report; the official code), for folders whose generation_config.json has none."""


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a model's folder in either layout: tokenizer.json as it is, whatever class tokenizer_config.json names."""
    if not (folder / "tokenizer.json").is_file():
        raise UserError(f"{folder} has no tokenizer.json")
    try:
        return PreTrainedTokenizerFast.from_pretrained(folder)
    except Exception as error:  # the tokenizers library raises bare Exceptions for a file that it cannot read
        raise UserError(f"{folder / 'tokenizer.json'} cannot be read: {one_line(error, 200)}") from None


def system_prompt(folder: Path) -> str:
    """The one that the model was trained with (`save_processor` writes it), else the official one."""
    return read_json_object_if_any(folder / "processor_config.json").get("system_prompt", SYSTEM_PROMPT)


def generation_config(special: SpecialTokens, guidance: float, temperature: float) -> GenerationConfig:
    """How the model generates images by default, for transformers' own ``generate``."""
    config = GenerationConfig(
        bos_token_id=special.bos,
        eos_token_id=special.eos,
        pad_token_id=special.pad,
        guidance_scale=guidance,
        temperature=temperature,
        do_sample=True,  # or transformers refuses to save a temperature
    )
    config.generation_kwargs = {"boi_token_id": special.begin_of_image, "eoi_token_id": special.end_of_image}
    return config


def save_processor(tokenizer: PreTrainedTokenizerFast, config: JanusConfig, system: str, folder: Path) -> None:
    """Everything that ``JanusProcessor.from_pretrained`` takes."""
    named = {"image_token": PLACEHOLDER, "boi_token": BEGIN_OF_IMAGE, "eoi_token": END_OF_IMAGE}
    whole = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()),
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        extra_special_tokens=named,
        add_bos_token=True,  # every sequence begins with it, as the official processor's do
        padding_side="left",
        model_max_length=config.text_config.max_position_embeddings,
        clean_up_tokenization_spaces=False,
    )
    with os_errors_of_rust():
        whole.save_pretrained(folder)
    write_text(folder / "chat_template.jinja", chat_template(system, *speakers(tokenizer)))
    size = config.vision_config.image_size
    write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "JanusImageProcessor",
            "processor_class": "JanusProcessor",
            "do_resize": True,
            "do_rescale": True,
            "do_normalize": True,
            "do_pad": True,
            "size": {"height": size, "width": size},
            "min_size": MIN_SIDE,
            "resample": 3,
            "rescale_factor": 1 / 255,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        },
    )
    write_json(
        folder / "processor_config.json",
        {
            "processor_class": "JanusProcessor",
            "num_image_tokens": config.vision_config.num_image_tokens,
            "use_default_system_prompt": False,  # the chat template has it
            "system_prompt": system,
        },
    )


def _as_old_tokenizers_read_it(core: Tokenizer) -> dict[str, Any]:
    """Its tokenizer.json, each merge one string "a b" as before tokenizers 0.20. The official code takes transformers
    from 4.38 on: up to 4.44 they read no other form, and later ones read both."""
    whole: dict[str, Any] = json.loads(core.to_str())
    merges = whole["model"].get("merges", [])
    if not any(" " in piece for pair in merges for piece in pair):  # or the string could be cut in several ways
        whole["model"]["merges"] = [" ".join(pair) for pair in merges]
    return whole


def save_official_processor(tokenizer: PreTrainedTokenizerFast, config: JanusConfig, folder: Path) -> None:
    """Everything that the official ``VLChatProcessor.from_pretrained`` takes."""
    core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    core.no_padding()
    core.no_truncation()
    write_json(folder / "tokenizer.json", _as_old_tokenizers_read_it(core))
    special: dict[str, Any] = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}
    others = [token for token in SPECIAL_TOKENS if token not in (BOS, EOS, PAD) and core.token_to_id(token) is not None]
    write_json(folder / "special_tokens_map.json", {**special, "additional_special_tokens": others})
    write_json(
        folder / "tokenizer_config.json",
        {
            **special,
            "additional_special_tokens": others,
            "add_bos_token": True,
            "add_eos_token": False,
            "clean_up_tokenization_spaces": False,
            "legacy": True,
            "model_max_length": config.text_config.max_position_embeddings,
            "tokenizer_class": "LlamaTokenizerFast",
            "unk_token": None,
            "use_default_system_prompt": False,
        },
    )
    write_json(
        folder / "preprocessor_config.json",
        {
            "background_color": [BACKGROUND] * 3,
            "do_normalize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_processor_type": "VLMImageProcessor",
            "image_size": config.vision_config.image_size,
            "image_std": [0.5, 0.5, 0.5],
            "min_size": MIN_SIDE,
            "processor_class": "VLChatProcessor",
            "rescale_factor": 1 / 255,
        },
    )
    write_json(
        folder / "processor_config.json",
        {
            "add_special_token": False,
            "ignore_id": -100,
            "image_tag": PLACEHOLDER,
            "mask_prompt": True,
            "num_image_tokens": config.vision_config.num_image_tokens,
            "processor_class": "VLChatProcessor",
            "sft_format": "deepseek",
        },
    )
