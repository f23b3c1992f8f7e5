"""Editing samples: images and an instruction as the request, the edited image as the answer; and what guidance drop-out takes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from janus_train.config import EditingDropoutConfig
from janus_train.data.encode import Encoder
from janus_train.data.prompt_format import generation_prompt
from janus_train.data.special_tokens import BEGIN_OF_IMAGE, EOS, PLACEHOLDER
from janus_train.data.templates import get_template, template_for
from janus_train.data.types import BadSample, Document, Record
from tests.helpers import config_of, document_of, plain_image

COLOURS = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
NEVER = {"text": 0.0, "images": 0.0, "both": 0.0}


def record_of(instruction: Any, num_images: int) -> Record:
    images = [plain_image(colour) for colour in COLOURS[:num_images]]
    return Record("k", {"instruction": instruction}, images, [None] * num_images)


def roles_of(record: Record) -> list[tuple[str, Any]]:
    numbers = {id(image): number for number, image in enumerate(record.images)}
    return [
        (segment.role, segment.text if segment.role == "text" else numbers[id(segment.image)])
        for segment in get_template("editing").build(record)
    ]


def always(part: str) -> EditingDropoutConfig:
    return EditingDropoutConfig(**(NEVER | {part: 1.0}))


def test_the_last_image_is_the_answer() -> None:
    assert roles_of(record_of("Make it red.", 2)) == [
        ("text", "<|User|>: "),
        ("image_in", 0),
        ("text", "\nMake it red.\n\n<|Assistant|>:"),
        ("image_out", 1),
        ("text", EOS),
    ]
    assert not any(segment.loss for segment in get_template("editing").build(record_of("Make it red.", 2)))


def test_images_stand_at_the_placeholders_or_before_the_words() -> None:
    words = f"Put {PLACEHOLDER} on {PLACEHOLDER}."
    assert [text for role, text in roles_of(record_of(words, 3)) if role == "text"] == [
        "<|User|>: Put ",
        " on ",
        ".\n\n<|Assistant|>:",
        EOS,
    ]
    [*_, third, _, _] = roles_of(record_of("Put the first on the second.", 3))
    assert third == ("text", "\nPut the first on the second.\n\n<|Assistant|>:")


def test_without_an_image_to_look_at_it_is_a_request() -> None:
    assert roles_of(record_of("a red dog", 1)) == [
        ("text", generation_prompt("a red dog")),
        ("image_out", 0),
        ("text", EOS),
    ]


def test_it_is_the_conversation_that_says_the_same(encoder: Encoder) -> None:
    turns = [
        {"role": "User", "content": f"{PLACEHOLDER}\nMake it red."},
        {"role": "Assistant", "content": PLACEHOLDER},
    ]
    record = record_of("Make it red.", 2)
    talk = Record("k", {"conversations": turns}, record.images, record.codes)
    edit, same = (document_of(encoder, *pair, "generation") for pair in ((record, "editing"), (talk, "conversation")))
    for name in ("input_ids", "labels", "modality", "image_targets"):
        assert (getattr(edit, name) == getattr(same, name)).all()


@pytest.mark.parametrize(
    ("instruction", "num_images", "message"),
    [
        ("Make it red.", 0, "0 images where the template takes the edited one"),
        (f"{PLACEHOLDER} like {PLACEHOLDER}", 2, "2 placeholders but 1 images to look at"),
        (PLACEHOLDER, 2, "has no words beside the places"),
        ("  ", 2, "field 'instruction' is empty"),
        (None, 2, "field 'instruction' is missing or not a string"),
        (["Red.", "Blue."], 2, "field 'instruction' has 2 values"),
        (f"Make it {BEGIN_OF_IMAGE}", 2, "special token <begin_of_image>"),
        ("<image> Make it red.", 2, "the tag <image>: it would be learned as words"),
    ],
)
def test_what_it_does_not_take(instruction: Any, num_images: int, message: str) -> None:
    with pytest.raises(BadSample, match=message):
        get_template("editing").build(record_of(instruction, num_images))


def test_records_with_an_instruction_are_recognised() -> None:
    assert template_for(record_of("Make it red.", 2)).name == "editing"


# -- guidance drop-out


def kept(whole: Document, dropped: Document, encoder: Encoder) -> list[bool]:
    """Of each token before the image to generate, whether it is still there; everything else is unchanged."""
    begin = int(np.flatnonzero(whole.image_targets)[0])
    assert len(dropped) == len(whole) and (dropped.input_ids[begin:] == whole.input_ids[begin:]).all()
    assert (dropped.image_targets == whole.image_targets).all() and (dropped.labels == whole.labels).all()
    same = dropped.input_ids[:begin] == whole.input_ids[:begin]
    assert (dropped.input_ids[:begin][~same] == encoder.special.pad).all()
    return same.tolist()


@pytest.mark.parametrize(("part", "num_images_left"), [("text", 2), ("images", 0), ("both", 0)])
def test_what_is_dropped(encoder: Encoder, part: str, num_images_left: int) -> None:
    record = record_of("Put the first on the second.", 3)
    whole = document_of(encoder, record, "editing", "generation")
    dropped = document_of(encoder, record, "editing", "generation", editing=always(part))
    is_image = np.zeros(len(whole), bool)
    for start, stop in whole.image_spans[:2]:
        is_image[start:stop] = True
    begin = int(np.flatnonzero(whole.image_targets)[0])
    expected = is_image[:begin] if part == "text" else ~is_image[:begin] if part == "images" else np.zeros(begin, bool)
    expected[0] = True  # BOS
    assert kept(whole, dropped, encoder) == expected.tolist()
    assert len(dropped.understanding_pixels) == num_images_left and len(whole.understanding_pixels) == 2
    assert dropped.record_images == ([0, 1, 2] if num_images_left else [2])


def test_each_is_dropped_as_often_as_asked_by_the_samples_own_chance(encoder: Encoder) -> None:
    """The shares of the papers: 5 % each, and the same seed drops the same; `guidance_dropout` does not count here."""
    shares = config_of("+stage=3").data.editing_dropout
    assert (shares.text, shares.images, shares.both) == (0.05, 0.05, 0.05)
    images = [plain_image(), plain_image()]
    record = Record("k", {"instruction": "Red."}, images, [None, np.arange(encoder.tokens_per_image)])
    counts: Counter[tuple[bool, bool]] = Counter()
    for seed in range(2000):
        document = document_of(encoder, record, "editing", "generation", editing=shares, dropout=0.9, seed=seed)
        again = document_of(encoder, record, "editing", "generation", editing=shares, dropout=0.9, seed=seed)
        assert (document.input_ids == again.input_ids).all()
        has_words = document.input_ids[1] != encoder.special.pad
        counts[bool(has_words), bool(document.understanding_pixels)] += 1
    assert abs(counts[True, True] / 2000 - 0.85) < 0.03
    for rest in ((False, True), (True, False), (False, False)):
        assert abs(counts[rest] / 2000 - 0.05) < 0.015


def test_a_request_without_an_image_has_the_drop_out_of_requests(encoder: Encoder) -> None:
    record = record_of("a red dog", 1)
    whole = document_of(encoder, record, "editing", "generation", editing=always("text"))
    assert encoder.special.pad not in whole.input_ids
    dropped = document_of(encoder, record, "editing", "generation", editing=always("text"), dropout=1.0)
    assert kept(whole, dropped, encoder) == [True] + [False] * (whole.image_spans[0][0] - 1)


def test_other_templates_drop_as_before(encoder: Encoder) -> None:
    record = Record("k", {"caption": "a red dog"}, [plain_image()], [None])
    document = document_of(encoder, record, "request_to_image", "generation", editing=always("both"))
    assert encoder.special.pad not in document.input_ids


def test_shares_that_exclude_each_other_are_at_most_one() -> None:
    with pytest.raises(ValueError, match="together they are more than 1"):
        EditingDropoutConfig(text=0.5, images=0.5, both=0.1)
