"""The page of rows: one file, no scripts, nothing fetched; it grows step by step up to a size that a browser opens."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from janus_train.data.types import Row, digest
from janus_train.datatools.inspect.drawn import Drawn
from janus_train.datatools.inspect.samples import sample
from janus_train.datatools.inspect.strips import Mixture, strip
from janus_train.datatools.inspect.style import STYLE
from janus_train.datatools.inspect.tokens import Reader
from janus_train.report.style import STYLE as REPORT_STYLE

MAX_BYTES = 32 << 20
"""Of opened rows: pictures and tokens. Rows beyond are strips alone."""
MAX_STRIPS = 4000
"""Rows on the page; steps beyond are left out."""


class Page:
    """``add`` the rows of each step, then take the ``html``."""

    def __init__(self, drawn: Drawn, max_bytes: int = MAX_BYTES, max_strips: int = MAX_STRIPS):
        self._drawn, self._max_bytes, self._max_strips = drawn, max_bytes, max_strips
        self._reader = Reader(drawn.encoder.tokenizer)
        self._sections: list[str] = []
        self._links: list[str] = []
        self._bytes = self._strips = 0
        self._closed_rows = self._left_out = 0
        self._rows = 0
        self._mixture = Mixture()

    @property
    def cut(self) -> str:
        """What is not on the page, in words; empty if all is."""
        said = [f"{self._closed_rows} rows cannot be opened"] if self._closed_rows else []
        said += [f"{self._left_out} steps are left out"] if self._left_out else []
        return f"{' and '.join(said)}: the page would be too large" if said else ""

    def add(self, step: int, rows: Sequence[Row]) -> None:
        """A step's rows, as strips that open."""
        self._count(rows)
        if self._strips and self._strips + len(rows) > self._max_strips:
            self._left_out += 1
            return
        self._strips += len(rows)
        T, mixture = self._drawn.config.batch.row_tokens, Mixture()
        mixture.add(rows)
        fill = sum(row.num_tokens for row in rows) / (len(rows) * T)
        self._links.append(f'<a href="#step-{step}">{step}</a>')
        self._sections.append(
            f'<section class="step" id="step-{step}"><h2>Step {step}</h2><p class="facts"><span><b>{len(rows)}</b> rows of {T:,} '
            f"tokens</span><span>fill <b>{100 * fill:.1f} %</b></span><span>batch digest <code>"
            f"{digest([row.digest for row in rows])}</code></span></p>"
            f"{self._mixed(mixture)}{''.join(self._row(row) for row in rows)}{_quarantined(rows)}</section>"
        )

    def _count(self, rows: Sequence[Row]) -> None:
        self._rows += len(rows)
        self._mixture.add(rows)

    def _mixed(self, mixture: Mixture) -> str:
        return mixture.html(self._drawn.recipe.shares, self._drawn.config.ratio.unit)

    def _row(self, row: Row) -> str:
        T = self._drawn.config.batch.row_tokens
        head = f'<span class="name">row {row.stream}</span>{strip(row, T)}<span class="fill">{100 * row.num_tokens / T:.1f} %</span>'
        if self._bytes < self._max_bytes:
            size = self._drawn.config.model.image_size
            opened = "".join(sample(d, self._reader, self._drawn.recipe, size) for d in row.documents)
            self._bytes += len(opened)
            facts = f'<p class="facts"><span>row digest <code>{row.digest}</code></span></p>'
            return f'<details class="row"><summary>{head}</summary><div class="opened">{facts}{opened}</div></details>'
        self._closed_rows += 1
        return f'<div class="flat">{head}</div>'

    def html(self) -> str:
        """The whole document."""
        config, recipe = self._drawn.config, self._drawn.recipe
        title = f"What stage {config.stage} would train on"
        facts = [
            f"recipe {recipe.config.name}",
            f"model {config.model.name}",
            f"seed {config.seed}",
            f"{config.batch.rows_per_step} rows of {config.batch.row_tokens} tokens a step",
            f"tokenizer of {self._drawn.start.name}",
        ]
        cut = f'<p class="cut">{escape(self.cut)}.</p>' if self.cut else ""
        tokens = self._mixture.tokens.total()
        fill = 100 * tokens / max(1, self._rows * config.batch.row_tokens)
        return (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
            f"<style>{REPORT_STYLE}{STYLE}</style></head><body><header><h1>{escape(title)}</h1><p>{escape(' · '.join(facts))}</p>"
            f'<nav aria-label="Steps"><span>step</span>{"".join(self._links)}</nav></header><main>{cut}'
            f'<section><h2>All steps</h2><p class="facts"><span><b>{self._rows}</b> rows</span><span><b>{tokens:,}</b> tokens</span>'
            f"<span>fill <b>{fill:.1f} %</b></span></p>{self._mixed(self._mixture)}{_LEGEND}</section>"
            f"{''.join(self._sections)}</main>"
            "<footer>Written by <code>janus-train inspect</code>. Open a row to see its samples.</footer></body></html>\n"
        )


def _quarantined(rows: Sequence[Row]) -> str:
    """Samples that were met on the way to these rows and cannot be trained on."""
    found = [bad for row in rows for bad in row.quarantined]
    items = "".join(
        f"<li>{escape(bad.source)} <code>{escape(bad.key)}</code>: {escape(bad.reason)}</li>" for bad in found
    )
    return f'<div class="cut">Quarantined, others were drawn in their place:<ul>{items}</ul></div>' if found else ""


_LEGEND = """
<details class="legend" open><summary>How to read this</summary>
<p>A strip is a packed row. Each box is a sample, in the colour of its kind; attention never crosses from one box to the next.
Text is pale, a picture's positions are strong, and the dark line below says where a loss is. Hatched: free places.</p>
<p><span class="strip" role="img" aria-label="example"><i class="understanding" style="width:44%"><b class="p" style="left:4%;width:60%"></b>
<b class="l" style="left:64%;width:36%"></b></i><i class="text" style="width:18%"><b class="l" style="left:0;width:100%"></b></i><i class="generation"
style="width:30%"><b class="p" style="left:35%;width:62%"></b><b class="l" style="left:33%;width:62%"></b></i></span></p>
<p class="tokens">In an open row, <s>tokens</s><s> that</s><s> are</s><s> only</s><s> read</s> are grey, <u>tokens</u><u> that</u><u> the</u><u> model</u><u> learns</u><u> to</u><u> write</u> are coloured and underlined, <s class="x">&lt;special&gt;</s> tokens stand in boxes.</p>
<p>Shades tell one token from the next. A picture to be drawn has a coloured frame.</p></details>
"""
