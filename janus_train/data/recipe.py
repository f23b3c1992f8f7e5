"""Recipes: one YAML a mixture, naming sources, their kind, template and weight. Names come from our registries only.

    name: demo-stage2
    licence: ...
    sources:
      - {name: scenes, kind: generation, type: scenes, template: text_to_image, weight: 1, paths: [shards/*.tar], ...}
    previews: ["a red apple on a blue background"]     # drawn while training

Relative paths are relative to the recipe. Data digests go into a run's manifest and guard its resume.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field, ValidationError, model_validator

from janus_train.config import OptionGroup, RatioConfig
from janus_train.data.scenes import SceneSource
from janus_train.data.sources.hf_dataset import HfDatasetSource
from janus_train.data.sources.jsonl import ImageFolderSource, JsonlSource
from janus_train.data.sources.shards import ShardSource, find_tars
from janus_train.data.storage.remote import Location, find, locate
from janus_train.data.templates import get_template
from janus_train.data.types import KINDS, Kind, Record, digest
from janus_train.errors import UserError, shortened
from janus_train.files import read_yaml
from janus_train.paths import resolve


class Source(Protocol):
    """A random-access sequence of records."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


class SourceConfig(OptionGroup):
    """One source of a recipe."""

    name: str
    kind: Literal["understanding", "text", "generation"]
    type: Literal["shards", "scenes", "hf_dataset", "jsonl", "imagefolder"]
    template: str
    weight: Annotated[float, Field(gt=0)]
    paths: tuple[str, ...] = Field(strict=False, min_length=1)
    """Paths or patterns, relative to the recipe. ``shards``, ``scenes``: tars or folders of them, for shards also as URLs
    (`data.storage.remote`); ``hf_dataset``: a folder that ``save_to_disk`` wrote, or .arrow or .parquet files; ``jsonl``: files;
    ``imagefolder``: one folder with a folder for each class."""
    view: str | None = None
    """``scenes`` only: which view of the composed scenes (scenes.py)."""
    num_scenes: Annotated[int, Field(gt=0)] | None = None
    """``scenes`` only: the length of the source, one epoch."""
    fields: dict[str, str] | None = None
    """``hf_dataset`` only: record field -> column, for example ``{caption: text}``."""
    pictures: tuple[str, ...] | None = Field(strict=False, default=None)
    """``hf_dataset`` only: the columns with images."""
    folder: str | None = None
    """``jsonl`` only: where the images' paths start, relative to the file; left out: the file's own folder."""
    class_names: str | None = None
    """``imagefolder`` only: a JSON file ``{"FOLDER": "class name"}``, relative to the source's folder."""
    licence: str | None = None
    expected: Annotated[int, Field(gt=0)] | None = None
    """The number of samples that its publishers state."""
    prepare: str | None = None
    """The command that makes the shards, as it is typed in the project's folder."""
    home: str | None = None
    """Where it comes from."""

    @model_validator(mode="after")
    def _options_of_its_type(self) -> SourceConfig:
        for name, type_ in TYPE_OF_OPTION.items():
            if getattr(self, name) is not None and self.type != type_:
                raise ValueError(
                    f"{name} is an option of type {type_}, the source {self.name!r} is of type {self.type}"
                )
        return self


NOTES = {"licence", "expected", "prepare", "home"}
"""What a source says for people; it changes nothing of what is trained on."""

TYPE_OF_OPTION = {
    "view": "scenes",
    "num_scenes": "scenes",
    "fields": "hf_dataset",
    "pictures": "hf_dataset",
    "folder": "jsonl",
    "class_names": "imagefolder",
}


class RecipeConfig(OptionGroup):
    """A mixture."""

    name: str
    licence: str
    sources: tuple[SourceConfig, ...] = Field(strict=False)
    previews: tuple[str, ...] = Field(strict=False, default=())


def _local(config: SourceConfig, places: list[Location]) -> list[Path]:
    paths = [place for place in places if isinstance(place, Path)]
    if len(paths) < len(places):
        raise UserError(f"source {config.name!r}: type {config.type} reads local files, only shards may be URLs")
    return paths


def _make_shards(config: SourceConfig, places: list[Location], size: int) -> Source:
    return ShardSource(places)


def _make_scenes(config: SourceConfig, places: list[Location], size: int) -> Source:
    if config.view is None or config.num_scenes is None:
        raise UserError(f"source {config.name!r} of type scenes needs view and num_scenes")
    return SceneSource(_local(config, places), config.view, "train", config.num_scenes, size)


def _make_hf_dataset(config: SourceConfig, places: list[Location], size: int) -> Source:
    if not config.fields:
        raise UserError(
            f"source {config.name!r} of type hf_dataset needs fields, for example fields: {{caption: text}}"
        )
    return HfDatasetSource(_local(config, places), config.fields, config.pictures or ())


def _make_jsonl(config: SourceConfig, places: list[Location], size: int) -> Source:
    return JsonlSource(_local(config, places), config.folder)


def _make_imagefolder(config: SourceConfig, places: list[Location], size: int) -> Source:
    if len(places) != 1:
        raise UserError(f"source {config.name!r} of type imagefolder takes one folder, paths give {len(places)}")
    return ImageFolderSource(_local(config, places)[0], config.class_names)


SOURCE_TYPES: dict[str, Callable[[SourceConfig, list[Location], int], Source]] = {
    "shards": _make_shards,
    "scenes": _make_scenes,
    "hf_dataset": _make_hf_dataset,
    "jsonl": _make_jsonl,
    "imagefolder": _make_imagefolder,
}


def read_recipe(path: Path) -> RecipeConfig:
    """The file as it is; no source is opened. Raises `UserError` naming what is wrong in it."""
    try:
        values = read_yaml(path)
    except FileNotFoundError:
        raise UserError(f"data.recipe: there is no file {path}") from None
    if not isinstance(values, dict) or not values.get("sources"):
        raise UserError(f"{path}: the recipe is empty, it needs at least one entry under sources")
    try:
        return RecipeConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: {where}: {first['msg']}, got {shortened(first['input'])}") from None


def places_of(source: SourceConfig, recipe: Path) -> list[Location]:
    """The files and folders that the source's paths stand for."""
    expand = find_tars if source.type in ("shards", "scenes") else find
    found: list[Location] = []
    for pattern in source.paths:
        place = locate(pattern, recipe.parent.absolute())
        matches = expand(place)
        if not matches:
            raise UserError(f"{recipe}: source {source.name!r}: nothing is at {pattern!r} (looked for {place})")
        found += matches
    return found


class Recipe:
    """A recipe, opened: every source can be drawn from. Raises `UserError` naming what is wrong in which file."""

    def __init__(self, path: str, ratio: RatioConfig, image_size: int):
        self.path = resolve(path)
        self.config = read_recipe(self.path)
        self.shares = self._shares(ratio)
        self.sources: dict[str, tuple[SourceConfig, Source]] = {}
        self._places: dict[str, list[Location]] = {}
        for source in self.config.sources:
            if source.name in self.sources:
                raise UserError(f"{self.path}: two sources are called {source.name!r}")
            get_template(source.template, of=f"{self.path}: source {source.name!r}")
            places = self._places[source.name] = places_of(source, self.path)
            self.sources[source.name] = (source, SOURCE_TYPES[source.type](source, places, image_size))

    def _shares(self, ratio: RatioConfig) -> dict[Kind, float]:
        """Share of each kind that is drawn at all; every such kind needs a source."""
        parts: dict[Kind, int] = {
            "understanding": ratio.understanding,
            "text": ratio.text,
            "generation": ratio.generation,
        }
        wanted = {kind: part / sum(parts.values()) for kind, part in parts.items() if part}
        have = {source.kind for source in self.config.sources}
        for kind in KINDS:
            if kind in wanted and kind not in have:
                raise UserError(f"{self.path}: ratio asks for {kind} ({parts[kind]}) but no source is of that kind")
        return wanted

    def digests(self) -> dict[str, str]:
        """Digest of the recipe and of each source's data: what a resume must find unchanged."""
        notes = {"licence": True, "previews": True, "sources": {"__all__": NOTES}}
        values = self.config.model_dump(mode="json", exclude_defaults=True, exclude=notes)  # type: ignore[arg-type]
        found = {"recipe": digest([json.dumps(values, sort_keys=True)])}
        for name, (config, source) in self.sources.items():
            data: Any = (
                ShardSource(self._places[name]) if config.type == "scenes" else source
            )  # scenes are made of shards
            found[name] = data.data_digest()
        return found

    @property
    def lengths(self) -> dict[str, int]:
        """Each source's number of samples."""
        return {name: len(source) for name, (_, source) in self.sources.items()}

    def by_kind(self) -> dict[Kind, list[SourceConfig]]:
        """The sources of each kind that has a share, in the recipe's order."""
        return {kind: [s for s in self.config.sources if s.kind == kind] for kind in KINDS if kind in self.shares}


def shard_sizes(source: Source) -> Sequence[int]:
    """Sizes of the source's shards; a source without shards is one."""
    sizes: Any = getattr(source, "shard_sizes", None)
    return sizes if sizes is not None else [len(source)]
