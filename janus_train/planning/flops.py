"""Exact counts of the useful FLOPs of training, by part.

In: `ModelConfig`, the trained parts, the `Workload` of rows. Out: a `PartFlops` for each `FlopsPart`. What counts as useful:

- matrix products and convolutions alone, 2 FLOPs per multiply-add; norms, activations and softmax do not count;
- the forward of every piece once; no padding, no dummy inputs, no recomputation;
- gradients of weights only where the part trains; gradients of inputs only where something before them trains
  (stage 1's frozen language model has the latter and not the former; a frozen encoder has neither);
- attention over the pairs that it has to look at: n (n + 1) / 2 in a causal document of n tokens, P * P in an image.
  Forward takes two products per pair, backward four (flash attention's fifth is a recomputation);
- LoRA's adapters, forward and both gradients; the frozen matrices beside them have input gradients alone. (Those of the
  first layer's q, k and v count too, though nothing needs them where nothing in front trains: under 1 %.)
- heads at loss positions only, the VQ encoder for images without cached codes only.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

from janus_train.config import ModelConfig, Part, PeftConfig
from janus_train.planning.parameters import adapter_matrix_counts
from janus_train.planning.workload import Workload

FlopsPart = Literal[
    "language_model",
    "attention",
    "text_head",
    "image_head",
    "understanding_encoder",
    "understanding_adaptor",
    "generation_adaptor",
    "generation_encoder",
]
"""The seven parts, with the language model in three, and without the code embeddings: a lookup is not a product."""
FLOPS_PARTS: tuple[FlopsPart, ...] = get_args(FlopsPart)


@dataclass(frozen=True)
class PartFlops:
    """FLOPs of one part in a forward and backward pass."""

    forward: float
    input_gradients: float
    weight_gradients: float

    @property
    def total(self) -> float:
        return self.forward + self.input_gradients + self.weight_gradients


def flops_by_part(
    model: ModelConfig, trained_parts: Collection[Part], workload: Workload, peft: PeftConfig | None = None
) -> dict[FlopsPart, PartFlops]:
    """Forward and backward of ``workload``, piece by piece."""
    adapters = adapter_matrix_counts(model, peft)
    flows = gradient_flow((*trained_parts, *adapters))
    forward = _forward(model, workload)
    result: dict[FlopsPart, PartFlops] = {}
    for piece, products in forward.items():
        part: Part = "language_model" if piece in ("attention", "text_head") else piece  # type: ignore[assignment]
        trains = part in trained_parts
        piece_input_has_gradient = flows["hidden"] if piece in ("text_head", "image_head") else flows[part]
        inputs = weights = 0.0
        input_has_gradient = piece_input_has_gradient  # whether the product's input requires a gradient
        for product in products:
            inputs += input_has_gradient * product.flops * (2 if product.without_weight else 1)
            weights += trains and not product.without_weight and product.flops
            input_has_gradient = input_has_gradient or trains or part in adapters
        result[piece] = PartFlops(sum(product.flops for product in products), inputs, weights)
    for part, count in adapters.items():
        adapter_flops = 2 * count * _vectors(model, workload)[part]  # type: ignore[index]
        base = result[part]  # type: ignore[index]
        terms = (base.forward, base.input_gradients, base.weight_gradients)
        result[part] = PartFlops(*(term + adapter_flops for term in terms))  # type: ignore[index]
    return result


def _vectors(model: ModelConfig, workload: Workload) -> dict[FlopsPart, float]:
    """The number of vectors that a part's linear layers process: tokens, loss positions, or image tokens."""
    P = model.tokens_per_image
    return {
        "language_model": workload.tokens,
        "image_head": workload.image_targets,
        "understanding_encoder": workload.understanding_images * P,
        "understanding_adaptor": workload.understanding_images * P,
        "generation_adaptor": workload.generation_images * P,
    }


def total_flops(
    model: ModelConfig, trained_parts: Collection[Part], workload: Workload, peft: PeftConfig | None = None
) -> float:
    """The sum over all of `flops_by_part`."""
    return sum(piece.total for piece in flops_by_part(model, trained_parts, workload, peft).values())


def gradient_flow(trained_parts: Collection[Part]) -> dict[str, bool]:
    """Whether a part's input requires a gradient, and whether the last hidden state (``hidden``) does."""
    embeds = bool(
        set(trained_parts)
        & {
            "language_model",
            "understanding_encoder",
            "understanding_adaptor",
            "generation_embedding",
            "generation_adaptor",
        }
    )
    return {
        "understanding_encoder": False,
        "understanding_adaptor": "understanding_encoder" in trained_parts,
        "generation_encoder": False,
        "generation_adaptor": "generation_embedding" in trained_parts,
        "language_model": embeds,
        "hidden": embeds,
    }


@dataclass(frozen=True)
class _Product:
    """A matrix product; a piece lists its products in the order of the forward pass."""

    flops: float
    without_weight: bool = False  # a product of two activations, as in attention


def _forward(model: ModelConfig, workload: Workload) -> dict[FlopsPart, list[_Product]]:
    text, vision, P = model.text, model.vision, model.tokens_per_image
    D, width = text.hidden_size, vision.hidden_size
    head = D // text.num_attention_heads
    layer = D * head * 2 * (text.num_attention_heads + text.num_key_value_heads) + 3 * D * text.intermediate_size
    Nu, Ng = workload.understanding_images, workload.generation_images
    return {
        "language_model": [_Product(2 * workload.tokens * text.num_hidden_layers * layer)],
        "attention": [_Product(4 * D * workload.causal_pairs * text.num_hidden_layers, without_weight=True)],
        "text_head": [_Product(2 * workload.text_targets * D * text.vocab_size)],
        "image_head": _mlp(workload.image_targets, [D, D, model.vq.num_embeddings]),
        "understanding_encoder": [
            _Product(2 * Nu * P * 3 * vision.patch_size**2 * width),
            *_vision_layers(model, Nu),
        ],
        "understanding_adaptor": _mlp(Nu * P, [width, *[D] * model.adaptor_depth]),
        "generation_adaptor": _mlp(Ng * P, [model.vq.embed_dim, *[D] * model.adaptor_depth]),
        "generation_encoder": [_Product(workload.uncached_images * vq_encoder_flops(model))],
    }


def _mlp(rows: float, widths: Sequence[int]) -> list[_Product]:
    return [_Product(2 * rows * a * b) for a, b in pairwise(widths)]


def _vision_layers(model: ModelConfig, images: float) -> list[_Product]:
    """The encoder's layers; attention is not causal, so every token of an image attends to all of them."""
    vision, P = model.vision, model.tokens_per_image
    width, mlp_width = vision.hidden_size, int(vision.hidden_size * vision.mlp_ratio)
    linear = 2 * P * (4 * width * width + 2 * width * mlp_width)
    layers = images * vision.num_hidden_layers
    return [_Product(layers * linear), _Product(layers * 4 * width * P * P, without_weight=True)]


def vq_encoder_flops(model: ModelConfig) -> float:
    """FLOPs of encoding one image: LlamaGen's VQ encoder, its last convolution, and the codebook search."""
    vq, side = model.vq, model.image_size
    total = 0.0

    def convolve(a: int, b: int, kernel: int, pixels: int) -> None:
        nonlocal total
        total += 2 * a * b * kernel * kernel * pixels

    def residual(a: int, b: int, pixels: int) -> None:
        convolve(a, b, 3, pixels)
        convolve(b, b, 3, pixels)
        if a != b:
            convolve(a, b, 1, pixels)

    def attend(channels: int, pixels: int) -> None:
        nonlocal total
        for _ in range(4):
            convolve(channels, channels, 1, pixels)
        total += 4 * channels * pixels * pixels

    channels, last_level = vq.base_channels, len(vq.channel_multiplier) - 1
    convolve(3, channels, 3, side * side)
    for level, multiplier in enumerate(vq.channel_multiplier):
        # without residual blocks the width only changes between them, so it stays that of the level before
        for _ in range(vq.num_res_blocks):
            wider = vq.base_channels * multiplier
            residual(channels, wider, side * side)
            channels = wider
            if level == last_level:
                attend(channels, side * side)
        if level != last_level:
            side //= 2
            convolve(channels, channels, 3, side * side)
    pixels = side * side
    residual(channels, channels, pixels)
    attend(channels, pixels)
    residual(channels, channels, pixels)
    convolve(channels, vq.latent_channels, 3, pixels)
    convolve(vq.latent_channels, vq.embed_dim, 1, pixels)
    return total + 2 * pixels * vq.embed_dim * vq.num_embeddings
