"""What trains, as planning sees it: for each layer whether it trains, has adapters, or is on the way of gradients.

Gradients go back to the lowest thing that trains and no further: what is below it keeps no activations and computes no
gradients.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from janus_train.config import ModelConfig, Part, PeftConfig
from janus_train.part_specs import covered_layers, covers_piece, parse_spec


@dataclass(frozen=True)
class Layer:
    """``trains``: in full; ``adapted``: by LoRA; ``flows``: its output requires a gradient."""

    trains: bool
    adapted: bool
    flows: bool


class Trained:
    """What ``train_parts`` and ``peft`` train of ``model``."""

    def __init__(self, model: ModelConfig, train_parts: Collection[str], peft: PeftConfig | None = None):
        self._full, self._adapted = tuple(train_parts), tuple(peft.parts) if peft else ()
        self.encoder = self._layers(
            model, "understanding_encoder", starts=self.piece("understanding_encoder", "embeddings")
        )
        """The understanding encoder's layers."""
        self.features = self.encoder[-1].flows or self.piece("understanding_encoder", "post_layernorm")
        """Whether the encoder's output requires a gradient."""
        adaptors = any(self.part(part) for part in ("understanding_adaptor", "generation_adaptor"))
        adaptors = adaptors or any(self.adapts(part) for part in ("understanding_adaptor", "generation_adaptor"))
        self.embeds = (
            self.features
            or adaptors
            or self.part("generation_embedding")
            or self.piece("language_model", "embed_tokens")
        )
        """Whether the language model's input requires a gradient."""
        self.layers = self._layers(model, "language_model", starts=self.embeds)
        """The language model's layers."""
        self.hidden = self.layers[-1].flows or self.piece("language_model", "norm")
        """Whether the heads' input requires a gradient."""

    def _layers(self, model: ModelConfig, part: Part, starts: bool) -> list[Layer]:
        count, flows, layers = model.num_layers[part], starts, []
        full, adapted = (covered_layers(specs, part, count) for specs in (self._full, self._adapted))
        for trains, has_adapters in zip(full, adapted, strict=True):
            flows = flows or trains or has_adapters
            layers.append(Layer(trains, has_adapters, flows))
        return layers

    def part(self, part: Part) -> bool:
        """Whether a part without pieces trains in full."""
        return part in self._full

    def adapts(self, part: Part) -> bool:
        """Whether a part without pieces has adapters."""
        return any(parse_spec(spec).part == part for spec in self._adapted)

    def piece(self, part: Part, piece: str) -> bool:
        """Whether a piece trains in full."""
        return covers_piece(self._full, part, piece)
