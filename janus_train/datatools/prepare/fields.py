"""Turns a record's values, which are picked by paths of names, into the fields that training reads.

record --captions / text--> words --plain, draw or ask--> {"caption": ...} or {"conversations": ...}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_plus

from janus_train.data.conversations import (
    TALK_FIELDS,
    UnusableConversation,
    images_in_order,
    read_conversation,
    role_of,
    unread_tag,
)
from janus_train.data.embedded_images import embedded_image
from janus_train.data.image_files import ImageError
from janus_train.data.special_tokens import ASSISTANT, PLACEHOLDER, USER
from janus_train.data.unused import not_used
from janus_train.datatools.prepare.items import SkipRecord
from janus_train.datatools.prepare.options import PrepareOptions
from janus_train.errors import UserError

IMAGE_FIELDS = (
    "image",
    "images",
    "img_path",
    "image_path",
    "img",
    "img_fname",
    "file_name",
    "filename",
    "filepath",
    "path",
    "jpg",
    "png",
)
CAPTION_FIELDS = ("caption", "captions", "text", "prompt", "title")
ID_FIELDS = ("id", "key", "uid", "image_id", "question_id", "photoid")
_PART = re.compile(r"(?P<name>[^\[\]]+)(?:\[(?P<key>[^=\[\]]+)=(?P<value>[^\[\]]*)\])?")


def pick(record: Any, path: str) -> Any:
    """The value at a path of names: ``Task2.Caption``, or ``features[language=en].title`` for an element of a list.

    A list of records and a record of lists (as Parquet stores them) are read alike. None if there is no value.
    """
    if isinstance(record, dict) and path in record:
        return record[path]
    value = record
    for step in path.split("."):
        match = _PART.fullmatch(step)
        if match is None:
            raise UserError(f"{path!r} is not a path of field names: write name.name or name[key=value].name")
        value = _field_value(value, match["name"])
        if match["key"] is not None:
            value = _element(value, match["key"], match["value"])
    return value


def _field_value(value: Any, name: str) -> Any:
    if isinstance(value, list):
        value = next((element for element in value if isinstance(element, dict) and element.get(name)), None)
    return value.get(name) if isinstance(value, dict) else None


def _element(value: Any, key: str, expected_value: str) -> Any:
    """The first record in a list of records, or in a record of lists, whose ``key`` has the expected value."""
    if isinstance(value, dict) and isinstance(value.get(key), list):
        places = [number for number, element in enumerate(value[key]) if str(element) == expected_value]
        if not places:
            return None
        return {
            name: values[places[0]]
            for name, values in value.items()
            if isinstance(values, list) and len(values) > places[0]
        }
    if isinstance(value, list):
        return next(
            (element for element in value if isinstance(element, dict) and str(element.get(key)) == expected_value),
            None,
        )
    return None


def top_names(paths: tuple[str, ...]) -> list[str]:
    """The first name of each path, which is the column of a table."""
    return [re.split(r"[.\[]", path)[0] for path in paths]


def name_of(record: dict[str, Any]) -> str:
    """The record's own name or id; empty if it has none."""
    for field in ID_FIELDS:
        value = record.get(field)
        if isinstance(value, (str, int)) and str(value).strip():
            return str(value)
    return ""


def captions(record: dict[str, Any], options: PrepareOptions) -> list[str]:
    """The record's captions, as many as the options ask for. Raises `SkipRecord` if there is none."""
    values = _caption_values(record, options)
    words = [text for text in (_clean(value, options) for value in values) if text]
    if not words:
        if values and not all(value is None or isinstance(value, str) for value in values):
            raise SkipRecord("the caption is not a string")
        raise SkipRecord("the caption is empty" if values else "there is no caption", left_out=options.drop_empty)
    tag = next(filter(None, map(unread_tag, words)), None)
    if tag:
        raise SkipRecord(f"the caption has the tag {tag}")
    if options.captions == "each":
        return words
    if len(words) > 1:
        not_used("further captions of an image (--captions each takes all)", len(words) - 1)
    return [max(words, key=len)] if options.captions == "longest" else words[:1]


def _caption_values(record: dict[str, Any], options: PrepareOptions) -> list[Any]:
    if options.text_field:
        values = [pick(record, path) for path in options.text_field]
        if len(values) > 1:  # several fields are one text
            return ["\n".join(text for text in (_clean(value, options) for value in values) if text)]
    else:
        values = [next((record[name] for name in CAPTION_FIELDS if record.get(name)), None)]
        if values[0] is None:
            values = [_first_answer(record)]
    value = values[0]
    return value if isinstance(value, list) else [] if value is None else [value]


def _first_answer(record: dict[str, Any]) -> str | None:
    """The assistant's first answer, for captions that are stored as conversations (ShareGPT4V)."""
    turns: list[Any] = next((record[name] for name in TALK_FIELDS if isinstance(record.get(name), list)), [])
    for turn in turns:
        if isinstance(turn, dict) and role_of(turn) == ASSISTANT:
            answer = turn.get("value", turn.get("content"))
            return answer if isinstance(answer, str) else None
    return None


def text(record: dict[str, Any], options: PrepareOptions) -> str:
    """The record's text: its text fields, one after the other. Raises `SkipRecord` if there is none."""
    values = [pick(record, path) for path in options.text_field or ("text",)]
    if any(value is not None and not isinstance(value, str) for value in values):
        raise SkipRecord("the text is not a string", f"it is a {type(values[0]).__name__}")
    texts = [
        words_of_field
        for words_of_field in (_clean(value, options, strip=False) for value in values)
        if words_of_field.strip()
    ]
    if not texts:
        raise SkipRecord("the text is missing or empty", left_out=options.drop_empty)
    return "\n\n".join(texts)


def _clean(value: Any, options: PrepareOptions, strip: bool = True) -> str:
    if not isinstance(value, str):
        return ""
    value = unquote_plus(value) if options.url_encoded else value
    return value.strip() if strip else value


def captioned_samples(record: dict[str, Any], options: PrepareOptions, num_images: int) -> list[dict[str, Any]]:
    """The fields of the samples of captioned images, in the form of the options."""
    if options.form == "draw" and num_images != 1:
        raise SkipRecord("one image is drawn from a caption", f"{num_images}")
    if not num_images and options.form == "plain":
        raise SkipRecord("a caption without an image")
    return [_in_form(caption, options, num_images) for caption in captions(record, options)]


def _in_form(caption: str, options: PrepareOptions, num_images: int) -> dict[str, Any]:
    if options.form == "draw":
        return talk(caption, PLACEHOLDER)
    if options.form == "ask":
        return talk(f"{PLACEHOLDER}\n" * num_images + str(options.question), caption)
    return {"caption": caption}


def talk(question: str, answer: str) -> dict[str, Any]:
    """A conversation of one question and its answer."""
    return {"conversations": [{"role": USER, "content": question}, {"role": ASSISTANT, "content": answer}]}


def question_answer(question: Any, answer: Any) -> dict[str, Any]:
    """The fields of a question about an image. Raises `SkipRecord`."""
    if not isinstance(question, str) or not isinstance(answer, str) or not question.strip() or not answer.strip():
        raise SkipRecord("a question or an answer is missing or empty")
    tag = unread_tag(question) or unread_tag(answer)
    if tag:
        raise SkipRecord(f"a question or an answer has the tag {tag}")
    return {"question": question, "answer": answer}


def conversation(record: Mapping[str, Any], num_images: int) -> dict[str, Any]:
    """The fields of a conversation in any of the known layouts. Raises `SkipRecord` with the problem."""
    try:
        turns = read_conversation(record, num_images, repair=True)
    except UnusableConversation as error:
        raise SkipRecord(error.reason, error.detail) from None
    return {"conversations": [turn.fields() for turn in turns]}


def embedded_images(record: Mapping[str, Any], images: list[bytes]) -> list[bytes]:
    """A record's images in the order of its turns: those beside the turns, and those that the turns contain.

    Raises `SkipRecord` for an image that a turn only names.
    """
    try:
        ordered = images_in_order(record, images)
    except UnusableConversation:  # names of the images beside the turns, or `conversation` says why
        return images
    return [image if isinstance(image, bytes) else _embedded(image) for image in ordered]


def _embedded(name: str) -> bytes:
    try:
        data = embedded_image(name)
    except ImageError as error:
        raise SkipRecord("the image does not open", str(error)) from None
    if data is None:
        raise SkipRecord("the image is not inside", f"only its path {name[:80]!r}")
    return data


def check_number(num_images: int, options: PrepareOptions) -> None:
    """Raise `SkipRecord` for a record with fewer or more images than the options allow."""
    max_images = options.max_pictures
    if num_images < options.min_pictures or (max_images is not None and num_images > max_images):
        raise SkipRecord("more or fewer images than asked for", f"{num_images}", left_out=True)
