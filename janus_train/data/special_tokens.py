"""Janus's special tokens: their strings, and their ids in a tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from janus_train.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
PLACEHOLDER, BEGIN_OF_IMAGE, END_OF_IMAGE = "<image_placeholder>", "<begin_of_image>", "<end_of_image>"
USER, ASSISTANT = "<|User|>", "<|Assistant|>"
SPECIAL_TOKENS = (BOS, EOS, PAD, PLACEHOLDER, BEGIN_OF_IMAGE, END_OF_IMAGE, USER, ASSISTANT)


@dataclass(frozen=True)
class SpecialTokens:
    """The ids of the special tokens in a tokenizer; they differ between the 1B and the 7B."""

    bos: int
    eos: int
    pad: int
    placeholder: int
    begin_of_image: int
    end_of_image: int

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> SpecialTokens:
        vocabulary = tokenizer.get_vocab()
        # Janus-1.3B has words instead of tokens for the speakers (`speakers`)
        missing_tokens = [
            token for token in SPECIAL_TOKENS if token not in vocabulary and token not in (USER, ASSISTANT)
        ]
        if missing_tokens:
            raise UserError(
                f"the tokenizer lacks Janus's special tokens {', '.join(missing_tokens)}: it is not a Janus tokenizer"
            )
        return cls(*(vocabulary[t] for t in (BOS, EOS, PAD, PLACEHOLDER, BEGIN_OF_IMAGE, END_OF_IMAGE)))


def speakers(tokenizer: PreTrainedTokenizerFast) -> tuple[str, str]:
    """The strings for `USER` and `ASSISTANT` in a model's text: the special tokens, or the words of Janus-1.3B."""
    return (USER, ASSISTANT) if USER in tokenizer.get_vocab() else ("User", "Assistant")
