"""Checks the names of a file's fields before it is read: a missing one is named, with those that the file has.

In: the names of a table's columns, or of the fields of a file's first records. Raises `UserError`.
"""

from __future__ import annotations

import re

from janus_train.datatools.prepare.fields import CAPTION_FIELDS, IMAGE_FIELDS, TALK_FIELDS, top_names
from janus_train.datatools.prepare.options import PrepareOptions
from janus_train.errors import UserError

_MAX_NAMES = 20


def _with_file_names(*names: str) -> tuple[str, ...]:
    """The names, and those that Hugging Face's ImageFolder has for the files of such columns."""
    return (*names, *(f"{name}_{ending}" for name in names for ending in ("file_name", "file_names")))


TO_EDIT_FIELDS = _with_file_names(
    "input_image", "input_images", "original_image", "source_img", "source_image", "src_img"
)
"""The fields with the images to edit, of ShareGPT-4o-Image, InstructPix2Pix, MagicBrush and OmniEdit."""
EDIT_FIELDS = ("input_prompt", "edit_prompt", "instruction", "edit_instruction", "edited_prompt_list", "edit", "prompt")
"""The fields that say what is to be done with them."""
EDITED_FIELDS = _with_file_names("output_image", "edited_image", "target_img", "target_image", "edited_img")
"""The fields with the edited image."""


def is_file_name(name: str) -> bool:
    """Whether Hugging Face's ImageFolder takes the column for paths of files."""
    return name in ("file_name", "file_names") or name.endswith(("_file_name", "_file_names"))


def check_image_and_caption(file: str, names: list[str], options: PrepareOptions) -> None:
    """For records of captioned images: the image's field and the caption's, as the options name them."""
    if options.image_field is None:
        file_names = [name for name in names if is_file_name(name)]
        if len(file_names) > 1:
            raise UserError(
                f"{file} has several columns of files, {', '.join(file_names)}: choose the image's with --image-field"
            )
        _check_known(file, names, [*IMAGE_FIELDS, *file_names], "the path of an image", "--image-field")
    else:
        in_pattern = re.findall(r"\{([^{}]+)\}", options.image_field)
        _check_chosen(file, names, in_pattern or [options.image_field], "--image-field")
    if options.text_field:
        _check_chosen(file, names, list(options.text_field), "--text-field")
    else:
        _check_known(file, names, [*CAPTION_FIELDS, *TALK_FIELDS], "a caption", "--text-field")


def check_edit(file: str, names: list[str], options: PrepareOptions) -> None:
    """For records of edits: the instruction and the edited image are needed, an image to edit is not."""
    if options.image_field is not None:
        in_pattern = re.findall(r"\{([^{}]+)\}", options.image_field)
        _check_chosen(file, names, in_pattern or [options.image_field], "--image-field")
    if options.text_field:
        _check_chosen(file, names, list(options.text_field), "--text-field")
    else:
        _check_known(file, names, list(EDIT_FIELDS), "an instruction", "--text-field")
    if options.output_field is not None:
        _check_chosen(file, names, [options.output_field], "--output-field")
    else:
        _check_known(file, names, list(EDITED_FIELDS), "the edited image", "--output-field")


def check_text(file: str, names: list[str], options: PrepareOptions) -> None:
    """For records of texts."""
    if options.text_field:
        _check_chosen(file, names, list(options.text_field), "--text-field")
    else:
        _check_known(file, names, ["text"], "a text", "--text-field")


def _check_chosen(file: str, names: list[str], chosen: list[str], option: str) -> None:
    """At least one of several fields, which are joined, must be there."""
    if not any(path in names or top_names((path,))[0] in names for path in chosen):
        raise UserError(f"{option} {chosen[0]!r}: no such field is in {file}, which has {_list(names)}")


def _check_known(file: str, names: list[str], known: list[str], what: str, option: str) -> None:
    if not set(known).intersection(names):
        raise UserError(f"{file} has {_list(names)}: none of these is known as {what}; name it with {option}")


def _list(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(repr(name[:40]) for name in names[:_MAX_NAMES]) + more
