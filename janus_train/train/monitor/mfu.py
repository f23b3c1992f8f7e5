"""Model FLOPs utilisation: the share of the devices' peak that did useful work.

``mfu`` counts the useful FLOPs of `planning.flops` and nothing else: no padding, no recomputation, frozen parts without
weight gradients, attention inside documents, heads at loss positions. ``mfu_6n`` is 6 x parameters of the language
model (with embeddings and text head) x tokens: comparable with others, though blind to what is frozen, to both encoders
and to attention. Both are shares of the devices' peak over the whole step, waiting and saving included.

Both are computed from the rows on the host, so nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence

from janus_train.config import Config
from janus_train.data.types import Row
from janus_train.planning.flops import total_flops
from janus_train.planning.gpus import peak_flops
from janus_train.planning.parameters import parameter_counts
from janus_train.planning.workload import workload_of
from janus_train.train.distributed.context import Distributed


class MFU:
    """The FLOP counts and peak of one run. All processes create it together, because they sum their peaks."""

    def __init__(self, config: Config, group: Distributed):
        self._model, self._train_parts, self._peft = config.model, config.train_parts, config.peft
        self._flops_per_token = 6 * parameter_counts(config.model)["language_model"]
        rank_peak = peak_flops(group.device, config.precision)
        peak, num_unknown = group.sum([rank_peak or 0.0, float(rank_peak is None)])
        self.peak: float | None = None if num_unknown else peak
        """FLOP/s of all processes; None if a device's peak is unknown."""

    def useful_flops(self, rows: Sequence[Row]) -> float:
        """The useful FLOPs of these rows' forward and backward."""
        content = workload_of(d for row in rows for d in row.documents)
        return total_flops(self._model, self._train_parts, content, self._peft)

    def shares(self, flops: float, tokens: int, step_s: float) -> dict[str, float | None]:
        """``mfu`` and ``mfu_6n`` of a step over all processes; None if the peak is unknown."""
        if self.peak is None:
            return {"mfu": None, "mfu_6n": None}
        peak_total = self.peak * step_s
        return {"mfu": flops / peak_total, "mfu_6n": self._flops_per_token * tokens / peak_total}
