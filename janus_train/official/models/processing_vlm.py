"""`VLChatProcessor`: conversations and images to the model's inputs, exactly as the official processor makes them.

    conversation -> text with roles verbatim -> ids with BOS -> P placeholders for each image -> left-padded batch

Unlike `data.prompt_format`, which writes a model's own roles, it takes the roles as they are given, goes by a turn's place
in the conversation, and puts the system prompt before conversations without images too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import JanusConfig, PreTrainedTokenizerFast

from janus_train.data.prompt_format import SEPARATOR, open_turn, system_prefix
from janus_train.data.special_tokens import BEGIN_OF_IMAGE, BOS, END_OF_IMAGE, EOS, PAD, PLACEHOLDER, SpecialTokens
from janus_train.errors import UserError, shortened
from janus_train.files import read_json_object_if_any
from janus_train.infer.decoding import left_pad
from janus_train.interop import processor as files
from janus_train.interop.adapter import is_adapter
from janus_train.interop.hub import local_folder
from janus_train.interop.model_folder import open_folder
from janus_train.official.models.image_processing_vlm import CONFIG as IMAGE_CONFIG
from janus_train.official.models.image_processing_vlm import VLMImageProcessor
from janus_train.official.models.processing_outputs import BatchedVLChatProcessorOutput, VLChatProcessorOutput

Conversation = Sequence[dict[str, Any]]
"""Turns ``{"role": any text, "content": text with <image_placeholder>}``; an empty content is the turn to be written."""
SFT_FORMATS = ("deepseek", "deepseek_old")
"""The official templates for Janus; they differ in nothing but roles, which the conversation brings."""
PROCESSOR_CONFIG = "processor_config.json"
_OPTIONS = ("num_image_tokens", "add_special_token", "sft_format")


class VLChatProcessor:
    """The official processor. ``system_prompt`` may be set; a trained model's folder brings its own."""

    system_prompt = files.SYSTEM_PROMPT

    def __init__(
        self,
        image_processor: VLMImageProcessor,
        tokenizer: PreTrainedTokenizerFast,
        image_tag: str = PLACEHOLDER,
        image_start_tag: str = BEGIN_OF_IMAGE,
        image_end_tag: str = END_OF_IMAGE,
        pad_tag: str = PAD,
        num_image_tokens: int = 576,
        add_special_token: bool = False,
        sft_format: str = "deepseek",
        mask_prompt: bool = True,
        ignore_id: int = -100,
        **kwargs: Any,
    ):
        """``num_image_tokens``: P; ``add_special_token``: keep a placeholder before each image, as the official code would."""
        self.image_processor, self.tokenizer = image_processor, tokenizer
        self.image_tag, self.image_start_tag, self.image_end_tag = image_tag, image_start_tag, image_end_tag
        self.pad_tag, self.num_image_tokens, self.add_special_token = pad_tag, num_image_tokens, add_special_token
        self.sft_format, self.mask_prompt, self.ignore_id = sft_format, mask_prompt, ignore_id

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *, revision: str | None = None, **kwargs: Any
    ) -> VLChatProcessor:
        """Reads a model's folder in either layout, one of LoRA adapters, a hub id, or what `save_pretrained` wrote.

        Raises `UserError` if its tokenizer or the size of its images is missing.
        """
        folder = local_folder(str(pretrained_model_name_or_path), "", weights=False, revision=revision)
        if is_adapter(folder) or not (folder / PROCESSOR_CONFIG).is_file():
            folder = open_folder(folder).path
        tokenizer = with_bos(files.load_tokenizer(folder), folder)
        options = {k: v for k, v in read_json_object_if_any(folder / PROCESSOR_CONFIG).items() if k in _OPTIONS}
        if (folder / IMAGE_CONFIG).is_file():
            image_processor = VLMImageProcessor.from_pretrained(folder)
        else:
            image_size = open_folder(folder).config.vision_config.image_size
            image_processor = VLMImageProcessor(image_size, image_mean=[0.5] * 3, image_std=[0.5] * 3)
        if "num_image_tokens" not in options:
            vision = open_folder(folder).config.vision_config
            options["num_image_tokens"] = (vision.image_size // vision.patch_size) ** 2
        made = cls(image_processor, tokenizer, **options)
        has_model = (folder / "config.json").is_file()  # a processor alone may stand in a folder of its own
        made.system_prompt = open_folder(folder).system_prompt if has_model else files.system_prompt(folder)
        return made

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Writes tokenizer and settings as the official code reads them; like there, not the system prompt."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        sizes = JanusConfig(
            text_config={"model_type": "llama", "max_position_embeddings": self.tokenizer.model_max_length},
            vision_config={"image_size": self.image_processor.image_size, "num_image_tokens": self.num_image_tokens},
        )
        files.save_official_processor(self.tokenizer, sizes, folder)

    @property
    def image_token(self) -> str:
        return self.image_tag

    @property
    def image_start_token(self) -> str:
        return self.image_start_tag

    @property
    def image_end_token(self) -> str:
        return self.image_end_tag

    @property
    def image_id(self) -> int:
        return self._id(self.image_tag)

    @property
    def image_start_id(self) -> int:
        return self._id(self.image_start_tag)

    @property
    def image_end_id(self) -> int:
        return self._id(self.image_end_tag)

    @property
    def pad_id(self) -> int:
        return self._id(self.pad_tag)

    def _id(self, token: str) -> int:
        return int(self.tokenizer.convert_tokens_to_ids(token))

    def apply_sft_template_for_multi_turn_prompts(
        self, conversations: Conversation, sft_format: str = "deepseek", system_prompt: str = ""
    ) -> str:
        """Writes a conversation as one text, without white space around it.

        A turn is ``role: content`` and what separates it from the next: two line breaks after the first, third, ... one,
        end of sentence after the second, fourth, ...; one without content is ``role:`` alone.
        """
        if sft_format not in SFT_FORMATS:
            raise UserError(f"sft_format {shortened(sft_format, 40)} is unknown; known are {', '.join(SFT_FORMATS)}")
        text = system_prefix(system_prompt)
        for number, turn in enumerate(conversations):
            role, content = _role_and_content(turn)
            text += open_turn(role) + (f" {content}{(SEPARATOR, EOS)[number % 2]}" if content else "")
        return text.strip()

    def __call__(
        self,
        *,
        prompt: str | None = None,
        conversations: Conversation | None = None,
        images: Sequence[Image.Image] | None = None,
        force_batchify: bool = True,
        **kwargs: Any,
    ) -> VLChatProcessorOutput | BatchedVLChatProcessorOutput:
        """Prepares one conversation, or a ``prompt`` as it is; by default as a batch of one."""
        one = self.process_one(prompt=prompt, conversations=conversations, images=images)
        return self.batchify([one]) if force_batchify else one

    def process_one(
        self,
        prompt: str | None = None,
        conversations: Conversation | None = None,
        images: Sequence[Image.Image] | None = None,
        **kwargs: Any,
    ) -> VLChatProcessorOutput:
        """Prepares one conversation, or a ``prompt`` as it is, with an image for each of its placeholders."""
        if (prompt is None) == (conversations is None):
            raise UserError("give the processor either prompt= or conversations=")
        if prompt is None:
            assert conversations is not None
            prompt = self.apply_sft_template_for_multi_turn_prompts(conversations, self.sft_format, self.system_prompt)
        ids = torch.tensor(self.tokenizer.encode(prompt), dtype=torch.int64)
        places = (ids == self.image_id).nonzero()
        if len(places) != len(images or []):
            raise UserError(f"the prompt has {len(places)} {self.image_tag} and there are {len(images or [])} images")
        ids, num_image_tokens = self.add_image_token(places.flatten().tolist(), ids)
        pixel_values = self.image_processor(images).pixel_values
        return VLChatProcessorOutput(prompt, ids, pixel_values, num_image_tokens)

    def add_image_token(
        self, image_indices: Sequence[int], input_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Puts begin of image, P placeholders and end of image at ``image_indices`` of ids (T,); also returns P per image."""
        image = input_ids.new_tensor([self.image_start_id, *[self.image_id] * self.num_image_tokens, self.image_end_id])
        pieces, start = [], 0
        for index in map(int, image_indices):
            pieces += [input_ids[start : index + 1 if self.add_special_token else index], image]
            start = index + 1
        counts = torch.tensor([self.num_image_tokens] * len(image_indices), dtype=torch.int32)
        return torch.cat([*pieces, input_ids[start:]]), counts

    def batchify(self, prepare_list: Sequence[VLChatProcessorOutput]) -> BatchedVLChatProcessorOutput:
        """Pads conversations to one batch."""
        if not prepare_list:
            raise UserError("batchify needs at least one conversation")
        input_ids, mask = left_pad([one.input_ids.tolist() for one in prepare_list], self.pad_id)
        number, most = len(prepare_list), max(1, *(len(one.num_image_tokens) for one in prepare_list))
        pixel_values = torch.zeros(number, most, *self.image_processor.default_shape)
        images_emb_mask = torch.zeros(number, most, self.num_image_tokens, dtype=torch.bool)
        for row, one in enumerate(prepare_list):
            for place, tokens in enumerate(one.num_image_tokens.tolist()):
                pixel_values[row, place] = one.pixel_values[place]
                images_emb_mask[row, place, :tokens] = True
        return BatchedVLChatProcessorOutput(
            sft_format=[one.sft_format for one in prepare_list],
            input_ids=input_ids,
            pixel_values=pixel_values,
            attention_mask=mask.long(),
            images_seq_mask=(input_ids == self.image_id) & mask,
            images_emb_mask=images_emb_mask,
        )


def with_bos(tokenizer: PreTrainedTokenizerFast, folder: Path) -> PreTrainedTokenizerFast:
    """Returns the tokenizer as the official code has it: every text begins with BOS. `UserError` if it is not a Janus's."""
    try:
        SpecialTokens.of(tokenizer)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
    return PreTrainedTokenizerFast(
        tokenizer_object=files.core_with_bos(tokenizer),
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        padding_side="left",
        model_max_length=tokenizer.model_max_length,
        clean_up_tokenization_spaces=False,
    )


def _role_and_content(turn: dict[str, Any]) -> tuple[str, str]:
    role, content = turn.get("role"), turn.get("content")
    if not isinstance(role, str) or not isinstance(content, str):
        raise UserError(f"a turn is {shortened(turn, 80)}: give it a role and a content, both text")
    return role, content.strip()
