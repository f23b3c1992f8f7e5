"""Data arguments of a command line: recipes, folders of tars and tars become sources with their locations.

The tools that read all of the data (verify, tokenize) use this. Nothing is opened here, because these tools continue
with the other shards if one is damaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from janus_train.data.recipe import check_names, places_of, read_recipe
from janus_train.data.sources.registry import SourceConfig, source_type
from janus_train.data.sources.shards import find_tars
from janus_train.data.storage.remote import Location, locate, name_of
from janus_train.errors import UserError
from janus_train.paths import resolve

RECIPE_ENDINGS = (".yaml", ".yml")


@dataclass(frozen=True)
class DataArg:
    """A source of a recipe, or tars that the command line names directly."""

    name: str
    places: list[Location] = field(default_factory=list)
    """Files or folders; tars if ``config`` is None or the source type reads tars."""
    config: SourceConfig | None = None

    @property
    def in_tars(self) -> bool:
        """Whether the places are tars that contain the source's own samples."""
        return self.config is None or source_type(self.config.type).tars == "samples"


def resolve_data_args(words: Sequence[str]) -> list[DataArg]:
    """The sources that recipes and paths name. Raises `UserError` for a path without data."""
    data_args: list[DataArg] = []
    for word in words:
        if word.endswith(RECIPE_ENDINGS):
            path = resolve(word)
            sources = read_recipe(path).all_sources
            check_names(sources, path)
            data_args += [DataArg(source.name, places_of(source, path), source) for source in sources]
        else:
            place = locate(word, Path.cwd())
            tars = find_tars(place)
            if not tars:
                is_missing = isinstance(place, Path) and not place.exists()
                problem = (
                    "there is nothing"
                    if is_missing
                    else "it is neither a .tar nor a folder with .tar files nor a recipe's .yaml"
                )
                raise UserError(f"{word}: {problem}")
            data_args.append(DataArg(word if len(tars) > 1 else name_of(tars[0]), tars))
    return data_args
