"""Janus's special tokens: their strings, and the ids that a tokenizer gives them."""

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
    """Ids looked up by string: they differ between the 1B and the 7B."""

    bos: int
    eos: int
    pad: int
    placeholder: int
    begin_of_image: int
    end_of_image: int

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> SpecialTokens:
        vocabulary = tokenizer.get_vocab()
        # Janus-1.3B has no tokens for the speakers, but words (`speakers`)
        missing = [token for token in SPECIAL_TOKENS if token not in vocabulary and token not in (USER, ASSISTANT)]
        if missing:
            raise UserError(
                f"the tokenizer lacks Janus's special tokens {', '.join(missing)}: it is not a Janus tokenizer"
            )
        return cls(*(vocabulary[t] for t in (BOS, EOS, PAD, PLACEHOLDER, BEGIN_OF_IMAGE, END_OF_IMAGE)))


def speakers(tokenizer: PreTrainedTokenizerFast) -> tuple[str, str]:
    """What stands for `USER` and `ASSISTANT` in a model's text: themselves, or Janus-1.3B's words."""
    return (USER, ASSISTANT) if USER in tokenizer.get_vocab() else ("User", "Assistant")
