"""Samples that are held out: never trained on, and read for validation while training.

    a source with ``held_out: 0.01``   the samples whose key's hash is below 1 % of its range
    a recipe's ``validation``          all samples of these sources

In: a recipe. Out: which samples, and their documents. The hash knows neither the seed nor the source's name: a key is held
out in every stage, at every resume, and in every source of the same share that reads the same shards, as one does for
captions and another for images. A larger share holds out the same samples and more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from janus_train.data.encode import Encoder
from janus_train.data.recipe import Recipe, shard_sizes
from janus_train.data.shuffle import Order, stable_hash
from janus_train.data.sources.registry import Source, SourceConfig, sample_key, template_of
from janus_train.data.types import BadSample, Document, Quarantined, Reference, digest

SAMPLES_PER_BLOCK = 8
"""Samples are dealt to processes in blocks, so that rows can be filled without knowing what other processes read."""


def is_held_out(key: str, share: float) -> bool:
    """Whether the sample of this key is among the ``share`` of its source that is held out. Must never change."""
    return stable_hash("held out", key) < share * 2**64


@dataclass(frozen=True)
class HeldOutSource:
    """The samples of one source that a run validates on."""

    config: SourceConfig
    source: Source
    indices: list[int]


@dataclass(frozen=True)
class Block:
    """A few consecutive samples of a `HeldOutSource`, which one process reads."""

    source: HeldOutSource
    indices: Sequence[int]


def held_out_sources(recipe: Recipe, most: int | None) -> list[HeldOutSource]:
    """What there is to validate on, at most ``most`` samples of each source (None: all), in the recipe's order.

    Sources of a kind without a share in the ratio are left out, and so are those that hold nothing out.
    """
    found = []
    for name, (config, source) in [*recipe.sources.items(), *recipe.validation.items()]:
        share = 1.0 if name in recipe.validation else config.held_out
        if share and (name in recipe.validation or config.kind in recipe.shares):
            found.append(HeldOutSource(config, source, list(islice(held_out_indices(source, share), most))))
    return found


def held_out_indices(source: Source, share: float) -> Iterator[int]:
    """The held-out samples in a shuffled order, the same in every run, that reads a few shards at a time."""
    order = Order(0, "held out", list(shard_sizes(source)))
    for position in range(len(source)):
        index = order.index(0, position)
        if share == 1 or is_held_out(sample_key(source, index), share):
            yield index


def blocks_of(sources: Sequence[HeldOutSource]) -> list[Block]:
    """All samples in blocks, in a fixed order."""
    return [
        Block(source, source.indices[start : start + SAMPLES_PER_BLOCK])
        for source in sources
        for start in range(0, len(source.indices), SAMPLES_PER_BLOCK)
    ]


def samples_digest(sources: Sequence[HeldOutSource], data_digests: Mapping[str, str]) -> str:
    """The digest of what is validated on: losses on samples of one digest can be compared.

    ``data_digests``: those of `Recipe.digests`.
    """
    names = [source.config.name for source in sources]
    data = [data_digests.get(f"validation/{name}") or data_digests[name] for name in names]
    texts = [
        source.config.model_dump_json(include={"name", "kind", "template", "images"}, exclude_none=True)
        + f":{source.indices}"
        for source in sources
    ]
    return digest([*data, *texts])


def read_documents(
    block: Block, encoder: Encoder, row_tokens: int
) -> Iterator[tuple[Document | None, Quarantined | None]]:
    """Each sample's document, whole and without chance, or why it cannot be used."""
    config = block.source.config
    template = template_of(config)
    for index in block.indices:
        key = None
        try:
            record = block.source.source[index]
            key = record.key
            reference = Reference(config.name, 0, index, key)
            yield encoder.encode_without_chance(record, template, config.kind, reference, row_tokens), None
        except BadSample as error:
            name = key or error.key or f"number {index}"
            yield None, Quarantined(config.name, 0, index, name, str(error), error.damaged)
