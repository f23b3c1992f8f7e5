"""The page of rows. In: the rows of each step. Out: one HTML file without scripts or downloads.

Its size is limited, so that a browser can open it.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from janus_train.data.types import Row, digest
from janus_train.datatools.inspect.drawn import RunData
from janus_train.datatools.inspect.samples import Sample, sample
from janus_train.datatools.inspect.strips import EXAMPLE, MixtureCounts, MixtureLine, strip
from janus_train.datatools.inspect.tokens import PieceReader
from janus_train.pages.render import render, render_fragment

MAX_BYTES = 32 << 20
"""Limit for rows with details (images and tokens). Further rows are shown as strips only."""
MAX_STRIPS = 4000
"""Limit for the number of rows on the page; further steps are left out."""


class Page:
    """Collects the rows of each step with ``add``; ``html`` returns the page."""

    def __init__(self, data: RunData, max_bytes: int = MAX_BYTES, max_strips: int = MAX_STRIPS):
        self._data, self._max_bytes, self._max_strips = data, max_bytes, max_strips
        self._reader = PieceReader(data.encoder.tokenizer)
        self._sections: list[Markup] = []
        self._steps: list[int] = []
        self._bytes = self._strips = 0
        self._closed_rows = self._left_out = 0
        self._rows = 0
        self._mixture = MixtureCounts()

    @property
    def omissions(self) -> str:
        """A note on what is missing from the page; empty if nothing is missing."""
        notes = [f"{self._closed_rows} rows cannot be opened"] if self._closed_rows else []
        notes += [f"{self._left_out} steps are left out"] if self._left_out else []
        return f"{' and '.join(notes)}: the page would be too large" if notes else ""

    def add(self, step: int, rows: Sequence[Row]) -> None:
        """Add a step's rows, as strips that can be opened."""
        self._rows += len(rows)
        self._mixture.add(rows)
        if self._strips and self._strips + len(rows) > self._max_strips:
            self._left_out += 1
            return
        self._strips += len(rows)
        T, mixture = self._data.config.batch.row_tokens, MixtureCounts()
        mixture.add(rows)
        self._steps.append(step)
        section = render_fragment(
            "inspect_step.html.j2",
            step=step,
            row_tokens=f"{T:,}",
            fill=f"{100 * sum(row.num_tokens for row in rows) / (len(rows) * T):.1f}",
            digest=digest([row.digest for row in rows]),
            mixture_lines=self._lines(mixture),
            rows=[self._row(row) for row in rows],
            quarantined=[sample for row in rows for sample in row.quarantined],
        )
        self._sections.append(section)

    def _lines(self, mixture: MixtureCounts) -> list[MixtureLine]:
        return mixture.lines(self._data.recipe.shares, self._data.config.ratio.unit)

    def _row(self, row: Row) -> Markup:
        """A row's HTML; with its samples, while there is room for them."""
        samples: list[Sample] | None = None
        if self._bytes < self._max_bytes:
            size = self._data.config.model.image_size
            samples = [sample(d, self._reader, self._data.recipe, size) for d in row.documents]
        html = render_fragment(
            "inspect_row.html.j2", row=strip(row, self._data.config.batch.row_tokens), samples=samples
        )
        if samples is None:
            self._closed_rows += 1
        else:
            self._bytes += len(html)
        return html

    def html(self) -> str:
        """The complete HTML document."""
        config, recipe = self._data.config, self._data.recipe
        facts = [
            f"recipe {recipe.config.name}",
            f"model {config.model.name}",
            f"seed {config.seed}",
            f"{config.batch.rows_per_step} rows of {config.batch.row_tokens} tokens per step",
            f"tokenizer of {self._data.start.name}",
        ]
        num_tokens = self._mixture.tokens.total()
        return render(
            "inspect.html.j2",
            title=f"What stage {config.stage} would train on",
            summary=" · ".join(facts),
            steps=self._steps,
            cut=self.omissions,
            num_rows=self._rows,
            num_tokens=f"{num_tokens:,}",
            fill=f"{100 * num_tokens / max(1, self._rows * config.batch.row_tokens):.1f}",
            mixture_lines=self._lines(self._mixture),
            example=EXAMPLE,
            sections=self._sections,
        )
