"""Trains the base's tokenizer: byte-level BPE with exactly the model's vocabulary size, including special tokens.

In: texts. Out: a ``PreTrainedTokenizerFast`` that does not add special tokens by itself.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from janus_train.data.special_tokens import BOS, EOS, PAD, SPECIAL_TOKENS


def train_tokenizer(texts: Iterable[str], vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """Train byte-level BPE with exactly ``vocab_size`` entries: special tokens, the 256 bytes, merges.

    The byte-level pre-tokenizer (GPT-2's rule) starts a word at its space, so "<|Assistant|>:" + " Answer" gives the
    same tokens as the two pieces alone: templates may be cut there.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    assert tokenizer.get_vocab_size() == vocab_size, (
        f"{tokenizer.get_vocab_size()} entries: too few texts for {vocab_size}"
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[t for t in SPECIAL_TOKENS if t not in (BOS, EOS, PAD)],
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
