"""The files beside the weights in either layout: tokenizer, processor, chat template and generation settings.

The chat template gives exactly the official prompts (tests/golden/official_prompts.json), so that transformers' own
``JanusProcessor`` makes the ids that this project trains on. When that processor scales an image's short side it rounds
where the official one truncates, so its images can differ by a row of pixels.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
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
from janus_train.files import (
    read_json_object_if_any,
    refuse_lfs_pointer,
    write_json,
    write_text,
)

SYSTEM_PROMPT = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
"""The official template's text before a conversation with images, for folders that do not set one (official ones)."""

GUIDANCE, TEMPERATURE = 5.0, 1.0
"""The official values for generating images (Janus-Pro's report; the official code), for folders that do not set them."""


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Loads the tokenizer.json of a folder in either layout, whatever class tokenizer_config.json names."""
    if not (folder / "tokenizer.json").is_file():
        raise UserError(f"{folder} has no tokenizer.json")
    try:
        return PreTrainedTokenizerFast.from_pretrained(folder)
    except Exception as error:  # the tokenizers library raises bare Exceptions for a file that it cannot read
        refuse_lfs_pointer(*sorted(folder.glob("*.json")))
        raise UserError(f"{folder / 'tokenizer.json'} cannot be read: {one_line(error, 200)}") from None


def system_prompt(folder: Path) -> str:
    """Returns the system prompt that the model was trained with (`save_processor` writes it), or the official one."""
    path = folder / "processor_config.json"
    prompt = read_json_object_if_any(path).get("system_prompt", SYSTEM_PROMPT)
    if not isinstance(prompt, str):
        raise UserError(f"{path}: system_prompt must be a string")
    return prompt


def generation_config(special: SpecialTokens, guidance: float, temperature: float) -> GenerationConfig:
    """Returns the model's defaults for generating images with transformers' own ``generate``."""
    config = GenerationConfig(
        bos_token_id=special.bos,
        eos_token_id=special.eos,
        pad_token_id=special.pad,
        guidance_scale=guidance,
        temperature=temperature,
        do_sample=True,  # without it transformers refuses to save a temperature
    )
    config.generation_kwargs = {"boi_token_id": special.begin_of_image, "eoi_token_id": special.end_of_image}
    return config


def save_processor(tokenizer: PreTrainedTokenizerFast, config: JanusConfig, system: str, folder: Path) -> None:
    """Writes all files that ``JanusProcessor.from_pretrained`` and ``AutoTokenizer`` of transformers 4 and 5 read."""
    write_json(folder / "tokenizer.json", _tokenizer_json(tokenizer))
    write_json(
        folder / "tokenizer_config.json",
        {
            "bos_token": BOS,
            "eos_token": EOS,
            "pad_token": PAD,
            # the names by which the processor asks for them; a list would be for transformers 5 alone
            "extra_special_tokens": {
                "image_token": PLACEHOLDER,
                "boi_token": BEGIN_OF_IMAGE,
                "eoi_token": END_OF_IMAGE,
            },
            "add_bos_token": True,  # every sequence begins with it, as with the official processor
            "padding_side": "left",
            "model_max_length": config.text_config.max_position_embeddings,
            "clean_up_tokenization_spaces": False,
            "legacy": True,  # of no effect here, but transformers 4 complains where it is not set
            "tokenizer_class": "PreTrainedTokenizerFast",  # what transformers 5 would write, 4 does not know
        },
    )
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
            "use_default_system_prompt": False,  # it is in the chat template
            "system_prompt": system,
        },
    )


def _tokenizer_json(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """The tokenizer.json: without padding and truncation, with BOS before every text, and as old versions read it.

    Each merge is one string "a b", as before tokenizers 0.20: the official code runs with transformers from 4.38 on;
    versions up to 4.44 read no other form, later ones read both.
    """
    values: dict[str, Any] = json.loads(core_with_bos(tokenizer).to_str())
    merges = values["model"].get("merges", [])
    if not any(" " in piece for pair in merges for piece in pair):  # otherwise the string would be ambiguous
        values["model"]["merges"] = [" ".join(pair) for pair in merges]
    return values


def core_with_bos(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """A copy of the tokenizer's core without padding and truncation that puts BOS before a text, as the official code does.

    A post-processor that does so already stays. Our own texts become tokens without it (`Encoder.ids`).
    """
    core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    core.no_padding()
    core.no_truncation()
    text, bos = "a", core.token_to_id(BOS)
    if core.encode(text).ids != [bos, *core.encode(text, add_special_tokens=False).ids]:
        one = f"{BOS}:0 $A:0"
        core.post_processor = TemplateProcessing(single=one, pair=f"{one} {BOS}:1 $B:1", special_tokens=[(BOS, bos)])
    return core


def save_official_processor(tokenizer: PreTrainedTokenizerFast, config: JanusConfig, folder: Path) -> None:
    """Writes all files that the official ``VLChatProcessor.from_pretrained`` reads."""
    write_json(folder / "tokenizer.json", _tokenizer_json(tokenizer))
    vocabulary = tokenizer.get_vocab()
    special: dict[str, Any] = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}
    other_tokens = [token for token in SPECIAL_TOKENS if token not in (BOS, EOS, PAD) and token in vocabulary]
    write_json(folder / "special_tokens_map.json", {**special, "additional_special_tokens": other_tokens})
    write_json(
        folder / "tokenizer_config.json",
        {
            **special,
            "additional_special_tokens": other_tokens,
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
