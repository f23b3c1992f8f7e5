"""The understanding encoder as the official code calls it: pixels in, features out."""

from __future__ import annotations

import torch
from torch import nn
from transformers.models.janus import JanusVisionModel


class CLIPVisionTower(nn.Module):
    """``vision_model`` of a `MultiModalityCausalLM`, over transformers' module."""

    def __init__(self, vision_model: JanusVisionModel):
        super().__init__()
        self.vision_tower = vision_model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images (N, 3, S, S) in -1..1 -> features (N, P, width) after the last norm."""
        features: torch.Tensor = self.vision_tower(images).last_hidden_state
        return features
