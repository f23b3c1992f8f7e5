"""Sampled text: what each option does to the next token, and that a seed gives the same answer in any batch."""

from __future__ import annotations

import math

import pytest
import torch

from janus_train.errors import UserError
from janus_train.infer import chat, sampling
from janus_train.infer.chat import answer, stream_answer
from janus_train.infer.sampling import TextSampling, TokenSampler
from tests.infer.test_chat import REQUESTS

LIVELY = TextSampling(temperature=1.5, top_p=0.9, top_k=50)


def shares(options: TextSampling, logits: list[float], n: int = 4000) -> list[float]:
    """How often each token comes in n rows of the same logits, each with its own seed."""
    tokens = TokenSampler(options, range(n), 1)(torch.tensor([logits]).expand(n, -1))
    return (torch.bincount(tokens, minlength=len(logits)) / n).tolist()


def test_tokens_come_as_often_as_the_temperature_says() -> None:
    logits = [0.0, 1.0, 2.0]
    weights = [math.exp(value / 2) for value in logits]
    expected = [weight / sum(weights) for weight in weights]
    assert shares(TextSampling(temperature=2.0), logits) == pytest.approx(expected, abs=0.025)


def test_top_k_and_top_p_leave_out_the_unlikely() -> None:
    logits = [math.log(share) for share in (0.5, 0.3, 0.15, 0.05)]
    two = [0.625, 0.375, 0, 0]
    assert shares(TextSampling(temperature=1.0, top_k=2), logits) == pytest.approx(two, abs=0.025)
    assert shares(TextSampling(temperature=1.0, top_p=0.75), logits) == pytest.approx(two, abs=0.025)
    three = [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0]
    assert shares(TextSampling(temperature=1.0, top_p=0.9), logits) == pytest.approx(three, abs=0.025)


def test_a_token_that_was_chosen_becomes_less_likely() -> None:
    choose = TokenSampler(TextSampling(repetition_penalty=2.0), [0], 4)
    logits = torch.tensor([[2.0, 1.5, -1.0]])
    # 2 -> 1 < 1.5; then 1 > 1.5 / 2; a penalty counts once, and makes a negative logit more negative
    assert [int(choose(logits)) for _ in range(3)] == [0, 1, 0]
    choose = TokenSampler(TextSampling(repetition_penalty=2.0), [0], 4)
    assert [int(choose(torch.tensor([[-1.0, -1.5]]))) for _ in range(2)] == [0, 1]


def test_nothing_asked_for_takes_the_old_way(janus, encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "TokenSampler", None)
    answer(janus, encoder, REQUESTS[:1], 2)
    answer(janus, encoder, REQUESTS[:1], 2, sampling=TextSampling(top_p=0.5, top_k=3), seeds=[9])
    assert sampling.likeliest(torch.tensor([[1.0, 3.0, 3.0]])).tolist() == [1]


def test_one_candidate_is_the_most_likely_token(janus, encoder) -> None:
    likely = answer(janus, encoder, REQUESTS, 8)
    assert answer(janus, encoder, REQUESTS, 8, sampling=TextSampling(temperature=1.0, top_k=1)) == likely
    assert answer(janus, encoder, REQUESTS, 8, sampling=TextSampling(temperature=1.0)) != likely


def test_an_answer_depends_on_its_seed_and_not_on_its_batch(janus, encoder) -> None:
    options = TextSampling(LIVELY.temperature, LIVELY.top_p, LIVELY.top_k, repetition_penalty=1.1)
    seeds = [5, 6, 7, 8]
    together = answer(janus, encoder, REQUESTS, 10, sampling=options, seeds=seeds)
    assert answer(janus, encoder, REQUESTS, 10, batch_size=1, sampling=options, seeds=seeds) == together
    alone = [
        answer(janus, encoder, [request], 10, sampling=options, seeds=[seed])[0]
        for request, seed in zip(REQUESTS, seeds, strict=True)
    ]
    assert alone == together
    others = answer(janus, encoder, REQUESTS, 10, sampling=options, seeds=[15, 16, 17, 18])
    assert all(one != other for one, other in zip(together, others, strict=True))


def test_a_streamed_sample_is_the_whole_one(janus, encoder) -> None:
    messages, images = REQUESTS[0]
    whole = answer(janus, encoder, REQUESTS[:1], 10, sampling=LIVELY, seeds=[3])[0]
    assert "".join(stream_answer(janus, encoder, messages, images, 10, sampling=LIVELY, seed=3)) == whole


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature -1.0 is not 0 or more"),
        ({"temperature": math.nan}, "temperature nan is not"),
        ({"top_p": 0.0}, "top_p 0.0 is not above 0 and at most 1"),
        ({"top_k": -2}, "top_k -2 is not 0 or more"),
        ({"repetition_penalty": 0.0}, "repetition_penalty 0.0 is not above 0"),
    ],
)
def test_a_value_out_of_range_is_one_line(options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TextSampling(**options)
