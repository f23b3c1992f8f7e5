"""Small line charts as inline SVG: colours are classes, so that the page's style decides on light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 360, 190
"""Drawn at about this size on a phone too, so that the ticks stay readable."""
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 26
MAX_POINTS = 360


@dataclass(frozen=True)
class Series:
    """A line of a chart."""

    label: str
    steps: Sequence[int]
    values: Sequence[float]
    tone: str
    """understanding, text, generation or plain: a class of the style."""
    asked: float | None = None
    """Drawn as a dashed level in the same colour."""


def smooth(values: Sequence[float], span: int) -> list[float]:
    """Centred running mean over ``span`` values, shorter at the ends."""
    half = max(span // 2, 0)
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    means = []
    for i in range(len(values)):
        low, high = max(0, i - half), min(len(values), i + half + 1)
        means.append((sums[high] - sums[low]) / (high - low))
    return means


def nice_ticks(low: float, high: float, number: int = 4) -> list[float]:
    """Round values (1, 2, 2.5 or 5 times a power of ten) that cover low..high with about ``number`` steps."""
    if not high > low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / number
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def number(value: float) -> str:
    """A short form for ticks: 12k, 0.25, 1e-4."""
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 1e6:
        return f"{value / 1e6:g}M"
    if size >= 1e4:
        return f"{value / 1e3:g}k"
    if size < 1e-2:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.4g}"


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    unit: str = "",
    from_zero: bool = False,
    top: float | None = None,
    note: str = "",
    exact: bool = False,
) -> str:
    """A card with a title, the last values, and the curves: the values themselves faint, their running mean strong.

    ``unit`` follows the last value; ``top`` fixes the axis' upper end; ``exact`` draws no running mean. A series without values is left out; a chart
    without any says so instead of showing an empty frame.
    """
    drawn = [s for s in series if s.values]
    if not drawn:
        return f'<figure class="chart"><figcaption><b>{escape(title)}</b></figcaption><p class="none">not measured</p></figure>'
    x_low, x_high = min(s.steps[0] for s in drawn), max(s.steps[-1] for s in drawn)
    levels = [s.asked for s in drawn if s.asked is not None]
    low = min([*(_low(s.values) for s in drawn), *levels])
    high = max([*(_high(s.values) for s in drawn), *levels])
    ticks = nice_ticks(0.0 if from_zero else low, top if top is not None else high)
    frame = _Frame(x_low, max(x_high, x_low + 1), ticks[0], ticks[-1])
    body = [frame.axes(ticks)]
    for s in drawn:
        body += [frame.level(s.asked, s.tone)] if s.asked is not None else []
        span = 1 if exact else max(len(s.values) // 25, 1)
        means = smooth(s.values, span)
        if span > 1:
            body.append(frame.path(s.steps, s.values, f"raw {s.tone}"))
        body.append(frame.path(s.steps, means, f"line {s.tone}"))
    legend = " ".join(
        f'<span class="key {s.tone}">{escape(s.label)}</span> <b>{_last(s)}{escape(unit)}</b>' for s in drawn
    )
    described = f"{title}: " + ", ".join(f"{s.label} {_last(s)}{unit} at step {s.steps[-1]}" for s in drawn)
    note_html = f"<small>{escape(note)}</small>" if note else ""
    return (
        f'<figure class="chart"><figcaption><b>{escape(title)}</b><span>{legend}</span></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(described)}">{"".join(body)}</svg>'
        f"{note_html}</figure>"
    )


def _last(series: Series) -> str:
    value = smooth(series.values, max(len(series.values) // 25, 1))[-1]
    return number(float(f"{value:.3g}"))


def _low(values: Sequence[float]) -> float:
    return min(values)


def _high(values: Sequence[float]) -> float:
    """The 99.5th percentile of a long series: one spike must not flatten the rest."""
    ordered = sorted(values)
    return ordered[-1] if len(ordered) < 50 else ordered[int(0.995 * (len(ordered) - 1))]


@dataclass(frozen=True)
class _Frame:
    """From steps and values to the drawing's coordinates."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, step: float) -> float:
        return LEFT + (step - self.x_low) / (self.x_high - self.x_low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (min(max(value, self.y_low), self.y_high) - self.y_low) / (self.y_high - self.y_low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def axes(self, ticks: Sequence[float]) -> str:
        parts = []
        for tick in ticks:
            y = self.y(tick)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{number(tick)}</text>')
        parts.append(f'<text x="{LEFT - 6}" y="{HEIGHT - 8}" text-anchor="end">step</text>')
        inside = [t for t in nice_ticks(self.x_low, self.x_high) if self.x_low <= t <= self.x_high and t == int(t)]
        for tick in inside:
            anchor = "end" if self.x(tick) > WIDTH - 24 else "middle"
            parts.append(f'<text x="{self.x(tick):.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{number(tick)}</text>')
        return "".join(parts)

    def level(self, value: float, tone: str) -> str:
        y = self.y(value)
        return f'<line class="asked {tone}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'

    def path(self, steps: Sequence[int], values: Sequence[float], css: str) -> str:
        stride = max(1, -(-len(values) // MAX_POINTS))
        kept = sorted({*range(0, len(values), stride), len(values) - 1})
        points = " ".join(f"{self.x(steps[i]):.1f},{self.y(values[i]):.1f}" for i in kept)
        return f'<polyline class="{css}" points="{points}"/>'
