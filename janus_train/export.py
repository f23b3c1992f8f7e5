"""A model's folder in transformers' layout: loads with ``from_pretrained``, with tokenizer, processor and chat template."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import JanusForConditionalGeneration
from transformers.utils import logging

from janus_train.data.encode import Encoder
from janus_train.files import staged_folder, write_json


def save_model(
    janus: JanusForConditionalGeneration, encoder: Encoder, target: Path, weights: dict[str, torch.Tensor] | None = None
) -> None:
    """Write weights, configuration, tokenizer and ``processor_config.json``; ``target`` appears whole or not at all.

    ``weights``: all of them, where ``janus`` itself has only a share.
    """
    logging.disable_progress_bar()  # "Writing model shards" in the midst of ours
    with staged_folder(target) as folder:
        janus.save_pretrained(folder, state_dict=weights)
        encoder.tokenizer.save_pretrained(folder)
        write_json(
            folder / "processor_config.json",
            {"processor_class": "JanusProcessor", "system_prompt": encoder.system_prompt},
        )
