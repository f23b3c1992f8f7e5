"""Answers questions about images and plain text: in batches, with several images and turns per request.

messages + images -> prompt ids with P placeholders per image -> text embeddings, understanding features put over
the placeholders -> tokens until EOS -> text

Tokens are the most likely ones unless a `TextSampling` is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from PIL import Image
from transformers import JanusForConditionalGeneration

from janus_train.data.encode import Encoder
from janus_train.data.prompt_format import OWN_STYLE, Message, PromptStyle, role_of, split_system
from janus_train.data.special_tokens import ASSISTANT
from janus_train.infer.answer_text import AnswerText
from janus_train.infer.decoding import Decoder, StepCallback, check_fits, evaluation_mode, left_pad
from janus_train.infer.image_inputs import image_features, prompt_embeds
from janus_train.infer.sampling import GREEDY, Chooser, TextSampling, TokenSampler, likeliest

Messages = list[Message]
"""Turns ``{"role": "user" or "assistant", "content": text with <image_placeholder>}``, the first may be a system message."""
Request = tuple[Messages, Sequence[Image.Image]]


def open_turn(messages: Messages) -> Messages:
    """Returns the messages with an open assistant turn at the end, which the model continues.

    Raises `UserError` for what is no conversation (`prompt_format.split_system`).
    """
    last_turn = split_system(messages)[1][-1]
    if role_of(last_turn) == ASSISTANT and not last_turn["content"].strip():
        return messages
    return [*messages, {"role": "assistant", "content": ""}]


def answer(
    janus: JanusForConditionalGeneration,
    encoder: Encoder,
    requests: Sequence[Request],
    max_new_tokens: int,
    *,
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
    style: PromptStyle = OWN_STYLE,
    sampling: TextSampling = GREEDY,
    seeds: Sequence[int] | None = None,
) -> list[str]:
    """Returns one answer per request, in the requests' order, each up to EOS or ``max_new_tokens``.

    Requests of similar length are answered together, ``batch_size`` at a time; an answer does not depend on its batch.
    ``seeds``: of the samples, one per request; by default the requests' numbers.

    Raises:
        UserError: a request's numbers of placeholders and images differ, it is not a conversation
            (`prompt_format.split_system`), or it does not fit the model's context.
    """
    prompts = [encoder.chat_prompt_ids(open_turn(messages), len(images), style) for messages, images in requests]
    seeds = range(len(requests)) if seeds is None else seeds
    check_fits(janus, max((len(prompt) for prompt in prompts), default=0), max_new_tokens, "new ones")
    order = sorted(range(len(requests)), key=lambda n: len(prompts[n]))
    answers: dict[int, str] = {}
    for start in range(0, len(order), batch_size):
        chunk = order[start : start + batch_size]
        images = [image for n in chunk for image in requests[n][1]]
        choose = chooser(sampling, [seeds[n] for n in chunk], max_new_tokens)
        tokens = answer_ids(janus, encoder, [prompts[n] for n in chunk], images, max_new_tokens, choose)
        for n, ids in zip(chunk, tokens, strict=True):
            answers[n] = encoder.tokenizer.decode(ids, skip_special_tokens=True).strip()
        if progress is not None:
            progress(len(chunk))
    return [answers[n] for n in range(len(requests))]


def stream_answer(
    janus: JanusForConditionalGeneration,
    encoder: Encoder,
    messages: Messages,
    images: Sequence[Image.Image],
    max_new_tokens: int,
    on_step: StepCallback | None = None,
    *,
    style: PromptStyle = OWN_STYLE,
    sampling: TextSampling = GREEDY,
    seed: int = 0,
) -> Iterator[str]:
    """Yields one request's answer in pieces, each as soon as it is known; together they equal the result of `answer`.

    ``on_step`` is called before each token; what it raises ends the answer.

    Raises, at the first piece:
        UserError: as in `answer`.
    """
    prompt = encoder.chat_prompt_ids(open_turn(messages), len(images), style)
    check_fits(janus, len(prompt), max_new_tokens, "new ones")
    text = AnswerText(encoder)
    choose = chooser(sampling, [seed], max_new_tokens)
    for token in answer_tokens(janus, encoder, [prompt], images, max_new_tokens, choose):
        if on_step is not None:
            on_step()
        piece = text.add(int(token))
        if piece:
            yield piece
        if text.has_ended:
            break
    remainder = text.rest()
    if remainder:
        yield remainder


def chooser(sampling: TextSampling, seeds: Sequence[int], max_new_tokens: int) -> Chooser:
    """What chooses the tokens of one batch, whose rows have ``seeds``."""
    return likeliest if sampling.is_plain else TokenSampler(sampling, seeds, max_new_tokens)


def answer_ids(
    janus: JanusForConditionalGeneration,
    encoder: Encoder,
    prompts: Sequence[list[int]],
    images: Sequence[Image.Image],
    max_new_tokens: int,
    choose: Chooser = likeliest,
) -> list[list[int]]:
    """Returns the tokens that follow each prompt, without EOS; ``images`` are in the order of the prompts' placeholders."""
    columns = list(answer_tokens(janus, encoder, prompts, images, max_new_tokens, choose))
    rows = torch.stack(columns, dim=1).tolist() if columns else [[] for _ in prompts]
    return [row[: row.index(encoder.special.eos)] if encoder.special.eos in row else row for row in rows]


@torch.no_grad()  # as a decorator: while the generator runs, not while its caller does
def answer_tokens(
    janus: JanusForConditionalGeneration,
    encoder: Encoder,
    prompts: Sequence[list[int]],
    images: Sequence[Image.Image],
    max_new_tokens: int,
    choose: Chooser = likeliest,
) -> Iterator[torch.Tensor]:
    """Yields the next tokens (N,) per step, as ``choose`` takes them, until all rows have ended; ended rows get EOS."""
    device = janus.lm_head.weight.device
    ids, mask = (t.to(device) for t in left_pad(prompts, encoder.special.pad))  # (N, M)
    with evaluation_mode(janus):
        decoder = Decoder(janus, room=ids.shape[1] + max_new_tokens)
        features = [image_features(janus, encoder, images)] if images else []
        hidden = decoder.prefill(prompt_embeds(janus, ids, features), mask)  # (N, D)
        has_ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
        for number in range(max_new_tokens):
            token = choose(janus.lm_head(hidden))  # (N,)
            token = torch.where(has_ended, encoder.special.eos, token)
            yield token
            has_ended |= token == encoder.special.eos
            if has_ended.all():
                return
            if number + 1 < max_new_tokens:
                hidden = decoder.step(janus.model.language_model.embed_tokens(token))
