"""What a command line names as data: recipes, folders of tars, tars; each becomes sources whose shards are opened one by one.

For the tools that look at all of the data (verify, tokenize): they go on where one shard is damaged, so nothing is opened
here.
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
    """A source of a recipe, or tars that were named as they are."""

    name: str
    places: list[Location] = field(default_factory=list)
    """Files or folders; tars where ``config`` is None or its type says so."""
    config: SourceConfig | None = None

    @property
    def in_tars(self) -> bool:
        """Whether the places are tars with the source's own samples."""
        return self.config is None or source_type(self.config.type).tars == "samples"


def resolve_data_args(words: Sequence[str]) -> list[DataArg]:
    """The sources that recipes and paths stand for. Raises `UserError` for a path where there is nothing."""
    found: list[DataArg] = []
    for word in words:
        if word.endswith(RECIPE_ENDINGS):
            path = resolve(word)
            sources = read_recipe(path).sources
            check_names(sources, path)
            found += [DataArg(source.name, places_of(source, path), source) for source in sources]
        else:
            place = locate(word, Path.cwd())
            tars = find_tars(place)
            if not tars:
                missing = isinstance(place, Path) and not place.exists()
                what = (
                    "there is nothing" if missing else "it is no .tar, no folder with .tar files and no recipe's .yaml"
                )
                raise UserError(f"{word}: {what}")
            found.append(DataArg(word if len(tars) > 1 else name_of(tars[0]), tars))
    return found
