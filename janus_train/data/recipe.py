"""Recipes: one YAML file per mixture, with its sources, their kinds, templates and weights. It contains no code.

    name: demo-stage2
    licence: ...
    sources:
      - {name: photos, kind: generation, type: shards, template: text_to_image, weight: 1, paths: [shards/*.tar]}
    validation: []                                     # more sources, never trained on (`data.held_out`)
    previews: ["a red apple on a blue background"]     # generated while training

In: the file and the sources' data. Out: a `Recipe` with opened sources. Relative paths are relative to the recipe. Types
and templates are looked up in registries. The data's digests are stored in a run's manifest, so that a run does not
resume on other data.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationError

from janus_train.config import OptionGroup, RatioConfig
from janus_train.data.sources import hf_dataset, jsonl, parquet, shards  # noqa: F401 - each registers its types
from janus_train.data.sources.registry import (
    NOTES,
    Source,
    SourceConfig,
    open_source,
    own_config,
    source_type,
    template_of,
    validation_config,
)
from janus_train.data.sources.shards import find_tars
from janus_train.data.storage.remote import Location, find, locate
from janus_train.data.types import KINDS, Kind, digest
from janus_train.errors import UserError, shortened
from janus_train.files import read_yaml
from janus_train.paths import resolve


class RecipeConfig(OptionGroup):
    """A mixture."""

    name: str
    licence: str
    sources: tuple[Annotated[SerializeAsAny[SourceConfig], BeforeValidator(own_config)], ...] = Field(strict=False)
    validation: tuple[Annotated[SerializeAsAny[SourceConfig], BeforeValidator(validation_config)], ...] = Field(
        strict=False, default=()
    )
    """Sources that are only validated on: they have no weight, and what the ratio asks for does not count them."""
    previews: tuple[str, ...] = Field(strict=False, default=())

    @property
    def all_sources(self) -> tuple[SourceConfig, ...]:
        return (*self.sources, *self.validation)


def read_recipe(path: Path) -> RecipeConfig:
    """Parse and validate the file without opening a source. Raises `UserError` naming the mistake in it."""
    try:
        values = read_yaml(path)
    except FileNotFoundError:
        raise UserError(f"data.recipe: there is no file {path}") from None
    if not isinstance(values, dict) or not values.get("sources"):
        raise UserError(f"{path}: the recipe is empty, it needs at least one entry under sources")
    try:
        return RecipeConfig.model_validate(values)
    except ValidationError as error:
        first_error = error.errors()[0]
        field_path = ".".join(map(str, first_error["loc"]))
        value = "" if isinstance(first_error["input"], dict) else f", got {shortened(first_error['input'])}"
        raise UserError(f"{path}: {field_path}: {first_error['msg'].removeprefix('Value error, ')}{value}") from None


def places_of(source: SourceConfig, recipe: Path) -> list[Location]:
    """The files and folders that the source's paths and patterns match. Raises `UserError` if one matches nothing."""
    expand = find_tars if source_type(source.type).tars else find
    locations: list[Location] = []
    for pattern in source.paths:
        place = locate(pattern, recipe.parent.absolute())
        matches = expand(place)
        if not matches:
            raise UserError(f"{recipe}: source {source.name!r}: nothing is at {pattern!r} (looked for {place})")
        locations += matches
    return locations


def check_names(sources: Sequence[SourceConfig], recipe: Path) -> None:
    """Raises `UserError` if two sources have one name."""
    names: set[str] = set()
    for source in sources:
        if source.name in names:
            raise UserError(f"{recipe}: two sources are called {source.name!r}")
        names.add(source.name)


class Recipe:
    """A recipe with its sources opened. Raises `UserError` naming the mistake and its file."""

    def __init__(self, path: str, ratio: RatioConfig, image_size: int):
        self.path = resolve(path)
        self.config = read_recipe(self.path)
        check_names(self.config.all_sources, self.path)
        self.shares = self._shares(ratio)
        self.sources = {source.name: self._open(source, image_size) for source in self.config.sources}
        self.validation = {source.name: self._open(source, image_size) for source in self.config.validation}

    def _open(self, source: SourceConfig, image_size: int) -> tuple[SourceConfig, Source]:
        template_of(source, str(self.path))
        return source, open_source(source, places_of(source, self.path), image_size)

    def _shares(self, ratio: RatioConfig) -> dict[Kind, float]:
        """The share of each kind whose ratio is not 0. Raises `UserError` if such a kind has no source."""
        parts: dict[Kind, int] = {
            "understanding": ratio.understanding,
            "text": ratio.text,
            "generation": ratio.generation,
        }
        shares = {kind: part / sum(parts.values()) for kind, part in parts.items() if part}
        source_kinds = {source.kind for source in self.config.sources}
        for kind in KINDS:
            if kind in shares and kind not in source_kinds:
                raise UserError(f"{self.path}: ratio asks for {kind} ({parts[kind]}) but no source is of that kind")
        return shares

    def digests(self) -> dict[str, str]:
        """Digests of the recipe and of each source's data, which must be the same when a run resumes."""
        own_notes = {"__all__": NOTES}
        notes = {"licence": True, "previews": True, "sources": own_notes, "validation": own_notes}
        values = self.config.model_dump(mode="json", exclude_defaults=True, exclude=notes)  # type: ignore[arg-type]
        digests = {"recipe": digest([json.dumps(values, sort_keys=True)])}
        digests |= {name: source.data_digest() for name, (_, source) in self.sources.items()}
        return digests | {f"validation/{name}": source.data_digest() for name, (_, source) in self.validation.items()}

    def record(self) -> dict[str, Any]:
        """What a run's manifest says of the mixture: its sources with their shares of the samples, sizes and licences.

        A source's ``share`` is None if its kind has none in the run's ratio.
        """
        sources = [self._source_record(source) | {"share": self._share(source)} for source in self.config.sources]
        validation = [self._source_record(source) for source in self.config.validation]
        return {
            "name": self.config.name,
            "licence": self.config.licence,
            "sources": sources,
            "validation": validation,
        }

    def _source_record(self, source: SourceConfig) -> dict[str, Any]:
        fields = {"name", "kind", "type", "template", "weight", "held_out", "licence", "home"}
        return source.model_dump(mode="json", include=fields) | {"samples": self._all_lengths[source.name]}

    def _share(self, source: SourceConfig) -> float | None:
        weights = sum(other.weight for other in self.config.sources if other.kind == source.kind)
        return self.shares[source.kind] * source.weight / weights if source.kind in self.shares else None

    @property
    def _all_lengths(self) -> dict[str, int]:
        return {name: len(source) for name, (_, source) in (self.sources | self.validation).items()}

    @property
    def lengths(self) -> dict[str, int]:
        """Each source's number of samples."""
        return {name: len(source) for name, (_, source) in self.sources.items()}

    def by_kind(self) -> dict[Kind, list[SourceConfig]]:
        """The sources of each kind that has a share, in the recipe's order."""
        return {kind: [s for s in self.config.sources if s.kind == kind] for kind in KINDS if kind in self.shares}


def shard_sizes(source: Source) -> Sequence[int]:
    """Sizes of the source's shards; a source without shards counts as one shard."""
    sizes: Any = getattr(source, "shard_sizes", None)
    return sizes if sizes is not None else [len(source)]
