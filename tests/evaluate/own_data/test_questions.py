"""What is asked and drawn of a sample, and the ids in front of which the model stands."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from janus_train.data.encode import Encoder
from janus_train.data.templates import get_template
from janus_train.data.types import Kind, Record
from janus_train.evaluate.own_data.questions import AFTER_CODES, BEFORE_IMAGE, NO_ROOM, NO_VALUE, TOO_LONG, TaskFinder
from janus_train.evaluate.own_data.samples import Sample
from janus_train.evaluate.own_data.sources import DataSource
from tests.helpers import document_of, plain_image

RED, BLUE = (200, 30, 30), (20, 30, 200)


@pytest.fixture
def finder(encoder: Encoder) -> TaskFinder:
    return TaskFinder(encoder, context=512, by=None, max_answer_tokens=20)


def add(finder: TaskFinder, template: str, kind: Kind, fields: dict[str, Any], *images: Image.Image) -> None:
    source = DataSource("mine", kind, get_template(template), [], [], 0)  # type: ignore[arg-type]
    record = Record(f"key{len(finder.tasks.questions)}", fields, list(images), [None] * len(images))
    finder.add(source, Sample(fields, document_of(finder._encoder, record, template, kind)))


def talk(*turns: str, **fields: Any) -> dict[str, Any]:
    roles = ("user", "assistant")
    messages = [{"role": roles[number % 2], "content": text} for number, text in enumerate(turns)]
    return {"messages": messages, **fields}


def test_each_turn_is_asked_with_the_true_history(finder: TaskFinder, encoder: Encoder) -> None:
    turns = ("<image>\nWhat colour?", "Red.", "And the shape?", " A square. ")
    add(finder, "conversation", "understanding", talk(*turns), plain_image())
    first, second = finder.tasks.questions
    assert (first.text, first.truths, first.num_images) == ("What colour?", ["Red."], 1)
    assert (second.text, second.truths, second.num_images) == ("And the shape?", ["A square."], 1)
    messages = [{"role": "user", "content": "<image_placeholder>\nWhat colour?"}, {"role": "assistant", "content": ""}]
    assert first.prompt_ids.tolist() == encoder.chat_prompt_ids(messages, 1)
    messages = [messages[0], {"role": "assistant", "content": "Red."}, {"role": "user", "content": "And the shape?"}]
    messages.append({"role": "assistant", "content": ""})
    assert second.prompt_ids.tolist() == encoder.chat_prompt_ids(messages, 1)
    assert not finder.tasks.prompts and not finder.tasks.skipped and finder.tasks.num_answers == 2


def test_context_turns_are_not_asked_and_plain_text_asks_nothing(finder: TaskFinder) -> None:
    fields = talk("Hi", "no", "Now?", "yes")
    fields["messages"][1]["loss"] = False
    add(finder, "conversation", "text", fields)
    add(finder, "text", "text", {"text": "Words without a question."})
    [question] = finder.tasks.questions
    assert question.text == "Now?" and question.truths == ["yes"] and question.num_images == 0


def test_an_image_with_several_captions_is_described_once(finder: TaskFinder) -> None:
    for caption, colour in (("A red card.", RED), ("Something red.", RED), ("A blue card.", BLUE)):
        add(finder, "image_describe", "understanding", {"caption": caption}, plain_image(colour))
    red, blue = finder.tasks.questions
    assert red.is_caption and red.truths == ["A red card.", "Something red."] and blue.truths == ["A blue card."]
    assert red.text == "Describe the image in detail." and finder.tasks.num_answers == 3
    np.testing.assert_array_equal(red.prompt_ids, blue.prompt_ids)


def test_images_to_generate_become_prompts(finder: TaskFinder, encoder: Encoder) -> None:
    add(finder, "request_to_image", "generation", {"caption": "a red card"}, plain_image())
    add(finder, "text_to_image", "generation", {"caption": "a red card"}, plain_image())
    add(finder, "class_to_image", "generation", {"class_name": "card"}, plain_image())
    edit = talk("<image>\nMake it blue.", "<image>")
    add(finder, "conversation", "generation", edit, plain_image(RED), plain_image(BLUE))
    request, caption, name, editing = finder.tasks.prompts
    assert request.prompt_ids.tolist() == encoder.generation_prompt_ids("a red card")
    assert caption.prompt_ids.tolist() == encoder.image_prompt_ids("a red card")
    assert (request.text, caption.text, name.text) == ("a red card", "a red card", "card")
    assert (editing.text, editing.num_images) == ("Make it blue.", 1)
    assert not finder.tasks.questions


def test_what_needs_a_generated_image_first_is_counted(finder: TaskFinder) -> None:
    turns = ("Draw a card.", "Here:<image>there", "Which colour is it?", "Red.", "Another.", "<image>")
    add(finder, "conversation", "generation", talk(*turns), plain_image(), plain_image())
    assert [prompt.text for prompt in finder.tasks.prompts] == ["Draw a card.\n\n<|Assistant|>: Here:"]
    assert not finder.tasks.questions
    # "there" and "Red." and the second image; "Here:"
    assert finder.tasks.skipped == {AFTER_CODES: 3, BEFORE_IMAGE: 1}


def test_long_answers_and_long_prompts_are_counted(encoder: Encoder) -> None:
    finder = TaskFinder(encoder, context=60, by=None, max_answer_tokens=8)
    add(finder, "conversation", "text", talk("Hi", "far too long an answer for eight tokens"))
    add(finder, "conversation", "text", talk("zq" * 30, "no"))
    add(finder, "conversation", "text", talk("Hi", "no"))
    assert [question.truths for question in finder.tasks.questions] == [["no"]]
    assert finder.tasks.skipped == {TOO_LONG: 1, NO_ROOM: 1}


def test_groups_are_the_values_of_a_field(encoder: Encoder) -> None:
    finder = TaskFinder(encoder, context=512, by="type", max_answer_tokens=20)
    for value in ("colour", 3, True, None, ["a"]):
        add(finder, "conversation", "text", talk(f"Is it {value}?", "yes", type=value))
    add(finder, "conversation", "text", talk("Hello?", "yes"))
    assert [question.group for question in finder.tasks.questions] == ["colour", "3", "True", *[NO_VALUE] * 3]
    assert finder.tasks.num_without_group == 3
