"""What the processor returns: one conversation, and a batch of them."""

from __future__ import annotations

from collections.abc import KeysView
from dataclasses import dataclass
from typing import Any

import torch


class DictOutput:
    """Fields that are attributes and items, so that ``**output`` passes them on."""

    def keys(self) -> KeysView[str]:
        return vars(self).keys()

    def __getitem__(self, item: str) -> Any:
        return vars(self)[item]

    def __setitem__(self, key: str, value: Any) -> None:
        vars(self)[key] = value


@dataclass
class VLChatProcessorOutput(DictOutput):
    """One conversation: its text, input_ids (T,), pixel_values (n, 3, S, S) fp32, the tokens P of each of its n images."""

    sft_format: str
    input_ids: torch.Tensor
    pixel_values: torch.Tensor
    num_image_tokens: torch.Tensor

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass
class BatchedVLChatProcessorOutput(DictOutput):
    """B conversations, padded on the left to T tokens and at the end to n images.

    input_ids and attention_mask (B, T) int64, images_seq_mask (B, T) and images_emb_mask (B, n, P) bool, pixel_values
    (B, n, 3, S, S), zeros where a conversation has fewer than n images; n is at least 1.
    """

    sft_format: list[str]
    input_ids: torch.Tensor
    pixel_values: torch.Tensor
    attention_mask: torch.Tensor
    images_seq_mask: torch.Tensor
    images_emb_mask: torch.Tensor

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.bfloat16) -> BatchedVLChatProcessorOutput:
        """Moves all tensors, in place, and converts the pixels to ``dtype``."""
        for name in ("input_ids", "attention_mask", "images_seq_mask", "images_emb_mask"):
            self[name] = self[name].to(device)
        self.pixel_values = self.pixel_values.to(device=device, dtype=dtype)
        return self
