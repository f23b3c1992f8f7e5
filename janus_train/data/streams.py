"""Logical streams: R independent, deterministic sequences of packed rows, the same on any number of processes.

    sources --sample j of stream v--> documents --mixture + packer--> rows (+ the stream's state after each)

Sample j of stream v from source s is ``order(seed, s, epoch)[g % n]`` with ``g = j*R + v`` and ``epoch = g // n``, where n
is the source's length: over all streams together every sample comes once per epoch. Held-out samples (`data.held_out`) are
passed over, and j counts them too. An unusable sample is quarantined, and a hash chooses another one of its source in
its place. A row carries the state of its stream after it (a few integers and the references of pending documents), so
that the trainer saves the state of the rows it has consumed: prefetching and the number of workers cannot change what is
trained on.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from janus_train.config import EditingDropoutConfig
from janus_train.data.encode import Encoder
from janus_train.data.held_out import is_held_out
from janus_train.data.packing.best_fit import Packer, WaitingDocument
from janus_train.data.recipe import Recipe, shard_sizes
from janus_train.data.shuffle import Order, stable_hash
from janus_train.data.sources.registry import sample_key, template_of
from janus_train.data.types import BadSample, Document, Kind, Quarantined, Reference, Row
from janus_train.errors import UserError

MAX_CONSECUTIVE_BAD = 100
"""A run ends after this many unusable samples of a source in a row."""
MAX_CONSECUTIVE_HELD_OUT = 10_000
"""A run ends after this many held-out samples of a source in a row: it holds out all of a small source."""


@dataclass(frozen=True)
class Sample:
    """A stream's next sample of a source."""

    number: int
    """Its number in the stream, the later one if samples were passed over."""
    document: Document
    quarantined: list[Quarantined]
    """The unusable samples that it replaces."""


class DocumentSampler:
    """Samples documents from the sources in their shuffled orders, with the recipe's randomness. It has no state."""

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
        editing_dropout: EditingDropoutConfig | None = None,
    ):
        self.recipe, self.encoder, self.seed, self.num_streams = recipe, encoder, seed, num_streams
        self.row_tokens = row_tokens
        self.guidance_dropout, self.first_sentence = guidance_dropout, first_sentence
        self.editing_dropout = editing_dropout
        self.templates = {name: template_of(config) for name, (config, _) in recipe.sources.items()}
        self.orders = {
            name: Order(seed, name, list(shard_sizes(source))) for name, (_, source) in recipe.sources.items()
        }

    def sample(self, source_name: str, stream: int, sample_number: int) -> Sample:
        """The first sample of ``stream`` from the source that is not held out, from number ``sample_number`` on.

        Raises `UserError` after `MAX_CONSECUTIVE_BAD` unusable ones, or `MAX_CONSECUTIVE_HELD_OUT` held-out ones.
        """
        length, order = len(self.recipe.sources[source_name][1]), self.orders[source_name]
        for number in range(sample_number, sample_number + MAX_CONSECUTIVE_HELD_OUT):
            epoch, offset = divmod(number * self.num_streams + stream, length)
            index = order.index(epoch, offset)
            if not self._is_held_out(source_name, index):
                document, quarantined = self._usable(source_name, epoch, index)
                return Sample(number, document, quarantined)
        raise self._all_held_out(source_name)

    def _usable(self, source_name: str, epoch: int, first_index: int) -> tuple[Document, list[Quarantined]]:
        """The sample's document, or that of the first one instead of it that is usable; and the unusable ones."""
        index, quarantined = first_index, list[Quarantined]()
        for attempt in range(1, MAX_CONSECUTIVE_HELD_OUT):
            if not self._is_held_out(source_name, index):
                try:
                    return self._document(source_name, epoch, index), quarantined
                except BadSample as error:
                    key = error.key or f"number {index}"
                    quarantined.append(Quarantined(source_name, epoch, index, key, str(error), error.damaged))
                if len(quarantined) == MAX_CONSECUTIVE_BAD:
                    raise UserError(
                        f"source {source_name!r}: {MAX_CONSECUTIVE_BAD} samples in a row cannot be used, the last is {key!r}: {quarantined[-1].reason}"
                    )
            length = len(self.recipe.sources[source_name][1])
            index = stable_hash("instead", self.seed, source_name, epoch, first_index, attempt) % length
        raise self._all_held_out(source_name)

    def _is_held_out(self, source_name: str, index: int) -> bool:
        config, source = self.recipe.sources[source_name]
        return bool(config.held_out) and is_held_out(sample_key(source, index), config.held_out)

    def _all_held_out(self, source_name: str) -> UserError:
        config, source = self.recipe.sources[source_name]
        return UserError(
            f"source {source_name!r}: held_out: {config.held_out:g} leaves nothing of its {len(source):,} samples to train "
            "on: lower it, or put the source into the recipe's validation"
        )

    def _document(self, source_name: str, epoch: int, index: int) -> Document:
        """Read and encode a sample. Raises `BadSample` with the sample's key."""
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
                editing_dropout=self.editing_dropout,
            )
        except BadSample as error:
            raise BadSample(str(error), key=record.key, damaged=error.damaged) from None


def initial_state() -> dict[str, Any]:
    """The JSON state of a stream that has not sampled anything yet."""
    return {"rows": 0, "longest": 1, "draws": {}, "held_out": {}, "bad": {}, "placed": {}, "pending": {}}


def reassign_streams(states: Iterable[dict[str, Any]], num_streams: int) -> dict[int, dict[str, Any]]:
    """States for ``num_streams`` streams that read, from every source, the samples that ``states`` have not read yet.

    For a continuation with another number of streams or another recipe. Pending documents are skipped until the next
    epoch.
    """
    counts: dict[str, Counter[str]] = {"draws": Counter(), "held_out": Counter()}
    for state in states:
        for name, counter in counts.items():
            counter.update(state.get(name, {}))
    per_stream = {
        name: {source: -(-number // num_streams) for source, number in counter.items()}
        for name, counter in counts.items()
    }
    return {
        stream: initial_state() | {name: dict(values) for name, values in per_stream.items()}
        for stream in range(num_streams)
    }


@dataclass
class _PendingDocument:
    """A document that is not placed yet, or only in part. Its state is four values; on resume it is sampled again."""

    source: str
    sample_number: int
    document: Document
    since: int  # number of the row before which it was sampled
    start: int = 0  # number of tokens already placed

    @property
    def state(self) -> list[Any]:
        return [self.source, self.sample_number, self.since, self.start]

    def to_waiting(self, row: int) -> WaitingDocument:
        num_tokens, spans = len(self.document), self.document.image_spans if self.document.can_cut else []
        images = tuple((start - self.start, stop - self.start) for start, stop in spans if start >= self.start)
        return WaitingDocument(num_tokens - self.start, num_tokens, self.document.can_cut, row - self.since, images)


class Stream:
    """Stream ``number``: an endless iterator of rows that starts from ``state``."""

    def __init__(self, number: int, sampler: DocumentSampler, packer: Packer, state: dict[str, Any] | None = None):
        state = state or initial_state()
        self.number, self._sampler, self._packer = number, sampler, packer
        self._by_kind = sampler.recipe.by_kind()
        self._rows: int = state["rows"]
        self._longest: int = state["longest"]
        self._sample_counts: dict[str, int] = dict(state["draws"])
        self._held_out_counts: dict[str, int] = dict(state.get("held_out", {}))  # of these; older states have none
        self._bad_counts: dict[str, int] = dict(state["bad"])
        self._placed_weights: dict[Kind, float] = dict(state["placed"])
        self._quarantined: list[Quarantined] = []
        self._num_held_out = 0
        self._pending_documents: dict[Kind, list[_PendingDocument]] = {
            kind: [
                _PendingDocument(
                    source, sample_number, sampler.sample(source, number, sample_number).document, since, start
                )
                for source, sample_number, since, start in state["pending"].get(kind, [])
            ]
            for kind in self._by_kind
        }

    def state(self) -> dict[str, Any]:
        return {
            "rows": self._rows,
            "longest": self._longest,
            "draws": dict(self._sample_counts),
            "held_out": dict(self._held_out_counts),
            "bad": dict(self._bad_counts),
            "placed": dict(self._placed_weights),
            "pending": {kind: [entry.state for entry in entries] for kind, entries in self._pending_documents.items()},
        }

    def __iter__(self) -> Iterator[Row]:
        return self

    def __next__(self) -> Row:
        for kind in self._by_kind:
            self._refill(kind)
        candidates = {
            kind: [entry.to_waiting(self._rows) for entry in entries]
            for kind, entries in self._pending_documents.items()
        }
        phase = stable_hash("phase", self._sampler.seed) + self.number
        documents = []
        for choice in self._packer.choose(
            candidates, self._placed_weights, row=self._rows, phase=phase, longest=self._longest
        ):
            entry = self._pending_documents[choice.kind][choice.place]
            documents.append(entry.document.piece(entry.start, entry.start + choice.tokens))
            entry.start += choice.tokens
            weight = self._packer.weight(candidates[choice.kind][choice.place], choice.tokens)
            self._placed_weights[choice.kind] = self._placed_weights.get(choice.kind, 0) + weight
        for kind, entries in self._pending_documents.items():
            self._pending_documents[kind] = [entry for entry in entries if entry.start < len(entry.document)]
        self._rows += 1
        quarantined, self._quarantined = self._quarantined, []
        num_held_out, self._num_held_out = self._num_held_out, 0
        return Row(self.number, documents, self.state(), quarantined, num_held_out)

    def _refill(self, kind: Kind) -> None:
        """Sample until the packer has its look-ahead of this kind's documents and enough tokens to fill a row."""
        entries = self._pending_documents[kind]
        tokens = sum(len(entry.document) - entry.start for entry in entries)
        while self._packer.wants_more(len(entries), tokens):
            name = self._next_source(kind)
            next_number = self._sample_counts.get(name, 0)
            sample = self._sampler.sample(name, self.number, next_number)
            if sample.quarantined:
                self._bad_counts[name] = self._bad_counts.get(name, 0) + len(sample.quarantined)
                self._quarantined += sample.quarantined
            if sample.number > next_number:
                num_held_out = sample.number - next_number
                self._held_out_counts[name] = self._held_out_counts.get(name, 0) + num_held_out
                self._num_held_out += num_held_out
            entries.append(_PendingDocument(name, sample.number, sample.document, self._rows))
            tokens += len(sample.document)
            self._longest = max(self._longest, min(len(sample.document), self._packer.row_tokens))
            self._sample_counts[name] = sample.number + 1

    def _next_source(self, kind: Kind) -> str:
        """The next source by smooth weighted round-robin: the one of this kind that is furthest behind its weight."""
        sources = self._by_kind[kind]
        total = sum(source.weight for source in sources)
        counts = [self._sample_counts.get(s.name, 0) - self._held_out_counts.get(s.name, 0) for s in sources]
        deficits = [
            source.weight / total * (sum(counts) + 1) - count for source, count in zip(sources, counts, strict=True)
        ]
        return sources[deficits.index(max(deficits))].name
