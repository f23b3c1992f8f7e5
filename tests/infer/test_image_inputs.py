"""Editing: words and an image in, an image out; generation goes on exactly where training stops."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from janus_train.data.batch import collate
from janus_train.data.prompt_format import with_places
from janus_train.data.special_tokens import ASSISTANT, PLACEHOLDER, USER
from janus_train.data.types import Record, Row
from janus_train.errors import UserError
from janus_train.infer.generate import generate_codes, generate_images
from janus_train.infer.image_inputs import image_features
from janus_train.model.build import prepare
from janus_train.model.janus import PackedJanus
from tests.helpers import document_of
from tests.infer.conftest import SIZE

RED, BLUE = Image.new("RGB", (20, 16), (250, 10, 10)), Image.new("RGB", (16, 16), (0, 0, 250))
WORDS = ("Make it red.", "Turn it round, and then draw it on a blue background.")


def prompt_ids(encoder, words):
    return encoder.generation_prompt_ids(with_places(words, 1), 1)


def training_logits(janus, encoder, prompt, image, codes, dropped):
    """(P, C) logits of the drawn image in the training sequence, teacher-forced with `codes`; `dropped`: guidance drop-out."""
    turns = [{"role": USER, "content": f"{PLACEHOLDER}\n{prompt}"}, {"role": ASSISTANT, "content": PLACEHOLDER}]
    record = Record("k", {"conversations": turns}, [image, image], [None, codes.numpy()])
    document = document_of(encoder, record, "conversation", "generation", dropout=float(dropped))
    batch = collate([Row(0, [document], {}, [])], encoder.tokens_per_image, SIZE)
    model = PackedJanus(janus)
    with torch.no_grad():
        hidden = model.hidden_states(model.embeddings(batch, model.codes(batch)), batch)
        return janus.model.generation_head(hidden[batch.image_loss_positions])


def test_drawing_goes_on_where_the_training_sequence_stops(janus, encoder):
    """With guidance, two prompts of different lengths and images in one batch; greedy, so that codes show logits."""
    prepare(janus).eval()
    codes = generate_codes(
        janus,
        [prompt_ids(encoder, words) for words in WORDS],
        pad_id=encoder.special.pad,
        guidance=3.0,
        temperature=1.0,
        seeds=[0, 0],
        greedy=True,
        image_features=[image_features(janus, encoder, [image]) for image in (RED, BLUE)],
    )
    for n, (words, image) in enumerate(zip(WORDS, (RED, BLUE), strict=True)):
        given, without = (training_logits(janus, encoder, words, image, codes[n], drop) for drop in (False, True))
        assert (without + 3.0 * (given - without)).argmax(-1).tolist() == codes[n].tolist()
    assert codes[0].tolist() != codes[1].tolist()


def test_the_image_makes_a_difference(janus, encoder):
    options = {"pad_id": encoder.special.pad, "guidance": 1.0, "temperature": 1.0, "seeds": [0], "greedy": True}
    drawn = []
    for image in (RED, BLUE):
        seen = [image_features(janus, encoder, [image])]
        drawn.append(generate_codes(janus, [prompt_ids(encoder, WORDS[0])], image_features=seen, **options)[0].tolist())
    assert drawn[0] != drawn[1]


def test_features_belong_to_their_own_prompt_in_any_batch(janus, encoder):
    """Of prompts of different lengths, drawn together in another order, and alone."""
    options = {"pad_id": encoder.special.pad, "guidance": 2.0, "temperature": 1.0}
    prompts = [prompt_ids(encoder, words) for words in reversed(WORDS)]
    seen = [image_features(janus, encoder, [image]) for image in (RED, BLUE)]
    together = generate_images(janus, prompts, image_features=seen, seeds=[3, 4], **options)
    for n in range(2):
        alone = generate_images(janus, prompts[n : n + 1], image_features=seen[n : n + 1], seeds=[3 + n], **options)
        assert alone[0].tobytes() == together[n].tobytes()


def test_prompts_say_where_their_images_stand(janus, encoder):
    P, special = encoder.tokens_per_image, encoder.special
    ids = encoder.generation_prompt_ids(with_places(f"Put {PLACEHOLDER} beside {PLACEHOLDER}.", 2), 2)
    assert ids.count(special.placeholder) == 2 * P and ids.count(special.begin_of_image) == 3
    assert ids[0] == special.bos and ids[-1] == special.begin_of_image
    assert with_places("Red.", 2) == f"{PLACEHOLDER}\n{PLACEHOLDER}\nRed."
    with pytest.raises(UserError, match=r"the prompt has 2 .* but 1 images"):
        encoder.generation_prompt_ids(with_places(PLACEHOLDER * 2, 1), 1)
    with pytest.raises(UserError, match=r"the prompt has 1 .* but 0 images"):
        encoder.generation_prompt_ids(f"What is {PLACEHOLDER}?")
    janus.config.text_config.max_position_embeddings = 40
    with pytest.raises(UserError, match=r"do not fit the context of 40"):
        generate_codes(
            janus, [prompt_ids(encoder, "Red.")], pad_id=special.pad, guidance=1.0, temperature=1.0, seeds=[0]
        )
