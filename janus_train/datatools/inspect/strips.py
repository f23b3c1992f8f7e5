"""Packed rows as strips: a box a sample in its kind's colour, its pictures strong, its text pale, its losses underlined."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape

from janus_train.data.types import KINDS, Document, Kind, Row
from janus_train.datatools.inspect.tokens import loss_runs, picture_runs

MAX_RUNS = 40
"""Runs of losses that are drawn in a sample; the rest, of a very long dialogue, are too narrow to see."""


def strip(row: Row, row_tokens: int) -> str:
    """The whole row; what stays free at its end is hatched."""
    boxes = [_box(document, row_tokens) for document in row.documents]
    count = len(row.documents)
    described = f"row {row.stream}: {count} sample{'s' if count != 1 else ''}, " + ", ".join(
        f"{d.kind} {len(d)} tokens" for d in row.documents
    )
    return f'<span class="strip" role="img" aria-label="{escape(described)}">{"".join(boxes)}</span>'


def _box(document: Document, row_tokens: int) -> str:
    tokens = len(document)
    pictures = "".join(_layer("p", run, tokens) for run in picture_runs(document))
    losses = "".join(_layer("l", run, tokens) for run in loss_runs(document)[:MAX_RUNS])
    title = f"{document.reference.source} · {document.reference.key} · {tokens} tokens"
    width = 100 * tokens / row_tokens
    return f'<i class="{document.kind}" style="width:{width:.3f}%" title="{escape(title)}">{pictures}{losses}</i>'


def _layer(css: str, run: tuple[int, int], tokens: int) -> str:
    start, end = run
    return f'<b class="{css}" style="left:{100 * start / tokens:.2f}%;width:{100 * (end - start) / tokens:.2f}%"></b>'


class Mixture:
    """How much of each kind there is, in samples (a cut text counts by its pieces) and in tokens."""

    def __init__(self) -> None:
        self.samples: Counter[Kind] = Counter()
        self.tokens: Counter[Kind] = Counter()

    def add(self, rows: Sequence[Row]) -> None:
        for document in (document for row in rows for document in row.documents):
            self.samples[document.kind] += document.share  # type: ignore[assignment] # a Counter takes fractions
            self.tokens[document.kind] += len(document)

    def html(self, shares: Mapping[Kind, float], unit: str) -> str:
        """A line of samples and one of tokens; ``shares`` are the asked ones of the ``unit`` that the ratio counts."""
        return "".join(
            _amounts(name, counts, shares if name == unit else {})
            for name, counts in (("samples", self.samples), ("tokens", self.tokens))
        )


def _amounts(name: str, counts: Mapping[Kind, float], shares: Mapping[Kind, float]) -> str:
    """``samples: understanding 5 (38 %, asked 40 %) ...`` for the kinds that are asked for or there."""
    total = sum(counts.values())
    parts = []
    for kind in KINDS:
        count, share = counts.get(kind, 0), shares.get(kind, 0.0)
        if count or share:
            percent = 100 * count / total if total else 0.0
            asked = f", asked {100 * share:.0f} %" if shares else ""
            number = f"{count:,.0f}" if count == int(count) else f"{count:,.1f}"
            parts.append(
                f'<span class="key {kind}">{kind}</span> <b>{number}</b> <small>({percent:.0f} %{asked})</small>'
            )
    return f'<p class="mixture">{name}: {" &nbsp; ".join(parts)}</p>'
