"""``editing``: images, what is to be done with them, and the edited image.

    {"input_prompt": "...", "input_image": ["1.png"], "output_image": "2.png"}    ShareGPT-4o-Image: JSON, images in a folder
    original_image, edit_prompt, edited_image                                     InstructPix2Pix: Parquet, images inside
    source_img, instruction, target_img                                           MagicBrush: Parquet, images inside
    NAME/prompt.json with NAME/1_0.jpg, NAME/1_1.jpg, ...                         InstructPix2Pix: folders

A record without an image to edit is drawn from its words. Out: samples for the template editing: the last image is the edited one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from janus_train.data.conversations import image_name, is_empty
from janus_train.data.image_files import IMAGE_ENDINGS, has_image_ending
from janus_train.data.image_folders import files_under, unread_reason
from janus_train.data.templates import get_template
from janus_train.data.types import BadSample, Record
from janus_train.data.unused import field_reason, not_used
from janus_train.datatools.prepare.field_names import EDIT_FIELDS, EDITED_FIELDS, TO_EDIT_FIELDS, check_edit
from janus_train.datatools.prepare.fields import ID_FIELDS, check_number, name_of, pick, top_names
from janus_train.datatools.prepare.formats.caption_folders import metadata_files
from janus_train.datatools.prepare.formats.listed import RecordFiles, picked_image
from janus_train.datatools.prepare.inputs import expand, file_extent, read_file
from janus_train.datatools.prepare.items import Entry, Extent, Item, SkipRecord, Unit, split_into_units
from janus_train.datatools.prepare.options import PrepareOptions
from janus_train.datatools.prepare.records import ENDINGS, load_object
from janus_train.datatools.prepare.tables import is_path_type, open_parquet, parquet_units
from janus_train.datatools.prepare.unused import TrackedRecord
from janus_train.errors import UserError

_ENDINGS = (*ENDINGS, ".parquet")
_PROMPT = "prompt.json"
_PAIR = re.compile(r"(?P<seed>.+)_(?P<side>[01])\.[^.]+")
_STUB = Image.new("RGB", (1, 1))


@dataclass(frozen=True)
class PromptFolder:
    """A folder with folders of a ``prompt.json`` and the pairs of images that it is about, as InstructPix2Pix has them."""

    folder: str


@dataclass(frozen=True)
class _Pair:
    """An image before and after the edit, and the ``prompt.json`` that says what was done."""

    prompt: str
    before: str
    after: str


class EditingFormat(RecordFiles):
    """One edit per record. A job is a file of records, or a folder of folders with a ``prompt.json``."""

    def __init__(self, options: PrepareOptions):
        super().__init__(options)
        self._unread_columns = lru_cache(8)(self._find_unread_columns)

    def find_files(self) -> list[str | PromptFolder]:
        jobs: list[str | PromptFolder] = []
        for name in self.options.inputs:
            jobs += self._jobs_of(name)
        return jobs

    def _jobs_of(self, name: str) -> Sequence[str | PromptFolder]:
        if Path(name).is_dir() and next(Path(name).rglob(_PROMPT), None) is not None:
            for option in ("images", "image_field", "text_field", "output_field"):
                if getattr(self.options, option):
                    raise UserError(
                        f"--{option.replace('_', '-')} has no effect for {name}: its folders have a {_PROMPT}"
                    )
            return [PromptFolder(name)]
        if Path(name).is_dir() and (files := metadata_files(name)):
            return files
        return expand((name,), _ENDINGS, "file of edits", beside=IMAGE_ENDINGS)

    # -- planning

    def plan(self, job: str | PromptFolder) -> Iterator[Unit]:
        if isinstance(job, PromptFolder):
            pairs = ((_Pair(*names), extent) for names, extent in _pairs(job.folder))
            return split_into_units(pairs, lambda batch: {"pairs": [[p.prompt, p.before, p.after] for p in batch]})
        if job.lower().endswith(".parquet") and self._has_images_inside(job):
            columns = [name for name in open_parquet(job).schema_arrow.names if name not in self._unread_columns(job)]
            return (replace(unit, place={"parquet": unit.place}) for unit in parquet_units(job, columns))
        return super().plan(job)

    def planned_files(self, job: str | PromptFolder) -> list[str]:
        is_read = isinstance(job, str) and not (job.lower().endswith(".parquet") and self._has_images_inside(job))
        return [str(job)] if is_read else []

    def _has_images_inside(self, file: str) -> bool:
        schema = open_parquet(file).schema_arrow
        self.check_fields(file, schema.names)
        column = top_names((self.options.output_field or _first(EDITED_FIELDS, schema.names),))[0]
        return not is_path_type(schema.field(column).type)

    def _find_unread_columns(self, file: str) -> list[str]:
        options = self.options
        read = {*ID_FIELDS, *top_names(options.text_field or EDIT_FIELDS)}
        read |= {*top_names((options.image_field,) if options.image_field else TO_EDIT_FIELDS)}
        read |= {*top_names((options.output_field,) if options.output_field else EDITED_FIELDS)}
        return [name for name in open_parquet(file).schema_arrow.names if name not in read]

    def check_fields(self, file: str, names: list[str]) -> None:
        check_edit(file, names, self.options)

    def images(self, record: dict[str, Any], file: str, location: str) -> list[str | bytes]:
        """The images to edit, then the edited one. Raises `SkipRecord` if that is missing."""
        options = self.options
        before = _value(record, options.image_field, TO_EDIT_FIELDS)
        after = _value(record, options.output_field, EDITED_FIELDS)
        edited = after if isinstance(after, list) else [after]
        if len(edited) != 1 or is_empty(edited[0]):
            num_edited = sum(not is_empty(value) for value in edited)
            raise SkipRecord("the record has no edited image, or several", f"{num_edited}")
        values = before if isinstance(before, list) else [] if is_empty(before) else [before]
        return [self._image(value, file, location) for value in [*values, edited[0]]]

    def _image(self, value: Any, file: str, location: str) -> str | bytes:
        name = image_name(value)
        if name is None:
            raise SkipRecord("an image is neither a path nor bytes", f"it is a {type(value).__name__}")
        return name if isinstance(name, bytes) else self.place_of(name, file, location)

    # -- reading

    def entries(self, unit: Unit) -> Iterator[Entry]:
        if isinstance(unit.place, dict) and "pairs" in unit.place:
            for names in unit.place["pairs"]:
                yield Entry(names[1], _Pair(*names))
        else:
            yield from super().entries(unit)

    def item(self, entry: Entry) -> Item:
        if isinstance(entry.value, _Pair):
            return self._item_of_pair(entry.value)
        file, record = entry.value
        if isinstance(record, SkipRecord):
            raise record
        record = TrackedRecord(record)
        images = self.images(record, file, entry.location)
        values = [pick(record, path) for path in self.options.text_field]
        instruction = values or [next((record[name] for name in EDIT_FIELDS if not is_empty(record.get(name))), None)]
        fields = self._fields(instruction, len(images))
        name = name_of(record) or (Path(images[-1]).stem if isinstance(images[-1], str) else "")
        record.count_unread()
        for column in self._unread_columns(file) if file.lower().endswith(".parquet") else ():
            if column not in record:
                not_used(field_reason(column))
        return Item([fields], [image if isinstance(image, bytes) else read_file(image) for image in images], name)

    def _item_of_pair(self, pair: _Pair) -> Item:
        try:
            record = TrackedRecord(load_object(pair.prompt))
        except UserError as error:
            raise SkipRecord(f"its {_PROMPT} cannot be read", str(error)) from None
        fields = self._fields([record.get("edit")], 2)
        record.count_unread(f"{_PROMPT} ")
        name = f"{Path(pair.prompt).parent.name}-{Path(pair.before).stem.rpartition('_')[0]}"
        return Item([fields], [read_file(pair.before), read_file(pair.after)], name)

    def _fields(self, values: list[Any], num_images: int) -> dict[str, Any]:
        """The sample's fields. Raises `SkipRecord` for what the template does not take."""
        check_number(num_images, self.options)
        fields = {"instruction": "\n".join(map(_one_instruction, values))}
        try:
            get_template("editing").build(Record("", fields, [_STUB] * num_images))
        except BadSample as error:
            raise SkipRecord(str(error)) from None
        return fields


def _first(known: Sequence[str], names: Sequence[str]) -> str:
    return next(name for name in known if name in names)


def _value(record: dict[str, Any], field: str | None, known: Sequence[str]) -> Any:
    """The value of the chosen field, or of the first known one that has one."""
    if field is not None:
        return picked_image(record, field)
    return next((record[name] for name in known if not is_empty(record.get(name))), None)


def _one_instruction(value: Any) -> str:
    """Of several wordings the first one."""
    if isinstance(value, list) and value:
        if len(value) > 1:
            not_used("further instructions of an edit", len(value) - 1)
        value = value[0]
    if not isinstance(value, str) or not value.strip():
        raise SkipRecord("the instruction is missing, empty or not a string")
    return value.strip()


def _pairs(folder: str) -> Iterator[tuple[tuple[str, str, str], Extent]]:
    """(prompt, before, after) of each pair with the bytes of its files. What belongs to no pair counts as not used."""
    by_folder: dict[Path, list[Path]] = {}
    for path in files_under(Path(folder)):
        by_folder.setdefault(path.parent, []).append(path)
    for parent, paths in by_folder.items():
        sides: dict[str, dict[str, Path]] = {}
        has_prompt = parent / _PROMPT in paths
        for path in paths:
            match = _PAIR.fullmatch(path.name) if has_image_ending(path.name) else None
            if match is not None and has_prompt:
                sides.setdefault(match["seed"], {})[match["side"]] = path
            elif path.name != _PROMPT:
                not_used(unread_reason(path.name))
        pairs = [(pair["0"], pair["1"]) for pair in sides.values() if len(pair) == 2]
        if len(sides) > len(pairs):
            not_used("images without their partner", len(sides) - len(pairs))
        if has_prompt and not pairs:
            not_used(f"files {_PROMPT} without a pair of images")
        for before, after in pairs:
            names = (str(parent / _PROMPT), str(before), str(after))
            yield names, sum((file_extent(name) or Extent() for name in names), Extent())
