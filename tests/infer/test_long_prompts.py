"""Prompts of any length: refused by their characters, before the tokenizer takes a hundred times their size in memory."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from janus_train.data.encode import Encoder
from janus_train.errors import UserError
from tests.helpers import plain_image

LONG = "word " * 10_000_000
"""50 MB."""


@pytest.fixture
def encoder(tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> Encoder:
    """Of a model with a context of 1024 tokens; it may not tokenize what is long."""
    made = Encoder(tokenizer, tokens_per_image=16, image_size=16, system_prompt="Look well.", context=1024)
    real = made.ids

    def ids(text: str) -> list[int]:
        assert len(text) < 10**6
        return real(text)

    monkeypatch.setattr(made, "ids", ids)
    return made


def test_a_long_prompt_is_refused_before_it_is_tokenized(encoder: Encoder) -> None:
    with pytest.raises(UserError, match=r"^a prompt of 50,000,\d+ characters does not fit the context of 1024 tokens$"):
        encoder.generation_prompt_ids(LONG)


@pytest.mark.parametrize("messages", [[LONG], ["Hello.", LONG], ["word"] * 100_000])
def test_a_long_conversation_is_refused_before_it_is_tokenized(encoder: Encoder, messages: list[str]) -> None:
    roles = ("user", "assistant")
    with pytest.raises(UserError, match=r"^a prompt of [\d,]+ characters does not fit the context of 1024 tokens$"):
        encoder.chat_prompt_ids([{"role": roles[n % 2], "content": text} for n, text in enumerate(messages)], 0)


def test_what_fits_is_never_refused_by_its_characters(encoder: Encoder) -> None:
    """Not even if each token is the longest that there is."""
    longest = max(encoder.tokenizer.get_vocab(), key=len)
    assert len(encoder.generation_prompt_ids(longest * 900)) < 1024


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_the_commands_say_it_in_one_line(random_base: Any, tmp_path: Any, run: Any, command: str) -> None:
    plain_image().save(tmp_path / "a.png")
    out = ("--out", tmp_path / "out") if command == "generate" else ()
    code, _, said = run(command, random_base, "--prompt", LONG, "--image", tmp_path / "a.png", "--device", "cpu", *out)
    assert code == 2 and said.count("\n") == 1, said[-500:]
    assert said.startswith("error: a prompt of 50,000,") and "does not fit the context of" in said
    assert not (tmp_path / "out").exists()
