"""Bytes that autograd keeps between forward and backward, by arithmetic on what each operation saves.

In: `ModelConfig`, what trains, the `Workload` of a micro-batch, the bytes per number, the checkpointing policy.
Out: `Activations`. The arithmetic follows transformers' eager modules (a norm keeps its input in fp32, its normalised
input and its output) with packed attention; `torch.compile` needs less, because it fuses some of them. A linear layer
keeps its input only if its weight trains, so stage 1 keeps far less than stage 2.

Checkpointing (`model.activation_checkpointing`): ``none`` keeps all activations of a decoder layer; ``selective`` keeps
its input and the outputs of its matrix products and of attention; ``full`` keeps its input only. With ``selective`` and
``full`` backward recomputes all activations of one layer at a time.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from janus_train.config import ActivationCheckpointing, ModelConfig, Part, PeftConfig, TextLoss
from janus_train.model.chunked_cross_entropy import chunk_positions
from janus_train.model.vq import ENCODE_CHUNK
from janus_train.planning.trained import Layer, Trained
from janus_train.planning.workload import Workload

FP32 = 4
"""Bytes per number of what is in fp32 whatever the run's precision: norms' inputs, softmax statistics, log-probabilities."""


@dataclass(frozen=True)
class Widths:
    """Bytes per number: in the residual stream, and in the inputs of matrix products."""

    stream: int
    compute: int

    @property
    def casts(self) -> bool:
        """Whether autocast is on: every product then keeps its own bf16 copy of its input."""
        return self.stream != self.compute


@dataclass(frozen=True)
class Activations:
    """Bytes. ``kept_bytes`` is alive when the forward ends; backward needs ``working_bytes`` on top of it.

    ``encoding_bytes`` are alive before the forward, while images become codes.
    """

    language_model: float
    encoder: float
    adaptors_and_heads: float
    logits: float
    working_bytes: float
    encoding_bytes: float

    @property
    def kept_bytes(self) -> float:
        return self.language_model + self.encoder + self.adaptors_and_heads + self.logits

    @property
    def peak_bytes(self) -> float:
        return max(self.kept_bytes + self.working_bytes, self.encoding_bytes)


def activations(
    model: ModelConfig,
    train_parts: Collection[str],
    workload: Workload,
    widths: Widths,
    policy: ActivationCheckpointing = "none",
    grouped_attention: bool = False,
    peft: PeftConfig | None = None,
    text_loss: TextLoss = "chunked",
) -> Activations:
    """Computes the bytes of one micro-batch.

    ``grouped_attention``: the CPU's attention, which copies its output once more than the GPU's kernel does. A layer with
    adapters keeps its linear layers' inputs as if it trained, and what lies between each pair of adapters. Layers below
    the lowest one that trains keep nothing.
    """
    trained = Trained(model, train_parts, peft)
    text, P = model.text, model.tokens_per_image
    D, L, s, c = text.hidden_size, workload.tokens, widths.stream, widths.compute
    head_trains = trained.piece("language_model", "lm_head")
    adapters = [_adapters(model, widths, layer, grouped_attention, peft) for layer in trained.layers]
    layer_bytes = [
        (_decoder_layer(model, widths, layer, grouped_attention) + kept) * L * layer.flows
        for layer, (kept, _) in zip(trained.layers, adapters, strict=True)
    ]
    selective_bytes = [
        (_selective_layer(model, widths) + kept) * L * layer.flows
        for layer, (_, kept) in zip(trained.layers, adapters, strict=True)
    ]
    num_flowing = sum(layer.flows for layer in trained.layers)
    decoder_bytes = {"none": sum(layer_bytes), "selective": sum(selective_bytes), "full": s * D * L * num_flowing}[
        policy
    ]
    rotary = 2 * s * (D // text.num_attention_heads) * L * bool(num_flowing)
    final_norm = (FP32 * trained.layers[-1].flows + s * trained.piece("language_model", "norm")) * D * L

    # A head's logits: the log-probabilities stay; backward needs two more tensors of that size, one head at a time.
    text_logits = FP32 * text.vocab_size * workload.text_targets * (trained.hidden or head_trains)
    text_kept_bytes, text_working_bytes, head_input_bytes = (
        text_logits,
        2 * text_logits,
        c * D * workload.text_targets * head_trains,
    )
    if text_loss == "chunked":
        # Both gradients are kept in place of the logits; the work needs a chunk's logits, log-probabilities of a part of
        # them (from an fp32 copy) and a bf16 copy of the head.
        chunk, part = (
            min(positions, workload.text_targets) * text.vocab_size * (trained.hidden or head_trains)
            for positions in chunk_positions(text.vocab_size, not grouped_attention, c)
        )
        text_kept_bytes = c * D * workload.text_targets * trained.hidden + FP32 * D * text.vocab_size * head_trains
        text_working_bytes = c * chunk + FP32 * part * (1 + (c < FP32)) + c * D * text.vocab_size * widths.casts
        head_input_bytes = 0.0
    image_head_trains = trained.part("image_head") or trained.adapts("image_head")
    image_logits = FP32 * model.vq.num_embeddings * workload.image_targets * (trained.hidden or image_head_trains)
    recomputed_bytes = max(layer_bytes) if policy != "none" else 0.0
    return Activations(
        language_model=decoder_bytes + rotary + final_norm,
        encoder=_encoder(model, widths, trained) * workload.understanding_images * P,
        adaptors_and_heads=_adaptors(model, trained, workload, widths)
        + head_input_bytes
        + c * D * workload.image_targets * (2 * image_head_trains + trained.hidden),
        logits=text_kept_bytes + image_logits,
        working_bytes=max(text_working_bytes, 2 * image_logits, recomputed_bytes),
        encoding_bytes=_encoding(model, workload.uncached_images),
    )


def _adapters(
    model: ModelConfig, widths: Widths, layer: Layer, grouped_attention: bool, peft: PeftConfig | None
) -> tuple[float, float]:
    """Bytes per token of a decoder layer's adapters if nothing is recomputed, and under ``selective``.

    What lies between A and B; with DoRA, whose magnitudes multiply both, the outputs of the base and of B too. Selective
    checkpointing keeps the outputs of all products, B's as well.
    """
    if peft is None or not layer.adapted:
        return 0.0, 0.0
    text, width = model.text, widths.compute
    key_value = text.hidden_size // text.num_attention_heads * text.num_key_value_heads
    outputs = 3 * text.hidden_size + 2 * key_value + 2 * text.intermediate_size
    # o's input, which peft casts to fp32 and autocast back; grouped attention has that copy already
    has_copy = widths.casts and not grouped_attention
    kept = width * (7 * peft.rank + 2 * outputs * peft.use_dora + text.hidden_size * has_copy)
    return kept, width * (7 * peft.rank + outputs)


def _decoder_layer(model: ModelConfig, widths: Widths, layer: Layer, grouped_attention: bool) -> float:
    """Bytes per token of a decoder layer if nothing is recomputed."""
    text, s, c = model.text, widths.stream, widths.compute
    trains = layer.trains or layer.adapted
    D, heads = text.hidden_size, text.num_attention_heads
    key_value = D // heads * text.num_key_value_heads
    inputs = (5 * c if widths.casts else 2 * c) if trains else 0  # of q, k, v and of gate, up
    norms = 2 * (FP32 + s * layer.trains) * D + inputs * D
    attention = c * (2 * D + 2 * key_value) + FP32 * heads + c * D * (grouped_attention and trains)
    return norms + attention + c * text.intermediate_size * (4 if trains else 3)


def _selective_layer(model: ModelConfig, widths: Widths) -> float:
    """Bytes per token under ``selective``: the layer's input and the outputs of q, k, v, attention, o, gate and up.

    The output of down is not kept: nothing in backward needs it.
    """
    text = model.text
    D, heads = text.hidden_size, text.num_attention_heads
    key_value = D // heads * text.num_key_value_heads
    products = 3 * D + 2 * key_value + 2 * text.intermediate_size
    return widths.stream * D + widths.compute * products + FP32 * heads


def _encoding(model: ModelConfig, images: float) -> float:
    """Bytes of the VQ encoder's largest tensors, in fp32 and without gradients.

    At full resolution its first convolution's output and a padded copy of that are alive, with a quarter as the next
    level's; in a residual block four tensors and a part.
    """
    channels = model.vq.base_channels * model.vq.channel_multiplier[0]
    tensor = FP32 * min(images, ENCODE_CHUNK) * channels * model.generation_image_size**2
    return tensor * (4.3 if model.vq.num_res_blocks else 2.3)


def _encoder(model: ModelConfig, widths: Widths, trained: Trained) -> float:
    """Bytes per image token in all layers of the understanding encoder: nothing below the lowest that trains."""
    vision, s, c = model.vision, widths.stream, widths.compute
    width, mlp_width = vision.hidden_size, int(vision.hidden_size * vision.mlp_ratio)
    inputs = (4 * c if widths.casts else 2 * c) * width + c * mlp_width  # of q, k, v and of both MLP layers
    layer_bytes = (2 * s + 4 * c) * width + c * mlp_width + FP32 * vision.num_attention_heads
    layers = [(layer_bytes + inputs * (layer.trains or layer.adapted)) * layer.flows for layer in trained.encoder]
    return sum(layers) + s * width * trained.features


def _adaptors(model: ModelConfig, trained: Trained, workload: Workload, widths: Widths) -> float:
    """Bytes of the adaptors: inputs of trained layers and of their activations, and the rows put into the sequence."""
    P, D, c = model.tokens_per_image, model.text.hidden_size, widths.compute
    hidden = model.adaptor_depth - 1
    adaptors: tuple[tuple[Part, float, int, bool], ...] = (
        ("understanding_adaptor", workload.understanding_images, model.vision.hidden_size, trained.features),
        (
            "generation_adaptor",
            workload.generation_images,
            model.vq.embed_dim,
            trained.part("generation_embedding"),
        ),
    )
    total = 0.0
    for part, images, width, input_has_gradient in adaptors:
        trains = trained.part(part) or trained.adapts(part)
        flows = trains or input_has_gradient
        bytes_per_token = c * width * trains + hidden * c * D * (flows + trains) + widths.stream * D * flows
        total += images * P * bytes_per_token
    return total
