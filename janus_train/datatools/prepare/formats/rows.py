"""Reads rows with images inside, for Parquet files and HF data sets on disk. In: rows. Out: items.

The columns decide the layout: questions and answers about images (Docmatix's ``images`` and ``texts``), a conversation,
an image with a label or a caption, or a text.
"""

from __future__ import annotations

from typing import Any, Literal

from janus_train.data.conversations import REFUSED_FIELDS, SYSTEM_FIELDS, TALK_FIELDS
from janus_train.data.unused import field_reason, not_used
from janus_train.datatools.prepare.classes import Classes
from janus_train.datatools.prepare.fields import (
    CAPTION_FIELDS,
    ID_FIELDS,
    captioned_samples,
    check_number,
    conversation,
    embedded_images,
    name_of,
    pick,
    question_answer,
    text,
    top_names,
)
from janus_train.datatools.prepare.items import Item, SkipRecord
from janus_train.datatools.prepare.options import PrepareOptions, flag
from janus_train.datatools.prepare.unused import TrackedRecord
from janus_train.errors import UserError

_IMAGES = ("images", "image", "jpg", "png", "webp", "img", "image_bytes", "picture")
_LABELS = ("label", "labels", "cls", "fine_label")
Layout = Literal["questions", "talk", "pair", "class", "caption", "text"]

_ROWS: dict[Layout, str] = {
    "questions": "questions and answers about images",
    "talk": "conversations",
    "pair": "questions with an answer",
    "class": "images with a label",
    "caption": "images with a caption",
    "text": "texts",
}
_USED_BY: dict[str, tuple[Layout, ...]] = {
    "classes": ("class",),
    "class_names": ("class",),
    "captions": ("caption",),
    "samples": ("questions",),
    "url_encoded": ("caption", "text"),
    "drop_empty": ("caption", "text"),
}
"""Option -> the layouts that use it; the others go with every layout."""


class TableRowReader:
    """Reads rows of one layout, which follows from the columns' ``names`` and the options.

    ``labels``: class names of label columns in the file. Raises `UserError` for unknown columns.
    """

    def __init__(self, path: str, names: list[str], labels: dict[str, list[str]], options: PrepareOptions):
        self._options, self._names, self._path = options, names, path
        self._classes = Classes(options.classes, options.class_names)
        self._labels, self._label = labels, ""
        self.image = self._image_column()
        self.layout: Layout = self._find_layout()
        self.several = (self.layout == "questions" and options.samples == "pairs") or (
            self.layout == "caption" and options.captions == "each"
        )
        if options.form != "plain" and self.layout != "caption":
            raise UserError(f"--form {options.form} is for captioned images; {path} has none (--text-field names them)")
        self._check_options()
        self._unread_columns = [name for name in names if name not in self.columns]

    def _check_options(self) -> None:
        """Raise `UserError` for an option that rows of this layout do not use."""
        for name, layouts in _USED_BY.items():
            default = PrepareOptions.__dataclass_fields__[name].default
            if self.layout not in layouts and getattr(self._options, name) != default:
                raise UserError(
                    f"{flag(name)} has no effect for {self._path}: its rows are {_ROWS[self.layout]}; leave it out"
                )

    @property
    def columns(self) -> list[str]:
        """The columns to read."""
        columns = {
            "questions": ["texts"],
            "talk": [*TALK_FIELDS, *SYSTEM_FIELDS, *REFUSED_FIELDS],
            "pair": ["question", "answer"],
            "class": [self._label],
            "caption": top_names(self._options.text_field) or list(CAPTION_FIELDS),
            "text": top_names(self._options.text_field) or ["text"],
        }[self.layout]
        if self.image is not None:
            columns.append(self.image)
        return [name for name in self._names if name in {*columns, *ID_FIELDS}]

    def item(self, row: dict[str, Any]) -> Item:
        """Convert a row. Raises `SkipRecord` with the problem."""
        row = TrackedRecord(row)
        value = None if self.image is None else pick(row, self._options.image_field or self.image)
        images = [_bytes(image) for image in (value if isinstance(value, list) else [] if value is None else [value])]
        if self.layout == "talk":
            images = embedded_images(row, images)
        check_number(len(images), self._options)
        if self.layout in ("caption", "class", "pair") and self.image is not None and not images:
            raise SkipRecord("the row has no image")
        item = Item(self._samples(row, len(images)), images, name_of(row))
        row.count_unread()
        for name in self._unread_columns:
            not_used(field_reason(name))
        return item

    def _samples(self, row: dict[str, Any], num_images: int) -> list[dict[str, Any]]:
        if self.layout == "questions":
            return self._questions(row.get("texts"), num_images)
        if self.layout == "talk":
            return [conversation(row, num_images)]
        if self.layout == "pair":
            return [question_answer(row.get("question"), row.get("answer"))]
        if self.layout == "class":
            return [{"class_name": self._class_name(row.get(self._label))}]
        if self.layout == "caption":
            return captioned_samples(row, self._options, num_images)
        return [{"text": text(row, self._options)}]

    def _questions(self, texts: Any, num_images: int) -> list[dict[str, Any]]:
        if isinstance(texts, dict):  # a record of lists
            texts = [dict(zip(texts, values, strict=False)) for values in zip(*texts.values(), strict=False)]
        if not isinstance(texts, list) or not texts or not all(isinstance(turn, dict) for turn in texts):
            raise SkipRecord("the row has no questions and answers")
        pairs = [question_answer(turn.get("user"), turn.get("assistant")) for turn in texts]
        if self._options.samples == "pairs":
            return pairs
        turns: list[Any] = []
        for pair in pairs:
            turns += [{"role": "user", "content": pair["question"]}, {"role": "assistant", "content": pair["answer"]}]
        return [conversation({"conversations": turns}, num_images)]

    def _class_name(self, label: Any) -> str:
        if label is None:
            raise SkipRecord("the row has no label")
        names = self._labels.get(self._label)
        if self._options.classes is None and names is not None:
            if not isinstance(label, int) or not 0 <= label < len(names):
                raise SkipRecord("the label has no name", str(label))
            return self._classes.clean_name(names[label])
        return self._classes.name(str(label))

    def _image_column(self) -> str | None:
        if self._options.image_field is not None:
            name = top_names((self._options.image_field,))[0]
            if name not in self._names:
                raise UserError(f"--image-field {name!r}: {self._path} has columns {', '.join(self._names)}")
            return name
        return next((name for name in _IMAGES if name in self._names), None)

    def _find_layout(self) -> Layout:
        names, options = self._names, self._options
        missing_fields = [name for name in top_names(options.text_field) if name not in names]
        if missing_fields:
            raise UserError(f"--text-field {missing_fields[0]!r}: {self._path} has columns {', '.join(names)}")
        if options.text_field:
            return "text" if self.image is None else "caption"
        if "texts" in names and "images" in names:
            return "questions"
        if any(name in names for name in TALK_FIELDS):
            return "talk"
        if self.image is not None and {"question", "answer"} <= set(names):
            return "pair"
        if self.image is not None and any(name in CAPTION_FIELDS for name in names):
            return "caption"
        self._label = next((name for name in _LABELS if name in names), "")
        if self.image is not None and self._label:
            return "class"
        if self.image is None and "text" in names:
            return "text"
        raise UserError(
            f"{self._path} has columns {', '.join(names)}: name the image's with --image-field and the text's with "
            "--text-field"
        )


def _bytes(value: Any) -> bytes:
    if isinstance(value, dict):
        if value.get("bytes") is None:
            raise SkipRecord("the image is not inside", f"only its path {str(value.get('path'))[:80]!r}")
        value = value["bytes"]
    if not isinstance(value, bytes):
        raise SkipRecord("the image is not inside", f"its value is of type {type(value).__name__}")
    return value
