"""Samples that cannot be used: written down, counted, and too many of them end the run.

In: the steps' rows. Out: quarantine.jsonl, a line a sample (``step, stream, source, epoch, index, key, reason,
damaged``). All ranks count the same, so all stop together.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from janus_train.data.sample import Row
from janus_train.errors import UserError
from janus_train.train.distributed import Distributed

JUDGED_FROM = 1000
"""A source's share of unusable samples is judged once so many are drawn, or all of them once if it has fewer."""


class Quarantine:
    """``lengths``: the sources' numbers of samples. ``most``: the share of unusable samples that is borne."""

    def __init__(self, path: Path, lengths: dict[str, int], most: float, distributed: Distributed):
        self.path, self._lengths, self._most, self._distributed = path, lengths, most, distributed

    def take(self, step: int, rows: Sequence[Row]) -> int:
        """Write down what the rows' streams met; how many that were, over all ranks.

        Raises `UserError` with a summary a source if one has too many.
        """
        met = self._distributed.gather(
            [{"step": step, "stream": row.stream, **dataclasses.asdict(one)} for row in rows for one in row.quarantined]
        )
        if met:
            if self._distributed.is_main:
                with self.path.open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in met)
            self._judge(step, rows, {line["source"]: line for line in met})
        return len(met)

    def _judge(self, step: int, rows: Sequence[Row], last: dict[str, dict[str, object]]) -> None:
        drawn, bad = Counter[str](), Counter[str]()
        for draws, unusable in self._distributed.gather([(row.state["draws"], row.state["bad"]) for row in rows]):
            drawn.update(draws)
            bad.update(unusable)
        over = []
        for source in sorted(bad):
            share = bad[source] / (drawn[source] + bad[source])
            if share > self._most and drawn[source] >= min(JUDGED_FROM, self._lengths[source]):
                example = f", such as {last[source]['key']!r}: {last[source]['reason']}" if source in last else ""
                over.append(f"{source} {bad[source]} of {drawn[source]} ({100 * share:.1f} %{example})")
        if over:
            raise UserError(
                f"step {step}: too many samples cannot be used: {'; '.join(over)}; all of them are in {self.path}; "
                f"mend the data, or bear more with data.max_bad (now {self._most})"
            )
