"""Editing: words and an image in, an image out; generation goes on exactly where training stops."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from janus_train.config import EditingDropoutConfig
from janus_train.data.batch import collate
from janus_train.data.prompt_format import with_places
from janus_train.data.special_tokens import ASSISTANT, PLACEHOLDER, USER
from janus_train.data.types import Record, Row
from janus_train.errors import UserError
from janus_train.infer.generate import generate_codes, generate_images, image_only_prompt, unconditional_prompt
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
    return logits_of(janus, encoder, document_of(encoder, record, "conversation", "generation", dropout=float(dropped)))


def logits_of(janus, encoder, document):
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


@pytest.mark.parametrize("words", [WORDS[0], f"Put {PLACEHOLDER} beside {PLACEHOLDER}, in the rain."])
def test_what_training_drops_is_what_guidance_compares_with(encoder, words):
    """The rows of inference, token for token, are the training sequences in which the text, or all, is dropped."""
    num_images = max(1, words.count(PLACEHOLDER))
    record = Record("k", {"instruction": words}, [RED] * num_images + [BLUE], [None] * (num_images + 1))
    prompt = encoder.generation_prompt_ids(with_places(words, num_images), num_images)
    rows = {
        "none": prompt,
        "text": image_only_prompt(prompt, encoder.special.pad, encoder.special.placeholder),
        "both": unconditional_prompt(prompt, encoder.special.pad),
    }
    assert len({tuple(row) for row in rows.values()}) == 3 and {len(row) for row in rows.values()} == {len(prompt)}
    for part, row in rows.items():
        shares = EditingDropoutConfig(**{name: float(name == part) for name in ("text", "images", "both")})
        document = document_of(encoder, record, "editing", "generation", editing=shares)
        assert document.input_ids[: len(prompt)].tolist() == row
        assert document.image_targets[len(prompt) - 1] and not document.image_targets[: len(prompt) - 1].any()
        assert len(document.understanding_pixels) == (0 if part == "both" else num_images)


def test_two_guidances_are_those_of_the_training_sequences(janus, encoder):
    """Greedy codes of two prompts in one batch: equation 3 of InstructPix2Pix on the logits of training's three sequences."""
    prepare(janus).eval()
    codes = draw_guided(janus, encoder, 3.0, 1.5)
    for n, (words, image) in enumerate(zip(WORDS, (RED, BLUE), strict=True)):
        full, image_only, without = (
            editing_logits(janus, encoder, words, image, codes[n], part) for part in (None, "text", "both")
        )
        guided = without + 1.5 * (image_only - without) + 3.0 * (full - image_only)
        assert guided.argmax(-1).tolist() == codes[n].tolist()
    assert codes.tolist() != draw_guided(janus, encoder, 3.0, None).tolist(), "the scale makes no difference"


def test_two_equal_scales_are_one(janus, encoder):
    assert draw_guided(janus, encoder, 3.0, 3.0).tolist() == draw_guided(janus, encoder, 3.0, None).tolist()
    assert draw_guided(janus, encoder, 1.0, 1.0).tolist() == draw_guided(janus, encoder, 1.0, None).tolist()


def draw_guided(janus, encoder, guidance, image_guidance):
    return generate_codes(
        janus,
        [prompt_ids(encoder, words) for words in WORDS],
        pad_id=encoder.special.pad,
        guidance=guidance,
        image_guidance=image_guidance,
        temperature=1.0,
        seeds=[0, 0],
        greedy=True,
        image_features=[image_features(janus, encoder, [image]) for image in (RED, BLUE)],
    )


def editing_logits(janus, encoder, words, image, codes, part):
    """(P, C) logits of the drawn image in the training sequence of the template editing, of which ``part`` is dropped."""
    shares = EditingDropoutConfig(**{name: float(name == part) for name in ("text", "images", "both")})
    record = Record("k", {"instruction": words}, [image, image], [None, codes.numpy()])
    return logits_of(janus, encoder, document_of(encoder, record, "editing", "generation", editing=shares))


def test_image_guidance_needs_images(janus, encoder):
    with pytest.raises(ValueError, match=r"image_guidance 1.5 has no effect on prompts without images"):
        generate_codes(
            janus,
            [encoder.generation_prompt_ids("Red.")],
            pad_id=encoder.special.pad,
            guidance=2.0,
            image_guidance=1.5,
            temperature=1.0,
            seeds=[0],
        )


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
