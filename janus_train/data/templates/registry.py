"""Templates by name, and what a template is: a function from a record to segments, with options on how its result is used.

    @register_template(reads="caption", reads_codes=True)
    def text_to_image(record: Record) -> list[Segment]: ...

Recipes name the template of each of their sources. Other packages register templates in the same way, as plug-ins
(`janus_train.plugins`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from PIL import Image

from janus_train.data.prompt_format import generation_prompt
from janus_train.data.special_tokens import PLACEHOLDER
from janus_train.data.types import BadSample, ImageUse, Kind, Record, Segment
from janus_train.errors import UserError
from janus_train.plugins import Registry

Build = Callable[..., list[Segment]]
"""Takes a record; if the template has a choice of ``images``, that as well, by its name."""
KIND_OF_IMAGES: dict[ImageUse, Kind] = {"in": "understanding", "out": "generation", "both": "generation"}
"""The kind as which a document counts by the use of its images: what has codes to learn is generation."""


@dataclass(frozen=True)
class Template:
    """A function that turns records into segments, and its options."""

    name: str
    """Its name in recipes."""
    build: Build
    """Raises `BadSample` for a record that does not suit."""
    reads: str
    """The field by which `template_for` recognises records of this template if no recipe names one."""
    reads_codes: bool = False
    """It makes ``image_out`` or ``codes_in`` segments, which use the cached codes of a shard."""
    can_cut: bool = False
    """Its samples may be cut into pieces for different rows, between any two tokens that are not of one image."""
    can_drop_turns: bool = False
    """A sample that is longer than a row may end at any `EOS` before its last one."""
    can_cut_caption: bool = False
    """Its first segment is a caption whose first sentence makes sense alone."""
    takes_system_prompt: bool = False
    """The model's system prompt precedes the sample if its source is of kind understanding."""
    can_drop_prompt: bool = True
    """What precedes the one image to generate may become pad tokens, for guidance."""
    can_drop_parts: bool = False
    """If that has images, its words alone or its images alone may too (`data.editing_dropout`)."""
    images: ImageUse | None = None
    """What is done with the images that placeholders in the field stand for; None: the template leaves no choice."""

    def with_images(self, use: ImageUse) -> Template:
        """The same template with another use of its images."""
        return replace(self, images=use, build=partial(self.build, images=use), reads_codes=use != "in")


_TEMPLATES: Registry[Template] = Registry("template")


def register_template(
    *,
    reads: str,
    reads_codes: bool = False,
    can_cut: bool = False,
    can_drop_turns: bool = False,
    can_cut_caption: bool = False,
    takes_system_prompt: bool = False,
    can_drop_prompt: bool = True,
    can_drop_parts: bool = False,
    images: ImageUse | None = None,
) -> Callable[[Build], Build]:
    """Register a function of a module as the template of its name; for the options see `Template`.

    The function itself is returned unchanged, so that it can be sent to worker processes by its name.
    """

    def register(build: Build) -> Build:
        name = build.__name__
        template = Template(
            name,
            build,
            reads,
            reads_codes=reads_codes,
            can_cut=can_cut,
            can_drop_turns=can_drop_turns,
            can_cut_caption=can_cut_caption,
            takes_system_prompt=takes_system_prompt,
            can_drop_prompt=can_drop_prompt,
            can_drop_parts=can_drop_parts,
            images=images,
        )
        _TEMPLATES.add(name, template, build.__module__)
        return build

    return register


def get_template(name: str, of: str = "") -> Template:
    """The template of this name. Raises `UserError` listing the known ones if there is none; ``of``: who names it."""
    return _TEMPLATES.get(name, of)


def chosen_template(name: str, images: ImageUse | None, kind: Kind, of: str) -> Template:
    """The template of this name with a source's choice for its images; None: the template's own choice.

    ``kind``: the source's; ``of``: who names it all. Raises `UserError` for an unknown template, for a choice that it does
    not have, and for a kind that documents with such images are not counted as.
    """
    template = get_template(name, of)
    if template.images is None:
        if images is not None:
            raise UserError(f"{of}: template {name} has no choice of images: leave images: {images} out")
        return template
    use = images or template.images
    if kind != KIND_OF_IMAGES[use]:
        raise UserError(
            f"{of}: template {name} with images: {use} is of kind {KIND_OF_IMAGES[use]}, not {kind} (images: in is "
            "understanding, out and both are generation)"
        )
    return template.with_images(use)


def template_for(record: Record) -> Template:
    """The template for a record without a recipe: the first one whose field the record has. Raises `BadSample`.

    One with a choice of images is meant only if the field has a placeholder.
    """
    for template in _TEMPLATES:
        value = record.fields.get(template.reads)
        if template.reads in record.fields and (template.images is None or PLACEHOLDER in str(value)):
            return template
    fields = dict.fromkeys(template.reads for template in _TEMPLATES)
    raise BadSample(f"it has none of the fields {', '.join(fields)}", key=record.key)


def text_before_image(template: Template, words: str) -> str:
    """The text before the image to generate in a sample of the template whose field is ``words``.

    For a template that does not generate an image from one text, such as conversation, the official generation prompt.
    """
    value = words if template.images is None else words + PLACEHOLDER
    with suppress(BadSample):
        before = ""
        for segment in template.build(Record("", {template.reads: value}, [Image.new("RGB", (1, 1))])):
            if segment.role == "image_out":
                return before
            if segment.role != "text":
                break
            before += segment.text
    return generation_prompt(words)
