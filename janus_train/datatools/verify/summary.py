"""Summarises a verification. In: the results of the pieces. Out: counts per source, a verdict in a line, a table."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from janus_train.data.lengths import LongEffect, describe
from janus_train.data.types import Kind
from janus_train.datatools.verify.plan import PieceResult, Problem, VerificationPlan
from janus_train.text import printable

if TYPE_CHECKING:
    from rich.table import Table


_MAX_SHARES = 4
"""Numbers of images that are shown for a source."""


@dataclass
class SourceCounts:
    """Counts of one source.

    ``num_bad``: samples that cannot be trained on; ``num_damaged``: samples and tars that differ from their index.
    """

    name: str
    size: int
    kind: Kind | None = None
    """What the recipe says; None if there is no recipe."""
    samples: int = 0
    images_per_sample: Counter[int] = field(default_factory=Counter)
    """Number of images -> number of good samples with so many."""
    num_bad: int = 0
    num_damaged: int = 0
    num_long: Counter[LongEffect] = field(default_factory=Counter)
    """Samples longer than a row, by what training does with them; those that are skipped are bad too."""

    @property
    def images(self) -> int:
        return sum(images * samples for images, samples in self.images_per_sample.items())

    def values(self) -> dict[str, Any]:
        """The counts as JSON values."""
        return {
            "source": self.name,
            "kind": self.kind,
            "samples": self.samples,
            "images": self.images,
            "images_per_sample": {
                str(images): self.images_per_sample[images] for images in sorted(self.images_per_sample)
            },
            "bad": self.num_bad,
            "damaged": self.num_damaged,
            "bytes": self.size,
        }


class Summary:
    """Counts the results as they come; ``add`` returns each problem only once."""

    def __init__(self, plan: VerificationPlan, max_bad: float, unused: Counter[str]):
        self.max_bad = max_bad
        self.unused = unused
        """What stands beside the data and is no part of it, by reason."""
        self.sources = [
            SourceCounts(name, size, check.kind)
            for name, size, check in zip(plan.names, plan.sizes, plan.checks, strict=True)
        ]
        self._reported_problems: set[Problem] = set()
        self._row_tokens = next((check.lengths.row_tokens for check in plan.checks if check.lengths), None)

    def add_unopened_sources(self, plan: VerificationPlan) -> list[Problem]:
        """Count the plan's own problems and return them."""
        return [problem for number, problem in plan.problems if self._count(problem, self.sources[number])]

    def add(self, result: PieceResult) -> list[Problem]:
        """Count a piece and return its problems that are new."""
        counts = self.sources[result.piece.source]
        counts.samples += result.samples
        counts.images_per_sample += result.images_per_sample
        counts.num_long += result.num_long
        return [problem for problem in result.problems if self._count(problem, counts)]

    def _count(self, problem: Problem, counts: SourceCounts) -> bool:
        if problem.index is None:  # a tar that cannot be read fails every piece of it
            if problem in self._reported_problems:
                return False
            self._reported_problems.add(problem)
        if problem.damaged:
            counts.num_damaged += 1
        else:
            counts.num_bad += 1
        return True

    @property
    def lengths(self) -> list[str]:
        """A line for each source that has samples longer than a row; one line if the lengths were not counted."""
        if not self._row_tokens:
            return ["lengths were not counted: --model FOLDER and --row-tokens N (batch.row_tokens) do"]
        return [
            f"source {c.name!r}: {c.num_long.total():,} of {c.samples:,} samples are longer than a row of {self._row_tokens} "
            f"tokens: {describe(c.num_long)}"
            for c in self.sources
            if c.num_long
        ]

    @property
    def verdict(self) -> tuple[bool, str]:
        """Whether the data is fit for training, and the reason in a line."""
        samples, num_bad = sum(c.samples for c in self.sources), sum(c.num_bad for c in self.sources)
        num_damaged = sum(c.num_damaged for c in self.sources)
        bad_sources = [c for c in self.sources if c.num_bad > self.max_bad * c.samples]
        reasons = [f"{num_damaged:,} damaged"] if num_damaged else []
        reasons += [
            f"source {c.name!r} has {c.num_bad:,} bad of {c.samples:,} samples, over {100 * self.max_bad:g} %"
            for c in bad_sources
        ]
        if reasons:
            return False, f"not fit for training: {'; '.join(reasons)}"
        return True, f"fit for training: {samples:,} samples, none damaged, {f'{num_bad:,}' if num_bad else 'none'} bad"

    @property
    def warnings(self) -> list[str]:
        """A line for each source that is to teach images and has none, whose samples are trained on as text."""
        return [
            f"source {c.name!r} is of kind {c.kind}, but none of its {sum(c.images_per_sample.values()):,} good samples "
            "has an image: if that is right, its kind is text"
            for c in self.sources
            if c.kind in ("understanding", "generation") and c.images_per_sample and not c.images
        ]

    def values(self) -> dict[str, Any]:
        """All counts, warnings and the verdict as JSON values."""
        fit, verdict = self.verdict
        return {
            "fit": fit,
            "verdict": verdict,
            "warnings": self.warnings,
            "unused": dict(sorted(self.unused.items())),
            "sources": [counts.values() for counts in self.sources],
        }

    def table(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table()
        table.add_column("source", overflow="fold")
        for column in ("samples", "images", "bad", "damaged", "bytes"):
            table.add_column(column, justify="right", no_wrap=True)
        table.add_column("images a sample", overflow="fold")
        for c in self.sources:
            numbers = [f"{value:,}" for value in (c.samples, c.images, c.num_bad, c.num_damaged)]
            table.add_row(Text(printable(c.name)), *numbers, size_text(c.size), _shares(c.images_per_sample))
        return table


def _shares(images_per_sample: Counter[int]) -> str:
    """How many samples have how many images: ``1``, or ``0: 12, 1: 988``."""
    if len(images_per_sample) < 2:
        return "".join(map(str, images_per_sample))
    shown = [f"{images}: {images_per_sample[images]:,}" for images in sorted(images_per_sample)[:_MAX_SHARES]]
    return ", ".join(shown) + (", ..." if len(images_per_sample) > _MAX_SHARES else "")


def size_text(size: int) -> str:
    """A number of bytes such as ``1.2 GB``."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"
