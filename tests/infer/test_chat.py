"""Answers: batched equals alone, images go where their placeholders are, EOS ends an answer."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from janus_train.data.images import to_float, understanding_pixels
from janus_train.data.prompt_format import OWN_STYLE, PromptStyle
from janus_train.errors import UserError
from janus_train.infer import chat
from janus_train.infer.chat import answer, answer_ids, open_turn, stream_answer
from janus_train.infer.image_inputs import image_features, prompt_embeds

LOOK = "<image_placeholder>\n"


def image(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 12, 3), dtype=np.uint8))


REQUESTS = [
    ([{"role": "user", "content": LOOK + "What?"}], [image(0)]),
    ([{"role": "user", "content": "Hello, who is there"}], []),
    ([{"role": "user", "content": f"{LOOK}or{LOOK}Which one?"}], [image(1), image(2)]),
    (
        [
            {"role": "user", "content": LOOK + "How many?"},
            {"role": "assistant", "content": "Two."},
            {"role": "user", "content": "Which colour?"},
        ],
        [image(3)],
    ),
]


def plain_loop(janus, encoder, request, steps):
    """Greedy tokens of one request through transformers' own forward: no cache, no padding."""
    messages, images = request
    ids = encoder.chat_prompt_ids([*messages, {"role": "assistant", "content": ""}], len(images))
    new = []
    pixels = None
    if images:
        pixels = torch.stack([torch.from_numpy(to_float(understanding_pixels(p, encoder.image_size))) for p in images])
    with torch.no_grad():
        for _ in range(steps):
            logits = janus(input_ids=torch.tensor([ids + new]), pixel_values=pixels, use_cache=False).logits
            new.append(int(logits[0, -1].argmax()))
            if new[-1] == encoder.special.eos:
                return new[:-1]
    return new


def test_batched_answers_equal_a_plain_loop(janus, encoder):
    is_done = []
    actual = answer(janus, encoder, REQUESTS, 12, batch_size=3, progress=is_done.append)
    expected = [plain_loop(janus, encoder, request, 12) for request in REQUESTS]
    assert is_done == [3, 1]
    assert actual == [encoder.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in expected]
    assert len(set(map(tuple, expected))) == 4, "requests make no difference: the test would prove nothing"


def test_another_image_gives_another_answer(janus, encoder):
    messages = REQUESTS[0][0]
    ids = encoder.chat_prompt_ids(open_turn(messages), 1)
    rows = torch.tensor([ids])
    first, second = (prompt_embeds(janus, rows, [image_features(janus, encoder, [image(n)])]) for n in (0, 1))
    changed = (first != second).any(-1)[0]
    assert torch.equal(changed, rows[0] == encoder.special.placeholder)


def test_answer_ends_at_eos(janus, encoder):
    eos = encoder.special.eos
    prompt = encoder.chat_prompt_ids(open_turn([{"role": "user", "content": "Hi"}]), 0)
    free = answer_ids(janus, encoder, [prompt], [], 8)[0]
    third = free[2]
    assert third not in free[:2]
    with torch.no_grad():  # EOS now wins exactly where the third token did
        janus.lm_head.weight[eos] = janus.lm_head.weight[third] * 1.01
        janus.lm_head.weight[third] = 0
    other = encoder.chat_prompt_ids(open_turn([{"role": "user", "content": "Something longer"}]), 0)
    ended = answer_ids(janus, encoder, [prompt, other], [], 8)
    assert ended[0] == free[:2]
    assert ended[1] == answer_ids(janus, encoder, [other], [], 8)[0]


@pytest.mark.parametrize("number", range(len(REQUESTS)))
def test_a_streamed_answer_is_the_whole_one(janus, encoder, number):
    messages, images = REQUESTS[number]
    pieces = list(stream_answer(janus, encoder, messages, images, 12))
    assert "".join(pieces) == answer(janus, encoder, [REQUESTS[number]], 12)[0]
    assert len(pieces) > 1 and all(pieces)


def test_streaming_never_shows_half_a_character(janus, encoder, monkeypatch):
    ids = [*encoder.ids(" 红 苹 "), encoder.special.eos]
    monkeypatch.setattr(chat, "answer_tokens", lambda *_: (torch.tensor([i]) for i in ids))
    assert len(ids) > 5, "no character of several tokens: the test would prove nothing"
    assert list(stream_answer(janus, encoder, REQUESTS[1][0], [], 12)) == ["红", " 苹"]


def test_streaming_leaves_its_caller_its_gradients(janus, encoder):
    pieces = stream_answer(janus, encoder, REQUESTS[1][0], [], 12)
    next(pieces)
    assert torch.is_grad_enabled()
    pieces.close()
    assert torch.is_grad_enabled()


def test_modes_are_put_back(janus, encoder):
    janus.train()
    answer(janus, encoder, REQUESTS[:1], 2)
    assert all(m.training for m in janus.modules())


def test_images_must_match_placeholders(janus, encoder):
    with pytest.raises(UserError, match="1 <image_placeholder> but 2 images"):
        answer(janus, encoder, [(REQUESTS[0][0], [image(0), image(1)])], 2)
    with pytest.raises(UserError, match="context of 1024"):
        answer(janus, encoder, REQUESTS[:1], 1020)


def test_an_open_turn_is_not_opened_twice():
    opened = open_turn([{"role": "user", "content": "Hi"}])
    assert opened[-1] == {"role": "assistant", "content": ""}
    assert open_turn(opened) == opened
    spaces = [*opened[:-1], {"role": "assistant", "content": " \n"}]
    assert open_turn(spaces) == spaces


def test_white_space_of_the_assistant_is_an_open_turn(janus, encoder):
    question = [{"role": "user", "content": "Hello"}]
    asked = [(question, []), ([*question, {"role": "assistant", "content": "\n "}], [])]
    plain, open_one = answer(janus, encoder, asked, 6)
    assert plain == open_one
    assert encoder.chat_prompt_ids(open_turn(asked[0][0]), 0) == encoder.chat_prompt_ids(open_turn(asked[1][0]), 0)


def text_of(encoder, messages, num_images=0, style=OWN_STYLE):
    """What the model reads, with BOS left out."""
    ids = encoder.chat_prompt_ids(open_turn(messages), num_images, style)
    assert ids[0] == encoder.special.bos and encoder.special.bos not in ids[1:]
    return encoder.tokenizer.decode(ids[1:])


def test_the_models_system_prompt_stands_before_words_alone_only_if_asked_for(encoder):
    own = copy.copy(encoder)
    own.system_prompt = "Look well."
    messages = [{"role": "user", "content": "Hi"}]
    words = "<|User|>: Hi\n\n<|Assistant|>:"
    assert text_of(own, messages) == words
    assert text_of(own, messages, style=PromptStyle(always_system=True)) == f"Look well.\n\n{words}"
    assert text_of(own, messages, style=PromptStyle(system="", always_system=True)) == words
    assert text_of(own, [{"role": "user", "content": LOOK}], 1).startswith("Look well.")


def test_a_system_message_goes_before_every_other_system_prompt(encoder):
    own = copy.copy(encoder)
    own.system_prompt = "Look well."
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    for style in (OWN_STYLE, PromptStyle(always_system=True), PromptStyle(system="Be brief.")):
        assert text_of(own, messages, style=style) == "Be kind.\n\n<|User|>: Hi\n\n<|Assistant|>:"
    silent = [{"role": "system", "content": ""}, {"role": "user", "content": LOOK}]
    assert "Look well." not in text_of(own, silent, 1)


def test_a_role_that_does_not_exist_is_one_line(janus, encoder):
    with pytest.raises(UserError, match="the role 'tool': known are user, assistant and system"):
        next(stream_answer(janus, encoder, [{"role": "tool", "content": "Hi"}], [], 2))
    with pytest.raises(UserError, match="has no turn"):
        answer(janus, encoder, [([], [])], 2)
