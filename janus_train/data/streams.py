"""Logical streams: V independent, deterministic sequences of packed rows, the same on any number of processes.

    sources --draw j of stream v--> documents --mixture + packer--> rows (+ the stream's state after each)

Draw j of stream v from source s is sample ``order(seed, s, epoch)[g % n]`` with ``g = j*V + v`` and ``epoch = g // n``:
over all streams together every sample comes once an epoch. A row carries its stream's after-state, a few integers and
the references of pending documents, so that the trainer's state is the state of what it has consumed: prefetching and
the number of workers cannot change what is trained on.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from janus_train.config import UserError
from janus_train.data.encode import Encoder
from janus_train.data.order import Order, stable_hash
from janus_train.data.packer import RowPacker
from janus_train.data.recipe import Recipe, shard_sizes
from janus_train.data.sample import BadSample, Document, Kind, Reference, Row


class Drawer:
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
        self.orders = {
            name: Order(seed, name, list(shard_sizes(source))) for name, (_, source) in recipe.sources.items()
        }

    def document(self, source_name: str, stream: int, draw: int) -> Document:
        """Draw number ``draw`` of ``stream`` from the source. Raises `UserError` naming the sample that cannot be used."""
        config, source = self.recipe.sources[source_name]
        position = draw * self.num_streams + stream
        epoch, inside = divmod(position, len(source))
        index = self.orders[source_name].index(epoch, inside)
        record = source[index]
        reference = Reference(source_name, epoch, index, record.key)
        rng = random.Random(stable_hash("sample", self.seed, source_name, epoch, index))
        try:
            sample = self.encoder.sample(
                record, config.template, config.kind, rng, self.guidance_dropout, self.first_sentence
            )
            document = self.encoder.document(sample, reference)
            if len(document) > self.row_tokens:
                raise BadSample(f"{len(document)} tokens do not fit a row of {self.row_tokens}")
        except (BadSample, OSError) as error:
            raise UserError(f"source {source_name!r}, sample {record.key!r}: {error}") from None
        return document


def initial_state() -> dict[str, Any]:
    """The JSON state of a stream that has drawn nothing."""
    return {"rows": 0, "draws": {}, "placed": {}, "pending": {}}


class Stream:
    """Stream ``number``: an endless iterator of rows that starts from ``state``."""

    def __init__(self, number: int, drawer: Drawer, packer: RowPacker, state: dict[str, Any] | None = None):
        state = state or initial_state()
        self.number, self._drawer, self._packer = number, drawer, packer
        self._by_kind = drawer.recipe.by_kind()
        self._rows: int = state["rows"]
        self._draws: dict[str, int] = dict(state["draws"])
        self._placed: dict[Kind, int] = dict(state["placed"])
        # what is pending is remembered as (source, draw) and drawn again here
        self._pending: dict[Kind, list[tuple[str, int, Document]]] = {
            kind: [(s, j, drawer.document(s, number, j)) for s, j in state["pending"].get(kind, [])]
            for kind in self._by_kind
        }

    def state(self) -> dict[str, Any]:
        return {
            "rows": self._rows,
            "draws": dict(self._draws),
            "placed": dict(self._placed),
            "pending": {kind: [[s, j] for s, j, _ in waiting] for kind, waiting in self._pending.items()},
        }

    def __iter__(self) -> Iterator[Row]:
        return self

    def __next__(self) -> Row:
        for kind in self._by_kind:
            self._refill(kind)
        phase = stable_hash("phase", self._drawer.seed) + self.number
        chosen = self._packer.choose(
            {kind: [len(document) for _, _, document in waiting] for kind, waiting in self._pending.items()},
            self._placed,
            phase,
        )
        documents = [self._pending[kind][place][2] for kind, place in chosen]
        for kind in self._by_kind:
            taken = {place for chosen_kind, place in chosen if chosen_kind == kind}
            self._placed[kind] = self._placed.get(kind, 0) + len(taken)
            self._pending[kind] = [item for place, item in enumerate(self._pending[kind]) if place not in taken]
        self._rows += 1
        return Row(self.number, documents, self.state())

    def _refill(self, kind: Kind) -> None:
        """Draw until the packer has its look-ahead of this kind's documents and enough tokens to fill a row."""
        waiting = self._pending[kind]
        tokens = sum(len(document) for _, _, document in waiting)
        while len(waiting) < self._packer.lookahead or tokens < self._packer.row_tokens:
            name = self._next_source(kind)
            draw = self._draws.get(name, 0)
            document = self._drawer.document(name, self.number, draw)
            waiting.append((name, draw, document))
            tokens += len(document)
            self._draws[name] = draw + 1

    def _next_source(self, kind: Kind) -> str:
        """Smooth weighted round-robin over the kind's sources: the one that is furthest behind its weight."""
        sources = self._by_kind[kind]
        total = sum(source.weight for source in sources)
        drawn = sum(self._draws.get(source.name, 0) for source in sources)
        behind = [source.weight / total * (drawn + 1) - self._draws.get(source.name, 0) for source in sources]
        return sources[behind.index(max(behind))].name
