"""Source types: the registry of what a recipe's ``type`` can be, and the options of a source of each type.

    class MyConfig(SourceConfig):
        separator: str = ","

    @register_source("my_type", MyConfig)
    def open_my_source(config: MyConfig, places: list[Path], image_size: int) -> MySource: ...

The options are fields of the type's `SourceConfig`. In a recipe they are written beside the common ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field

from janus_train.config import OptionGroup
from janus_train.data.storage.remote import Location
from janus_train.data.templates import Template, chosen_template
from janus_train.data.types import BadSample, ImageUse, Record
from janus_train.errors import UserError
from janus_train.plugins import Registry

NOTES = {"licence", "expected", "prepare", "home"}
"""Options of a source that are notes for people and do not change the training data."""


CONTENT_DIGEST_LIMIT = 64 << 20
"""Sources of files up to this many bytes are digested by content (below a second), larger ones by names and sizes."""


class Source(Protocol):
    """A random-access sequence of records.

    ``source[i]`` is the same record in every process. A source that consists of shards also has ``shard_sizes``, so that
    samples are read from a few shards at a time (`data.shuffle`). One that can name its samples without reading their
    images also has ``key(i)`` (`sample_key`).
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record:
        """Raises `BadSample` for a sample that cannot be used."""

    def data_digest(self) -> str:
        """Changes whenever the data changes, so that a run does not resume on other data."""


class SourceConfig(OptionGroup):
    """One source of a recipe: the options that every type has."""

    name: Annotated[str, Field(max_length=200)]
    kind: Literal["understanding", "text", "generation"]
    type: str
    """A name that `register_source` knows."""
    template: str
    images: ImageUse | None = None
    """What a template that leaves the choice does with the images in a document; None: the template's own choice."""
    weight: Annotated[float, Field(gt=0)]
    held_out: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """The share of the samples that is never trained on, only validated on (`data.held_out`)."""
    paths: tuple[str, ...] = Field(strict=False, min_length=1)
    """Paths or patterns of files and folders, relative to the recipe; some types also take URLs (`data.storage.remote`)."""
    licence: str | None = None
    expected: Annotated[int, Field(gt=0)] | None = None
    """The number of samples that its publishers state."""
    prepare: str | None = None
    """The command that makes the shards, to be run in the project's folder."""
    home: str | None = None
    """Where it comes from."""


Open = Callable[[Any, list[Any], int], Source]


@dataclass(frozen=True)
class SourceType:
    """A format of stored data. For the fields see `register_source`."""

    name: str
    config: type[SourceConfig]
    open: Open
    tars: Literal["samples", "material"] | None = None
    urls: bool = False


_TYPES: Registry[SourceType] = Registry("source type")


def register_source(
    name: str,
    config: type[SourceConfig] = SourceConfig,
    *,
    tars: Literal["samples", "material"] | None = None,
    urls: bool = False,
) -> Callable[[Open], Open]:
    """Register the function that opens the sources of type ``name``.

    The function gets the source's options as a ``config``, the files and folders that its paths match, and the side of
    the model's images in pixels. It raises `UserError` for a source that cannot be opened.

    tars: set if the paths are indexed tars or folders of them. ``samples``: each sample of the tars is one of the
        source's; ``material``: the source makes its samples from them.
    urls: the paths may be URLs, which the function then gets as strings.
    """

    def register(open_: Open) -> Open:
        _TYPES.add(name, SourceType(name, config, open_, tars, urls), open_.__module__)
        return open_

    return register


def source_type(name: str) -> SourceType:
    """The source type of this name. Raises `UserError` listing the known ones if there is none."""
    return _TYPES.get(name)


def template_of(config: SourceConfig, recipe: str = "") -> Template:
    """The source's template, with its choices. Raises `UserError` for one that cannot be; ``recipe``: where it stands."""
    of = f"{recipe}{recipe and ': '}source {config.name!r}"
    return chosen_template(config.template, config.images, config.kind, of)


def open_source(config: SourceConfig, places: list[Location], image_size: int) -> Source:
    """Open the source that ``config`` describes, at ``places``. Raises `UserError` if it cannot be opened."""
    type_ = source_type(config.type)
    if not type_.urls and any(isinstance(place, str) for place in places):
        url_types = ", ".join(type_with_urls.name for type_with_urls in _TYPES if type_with_urls.urls)
        raise UserError(
            f"source {config.name!r}: type {config.type} reads local files, URLs are for sources of type {url_types}"
        )
    return type_.open(config, places, image_size)


def own_config(values: Any) -> Any:
    """Validate a recipe's entry as the `SourceConfig` of its type; pydantic reports the errors.

    Raises `ValueError` for an unknown type and for an option of another type.
    """
    if not isinstance(values, dict) or not isinstance(values.get("type"), str):
        return values
    try:
        type_ = source_type(values["type"])
    except UserError as error:
        raise ValueError(str(error)) from None
    for option in values:
        other_types = [other_type.name for other_type in _TYPES if option in other_type.config.model_fields]
        if other_types and option not in type_.config.model_fields:
            raise ValueError(
                f"{option} is an option of type {' and '.join(other_types)}, the source {values.get('name')!r} is of type {type_.name}"
            )
    return type_.config.model_validate(values)


def sample_key(source: Source, index: int) -> str:
    """The key of a sample, usable or not: by the source's ``key`` if it has one, else from the sample itself."""
    key: Callable[[int], str] | None = getattr(source, "key", None)
    if key is not None:
        return key(index)
    try:
        return source[index].key
    except BadSample as error:
        return error.key or f"number {index}"


def validation_config(values: Any) -> Any:
    """Validate an entry of a recipe's ``validation`` as `own_config` does, without the options that it has no use for."""
    if not isinstance(values, dict):
        return values
    if "weight" in values:
        raise ValueError("a source for validation has no weight, every sample counts alike: remove it")
    if "held_out" in values:
        raise ValueError("a source for validation is held out as a whole: remove held_out, or move it to sources")
    return own_config(values | {"weight": 1.0})
