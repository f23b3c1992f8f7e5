"""Small line charts: from values to coordinates, which the template ``charts.html.j2`` draws as inline SVG.

Colours are classes, so that the page's style sheet decides on light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

WIDTH, HEIGHT = 360, 190
"""The chart's size; a phone shows it at about the same, so that the ticks stay readable."""
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 26
MAX_POINTS = 360


@dataclass(frozen=True)
class Series:
    """A line of a chart."""

    label: str
    steps: Sequence[int]
    values: Sequence[float]
    tone: str
    """understanding, text, generation or plain: a class of the style sheet."""
    target: float | None = None
    """A level that is drawn as a dashed line in the same colour."""


def smooth(values: Sequence[float], span: int) -> list[float]:
    """The centred running mean over ``span`` values, with a shorter window at the ends."""
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
    rough_step = (high - low) / number
    power = 10.0 ** math.floor(math.log10(rough_step))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough_step * 0.999)
    first_multiple, last_multiple = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first_multiple, last_multiple + 1)]


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


@dataclass(frozen=True)
class Tick:
    """A label on an axis; ``position`` is in the drawing's coordinates."""

    position: float
    label: str
    anchor: str = "end"


@dataclass(frozen=True)
class Curve:
    """A series in the drawing's coordinates: points of a polyline (``x,y x,y ...``) and the level of its target."""

    label: str
    tone: str
    last: str
    mean: str
    raw: str | None
    level: float | None


@dataclass(frozen=True)
class Chart:
    """Everything that the template needs; no curves means that nothing was measured."""

    title: str
    curves: list[Curve] = field(default_factory=list)
    description: str = ""
    unit: str = ""
    note: str = ""
    y_ticks: list[Tick] = field(default_factory=list)
    x_ticks: list[Tick] = field(default_factory=list)
    width: ClassVar[int] = WIDTH
    height: ClassVar[int] = HEIGHT
    left: ClassVar[int] = LEFT
    right: ClassVar[int] = WIDTH - RIGHT


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    unit: str = "",
    from_zero: bool = False,
    top: float | None = None,
    note: str = "",
    exact: bool = False,
) -> Chart:
    """Builds a chart with a title, the last values and the curves: values in a faint line, their running mean in a strong one.

    ``unit`` follows the last value; ``top`` fixes the axis' upper end; ``exact`` omits the running mean. A series without
    values is left out; a chart without any series says so instead of showing an empty frame.
    """
    visible_series = [s for s in series if s.values]
    if not visible_series:
        return Chart(title)
    x_low, x_high = min(s.steps[0] for s in visible_series), max(s.steps[-1] for s in visible_series)
    levels = [s.target for s in visible_series if s.target is not None]
    low = min([*(_lowest(s.values) for s in visible_series), *levels])
    high = max([*(_highest(s.values) for s in visible_series), *levels])
    ticks = nice_ticks(0.0 if from_zero else low, top if top is not None else high)
    frame = _Frame(x_low, max(x_high, x_low + 1), ticks[0], ticks[-1])
    description = ", ".join(f"{s.label} {_last_value(s)}{unit} at step {s.steps[-1]}".strip() for s in visible_series)
    return Chart(
        title,
        [_curve(s, frame, 1 if exact else max(len(s.values) // 25, 1)) for s in visible_series],
        f"{title}: {description}",
        unit,
        note,
        [Tick(frame.y(tick), number(tick)) for tick in ticks],
        frame.x_ticks(),
    )


def _curve(series: Series, frame: _Frame, span: int) -> Curve:
    return Curve(
        series.label,
        series.tone,
        _last_value(series),
        mean=frame.points(series.steps, smooth(series.values, span)),
        raw=frame.points(series.steps, series.values) if span > 1 else None,
        level=frame.y(series.target) if series.target is not None else None,
    )


def _last_value(series: Series) -> str:
    value = smooth(series.values, max(len(series.values) // 25, 1))[-1]
    return number(float(f"{value:.3g}"))


def _lowest(values: Sequence[float]) -> float:
    return min(values)


def _highest(values: Sequence[float]) -> float:
    """The 99.5th percentile of a long series: one spike must not flatten the rest."""
    sorted_values = sorted(values)
    return sorted_values[-1] if len(sorted_values) < 50 else sorted_values[int(0.995 * (len(sorted_values) - 1))]


@dataclass(frozen=True)
class _Frame:
    """Maps steps and values to the drawing's coordinates."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, step: float) -> float:
        return LEFT + (step - self.x_low) / (self.x_high - self.x_low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (min(max(value, self.y_low), self.y_high) - self.y_low) / (self.y_high - self.y_low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def x_ticks(self) -> list[Tick]:
        """Ticks at whole steps only; the label of the last one must not leave the drawing."""
        ticks = [t for t in nice_ticks(self.x_low, self.x_high) if self.x_low <= t <= self.x_high and t == int(t)]
        return [Tick(self.x(t), number(t), "end" if self.x(t) > WIDTH - 24 else "middle") for t in ticks]

    def points(self, steps: Sequence[int], values: Sequence[float]) -> str:
        stride = max(1, -(-len(values) // MAX_POINTS))
        indices = sorted({*range(0, len(values), stride), len(values) - 1})
        return " ".join(f"{self.x(steps[i]):.1f},{self.y(values[i]):.1f}" for i in indices)
