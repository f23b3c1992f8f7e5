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

import yaml
from pydantic import Field, ValidationError

from janus_train.config import Options, RatioConfig, UserError, resolve
from janus_train.data.encode import TEMPLATES
from janus_train.data.sample import KINDS, Kind, Record, digest
from janus_train.data.scenes import SceneSource
from janus_train.data.shards import ShardSource, index_path


class Source(Protocol):
    """A random-access sequence of records."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


class SourceConfig(Options):
    """One source of a recipe."""

    name: str
    kind: Literal["understanding", "text", "generation"]
    type: Literal["shards", "scenes"]
    template: str
    weight: Annotated[float, Field(gt=0)]
    paths: tuple[str, ...] = Field(strict=False, min_length=1)
    """Tars, as paths or patterns."""
    view: str | None = None
    """``scenes`` only: which view of the composed scenes (scenes.py)."""
    num_scenes: Annotated[int, Field(gt=0)] | None = None
    """``scenes`` only: the length of the source, one epoch."""


class RecipeConfig(Options):
    """A mixture."""

    name: str
    licence: str
    sources: tuple[SourceConfig, ...] = Field(strict=False)
    previews: tuple[str, ...] = Field(strict=False, default=())


def _make_shards(config: SourceConfig, tars: list[Path], size: int) -> Source:
    return ShardSource(tars)


def _make_scenes(config: SourceConfig, tars: list[Path], size: int) -> Source:
    if config.view is None or config.num_scenes is None:
        raise UserError(f"source {config.name!r} of type scenes needs view and num_scenes")
    return SceneSource(tars, config.view, "train", config.num_scenes, size)


SOURCE_TYPES: dict[str, Callable[[SourceConfig, list[Path], int], Source]] = {
    "shards": _make_shards,
    "scenes": _make_scenes,
}


class Recipe:
    """A recipe, opened: every source can be drawn from. Raises `UserError` naming what is wrong in which file."""

    def __init__(self, path: str, ratio: RatioConfig, image_size: int):
        self.path = resolve(path)
        self.config = self._read()
        self.shares = self._shares(ratio)
        self.sources: dict[str, tuple[SourceConfig, Source]] = {}
        self._tars: dict[str, list[Path]] = {}
        for source in self.config.sources:
            if source.name in self.sources:
                raise UserError(f"{self.path}: two sources are called {source.name!r}")
            if source.template not in TEMPLATES:
                raise UserError(
                    f"{self.path}: source {source.name!r} has template {source.template!r}, known are {', '.join(TEMPLATES)}"
                )
            tars = self._tars[source.name] = self._expand(source)
            self.sources[source.name] = (source, SOURCE_TYPES[source.type](source, tars, image_size))

    def _read(self) -> RecipeConfig:
        if not self.path.is_file():
            raise UserError(f"data.recipe: there is no file {self.path}")
        try:
            values = yaml.safe_load(self.path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise UserError(f"{self.path}: no valid YAML ({' '.join(str(error).split())})") from None
        if not isinstance(values, dict) or not values.get("sources"):
            raise UserError(f"{self.path}: the recipe is empty, it needs at least one entry under sources")
        try:
            return RecipeConfig.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise UserError(f"{self.path}: {where}: {first['msg']}, got {first['input']!r}") from None

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

    def _expand(self, source: SourceConfig) -> list[Path]:
        found: list[Path] = []
        for pattern in source.paths:
            path = Path(pattern).expanduser()
            root, rest = (
                (Path(path.anchor), path.relative_to(path.anchor)) if path.is_absolute() else (self.path.parent, path)
            )
            matches = sorted(root.glob(str(rest)))
            if not matches:
                raise UserError(f"{self.path}: source {source.name!r}: nothing is at {pattern!r} (looked from {root})")
            found += matches
        return found

    def digests(self) -> dict[str, str]:
        """Digest of the recipe and, for each source, of its tars' own digests: what a resume must find unchanged."""
        found = {"recipe": digest([json.dumps(self.config.model_dump(mode="json"), sort_keys=True)])}
        for name, tars in self._tars.items():
            found[name] = digest([json.loads(index_path(tar).read_text(encoding="utf-8"))["sha256"] for tar in tars])
        return found

    def by_kind(self) -> dict[Kind, list[SourceConfig]]:
        """The sources of each kind that has a share, in the recipe's order."""
        return {kind: [s for s in self.config.sources if s.kind == kind] for kind in KINDS if kind in self.shares}


def shard_sizes(source: Source) -> Sequence[int]:
    """Sizes of the source's shards; a source without shards is one."""
    sizes: Any = getattr(source, "shard_sizes", None)
    return sizes if sizes is not None else [len(source)]
