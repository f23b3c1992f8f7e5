"""Logical streams: R independent, deterministic sequences of packed rows, the same on any number of processes.

    sources --draw j of stream v--> documents --mixture + packer--> rows (+ the stream's state after each)

Draw j of stream v from source s is sample ``order(seed, s, epoch)[g % n]`` with ``g = j*R + v`` and ``epoch = g // n``:
over all streams together every sample comes once an epoch. A sample that cannot be used is quarantined and another one
of its source drawn in its place, by a hash. A row carries its stream's after-state, a few integers and the references of
pending documents, so that the trainer's state is the state of what it has consumed: prefetching and the number of workers
cannot change what is trained on.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from janus_train.data.encode import Encoder
from janus_train.data.packing.best_fit import Item, Packer
from janus_train.data.recipe import Recipe, shard_sizes
from janus_train.data.shuffle import Order, stable_hash
from janus_train.data.templates import get_template
from janus_train.data.types import BadSample, Document, Kind, Quarantined, Reference, Row
from janus_train.errors import UserError

MAX_CONSECUTIVE_BAD = 100
"""So many unusable samples of a source one after the other end the run."""


class DocumentSampler:
    """Draws documents: knows the sources, their orders and the recipe's randomness; holds no position."""

    def __init__(
        self,
        recipe: Recipe,
        encoder: Encoder,
        *,
        seed: int,
        num_streams: int,
        row_tokens: int,
        guidance_dropout: float,
        first_sentence: float,
    ):
        self.recipe, self.encoder, self.seed, self.num_streams = recipe, encoder, seed, num_streams
        self.row_tokens = row_tokens
        self.guidance_dropout, self.first_sentence = guidance_dropout, first_sentence
        self.templates = {name: get_template(config.template) for name, (config, _) in recipe.sources.items()}
        self.orders = {
            name: Order(seed, name, list(shard_sizes(source))) for name, (_, source) in recipe.sources.items()
        }

    def sample(self, source_name: str, stream: int, draw: int) -> tuple[Document, list[Quarantined]]:
        """Draw number ``draw`` of ``stream`` from the source, and the unusable samples that were met on the way.

        Raises `UserError` after `MAX_CONSECUTIVE_BAD` of them.
        """
        source = self.recipe.sources[source_name][1]
        position = draw * self.num_streams + stream
        epoch, inside = divmod(position, len(source))
        first = index = self.orders[source_name].index(epoch, inside)
        bad: list[Quarantined] = []
        while True:
            try:
                return self._document(source_name, epoch, index), bad
            except BadSample as error:
                key = error.key or f"number {index}"
                bad.append(Quarantined(source_name, epoch, index, key, str(error), error.damaged))
            if len(bad) == MAX_CONSECUTIVE_BAD:
                raise UserError(
                    f"source {source_name!r}: {MAX_CONSECUTIVE_BAD} samples in a row cannot be used, the last is {key!r}: {bad[-1].reason}"
                )
            index = stable_hash("instead", self.seed, source_name, epoch, first, len(bad)) % len(source)

    def _document(self, source_name: str, epoch: int, index: int) -> Document:
        """Raises `BadSample` with the sample's key."""
        config, source = self.recipe.sources[source_name]
        record = source[index]
        reference = Reference(source_name, epoch, index, record.key)
        try:
            return self.encoder.encode(
                record,
                self.templates[source_name],
                config.kind,
                reference,
                row_tokens=self.row_tokens,
                rng=random.Random(stable_hash("sample", self.seed, source_name, epoch, index)),
                guidance_dropout=self.guidance_dropout,
                first_sentence=self.first_sentence,
            )
        except BadSample as error:
            raise BadSample(str(error), key=record.key, damaged=error.damaged) from None


def initial_state() -> dict[str, Any]:
    """The JSON state of a stream that has drawn nothing."""
    return {"rows": 0, "longest": 1, "draws": {}, "bad": {}, "placed": {}, "pending": {}}


def reassign_streams(states: Iterable[dict[str, Any]], num_streams: int) -> dict[int, dict[str, Any]]:
    """States for ``num_streams`` streams that draw, from every source, what these have not drawn yet.

    For a continuation with another number of streams or another recipe: what was pending is left out until its next epoch.
    """
    drawn: Counter[str] = Counter()
    for state in states:
        drawn.update(state["draws"])
    draws = {source: -(-number // num_streams) for source, number in drawn.items()}
    return {stream: initial_state() | {"draws": dict(draws)} for stream in range(num_streams)}


@dataclass
class _Waiting:
    """A drawn document that is not placed, or not all of it; remembered as four values and drawn again on resume."""

    source: str
    draw: int
    document: Document
    since: int  # the row before which it was drawn
    start: int = 0  # tokens that were placed already

    @property
    def state(self) -> list[Any]:
        return [self.source, self.draw, self.since, self.start]

    def item(self, row: int) -> Item:
        whole = len(self.document)
        return Item(whole - self.start, whole, self.document.can_cut, row - self.since)


class Stream:
    """Stream ``number``: an endless iterator of rows that starts from ``state``."""

    def __init__(self, number: int, sampler: DocumentSampler, packer: Packer, state: dict[str, Any] | None = None):
        state = state or initial_state()
        self.number, self._sampler, self._packer = number, sampler, packer
        self._by_kind = sampler.recipe.by_kind()
        self._rows: int = state["rows"]
        self._longest: int = state["longest"]
        self._draws: dict[str, int] = dict(state["draws"])
        self._bad: dict[str, int] = dict(state["bad"])
        self._placed: dict[Kind, float] = dict(state["placed"])
        self._met: list[Quarantined] = []
        self._pending: dict[Kind, list[_Waiting]] = {
            kind: [
                _Waiting(source, draw, sampler.sample(source, number, draw)[0], since, start)
                for source, draw, since, start in state["pending"].get(kind, [])
            ]
            for kind in self._by_kind
        }

    def state(self) -> dict[str, Any]:
        return {
            "rows": self._rows,
            "longest": self._longest,
            "draws": dict(self._draws),
            "bad": dict(self._bad),
            "placed": dict(self._placed),
            "pending": {kind: [one.state for one in waiting] for kind, waiting in self._pending.items()},
        }

    def __iter__(self) -> Iterator[Row]:
        return self

    def __next__(self) -> Row:
        for kind in self._by_kind:
            self._refill(kind)
        items = {kind: [one.item(self._rows) for one in waiting] for kind, waiting in self._pending.items()}
        phase = stable_hash("phase", self._sampler.seed) + self.number
        documents = []
        for choice in self._packer.choose(items, self._placed, row=self._rows, phase=phase, longest=self._longest):
            one = self._pending[choice.kind][choice.place]
            documents.append(one.document.piece(one.start, one.start + choice.tokens))
            one.start += choice.tokens
            weight = self._packer.weight(items[choice.kind][choice.place], choice.tokens)
            self._placed[choice.kind] = self._placed.get(choice.kind, 0) + weight
        for kind, waiting in self._pending.items():
            self._pending[kind] = [one for one in waiting if one.start < len(one.document)]
        self._rows += 1
        met, self._met = self._met, []
        return Row(self.number, documents, self.state(), met)

    def _refill(self, kind: Kind) -> None:
        """Draw until the packer has its look-ahead of this kind's documents and enough tokens to fill a row."""
        waiting = self._pending[kind]
        tokens = sum(len(one.document) - one.start for one in waiting)
        while self._packer.wants_more(len(waiting), tokens):
            name = self._next_source(kind)
            draw = self._draws.get(name, 0)
            document, bad = self._sampler.sample(name, self.number, draw)
            if bad:
                self._bad[name] = self._bad.get(name, 0) + len(bad)
                self._met += bad
            waiting.append(_Waiting(name, draw, document, self._rows))
            tokens += len(document)
            self._longest = max(self._longest, min(len(document), self._packer.row_tokens))
            self._draws[name] = draw + 1

    def _next_source(self, kind: Kind) -> str:
        """Smooth weighted round-robin over the kind's sources: the one that is furthest behind its weight."""
        sources = self._by_kind[kind]
        total = sum(source.weight for source in sources)
        drawn = sum(self._draws.get(source.name, 0) for source in sources)
        behind = [source.weight / total * (drawn + 1) - self._draws.get(source.name, 0) for source in sources]
        return sources[behind.index(max(behind))].name
