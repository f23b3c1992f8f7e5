"""Bytes that autograd keeps between forward and backward, by arithmetic on what each operation saves.

In: `ModelConfig`, the trained parts, the `Workload` of a micro-batch, the bytes per number, the checkpointing policy.
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
from janus_train.planning.flops import gradient_flow
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
    trained_parts: Collection[Part],
    workload: Workload,
    widths: Widths,
    policy: ActivationCheckpointing = "none",
    grouped_attention: bool = False,
    peft: PeftConfig | None = None,
    text_loss: TextLoss = "chunked",
) -> Activations:
    """Computes the bytes of one micro-batch.

    ``grouped_attention``: the CPU's attention, which copies its output once more than the GPU's kernel does. A part with
    adapters keeps its linear layers' inputs as if it trained, and what lies between each pair of adapters.
    """
    norms_train = "language_model" in trained_parts  # and the text head
    trained_parts = (*trained_parts, *(peft.parts if peft else ()))
    flows = gradient_flow(trained_parts)
    text, P = model.text, model.tokens_per_image
    D, L, s, c = text.hidden_size, workload.tokens, widths.stream, widths.compute
    language_model_trains = "language_model" in trained_parts
    layers = text.num_hidden_layers * flows["language_model"]
    adapter_bytes, selective_adapter_bytes = (
        _adapters(model, c, peft) if peft and "language_model" in peft.parts else (0.0, 0.0)
    )
    if adapter_bytes and widths.casts and not grouped_attention:
        # o's input, which peft casts to fp32 and autocast back; grouped attention has that copy already
        adapter_bytes += c * D
    layer_bytes = (
        _decoder_layer(model, widths, language_model_trains, norms_train, grouped_attention) + adapter_bytes
    ) * L
    selective_bytes = _selective_layer(model, widths) + selective_adapter_bytes
    decoder_bytes = {"none": layer_bytes, "selective": selective_bytes * L, "full": s * D * L}[policy]
    rotary = 2 * s * (D // text.num_attention_heads) * L * bool(layers)
    final_norm = (FP32 + s * norms_train) * D * L * flows["hidden"]

    # A head's logits: the log-probabilities stay; backward needs two more tensors of that size, one head at a time.
    text_logits = FP32 * text.vocab_size * workload.text_targets * flows["hidden"]
    text_kept_bytes, text_working_bytes, head_input_bytes = (
        text_logits,
        2 * text_logits,
        c * D * workload.text_targets * norms_train,
    )
    if text_loss == "chunked":
        # Both gradients are kept in place of the logits; the work needs a chunk's logits, log-probabilities of a part of
        # them (from an fp32 copy) and a bf16 copy of the head.
        chunk, part = (
            min(positions, workload.text_targets) * text.vocab_size * flows["hidden"]
            for positions in chunk_positions(text.vocab_size, not grouped_attention, c)
        )
        text_kept_bytes = c * D * workload.text_targets * flows["hidden"] + FP32 * D * text.vocab_size * norms_train
        text_working_bytes = c * chunk + FP32 * part * (1 + (c < FP32)) + c * D * text.vocab_size * widths.casts
        head_input_bytes = 0.0
    image_logits = (
        FP32 * model.vq.num_embeddings * workload.image_targets * (flows["hidden"] or "image_head" in trained_parts)
    )
    recomputed_bytes = layer_bytes if layers and policy != "none" else 0.0
    return Activations(
        language_model=layers * decoder_bytes + rotary + final_norm,
        encoder=_encoder(model, widths)
        * workload.understanding_images
        * P
        * ("understanding_encoder" in trained_parts),
        adaptors_and_heads=_adaptors(model, trained_parts, workload, widths)
        + head_input_bytes
        + c * D * workload.image_targets * (2 * ("image_head" in trained_parts) + flows["hidden"]),
        logits=text_kept_bytes + image_logits,
        working_bytes=max(text_working_bytes, 2 * image_logits, recomputed_bytes),
        encoding_bytes=_encoding(model, workload.uncached_images),
    )


def _decoder_layer(
    model: ModelConfig, widths: Widths, trains: bool, norms_train: bool, grouped_attention: bool
) -> float:
    """Bytes per token of a decoder layer if nothing is recomputed."""
    text, s, c = model.text, widths.stream, widths.compute
    D, heads = text.hidden_size, text.num_attention_heads
    key_value = D // heads * text.num_key_value_heads
    inputs = (5 * c if widths.casts else 2 * c) if trains else 0  # of q, k, v and of gate, up
    norms = 2 * (FP32 + s * norms_train) * D + inputs * D
    attention = c * (2 * D + 2 * key_value) + FP32 * heads + c * D * (grouped_attention and trains)
    return norms + attention + c * text.intermediate_size * (4 if trains else 3)


def _adapters(model: ModelConfig, width: int, peft: PeftConfig) -> tuple[float, float]:
    """Bytes per token of a decoder layer's adapters if nothing is recomputed, and under ``selective``.

    What lies between A and B; with DoRA, whose magnitudes multiply both, the outputs of the base and of B too. Selective
    checkpointing keeps the outputs of all products, B's as well.
    """
    text = model.text
    key_value = text.hidden_size // text.num_attention_heads * text.num_key_value_heads
    outputs = 3 * text.hidden_size + 2 * key_value + 2 * text.intermediate_size
    return width * (7 * peft.rank + 2 * outputs * peft.use_dora), width * (7 * peft.rank + outputs)


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


def _encoder(model: ModelConfig, widths: Widths) -> float:
    """Bytes per image token in all layers of the understanding encoder, if it trains."""
    vision, s, c = model.vision, widths.stream, widths.compute
    width, mlp_width = vision.hidden_size, int(vision.hidden_size * vision.mlp_ratio)
    inputs = 4 * c if widths.casts else 2 * c  # of q, k, v and of the first MLP layer
    layer = (2 * s + inputs + 4 * c) * width + 2 * c * mlp_width + FP32 * vision.num_attention_heads
    return vision.num_hidden_layers * layer + s * width


def _adaptors(model: ModelConfig, trained_parts: Collection[Part], workload: Workload, widths: Widths) -> float:
    """Bytes of the adaptors: inputs of trained layers and of their activations, and the rows put into the sequence."""
    P, D, c = model.tokens_per_image, model.text.hidden_size, widths.compute
    hidden = model.adaptor_depth - 1
    total = 0.0
    for part, images, width, part_before in (
        ("understanding_adaptor", workload.understanding_images, model.vision.hidden_size, "understanding_encoder"),
        ("generation_adaptor", workload.generation_images, model.vq.embed_dim, "generation_embedding"),
    ):
        trains, flows = part in trained_parts, part in trained_parts or part_before in trained_parts
        bytes_per_token = c * width * trains + hidden * c * D * (flows + trains) + widths.stream * D * flows
        total += images * P * bytes_per_token
    return total
