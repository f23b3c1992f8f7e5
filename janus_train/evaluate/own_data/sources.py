"""Opens the data to evaluate on: the sources of a recipe, or a file of JSON lines with the templates that fit it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from janus_train.config import RatioConfig
from janus_train.data.data_args import RECIPE_ENDINGS
from janus_train.data.held_out import held_out_sources
from janus_train.data.recipe import Recipe, read_recipe
from janus_train.data.sources.jsonl import JsonlSource
from janus_train.data.sources.registry import Source, template_of
from janus_train.data.templates import Template, get_template, template_for
from janus_train.data.types import KINDS, BadSample, Kind, Record
from janus_train.errors import UserError
from janus_train.evaluate.own_data.selection import Split, spread
from janus_train.paths import resolve

CAPTION_TEMPLATES = ("image_describe", "request_to_image")
"""What is done with captions if no recipe and no option says it: both directions, in the forms of the later stages."""
_MAX_TRIED = 100
"""The first lines, of which one must be usable, so that the templates can be told from its fields."""


@dataclass(frozen=True)
class DataSource:
    """Samples of a source to evaluate on. ``num_samples``: the number from which they are; None: it was not counted."""

    name: str
    kind: Kind
    template: Template
    source: Source
    indices: list[int]
    num_samples: int | None


@dataclass(frozen=True)
class OwnData:
    """The opened data. ``digests``: of each source's data, by its name, and of the recipe."""

    sources: list[DataSource]
    digests: dict[str, str]
    recipe: Recipe | None = None
    split: Split | None = None
    """The part of a recipe's samples that is evaluated."""


def open_data(data: str, templates: Sequence[str], split: Split | None, image_size: int, num_samples: int) -> OwnData:
    """Opens a recipe, or a file of JSON lines with ``templates`` or those of its fields.

    At most ``num_samples`` of each source are chosen. ``split``: of a recipe's samples those that it holds out, or all;
    None: those that it holds out, if it does.

    Raises `UserError` for data that cannot be opened, and for an option that such data has no use for.
    """
    if data.endswith(RECIPE_ENDINGS):
        if templates:
            raise UserError(f"--template is for a file of JSON lines: each source of the recipe {data} names its own")
        return _open_recipe(data, split, image_size, num_samples)
    if split is not None:
        raise UserError("--split is for a recipe: of a file of JSON lines all samples are evaluated")
    path = Path(data).expanduser()
    if path.is_dir() or path.suffix == ".tar":
        raise UserError(f"{data}: name a recipe (.yaml) whose sources read it, or a file of JSON lines")
    return _open_lines(path, templates, num_samples)


def _open_recipe(data: str, split: Split | None, image_size: int, num_samples: int) -> OwnData:
    config = read_recipe(resolve(data))
    kinds = {source.kind for source in config.sources}
    ratio = RatioConfig(**{kind: int(kind in kinds) for kind in KINDS}, unit="samples")
    recipe = Recipe(data, ratio, image_size)
    holds_out = any(source.held_out for source in config.sources) or bool(config.validation)
    if split == "held_out" and not holds_out:
        raise UserError(f"--split held_out: the recipe {data} holds no samples out (held_out, validation)")
    if split == "all" or not holds_out:
        sources = [
            _chosen(config.name, config.kind, template_of(config), source, num_samples)
            for config, source in [*recipe.sources.values(), *recipe.validation.values()]
        ]
        return OwnData(sources, recipe.digests(), recipe, "all")
    sources = [
        DataSource(held.config.name, held.config.kind, template_of(held.config), held.source, held.indices, None)
        for held in held_out_sources(recipe, num_samples)
    ]
    if not any(source.indices for source in sources):
        raise UserError(f"{data}: none of its samples is held out: the shares are too small for so few (--split all)")
    return OwnData(sources, recipe.digests(), recipe, "held_out")


def _open_lines(path: Path, names: Sequence[str], num_samples: int) -> OwnData:
    """Opens the file once for each template; sources are called by their file, and by the template if there are several."""
    source = JsonlSource([path])
    kinds = _kinds(path, source, [get_template(name, "--template") for name in dict.fromkeys(names)])
    sources = [
        _chosen(path.stem if len(kinds) == 1 else f"{path.stem}, {template.name}", kind, template, source, num_samples)
        for template, kind in kinds
    ]
    return OwnData(sources, {path.name: source.data_digest()})


def _chosen(name: str, kind: Kind, template: Template, source: Source, number: int) -> DataSource:
    return DataSource(name, kind, template, source, spread(range(len(source)), number), len(source))


def _kinds(path: Path, source: JsonlSource, templates: Sequence[Template]) -> list[tuple[Template, Kind]]:
    """The templates, or without any those of the fields, with what a model learns from the first line that fits them."""
    problem: BadSample | None = None
    num_tried = min(len(source), _MAX_TRIED)
    for index in range(num_tried):
        try:
            record = source[index]
            return [(template, _kind_of(template, record)) for template in templates or _templates_of(record)]
        except BadSample as error:
            problem = problem or error
    assert problem is not None  # a source has a line
    which = f"of its first {num_tried} lines" if num_tried < len(source) else "of its lines"
    raise UserError(f"{path}: none {which} can be used, the first for this reason: {problem}")


def _templates_of(record: Record) -> list[Template]:
    template = template_for(record)
    return [get_template(name) for name in CAPTION_TEMPLATES] if template.reads == "caption" else [template]


def _kind_of(template: Template, record: Record) -> Kind:
    roles = {segment.role for segment in template.build(record)}
    return "generation" if "image_out" in roles else "understanding" if "image_in" in roles else "text"
