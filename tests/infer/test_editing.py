"""Editing: words and a picture in, a picture out; generation goes on exactly where training stops."""

from __future__ import annotations

import random

import pytest
import torch
from PIL import Image

from janus_train.config import UserError
from janus_train.data.collate import collate
from janus_train.data.encode import ASSISTANT, PLACEHOLDER, USER
from janus_train.data.sample import Record, Reference, Row
from janus_train.infer.editing import edit_prompt
from janus_train.infer.generate import generate_codes
from janus_train.model.janus import PackedJanus, prepare
from tests.infer.conftest import SIZE

RED, BLUE = Image.new("RGB", (20, 16), (250, 10, 10)), Image.new("RGB", (16, 16), (0, 0, 250))
WORDS = ("Make it red.", "Turn it round, and then draw it on a blue background.")


def training_logits(janus, encoder, prompt, picture, codes, dropped):
    """(P, C) logits of the drawn picture in the training sequence, teacher-forced with `codes`; `dropped`: guidance drop-out."""
    turns = [{"role": USER, "content": f"{PLACEHOLDER}\n{prompt}"}, {"role": ASSISTANT, "content": PLACEHOLDER}]
    record = Record("k", {"conversations": turns}, [picture, picture], [None, codes.numpy()])
    sample = encoder.sample(record, "conversation", "generation", random.Random(0), float(dropped), 0.0)
    document = encoder.document(sample, Reference("edits", 0, 0, "k"))
    batch = collate([Row(0, [document], {}, [])], encoder.tokens_per_picture, SIZE)
    model = PackedJanus(janus)
    with torch.no_grad():
        hidden = model.hidden_states(model.embeddings(batch, model.codes(batch)), batch)
        return janus.model.generation_head(hidden[batch.image_loss_positions])


def test_drawing_goes_on_where_the_training_sequence_stops(janus, encoder):
    """With guidance, two prompts of different lengths and pictures in one batch; greedy, so that codes show logits."""
    context = janus.config.text_config.max_position_embeddings
    edits = [edit_prompt(encoder, words, [picture], context) for words, picture in zip(WORDS, (RED, BLUE), strict=True)]
    prepare(janus).eval()
    codes = generate_codes(
        janus,
        [ids for ids, _ in edits],
        pad_id=encoder.special.pad,
        guidance=3.0,
        temperature=1.0,
        seeds=[0, 0],
        greedy=True,
        seen=[seen for _, seen in edits],
    )
    for n, (words, picture) in enumerate(zip(WORDS, (RED, BLUE), strict=True)):
        given, without = (training_logits(janus, encoder, words, picture, codes[n], drop) for drop in (False, True))
        assert (without + 3.0 * (given - without)).argmax(-1).tolist() == codes[n].tolist()
    assert codes[0].tolist() != codes[1].tolist()


def test_the_picture_makes_a_difference(janus, encoder):
    options = {"pad_id": encoder.special.pad, "guidance": 1.0, "temperature": 1.0, "seeds": [0], "greedy": True}
    drawn = []
    for picture in (RED, BLUE):
        ids, seen = edit_prompt(encoder, WORDS[0], [picture], 1024)
        drawn.append(generate_codes(janus, [ids], seen=[seen], **options)[0].tolist())
    assert drawn[0] != drawn[1]


def test_prompts_say_where_their_pictures_stand(encoder):
    P, special = encoder.tokens_per_picture, encoder.special
    ids, seen = edit_prompt(encoder, f"Put {PLACEHOLDER} beside {PLACEHOLDER}.", [RED, BLUE], 1024)
    assert len(seen.places) == 2 * P and seen.pixels.shape == (2, 3, SIZE, SIZE)
    assert [n for n, i in enumerate(ids) if i == special.placeholder] == list(seen.places)
    assert ids[0] == special.bos and ids[-1] == special.begin_of_image
    with pytest.raises(UserError, match=r"the prompt has 2 .* but 1 pictures"):
        edit_prompt(encoder, f"{PLACEHOLDER}{PLACEHOLDER}", [RED], 1024)
    with pytest.raises(UserError, match=r"do not fit the context of 40"):
        edit_prompt(encoder, "Red.", [RED], 40)
