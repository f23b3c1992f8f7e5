"""A step's micro-batches, each made by a thread while those before it, or the step before, are still computed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor

from janus_train.data.batch import Batch
from janus_train.data.types import Row


class MicroBatches:
    """The micro-batches of ``rows``, ``size`` rows each, in order; iterate over them once.

    One is made ahead, so the first begins with the call, and never more than two exist here.
    """

    def __init__(self, rows: Sequence[Row], size: int, make: Callable[[Sequence[Row]], Batch], executor: Executor):
        self._parts = [rows[i : i + size] for i in range(0, len(rows), size)]
        self._make, self._executor = make, executor
        self._ahead = executor.submit(make, self._parts[0])
        self.wait_s = 0.0
        """Seconds that the caller has waited for batches so far."""

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[Batch]:
        for part in [*self._parts[1:], None]:
            start_s = time.perf_counter()
            batch = self._ahead.result()
            self.wait_s += time.perf_counter() - start_s
            if part is not None:
                self._ahead = self._executor.submit(self._make, part)
            yield batch
