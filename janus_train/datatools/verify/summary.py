"""What was found, source by source: the counts, the verdict in a line, the table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from janus_train.datatools.verify.plan import PieceResult, Problem, VerificationPlan
from janus_train.text import printable

if TYPE_CHECKING:
    from rich.table import Table


@dataclass
class SourceCounts:
    """Of one source. ``bad``: samples that cannot be trained on; ``damaged``: samples and tars that are not as indexed."""

    name: str
    size: int
    samples: int = 0
    images: int = 0
    bad: int = 0
    damaged: int = 0


class Summary:
    """``add`` problems and pieces as they come; `problems` gives each of them once."""

    def __init__(self, plan: VerificationPlan, max_bad: float):
        self.max_bad = max_bad
        self.sources = [SourceCounts(name, size) for name, size in zip(plan.names, plan.sizes, strict=True)]
        self._told: set[Problem] = set()

    def add_unopened(self, plan: VerificationPlan) -> list[Problem]:
        """Those of the plan itself."""
        return [problem for number, problem in plan.problems if self._count(problem, self.sources[number])]

    def add(self, result: PieceResult) -> list[Problem]:
        """The piece's problems that are new."""
        counts = self.sources[result.piece.source]
        counts.samples += result.samples
        counts.images += result.images
        return [problem for problem in result.problems if self._count(problem, counts)]

    def _count(self, problem: Problem, counts: SourceCounts) -> bool:
        if problem.index is None:  # a tar that cannot be read fails every piece of it
            if problem in self._told:
                return False
            self._told.add(problem)
        if problem.damaged:
            counts.damaged += 1
        else:
            counts.bad += 1
        return True

    @property
    def verdict(self) -> tuple[bool, str]:
        """Is it fit for training, and why, in a line."""
        samples, bad = sum(c.samples for c in self.sources), sum(c.bad for c in self.sources)
        damaged = sum(c.damaged for c in self.sources)
        many = [c for c in self.sources if c.bad > self.max_bad * c.samples]
        said = [f"{damaged:,} damaged"] if damaged else []
        said += [
            f"source {c.name!r} has {c.bad:,} bad of {c.samples:,} samples, over {100 * self.max_bad:g} %" for c in many
        ]
        if said:
            return False, f"not fit for training: {'; '.join(said)}"
        return True, f"fit for training: {samples:,} samples, none damaged, {f'{bad:,}' if bad else 'none'} bad"

    def table(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table()
        table.add_column("source", overflow="fold")
        for column in ("samples", "images", "bad", "damaged", "bytes"):
            table.add_column(column, justify="right", no_wrap=True)
        for c in self.sources:
            numbers = [f"{value:,}" for value in (c.samples, c.images, c.bad, c.damaged)]
            table.add_row(Text(printable(c.name)), *numbers, size_text(c.size))
        return table


def size_text(size: int) -> str:
    """``1.2 GB``."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"
