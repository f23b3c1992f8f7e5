"""Samples that cannot be used: written down, counted, and too many of them end the run.

In: what the ranks agreed on about a step's rows. Out: quarantine.jsonl, a line per sample (``step, stream, source, epoch,
index, key, reason, damaged``). All ranks count the same, so all stop together.
"""

from __future__ import annotations

from pathlib import Path

from janus_train.errors import UserError
from janus_train.jsonl import append_json_lines
from janus_train.train.distributed.step_sync import RowsReport

MIN_DRAWN = 1000
"""A source's share of unusable samples is judged once so many are drawn, or all of them once if it has fewer."""


class Quarantine:
    """``num_samples``: the sources' lengths. ``max_bad``: the share of unusable samples of a source that is accepted.

    ``writes``: whether this rank keeps the file.
    """

    def __init__(self, path: Path, num_samples: dict[str, int], max_bad: float, writes: bool):
        self.path, self._num_samples, self._max_bad, self._writes = path, num_samples, max_bad, writes

    def record(self, step: int, rows: RowsReport) -> None:
        """Write down what the rows of ``step`` could not use. Raises `UserError` with a summary if a source has too much."""
        if not rows.quarantined_samples:
            return
        if self._writes:
            append_json_lines(self.path, [{"step": step, **line} for line in rows.quarantined_samples])
        examples = {line["source"]: line for line in rows.quarantined_samples}
        reports = []
        for source in sorted(rows.num_bad):
            num_bad, num_usable = rows.num_bad[source], rows.num_drawn[source]
            share = num_bad / (num_usable + num_bad)
            if share > self._max_bad and num_usable >= min(MIN_DRAWN, self._num_samples[source]):
                line = examples.get(source)
                example = f", such as {line['key']!r}: {line['reason']}" if line else ""
                reports.append(f"{source} {num_bad} of {num_usable + num_bad} drawn ({100 * share:.1f} %{example})")
        if reports:
            raise UserError(
                f"step {step}: too many samples cannot be used: {'; '.join(reports)}; all of them are in {self.path}; "
                f"fix the data, or accept more with data.max_bad (now {self._max_bad})"
            )
