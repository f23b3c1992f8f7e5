"""Chooses the next token of an answer: the most likely one, or a sample with a seed.

    logits (N, V) -> repetition penalty -> temperature -> top-k -> top-p -> token (N,)

The steps are transformers' processors. The random numbers belong to a row's seed, and everything is computed in float64:
a row's tokens do not depend on its batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from janus_train.errors import UserError
from janus_train.infer.generate import sample_codes, uniforms


@dataclass(frozen=True)
class TextSampling:
    """How the next token is chosen. Raises `UserError` for a value out of its range."""

    temperature: float = 0.0
    """0 takes the most likely token."""
    top_p: float = 1.0
    """Only the most likely tokens that together have this probability are sampled."""
    top_k: int = 0
    """Only this many of the most likely tokens are sampled; 0: all."""
    repetition_penalty: float = 1.0
    """Above 1 makes the answer's own tokens less likely to come again; those of the prompt do not count."""

    def __post_init__(self) -> None:
        self._check("temperature", math.isfinite(self.temperature) and self.temperature >= 0, "0 or more")
        self._check("top_p", 0 < self.top_p <= 1, "above 0 and at most 1")
        self._check("top_k", self.top_k >= 0, "0 or more")
        penalty = self.repetition_penalty
        self._check("repetition_penalty", math.isfinite(penalty) and penalty > 0, "above 0")

    def _check(self, name: str, is_valid: bool, expected: str) -> None:
        if not is_valid:
            raise UserError(f"{name} {getattr(self, name)} is not {expected}")

    @property
    def is_plain(self) -> bool:
        """Whether the most likely token is taken as it is."""
        return self.temperature == 0 and self.repetition_penalty == 1


GREEDY = TextSampling()
Chooser = Callable[[torch.Tensor], torch.Tensor]
"""Called once per step with the logits (N, V) of all rows; returns the next tokens (N,)."""


def likeliest(logits: torch.Tensor) -> torch.Tensor:
    """The most likely tokens: logits (N, V) -> (N,)."""
    return logits.argmax(-1)


class TokenSampler:
    """Chooses tokens as ``sampling`` says, each row with its own seed, for at most ``max_new_tokens`` steps."""

    def __init__(self, sampling: TextSampling, seeds: Sequence[int], max_new_tokens: int):
        self._greedy = sampling.temperature == 0
        self._uniforms = None if self._greedy else uniforms(seeds, max_new_tokens)  # (N, steps)
        self._tokens: list[torch.Tensor] = []
        self._processors = LogitsProcessorList()
        if sampling.repetition_penalty != 1:
            self._processors.append(RepetitionPenaltyLogitsProcessor(float(sampling.repetition_penalty)))
        if not self._greedy:
            self._processors.append(TemperatureLogitsWarper(float(sampling.temperature)))
            if sampling.top_k:
                self._processors.append(TopKLogitsWarper(sampling.top_k))
            if sampling.top_p < 1:
                self._processors.append(TopPLogitsWarper(sampling.top_p))

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        step = len(self._tokens)
        answer_ids = torch.stack(self._tokens, dim=1) if step else logits.new_empty(len(logits), 0, dtype=torch.int64)
        scores = self._processors(answer_ids, logits.double())
        if self._uniforms is None:
            token = scores.argmax(-1)
        else:
            token = sample_codes(scores, self._uniforms[:, step].to(logits.device), 1.0)
        self._tokens.append(token)
        return token
