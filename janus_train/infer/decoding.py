"""Shared by generating images and answering: inference mode, left padding, and the language model's cached steps.

A row is a prompt. Rows of different lengths are padded on the left, so that all of them continue at the same column. The
padding is never attended to, and positions start at each row's first own token, so a row's result does not depend on its
batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import Cache, JanusForConditionalGeneration
from transformers.cache_utils import DynamicLayer, StaticLayer

from janus_train.errors import UserError
from janus_train.model.parts import eval_mode

StepCallback = Callable[[], None]
"""Called before each step of a generation, and before an image is decoded; what it raises ends the generation."""


@contextmanager
def inference(janus: JanusForConditionalGeneration) -> Iterator[None]:
    """`evaluation_mode` without gradients."""
    with evaluation_mode(janus), torch.no_grad():
        yield


@contextmanager
def evaluation_mode(janus: JanusForConditionalGeneration) -> Iterator[None]:
    """Sets eval mode, and plain masked attention in the language model; restores both afterwards.

    Training sets the language model to an attention that needs the documents' cumulative lengths: with a cache and one
    token per step there are none.
    """
    text_config = janus.model.language_model.config
    attention = text_config._attn_implementation
    text_config._attn_implementation = "sdpa"
    try:
        with eval_mode(janus):
            yield
    finally:
        text_config._attn_implementation = attention


def check_fits(janus: JanusForConditionalGeneration, num_prompt_tokens: int, num_new: int, unit: str) -> None:
    """Raises `UserError` if ``num_prompt_tokens`` tokens and ``num_new`` of ``unit`` are longer than the model's context."""
    context = janus.config.text_config.max_position_embeddings
    if num_prompt_tokens + num_new > context:
        raise UserError(
            f"a prompt of {num_prompt_tokens} tokens and {num_new} {unit} do not fit the context of {context}"
        )


def left_pad(rows: Sequence[Sequence[int]], fill: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pads ids on the left with ``fill`` to the longest, (N, M) int64; also returns their mask (N, M), true at own tokens.

    The mask comes from the lengths, never from ``ids == fill``: an unconditional row contains pads that are attended to.
    """
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), fill, dtype=torch.int64)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for n, row in enumerate(rows):
        ids[n, width - len(row) :] = torch.tensor(row, dtype=torch.int64)
        mask[n, width - len(row) :] = True
    return ids, mask


class FixedKVCacheLayer(StaticLayer):
    """transformers' static layer, also under autocast.

    Autocast leaves keys in fp32 after the rotary step and makes values bf16; the static layer has one type for both. It is
    the values', to which autocast casts queries and keys in the attention anyway.
    """

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return super().update(key_states.to(value_states.dtype), value_states, *args, **kwargs)


class PreallocatedKVCacheLayer(DynamicLayer):
    """A layer's keys and values (N, heads, tokens, head size) in memory that is allocated once for all tokens to come.

    transformers' growing layer copies everything at each step, and its static one attends to unused memory too: on a CPU
    both are slower (benchmarks/generate.md), so the static one is used only where fixed addresses are needed. Types are as
    in `FixedKVCacheLayer`.
    """

    def __init__(self, room: int):
        super().__init__()
        self.room = room
        self.memory: tuple[torch.Tensor, torch.Tensor]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        key_states = key_states.to(value_states.dtype)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            rows, heads, _, size = key_states.shape
            self.memory = (
                key_states.new_empty(rows, heads, self.room, size),
                value_states.new_empty(rows, heads, self.room, size),
            )
        num_used = self.get_seq_length()
        end = num_used + key_states.shape[-2]
        for memory, states in zip(self.memory, (key_states, value_states), strict=True):
            memory[:, :, num_used:end] = states
        self.keys, self.values = (memory[:, :, :end] for memory in self.memory)
        return self.keys, self.values


class Decoder:
    """The language model with a cache over a batch of left-padded rows: `prefill` once, then `step` repeatedly.

    It has two caches with the same results. On a CPU a step attends to the tokens so far (`PreallocatedKVCacheLayer`). On a
    GPU every step has the same shapes and addresses (`FixedKVCacheLayer`), so that it is captured once as a CUDA
    graph and replayed: one launch per step instead of some hundreds.
    """

    def __init__(self, janus: JanusForConditionalGeneration, room: int, fixed: bool | None = None):
        """``room``: final number of tokens of the longest row. ``fixed``: whether shapes are fixed as on a GPU; None: by the device."""
        self.language_model = janus.model.language_model
        device = janus.lm_head.weight.device
        self.room, self.fixed = room, device.type == "cuda" if fixed is None else fixed
        layer = FixedKVCacheLayer if self.fixed else PreallocatedKVCacheLayer
        self.cache = Cache(layers=[layer(room) for _ in range(self.language_model.config.num_hidden_layers)])
        self.mask: torch.Tensor  # (N, room) bool, true at own tokens and at future ones
        self.tokens: int  # number in the cache
        self.dtype: torch.dtype  # the prompts', for all embeddings: under autocast an adaptor's are bf16
        self.position: torch.Tensor  # (N, 1) int64, that of the newest token
        self.count: torch.Tensor  # (1, 1) int64, number of tokens in the cache, for fixed steps
        self.columns = torch.arange(room, device=device)
        self.graph: CudaGraph | None = None

    def prefill(self, embeds: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Reads the prompts: embeddings (N, M, D), mask (N, M) -> hidden states of the last tokens (N, D)."""
        rows, width = mask.shape
        self.dtype = embeds.dtype
        position_ids = (mask.long().cumsum(1) - 1).clamp(min=0)
        self.mask = torch.cat([mask, mask.new_ones(rows, self.room - width)], dim=1)
        self.position, self.tokens = position_ids[:, -1:].clone(), width
        self.count = torch.full((1, 1), width, device=mask.device)
        causal = torch.ones(width, width, dtype=torch.bool, device=mask.device).tril()
        diagonal = torch.eye(
            width, dtype=torch.bool, device=mask.device
        )  # padding attends to itself, because an empty row gives NaN
        attention_mask = (causal & mask[:, None, :]) | diagonal  # (N, M, M)
        if self.fixed:  # the cache passes its unused memory to the attention too
            attention_mask = torch.nn.functional.pad(attention_mask, (0, self.room - width))
        return self._run(embeds, attention_mask[:, None], position_ids)

    def step(self, embeds: torch.Tensor) -> torch.Tensor:
        """Reads one token per row: embeddings (N, D) -> hidden states (N, D)."""
        embeds = embeds.to(self.dtype)
        if self.fixed:
            if embeds.device.type != "cuda":
                return self._fixed_step(embeds)
            if self.graph is None:
                state = [self.position, self.count, *(layer.cumulative_length for layer in self.cache.layers)]
                self.graph = CudaGraph(self._fixed_step, embeds, state)
            return self.graph(embeds)
        self.tokens += 1
        self.position = self.position + 1
        return self._run(embeds[:, None], self.mask[:, None, None, : self.tokens], self.position)

    def _fixed_step(self, embeds: torch.Tensor) -> torch.Tensor:
        """Runs a step that changes its state in place and never reads a tensor's value on the host, as a CUDA graph requires."""
        self.position.add_(1)
        self.count.add_(1)
        attention_mask = self.mask & (self.columns < self.count)  # (N, room)
        return self._run(embeds[:, None], attention_mask[:, None, None, :], self.position)

    def _run(self, embeds: torch.Tensor, attention_mask: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """Runs the language model; the attention uses ``attention_mask`` (N, 1, queries, keys) bool unchanged."""
        out = self.language_model(
            inputs_embeds=embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=self.cache,
            use_cache=True,
        )
        return out.last_hidden_state[:, -1]


class CudaGraph:
    """Captures a function of one tensor as a CUDA graph, and replays it at each call."""

    def __init__(
        self, function: Callable[[torch.Tensor], torch.Tensor], example: torch.Tensor, state: Sequence[torch.Tensor]
    ):
        """``state``: tensors that the function changes in place; warming up and capturing leave them unchanged."""
        saved_state = [tensor.clone() for tensor in state]
        self.input = example.clone()
        side_stream = torch.cuda.Stream()
        side_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(
            side_stream
        ):  # libraries initialise themselves at the first calls, which must not be captured
            for _ in range(2):
                function(self.input)
                for tensor, value in zip(state, saved_state, strict=True):
                    tensor.copy_(value)
        torch.cuda.current_stream().wait_stream(side_stream)
        self.graph = torch.cuda.CUDAGraph()
        # Other threads' calls, such as NCCL's watchdog's, do not break the capture.
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.output = function(self.input)

    def __call__(self, value: torch.Tensor) -> torch.Tensor:
        self.input.copy_(value)
        self.graph.replay()
        return self.output.clone()
