"""Layouts of documents with images in them, read as parts in the order of the page.

    obelics   {"texts": ["One.", null, "Two."], "images": [null, "1.jpg", null]}
    mmc4      {"text_list": ["One.", "Two."], "image_info": [{"image_name": "1.jpg", "matched_text_index": 1}]}
    wikihow   {"title": "...", "steps": [{"text": "...", "image": "1.jpg"}]}; steps may stand in methods
    text      {"text": "One. <image_placeholder> Two.", "images": ["1.jpg"]}

In: a record. Out: a `PageContent`. What of it is read and not used is counted (`data.unused`). A record that does not keep to
its layout raises `SkipRecord`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from janus_train.data.conversations import is_empty
from janus_train.data.special_tokens import PLACEHOLDER
from janus_train.data.unused import not_used
from janus_train.datatools.prepare.fields import IMAGE_FIELDS
from janus_train.datatools.prepare.items import SkipRecord
from janus_train.datatools.prepare.options import LayoutName, PrepareOptions
from janus_train.datatools.prepare.unused import TrackedRecord
from janus_train.errors import UserError

PickImage = Callable[[dict[str, Any], str], Any]
"""An image's value in a record by ``--image-field``."""
_IMAGE_INFO_FIELDS = ("image_name", "raw_url")
_TITLES = ("title", "goal")
_INTRODUCTIONS = ("goal_description", "introduction", "intro", "summary", "description")
_STEP_TEXTS = ("headline", "text", "description")
_STEP_IMAGES = ("img", *IMAGE_FIELDS)
_STEP_LISTS = ("steps", "methods")


@dataclass(frozen=True)
class ImagePart:
    """A place of an image. ``value``: its name, address or bytes, however the record writes it."""

    value: Any


Part = str | ImagePart


@dataclass(frozen=True)
class PageContent:
    """A document's texts and images in order."""

    parts: list[Part]
    between_texts: str = "\n"
    around_images: str = "\n"

    @property
    def text(self) -> str:
        """The document with a placeholder for each image."""
        text = ""
        for number, part in enumerate(self.parts):
            if number:
                both_texts = isinstance(part, str) and isinstance(self.parts[number - 1], str)
                text += self.between_texts if both_texts else self.around_images
            text += part if isinstance(part, str) else PLACEHOLDER
        return text


class LayoutReader:
    """Reads documents of one layout, or of any, as the options say. ``pick_image``: finds an image by ``--image-field``."""

    def __init__(self, options: PrepareOptions, pick_image: PickImage):
        self._layout, self._field, self._pick = options.layout, options.image_field, pick_image
        self._images_first = options.image_place != "after"

    def check_fields(self, file: str, names: list[str]) -> None:
        """Raises `UserError` if records with these fields are of no known layout, or not of the chosen one."""
        shown = ", ".join(map(repr, names[:20]))
        if self._layout is not None and not _has_fields(names, self._layout):
            raise UserError(f"--layout {self._layout} needs {_described(self._layout)}: {file} has {shown}")
        if self._layout is None and layout_of(names) is None:
            known = "; ".join(f"{layout}: {_described(layout)}" for layout in _FIELDS)
            raise UserError(f"{file} has {shown}: these are the fields of no known layout ({known})")

    def read(self, record: dict[str, Any]) -> PageContent:
        """The record's content. Raises `SkipRecord`."""
        layout = self._layout or layout_of(record)
        if layout == "obelics":
            return PageContent(list(_parallel_lists(record)))
        if layout == "mmc4":
            return PageContent(list(self._matched(record)), between_texts=" ")
        if layout == "wikihow":
            return PageContent(list(self._steps_of_page(record)))
        if layout == "text":
            return PageContent(list(_marked(record)), between_texts="", around_images="")
        raise SkipRecord("the document has the fields of no known layout")

    def _matched(self, record: dict[str, Any]) -> Iterator[Part]:
        texts, infos = _list_of(record, "text_list", str), _list_of(record, "image_info", dict)
        images: list[list[ImagePart]] = [[] for _ in texts]
        for value in infos:
            info = TrackedRecord(value)
            place = info.get("matched_text_index")
            if not isinstance(place, int) or not 0 <= place < len(texts):
                raise SkipRecord("an image's matched_text_index is not that of a text", str(place))
            images[place].append(self._image(info, _IMAGE_INFO_FIELDS))
            info.count_unread("image_info.")
        for text, of_text in zip(texts, images, strict=True):
            yield from self._placed(text, of_text)

    def _steps_of_page(self, record: dict[str, Any]) -> Iterator[Part]:
        yield from filter(None, [_first_text(record, _TITLES), _first_text(record, _INTRODUCTIONS)])
        if is_empty(record.get("methods")):
            yield from self._steps(record, "steps.")
            return
        for value in _list_of(record, "methods", dict):
            method = TrackedRecord(value)
            yield from filter(None, [_first_text(method, ("name", *_TITLES))])
            yield from self._steps(method, "methods.steps.")
            method.count_unread("methods.")

    def _steps(self, record: dict[str, Any], path: str) -> Iterator[Part]:
        for value in _list_of(record, "steps", (dict, str)):
            if isinstance(value, str):
                yield value
                continue
            step = TrackedRecord(value)
            words = "\n".join(filter(None, (_first_text(step, (name,)) for name in _STEP_TEXTS)))
            image = self._image(step, _STEP_IMAGES)
            yield from self._placed(words, [] if is_empty(image.value) else [image])
            step.count_unread(path)

    def _placed(self, text: str, images: list[ImagePart]) -> list[Part]:
        texts = [text] if text.strip() else []
        return [*images, *texts] if self._images_first else [*texts, *images]

    def _image(self, record: dict[str, Any], names: Iterable[str]) -> ImagePart:
        if self._field is not None:
            return ImagePart(self._pick(record, self._field))
        return ImagePart(next((record[name] for name in names if not is_empty(record.get(name))), None))


_FIELDS: dict[LayoutName, tuple[tuple[str, ...], ...]] = {
    "obelics": (("texts",), ("images",)),
    "mmc4": (("text_list",), ("image_info",)),
    "wikihow": (_TITLES, _STEP_LISTS),
    "text": (("text",), ("images", "image")),
}
"""The fields by which a layout is known: one of each group."""


def layout_of(names: Iterable[str]) -> LayoutName | None:
    """The layout of a record with these fields."""
    present = set(names)
    return next((layout for layout in _FIELDS if _has_fields(present, layout)), None)


def _has_fields(names: Collection[str], layout: LayoutName) -> bool:
    return all(any(name in names for name in group) for group in _FIELDS[layout])


def _described(layout: LayoutName) -> str:
    return " and ".join(" or ".join(group) for group in _FIELDS[layout])


def _parallel_lists(record: Mapping[str, Any]) -> Iterator[Part]:
    texts, images = record.get("texts"), record.get("images")
    if not isinstance(texts, list) or not isinstance(images, list) or len(texts) != len(images):
        raise SkipRecord("texts and images are not two lists of one length")
    for place, (text, image) in enumerate(zip(texts, images, strict=True)):
        if not is_empty(text) and not is_empty(image):
            raise SkipRecord("a place has a text and an image, so that their order is not known", f"place {place}")
        if not is_empty(image):
            yield ImagePart(image)
        elif isinstance(text, str) and text.strip():
            yield text
        elif not is_empty(text) and not isinstance(text, str):
            raise SkipRecord("a text is not a string", f"place {place}")
        else:
            not_used("places without text and image")


def _marked(record: Mapping[str, Any]) -> Iterator[Part]:
    text = record.get("text")
    values = record.get("images") if not is_empty(record.get("images")) else record.get("image")
    images = values if isinstance(values, list) else [] if values is None else [values]
    if not isinstance(text, str):
        raise SkipRecord("the text is not a string")
    words = text.split(PLACEHOLDER)
    if len(words) - 1 != len(images):
        raise SkipRecord("placeholders and images differ in number", f"{len(words) - 1} and {len(images)}")
    for number, part in enumerate(words):
        yield from [ImagePart(images[number - 1])] if number else []
        yield part


def _list_of(record: Mapping[str, Any], name: str, types: type | tuple[type, ...]) -> list[Any]:
    values = record.get(name)
    if not isinstance(values, list) or not all(isinstance(value, types) for value in values):
        raise SkipRecord(f"{name} is not a list of what its layout has there")
    return values


def _first_text(record: Mapping[str, Any], names: Iterable[str]) -> str:
    """The first of the fields that is not empty; its white space is stripped."""
    value = next((record[name] for name in names if not is_empty(record.get(name))), "")
    if not isinstance(value, str):
        raise SkipRecord("a text is not a string", f"it is a {type(value).__name__}")
    return value.strip()
