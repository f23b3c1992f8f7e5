"""The one exchange between the ranks per step, at its end.

    a rank's StepReport  (what the step did here, a stop signal, times)  --.
    a rank's RowsReport  (the rows that it has for the next step)         --+-- one gather --> StepSummary, on all ranks

The backend sums gradients during the backward pass; everything else that the ranks agree on is exchanged here. It
includes the next step's number of loss tokens, so that the step knows its denominator before its first forward.
"""

from __future__ import annotations

import dataclasses
import signal
import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from janus_train.data.types import KINDS, Kind, Row, digest
from janus_train.model.loss_totals import LossTotals
from janus_train.train.distributed.context import Distributed


@dataclass(frozen=True)
class RowsReport:
    """Counts and digests of a step's rows, for one rank or for all."""

    digests: list[str] = field(default_factory=list)
    num_loss_tokens: int = 0
    samples: dict[Kind, float] = field(default_factory=lambda: dict.fromkeys(KINDS, 0.0))
    """Samples per kind; a text that was cut over rows counts in each by its share."""
    tokens: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    flops: float = 0.0
    """Useful FLOPs of forward and backward."""
    num_drawn: Counter[str] = field(default_factory=Counter)
    """Per source: usable samples that the rows' streams have drawn since the run began."""
    num_bad: Counter[str] = field(default_factory=Counter)
    """Per source: samples that could not be used since the run began."""
    quarantined_samples: list[dict[str, Any]] = field(default_factory=list)
    """The samples that could not be used, since the previous rows."""
    num_held_out: int = 0
    """Held-out samples that were passed over, since the previous rows."""
    error: str | None = None
    """The user's message if there are no rows."""

    @classmethod
    def from_rows(cls, rows: Sequence[Row], flops: float) -> RowsReport:
        documents = [document for row in rows for document in row.documents]
        samples, tokens = dict.fromkeys(KINDS, 0.0), dict.fromkeys(KINDS, 0)
        num_drawn, num_bad = Counter[str](), Counter[str]()
        for document in documents:
            samples[document.kind] += document.share
            tokens[document.kind] += len(document)
        for row in rows:
            num_drawn.update(row.state["draws"])
            num_drawn.subtract(row.state["held_out"])
            num_bad.update(row.state["bad"])
        return cls(
            digests=[row.digest for row in rows],
            num_loss_tokens=sum(document.num_loss_tokens for document in documents),
            samples=samples,
            tokens=tokens,
            flops=flops,
            num_drawn=num_drawn,
            num_bad=num_bad,
            quarantined_samples=[
                {"stream": row.stream, **dataclasses.asdict(sample)} for row in rows for sample in row.quarantined
            ],
            num_held_out=sum(row.num_held_out for row in rows),
        )

    @classmethod
    def sum_of(cls, reports: Sequence[RowsReport]) -> RowsReport:
        """The report over all ranks, in their order, with the first error if there is any."""
        return cls(
            digests=[text for report in reports for text in report.digests],
            num_loss_tokens=sum(report.num_loss_tokens for report in reports),
            samples={kind: round(sum(report.samples[kind] for report in reports), 4) for kind in KINDS},
            tokens={kind: sum(report.tokens[kind] for report in reports) for kind in KINDS},
            flops=sum(report.flops for report in reports),
            num_drawn=sum((report.num_drawn for report in reports), Counter()),
            num_bad=sum((report.num_bad for report in reports), Counter()),
            quarantined_samples=[line for report in reports for line in report.quarantined_samples],
            num_held_out=sum(report.num_held_out for report in reports),
            error=next((report.error for report in reports if report.error), None),
        )

    @property
    def num_tokens(self) -> int:
        return sum(self.tokens.values())

    @property
    def digest(self) -> str:
        """The digest of the global batch, the same for any number of ranks."""
        return digest(self.digests)


@dataclass(frozen=True)
class StepReport:
    """One rank's report on the step that it has done."""

    losses: LossTotals | None = None
    """None: nothing was computed (``run.skip_steps``, or before the first step)."""
    signal: int = 0
    """The signal that this rank has received; 0: none."""
    save_written: bool = True
    """Whether this rank's part of the checkpoint being saved is on the disk."""
    data_s: float = 0.0
    compute_s: float = 0.0
    host: str = field(default_factory=socket.gethostname)


@dataclass(frozen=True)
class StepSummary:
    """The result of an exchange, the same on all ranks."""

    losses: LossTotals | None
    """The step's losses over all ranks."""
    stop_signal: str | None
    """The signal that a rank has received, and which rank; None: continue."""
    save_written: bool
    """Whether every rank's part of the checkpoint being saved is on the disk."""
    rows: RowsReport
    """The next step's rows, over all ranks."""
    reports: list[StepReport]
    """The reports by rank."""


class StepSync:
    """Exchanges reports within ``group``."""

    def __init__(self, group: Distributed):
        self._group = group

    def exchange(self, step: StepReport, rows: RowsReport) -> StepSummary:
        """Gather all reports. A collective: every rank calls it once per step, and once before the first."""
        rank_reports = self._group.gather([(step, rows)])
        reports = [report for report, _ in rank_reports]
        losses = [report.losses for report in reports if report.losses is not None]
        signal_report = next(((rank, report) for rank, report in enumerate(reports) if report.signal), None)
        return StepSummary(
            losses=LossTotals.sum_of(losses) if losses else None,
            stop_signal=f"{signal.Signals(signal_report[1].signal).name} (to rank {signal_report[0]} on {signal_report[1].host})"
            if signal_report
            else None,
            save_written=all(report.save_written for report in reports),
            rows=RowsReport.sum_of([report for _, report in rank_reports]),
            reports=reports,
        )
