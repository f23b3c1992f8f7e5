"""The page of rows: one file, no scripts, nothing fetched; it grows step by step up to a size that a browser opens."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from janus_train.data.types import Row, digest
from janus_train.datatools.inspect.drawn import Drawn
from janus_train.datatools.inspect.samples import Sample, sample
from janus_train.datatools.inspect.strips import EXAMPLE, Mixture, MixtureLine, strip
from janus_train.datatools.inspect.tokens import Reader
from janus_train.pages.render import render, render_fragment

MAX_BYTES = 32 << 20
"""Size of the opened rows: images and tokens. Rows beyond are strips alone."""
MAX_STRIPS = 4000
"""Rows on the page; steps beyond are left out."""


class Page:
    """``add`` the rows of each step, then take the ``html``."""

    def __init__(self, drawn: Drawn, max_bytes: int = MAX_BYTES, max_strips: int = MAX_STRIPS):
        self._drawn, self._max_bytes, self._max_strips = drawn, max_bytes, max_strips
        self._reader = Reader(drawn.encoder.tokenizer)
        self._sections: list[Markup] = []
        self._steps: list[int] = []
        self._bytes = self._strips = 0
        self._closed_rows = self._left_out = 0
        self._rows = 0
        self._mixture = Mixture()

    @property
    def cut(self) -> str:
        """What is not on the page, in words; empty if everything is."""
        notes = [f"{self._closed_rows} rows cannot be opened"] if self._closed_rows else []
        notes += [f"{self._left_out} steps are left out"] if self._left_out else []
        return f"{' and '.join(notes)}: the page would be too large" if notes else ""

    def add(self, step: int, rows: Sequence[Row]) -> None:
        """A step's rows, as strips that open."""
        self._rows += len(rows)
        self._mixture.add(rows)
        if self._strips and self._strips + len(rows) > self._max_strips:
            self._left_out += 1
            return
        self._strips += len(rows)
        T, mixture = self._drawn.config.batch.row_tokens, Mixture()
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
            quarantined=[bad for row in rows for bad in row.quarantined],
        )
        self._sections.append(section)

    def _lines(self, mixture: Mixture) -> list[MixtureLine]:
        return mixture.lines(self._drawn.recipe.shares, self._drawn.config.ratio.unit)

    def _row(self, row: Row) -> Markup:
        """A row's HTML, with its samples as long as there is room for them."""
        samples: list[Sample] | None = None
        if self._bytes < self._max_bytes:
            size = self._drawn.config.model.image_size
            samples = [sample(d, self._reader, self._drawn.recipe, size) for d in row.documents]
        html = render_fragment(
            "inspect_row.html.j2", row=strip(row, self._drawn.config.batch.row_tokens), samples=samples
        )
        if samples is None:
            self._closed_rows += 1
        else:
            self._bytes += len(html)
        return html

    def html(self) -> str:
        """The whole document."""
        config, recipe = self._drawn.config, self._drawn.recipe
        facts = [
            f"recipe {recipe.config.name}",
            f"model {config.model.name}",
            f"seed {config.seed}",
            f"{config.batch.rows_per_step} rows of {config.batch.row_tokens} tokens per step",
            f"tokenizer of {self._drawn.start.name}",
        ]
        num_tokens = self._mixture.tokens.total()
        return render(
            "inspect.html.j2",
            title=f"What stage {config.stage} would train on",
            summary=" · ".join(facts),
            steps=self._steps,
            cut=self.cut,
            num_rows=self._rows,
            num_tokens=f"{num_tokens:,}",
            fill=f"{100 * num_tokens / max(1, self._rows * config.batch.row_tokens):.1f}",
            mixture_lines=self._lines(self._mixture),
            example=EXAMPLE,
            sections=self._sections,
        )
