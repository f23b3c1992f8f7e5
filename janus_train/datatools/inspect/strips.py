"""Packed rows as strips: a box per sample in its kind's colour, its images strong, its text pale, its losses underlined.

In: rows. Out: values for the macros in ``inspect_macros.html.j2``; positions and widths are in percent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from janus_train.data.types import KINDS, Document, Kind, Row
from janus_train.datatools.inspect.tokens import image_runs, loss_runs

MAX_RUNS = 40
"""Limit for the runs of losses shown in a sample; further runs of a very long dialogue are too narrow to see."""


@dataclass(frozen=True)
class Span:
    """A range of positions of a sample, in percent of its box."""

    left: float
    width: float


@dataclass(frozen=True)
class SampleBox:
    """A sample's box; ``width`` is in percent of the row."""

    kind: str
    width: float
    title: str
    images: list[Span]
    losses: list[Span]


@dataclass(frozen=True)
class Strip:
    """A row; free space at its end is hatched."""

    stream: int
    digest: str
    fill: str
    description: str
    boxes: list[SampleBox]


def strip(row: Row, row_tokens: int) -> Strip:
    count = len(row.documents)
    description = f"row {row.stream}: {count} sample{'s' if count != 1 else ''}, " + ", ".join(
        f"{d.kind} {len(d)} tokens" for d in row.documents
    )
    fill = f"{100 * row.num_tokens / row_tokens:.1f}"
    return Strip(row.stream, row.digest, fill, description, [_box(d, row_tokens) for d in row.documents])


def _box(document: Document, row_tokens: int) -> SampleBox:
    num_tokens = len(document)
    return SampleBox(
        kind=document.kind,
        width=100 * num_tokens / row_tokens,
        title=f"{document.reference.source} · {document.reference.key} · {num_tokens} tokens",
        images=[_span(run, num_tokens) for run in image_runs(document)],
        losses=[_span(run, num_tokens) for run in loss_runs(document)[:MAX_RUNS]],
    )


def _span(run: tuple[int, int], num_tokens: int) -> Span:
    start, end = run
    return Span(100 * start / num_tokens, 100 * (end - start) / num_tokens)


EXAMPLE = Strip(
    0,
    "",
    "92.0",
    "example",
    [
        SampleBox("understanding", 44, "understanding", [Span(4, 60)], [Span(64, 36)]),
        SampleBox("text", 18, "text", [], [Span(0, 100)]),
        SampleBox("generation", 30, "generation", [Span(35, 62)], [Span(33, 62)]),
    ],
)
"""The strip of the legend."""


@dataclass(frozen=True)
class KindAmount:
    """The amount of a kind, in percent of the line; ``requested`` is None if the ratio counts another unit."""

    name: str
    count: str
    percent: str
    requested: str | None


@dataclass(frozen=True)
class MixtureLine:
    """The amounts of the kinds in one unit, samples or tokens."""

    unit: str
    kinds: list[KindAmount]


class MixtureCounts:
    """Counts each kind in samples (a piece of a text counts as its share) and in tokens."""

    def __init__(self) -> None:
        self.samples: Counter[Kind] = Counter()
        self.tokens: Counter[Kind] = Counter()

    def add(self, rows: Sequence[Row]) -> None:
        for document in (document for row in rows for document in row.documents):
            self.samples[document.kind] += document.share  # type: ignore[assignment] # a Counter takes fractions
            self.tokens[document.kind] += len(document)

    def lines(self, shares: Mapping[Kind, float], unit: str) -> list[MixtureLine]:
        """A line for samples and one for tokens; ``shares`` are the requested shares, in the ratio's ``unit``."""
        return [
            MixtureLine(name, _amounts(counts, shares if name == unit else {}))
            for name, counts in (("samples", self.samples), ("tokens", self.tokens))
        ]


def _amounts(counts: Mapping[Kind, float], shares: Mapping[Kind, float]) -> list[KindAmount]:
    """The amounts of the kinds that are requested or present."""
    total = sum(counts.values())
    amounts = []
    for kind in KINDS:
        count, share = counts.get(kind, 0), shares.get(kind, 0.0)
        if count or share:
            number = f"{count:,.0f}" if count == int(count) else f"{count:,.1f}"
            percent = 100 * count / total if total else 0.0
            amounts.append(KindAmount(kind, number, f"{percent:.0f}", f"{100 * share:.0f}" if shares else None))
    return amounts
