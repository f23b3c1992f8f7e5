"""The options of a conversion, each declared once: its type, its default, its help and the formats that use it.

The command line of ``janus-train prepare`` is made from the fields of `PrepareOptions`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_type_hints

from janus_train.errors import UserError

FormatName = Literal[
    "imagefolder", "captions", "conversations", "parquet", "hf", "text", "webdataset", "interleaved", "editing"
]
LayoutName = Literal["obelics", "mmc4", "wikihow", "text"]
FORMATS: tuple[FormatName, ...] = get_args(FormatName)

_TABLES: tuple[FormatName, ...] = ("parquet", "hf")
_CLASSES: tuple[FormatName, ...] = ("imagefolder", *_TABLES, "webdataset")
_RECORDS: tuple[FormatName, ...] = ("captions", "conversations")
_LISTED: tuple[FormatName, ...] = (*_RECORDS, "interleaved", "editing")
_CAPTIONS: tuple[FormatName, ...] = ("captions", *_TABLES, "webdataset")
_TEXTS: tuple[FormatName, ...] = ("captions", "text", *_TABLES, "webdataset")
_IMAGES: tuple[FormatName, ...] = (*_LISTED, *_TABLES, "webdataset")

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}


def byte_count(text: str) -> int:
    """Parse a size such as ``256MB``, ``1.5 GiB`` or ``1000000`` into bytes. Raises `UserError`."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]i?)?b?\s*", text, re.IGNORECASE)
    if match is None:
        raise UserError(f"--shard-size {text!r} is not a size: write 256MB, 1GB or a number of bytes")
    size = int(float(match[1]) * _UNITS[(match[2] or "").lower()])
    if size < 1:
        raise UserError(f"--shard-size {text!r} is not a size: it must be at least one byte")
    return size


def _column_names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",")) if text else ()


def _caption_extension(text: str) -> str:
    """The ending in lower case and with its dot. Raises `UserError`."""
    from janus_train.data.image_files import has_image_ending  # not for the help, which is quick

    name = text.strip().lower().removeprefix(".")
    if not name or "/" in name or has_image_ending(f".{name}"):
        raise UserError(
            f"--caption-extension {text!r} is not the ending of files with captions: write .txt or .caption"
        )
    return f".{name}"


@dataclass(frozen=True)
class OptionSpec:
    """How a field becomes an option of the command line."""

    help: str
    formats: tuple[FormatName, ...] = FORMATS
    """The formats that use it; with another format it is refused."""
    minimum: int | None = None
    metavar: str | None = None
    parse: Callable[[str], Any] | None = None
    """Converts a string to the field's value, if the command line cannot do it by the field's type."""
    default_text: str | None = None
    """The field's default as a string for ``parse``."""


@dataclass(frozen=True)
class PrepareOptions:
    """All options that the bytes of the shards depend on. They are recorded in the prepared folder."""

    format: Annotated[
        FormatName,
        OptionSpec(
            "Layout of the input. imagefolder: one folder or tar of images per class, also ILSVRC-2012's train tar. "
            "captions: JSON, JSON lines, CSV, TSV or COCO's JSON with image paths, or a folder of images with metadata.jsonl "
            "(.csv, .parquet) or a .txt beside each. conversations: JSON or JSON lines of LLaVA, ShareGPT, OpenAI, Qwen-VL "
            "or Janus. parquet: Parquet files that contain the images. hf: folders written by "
            "save_to_disk of datasets. text: JSON, JSON lines, CSV or Parquet. webdataset: existing tars. interleaved: JSON, "
            "JSON lines or Parquet of documents with images in them (--layout). editing: JSON, JSON lines or Parquet of images, "
            "an instruction and the edited image (ShareGPT-4o-Image, InstructPix2Pix), or folders with a prompt.json.",
            metavar="FORMAT",
        ),
    ]
    inputs: Annotated[tuple[str, ...], OptionSpec("Files, patterns or folders to read.", metavar="INPUT")]
    images: Annotated[
        str | None,
        OptionSpec(
            "Folder that image paths are relative to. Default: the folder of the file with the records.", _LISTED
        ),
    ] = None
    classes: Annotated[
        str | None,
        OptionSpec(
            "File with the names of the classes: JSON (id or number to names), or lines such as "
            "'n01440764 tench, Tinca tinca'.",
            _CLASSES,
        ),
    ] = None
    class_names: Annotated[
        Literal["first", "all"],
        OptionSpec("Use the first name of 'tench, Tinca tinca', or all of them.", _CLASSES),
    ] = "first"
    image_field: Annotated[
        str | None,
        OptionSpec(
            "Field or column with the image or its path; a pattern such as '{photoid}.jpg' is filled in from the record. "
            "interleaved: of a step (wikihow) or of an entry of image_info (mmc4). editing: of the images to edit.",
            (*_LISTED, *_TABLES),
        ),
    ] = None
    text_field: Annotated[
        tuple[str, ...],
        OptionSpec(
            "Field or column with the caption or text, for example Task2.Caption or features[language=en].title; repeat "
            "the option to join several. editing: with the instruction.",
            (*_TEXTS, "editing"),
        ),
    ] = ()
    output_field: Annotated[
        str | None, OptionSpec("Field or column with the edited image or its path.", ("editing",))
    ] = None
    columns: Annotated[
        tuple[str, ...],
        OptionSpec(
            "Comma-separated names of the columns of a CSV or TSV whose first line has none.",
            ("captions", "text"),
            parse=_column_names,
        ),
    ] = ()
    caption_extension: Annotated[
        str | None,
        OptionSpec(
            "Read folders as images with a caption beside each, in a file of the same name with this ending. Default: "
            ".txt, if a folder has such files.",
            ("captions",),
            parse=_caption_extension,
        ),
    ] = None
    layout: Annotated[
        LayoutName | None,
        OptionSpec(
            "How the documents are laid out. obelics: parallel lists texts and images. mmc4: text_list and image_info. "
            "wikihow: a title and steps with text and image. text: a text with <image_placeholder> in it, and images. "
            "Default: by their fields.",
            ("interleaved",),
        ),
    ] = None
    image_place: Annotated[
        Literal["before", "after"] | None,
        OptionSpec(
            "mmc4, wikihow: whether an image stands before its sentence or step, as on the page, or after it, where it "
            "can be drawn from it. Default: before.",
            ("interleaved",),
        ),
    ] = None
    captions: Annotated[
        Literal["first", "each", "longest"],
        OptionSpec("Which caption of an image to use; each: one sample per caption.", _CAPTIONS),
    ] = "first"
    form: Annotated[
        Literal["plain", "draw", "ask"],
        OptionSpec(
            "plain: a caption. draw: a conversation in which the user gives the caption and the assistant draws the "
            "image. ask: one in which the user shows the image and asks --question, and the assistant answers with the "
            "caption.",
            _CAPTIONS,
        ),
    ] = "plain"
    question: Annotated[str | None, OptionSpec("The question for --form ask.", _CAPTIONS)] = None
    samples: Annotated[
        Literal["pairs", "conversation"],
        OptionSpec(
            "Turn a row with several questions and answers into one sample each, or into one conversation.", _TABLES
        ),
    ] = "pairs"
    split: Annotated[str | None, OptionSpec("Split to read from a folder that has several.", ("hf",))] = None
    sort: Annotated[
        bool,
        OptionSpec(
            "Read tars whose samples' members do not stand together, such as all images and then all texts: the places of "
            "all members are kept in memory.",
            ("webdataset",),
        ),
    ] = False
    url_encoded: Annotated[bool, OptionSpec("Decode URL-encoded texts, as in YFCC100M.", _TEXTS)] = False
    drop_empty: Annotated[
        bool, OptionSpec("Leave out records without text and do not count them as unusable.", _TEXTS)
    ] = False
    min_pictures: Annotated[int, OptionSpec("Leave out records with fewer images.", _IMAGES, minimum=0)] = 0
    max_pictures: Annotated[int | None, OptionSpec("Leave out records with more images.", _IMAGES, minimum=0)] = None
    max_side: Annotated[
        int | None,
        OptionSpec(
            "Scale images with a longer side down to this many pixels and write them as JPEG.",
            ("imagefolder", *_IMAGES),
            minimum=16,
        ),
    ] = None
    shard_size: Annotated[
        int, OptionSpec("Largest size of a shard, for example 256MB or 1GB.", parse=byte_count, default_text="256MiB")
    ] = 256 << 20
    shard_samples: Annotated[int | None, OptionSpec("Largest number of samples in a shard.", minimum=1)] = None

    def identity(self) -> dict[str, Any]:
        """All options as JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def check(self) -> None:
        """Raise `UserError` for an option that the format does not use or that contradicts another."""
        for field in fields(self):
            formats = option_specs()[field.name].formats
            if self.format not in formats and getattr(self, field.name) != field.default:
                raise UserError(
                    f"{flag(field.name)} has no effect for {self.format}: it is for {', '.join(formats)}; leave it out"
                )
        if self.class_names != "first" and self.classes is None and self.format not in _TABLES:
            raise UserError("--class-names has no effect without --classes: classes are named after their folders")
        if self.form == "ask" and not self.question:
            raise UserError("--form ask needs --question, the question to ask about each image")
        if self.form != "ask" and self.question is not None:
            raise UserError("--question has no effect without --form ask")
        if self.max_pictures is not None and self.max_pictures < self.min_pictures:
            raise UserError(f"--max-pictures {self.max_pictures} is less than --min-pictures {self.min_pictures}")


@cache
def option_specs() -> dict[str, OptionSpec]:
    """Field of `PrepareOptions` -> its declaration."""
    return {name: get_args(hint)[1] for name, hint in field_types().items()}


def field_types() -> dict[str, Any]:
    """Field of `PrepareOptions` -> ``Annotated[its type, its declaration]``."""
    return get_type_hints(PrepareOptions, include_extras=True)


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")
