"""Records samples that cannot be used; too many of them end the run.

The first one of each source is said in the log. In: the report over all ranks on a step's rows. Out: quarantine.jsonl, one line per sample (``step, stream, source,
epoch, index, key, reason, damaged``). All ranks have the same counts, so all stop together.
"""

from __future__ import annotations

import logging
from pathlib import Path

from janus_train.errors import UserError
from janus_train.jsonl import append_json_lines
from janus_train.train.distributed.step_sync import RowsReport

logger = logging.getLogger(__name__)

MIN_DRAWN = 1000
"""A source's share of unusable samples is checked after this many samples, or one epoch if it has fewer."""


class Quarantine:
    """Writes quarantine.jsonl and checks the share of unusable samples per source.

    ``num_samples``: the sources' lengths. ``max_bad``: the accepted share. ``writes``: whether this rank writes the
    file.
    """

    def __init__(self, path: Path, num_samples: dict[str, int], max_bad: float, writes: bool):
        self.path, self._num_samples, self._max_bad, self._writes = path, num_samples, max_bad, writes
        self._named_sources: set[str] = set()

    def record(self, step: int, rows: RowsReport) -> None:
        """Record the samples that the rows of ``step`` could not use. Raises `UserError` if a source has too many."""
        if not rows.quarantined_samples:
            return
        if self._writes:
            append_json_lines(self.path, [{"step": step, **line} for line in rows.quarantined_samples])
        examples = {line["source"]: line for line in reversed(rows.quarantined_samples)}
        for source in sorted(examples.keys() - self._named_sources):
            self._named_sources.add(source)
            first = examples[source]
            logger.warning(
                f"source {source!r}: sample {first['key']!r} cannot be used and is replaced ({first['reason']}); "
                f"{self.path.name} lists all"
            )
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
