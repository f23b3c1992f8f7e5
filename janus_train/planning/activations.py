"""Bytes that autograd keeps between forward and backward, by arithmetic on what each operation saves.

In: `ModelConfig`, the trained parts, the `Workload` of a micro-batch, how wide numbers are, the checkpointing policy.
Out: `Activations`. Counted are transformers' eager modules as they are (a norm keeps its input in fp32, its normalised
input and its output) with packed attention; what `torch.compile` fuses away comes off this. A linear layer keeps its
input only if its weight trains, so stage 1 keeps far less than stage 2.

Checkpointing (`model.activation_checkpointing`): ``none`` keeps all of a decoder layer; ``selective`` its input and the outputs of its matrix
products and of attention; ``full`` its input alone. With either of them one layer at a time is whole again in backward.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from janus_train.config import ActivationCheckpointing, ModelConfig, Part, PeftConfig, TextLoss
from janus_train.model.chunked_cross_entropy import LOGITS
from janus_train.planning.flops import gradient_flow
from janus_train.planning.workload import Workload

FP32 = 4
"""Bytes of what is in fp32 whatever the run's precision: norms' inputs, softmax statistics, log-probabilities."""


@dataclass(frozen=True)
class Widths:
    """Bytes of a number: in the residual stream, and as a matrix product takes it."""

    stream: int
    compute: int

    @property
    def casts(self) -> bool:
        """Autocast: every product keeps its own narrow copy of its input."""
        return self.stream != self.compute


@dataclass(frozen=True)
class Activations:
    """Bytes. ``kept`` is alive when the forward ends; ``working`` comes on top while backward goes through it."""

    language_model: float
    encoder: float
    adaptors_and_heads: float
    logits: float
    working: float

    @property
    def kept(self) -> float:
        return self.language_model + self.encoder + self.adaptors_and_heads + self.logits

    @property
    def peak(self) -> float:
        return self.kept + self.working


def activations(
    model: ModelConfig,
    trained: Collection[Part],
    content: Workload,
    widths: Widths,
    policy: ActivationCheckpointing = "none",
    grouped_attention: bool = False,
    peft: PeftConfig | None = None,
    text_loss: TextLoss = "chunked",
) -> Activations:
    """The bytes of one micro-batch. ``grouped_attention``: the CPU's, which copies its output once more than the GPU's kernel.

    A part with adapters keeps its linear layers' inputs as if it trained, and what lies between each pair of adapters.
    """
    norms_train = "language_model" in trained  # and the text head
    trained = (*trained, *(peft.parts if peft else ()))
    flows = gradient_flow(trained)
    text, P = model.text, model.tokens_per_image
    D, L, s, c = text.hidden_size, content.tokens, widths.stream, widths.compute
    llm = "language_model" in trained
    layers = text.num_hidden_layers * flows["language_model"]
    between = c * 7 * peft.rank if peft and "language_model" in peft.parts else 0.0
    if between and widths.casts and not grouped_attention:
        between += (
            c * D
        )  # o's input, which peft widens and autocast narrows again; the copy of grouped attention is that
    whole = (_decoder_layer(model, widths, llm, norms_train, grouped_attention) + between) * L
    selected = _kept_selectively(model, widths) + between
    kept = {"none": whole, "selective": selected * L, "full": s * D * L}[policy]
    rotary = 2 * s * (D // text.num_attention_heads) * L * bool(layers)
    final_norm = (FP32 + s * norms_train) * D * L * flows["hidden"]

    # A head's logits: the log-probabilities stay; backward holds two more of that size beside them, a head at a time.
    text_logits = FP32 * text.vocab_size * content.text_targets * flows["hidden"]
    text_kept, text_working, head_input = text_logits, 2 * text_logits, c * D * content.text_targets * norms_train
    if text_loss == "chunked":
        # Both gradients in place of the logits; logits, log-probabilities and a narrow copy of the head meanwhile.
        chunk = min(max(1, LOGITS // text.vocab_size), content.text_targets) * text.vocab_size * flows["hidden"]
        text_kept = c * D * content.text_targets * flows["hidden"] + FP32 * D * text.vocab_size * norms_train
        text_working = 2 * FP32 * chunk + c * (chunk + D * text.vocab_size) * widths.casts
        head_input = 0.0
    image_logits = FP32 * model.vq.num_embeddings * content.image_targets * (flows["hidden"] or "image_head" in trained)
    recomputed = whole if layers and policy != "none" else 0.0
    return Activations(
        language_model=layers * kept + rotary + final_norm,
        encoder=_encoder(model, widths) * content.understanding_images * P * ("understanding_encoder" in trained),
        adaptors_and_heads=_adaptors(model, trained, content, widths)
        + head_input
        + c * D * content.image_targets * (2 * ("image_head" in trained) + flows["hidden"]),
        logits=text_kept + image_logits,
        working=max(text_working, 2 * image_logits, recomputed),
    )


def _decoder_layer(model: ModelConfig, widths: Widths, trains: bool, norms_train: bool, grouped: bool) -> float:
    """Bytes per token of a layer of which nothing is recomputed."""
    text, s, c = model.text, widths.stream, widths.compute
    D, heads = text.hidden_size, text.num_attention_heads
    key_value = D // heads * text.num_key_value_heads
    inputs = (5 * c if widths.casts else 2 * c) if trains else 0  # of q, k, v and of gate, up
    norms = 2 * (FP32 + s * norms_train) * D + inputs * D
    attention = c * (2 * D + 2 * key_value) + FP32 * heads + c * D * (grouped and trains)
    return norms + attention + c * text.intermediate_size * (4 if trains else 3)


def _kept_selectively(model: ModelConfig, widths: Widths) -> float:
    """Bytes per token: the layer's input, the outputs of q, k, v, attention, o, gate and up; not down's, which nothing needs."""
    text = model.text
    D, heads = text.hidden_size, text.num_attention_heads
    key_value = D // heads * text.num_key_value_heads
    products = 3 * D + 2 * key_value + 2 * text.intermediate_size
    return widths.stream * D + widths.compute * products + FP32 * heads


def _encoder(model: ModelConfig, widths: Widths) -> float:
    """Bytes per token of an image in the whole understanding encoder, if it trains."""
    vision, s, c = model.vision, widths.stream, widths.compute
    width, inner = vision.hidden_size, int(vision.hidden_size * vision.mlp_ratio)
    inputs = 4 * c if widths.casts else 2 * c  # of q, k, v and of the first MLP layer
    layer = (2 * s + inputs + 4 * c) * width + 2 * c * inner + FP32 * vision.num_attention_heads
    return vision.num_hidden_layers * layer + s * width


def _adaptors(model: ModelConfig, trained: Collection[Part], content: Workload, widths: Widths) -> float:
    """Inputs of the layers that train, inputs of their activations, and the rows put into the sequence."""
    P, D, c = model.tokens_per_image, model.text.hidden_size, widths.compute
    hidden = model.adaptor_depth - 1
    total = 0.0
    for part, images, width, before in (
        ("understanding_adaptor", content.understanding_images, model.vision.hidden_size, "understanding_encoder"),
        ("generation_adaptor", content.generation_images, model.vq.embed_dim, "generation_embedding"),
    ):
        trains, flows = part in trained, part in trained or before in trained
        a_token = c * width * trains + hidden * c * D * (flows + trains) + widths.stream * D * flows
        total += images * P * a_token
    return total
