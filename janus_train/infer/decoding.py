"""What drawing and answering share: inference mode, left padding, and the language model's cached steps.

A row is a prompt. Rows of different lengths are padded on the left, so that all of them go on at the same column; the
padding is never attended to and positions start at each row's first own token, so a row's result does not depend on
the batch that it is in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import Cache, JanusForConditionalGeneration
from transformers.cache_utils import DynamicLayer


@contextmanager
def inference(janus: JanusForConditionalGeneration) -> Iterator[None]:
    """Eval mode, no gradients, and plain masked attention in the language model; puts back what it found.

    Training sets the language model to an attention that needs the documents' cumulative lengths: with a cache and one
    token a step there are none.
    """
    training = [module for module in janus.modules() if module.training]
    text_config = janus.model.language_model.config
    attention = text_config._attn_implementation
    janus.eval()
    text_config._attn_implementation = "sdpa"
    try:
        with torch.no_grad():
            yield
    finally:
        text_config._attn_implementation = attention
        for module in training:
            module.training = True  # one by one: .train() would reach the frozen parts below it


def left_pad(rows: Sequence[Sequence[int]], fill: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, T) int64 ids padded on the left with ``fill``, and the (N, T) bool mask that is true at the rows' own tokens.

    The mask comes from the lengths, never from ``ids == fill``: an unconditional row holds pads that are attended to
    (facts.md, trap 12).
    """
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), fill, dtype=torch.int64)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for n, row in enumerate(rows):
        ids[n, width - len(row) :] = torch.tensor(row, dtype=torch.int64)
        mask[n, width - len(row) :] = True
    return ids, mask


class RoomyLayer(DynamicLayer):
    """A layer's keys and values (N, heads, tokens, head size) in memory that is taken once for all tokens to come.

    transformers' growing layer copies everything at each step, its static one attends to the empty room too. A fifth of
    the time of drawing 64 pictures with the tiny model goes with the copies.
    """

    def __init__(self, room: int):
        super().__init__()
        self.room = room
        self.memory: tuple[torch.Tensor, torch.Tensor]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            rows, heads, _, size = key_states.shape
            self.memory = (
                key_states.new_empty(rows, heads, self.room, size),
                value_states.new_empty(rows, heads, self.room, size),
            )
        used = self.get_seq_length()
        end = used + key_states.shape[-2]
        for memory, new in zip(self.memory, (key_states, value_states), strict=True):
            memory[:, :, used:end] = new
        self.keys, self.values = (memory[:, :, :end] for memory in self.memory)
        return self.keys, self.values


class Decoder:
    """The language model with a cache over a batch of left-padded rows: `prefill` once, then `step` by `step`."""

    def __init__(self, janus: JanusForConditionalGeneration, room: int):
        """``room``: tokens that the longest row will have in the end, its prompt's included."""
        self.language_model = janus.model.language_model
        self.cache = Cache(layers=[RoomyLayer(room) for _ in range(self.language_model.config.num_hidden_layers)])
        self.mask: torch.Tensor  # (N, tokens so far) bool
        self.position: torch.Tensor  # (N, 1) int64, of the newest token

    def prefill(self, embeds: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Reads the prompts: embeddings (N, T, D), mask (N, T) -> hidden states of the last tokens (N, D)."""
        width = mask.shape[1]
        position_ids = (mask.long().cumsum(1) - 1).clamp(min=0)
        self.mask, self.position = mask, position_ids[:, -1:]
        causal = torch.ones(width, width, dtype=torch.bool, device=mask.device).tril()
        itself = torch.eye(width, dtype=torch.bool, device=mask.device)  # a padding's own row must not be empty: NaN
        allowed = (causal & mask[:, None, :]) | itself  # (N, T, T)
        return self._run(embeds, allowed[:, None], position_ids)

    def step(self, embeds: torch.Tensor) -> torch.Tensor:
        """Reads one token a row: embeddings (N, D) -> hidden states (N, D)."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)
        self.position = self.position + 1
        return self._run(embeds[:, None], self.mask[:, None, None, :], self.position)

    def _run(self, embeds: torch.Tensor, allowed: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """``allowed`` (N, 1, queries, keys) bool goes to the attention as it is."""
        out = self.language_model(
            inputs_embeds=embeds,
            attention_mask=allowed,
            position_ids=position_ids,
            past_key_values=self.cache,
            use_cache=True,
        )
        return out.last_hidden_state[:, -1]
