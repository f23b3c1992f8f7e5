"""Exact counts of the useful FLOPs of training, by part.

In: `ModelConfig`, what trains, the `Workload` of rows. Out: a `PartFlops` for each `FlopsPart`. What counts as useful:

- matrix products and convolutions alone, 2 FLOPs per multiply-add; norms, activations and softmax do not count;
- the forward of every piece once; no padding, no dummy inputs, no recomputation;
- gradients of weights only where the part trains; gradients of inputs only where something before them trains
  (stage 1's frozen language model has the latter and not the former; a frozen encoder has neither);
- attention over the pairs that it has to look at: n (n + 1) / 2 in a causal document of n tokens, P * P in an image.
  Forward takes two products per pair, backward four (flash attention's fifth is a recomputation);
- below the lowest layer that trains or has adapters the forward alone;
- LoRA's adapters, forward and both gradients; the frozen matrices beside them have input gradients alone. (Input
  gradients of the lowest adapters count too, though nothing needs them where nothing in front trains: under 0.1 %.)
- heads at loss positions only, the VQ encoder for images without cached codes only.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

from janus_train.config import ModelConfig, PeftConfig
from janus_train.planning.parameters import adapter_matrix_counts
from janus_train.planning.trained import Trained
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
MLP = Literal["image_head", "understanding_adaptor", "generation_adaptor"]
"""The parts that are a few linear layers."""


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
    model: ModelConfig, train_parts: Collection[str], workload: Workload, peft: PeftConfig | None = None
) -> dict[FlopsPart, PartFlops]:
    """Forward and backward of ``workload``, piece by piece."""
    trained = Trained(model, train_parts, peft)
    totals: dict[FlopsPart, list[float]] = {piece: [0.0, 0.0, 0.0] for piece in FLOPS_PARTS}
    for chain in _chains(model, trained, workload):
        has_gradient = chain.input_has_gradient  # whether the product's input requires a gradient
        for product in chain.products:
            has_gradient = has_gradient or product.after_trained_norm
            total = totals[product.piece]
            total[0] += product.flops
            total[1] += has_gradient * product.flops * (2 if product.without_weight else 1)
            total[2] += product.trains and product.flops
            has_gradient = has_gradient or product.trains or product.adapted
    vectors = _vectors(model, workload)
    for part, count in adapter_matrix_counts(model, peft).items():
        for term in range(3):
            totals[part][term] += 2 * count * vectors[part]  # type: ignore[index]
    return {piece: PartFlops(*terms) for piece, terms in totals.items()}


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
    model: ModelConfig, train_parts: Collection[str], workload: Workload, peft: PeftConfig | None = None
) -> float:
    """The sum over all of `flops_by_part`."""
    return sum(piece.total for piece in flops_by_part(model, train_parts, workload, peft).values())


@dataclass(frozen=True)
class _Product:
    """A matrix product, with what trains of its weight."""

    piece: FlopsPart
    flops: float
    trains: bool = False
    adapted: bool = False
    without_weight: bool = False  # a product of two activations, as in attention
    after_trained_norm: bool = False  # so that its input requires a gradient even in the lowest layer that trains


@dataclass(frozen=True)
class _Chain:
    """Products in the order of the forward pass, each of whose inputs depends on those before it."""

    input_has_gradient: bool
    products: list[_Product]


def _chains(model: ModelConfig, trained: Trained, workload: Workload) -> list[_Chain]:
    D, P = model.text.hidden_size, model.tokens_per_image
    Nu, Ng = workload.understanding_images, workload.generation_images
    text_head = 2 * workload.text_targets * D * model.text.vocab_size
    return [
        _Chain(False, _encoder(model, trained, Nu)),
        _Chain(
            trained.features,
            _mlp("understanding_adaptor", trained, Nu * P, [model.vision.hidden_size, *[D] * model.adaptor_depth]),
        ),
        _Chain(
            trained.part("generation_embedding"),
            _mlp("generation_adaptor", trained, Ng * P, [model.vq.embed_dim, *[D] * model.adaptor_depth]),
        ),
        _Chain(trained.embeds, _decoder(model, trained, workload)),
        _Chain(trained.hidden, [_Product("text_head", text_head, trained.piece("language_model", "lm_head"))]),
        _Chain(trained.hidden, _mlp("image_head", trained, workload.image_targets, [D, D, model.vq.num_embeddings])),
        _Chain(False, [_Product("generation_encoder", workload.uncached_images * vq_encoder_flops(model))]),
    ]


def _mlp(part: MLP, trained: Trained, rows: float, widths: Sequence[int]) -> list[_Product]:
    trains, adapted = trained.part(part), trained.adapts(part)
    return [_Product(part, 2 * rows * a * b, trains, adapted) for a, b in pairwise(widths)]


def _decoder(model: ModelConfig, trained: Trained, workload: Workload) -> list[_Product]:
    """The language model's layers."""
    text, L = model.text, workload.tokens
    D = text.hidden_size
    head = D // text.num_attention_heads
    attention, products = 4 * D * workload.causal_pairs, []
    for layer in trained.layers:
        for number, weights in enumerate(
            (
                D * head * (text.num_attention_heads + 2 * text.num_key_value_heads),  # q, k and v
                D * head * text.num_attention_heads,
                3 * D * text.intermediate_size,
            )
        ):
            flops = 2 * L * weights
            products.append(
                _Product("language_model", flops, layer.trains, layer.adapted, after_trained_norm=layer.trains)
            )
            if number == 0:
                products.append(_Product("attention", attention, without_weight=True))
    return products


def _encoder(model: ModelConfig, trained: Trained, images: float) -> list[_Product]:
    """The understanding encoder; attention is not causal, so every token of an image attends to all of them."""
    vision, P = model.vision, model.tokens_per_image
    width, mlp_width = vision.hidden_size, int(vision.hidden_size * vision.mlp_ratio)
    piece: Literal["understanding_encoder"] = "understanding_encoder"
    patches = 2 * images * P * 3 * vision.patch_size**2 * width
    products = [_Product(piece, patches, trained.piece(piece, "embeddings"))]
    linear, attention = 2 * images * P * width * width, 4 * images * width * P * P
    for layer in trained.encoder:
        trains, adapted = layer.trains, layer.adapted
        products += [
            _Product(piece, 3 * linear, trains, adapted, after_trained_norm=trains),
            _Product(piece, attention, without_weight=True),
            _Product(piece, linear + 4 * images * P * width * mlp_width, trains, adapted),
        ]
    return products


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
