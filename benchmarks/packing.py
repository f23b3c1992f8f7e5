"""Simulates how full rows get, and how long documents wait, on lengths like those of the paper's mixtures.

    python benchmarks/packing.py

Lengths (the planner's assumptions with a spread): an image is 578 tokens; understanding adds log-normal text of mean
150, generation of mean 60; pure text is log-normal of mean 800, here up to two rows long. Rows have 4096 tokens; settings are the defaults.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from janus_train.data.packing.best_fit import BestFitPacker, Cut, RatioUnit, WaitingDocument
from janus_train.data.types import Kind

ROW_TOKENS, LOOKAHEAD, MAX_WAIT = 4096, 16, 64
IMAGE = 578
STAGES: dict[int, dict[Kind, float]] = {
    1: {"understanding": 0.25, "generation": 0.75},
    2: {"understanding": 0.2, "text": 0.3, "generation": 0.5},
    3: {"understanding": 0.5, "text": 0.1, "generation": 0.4},
}


@dataclass(frozen=True)
class Simulation:
    """The result; ``max_deviation`` is the largest distance of a kind from its share after any row, in samples."""

    fill: float
    longest_wait: int
    max_deviation: float
    ms_per_row: float


def lengths(rng: random.Random) -> dict[Kind, Callable[[], int]]:
    def log_normal(mean: float, sigma: float, limit: int) -> int:
        return max(5, min(limit, int(rng.lognormvariate(math.log(mean) - sigma * sigma / 2, sigma))))

    return {
        "understanding": lambda: IMAGE + log_normal(150, 0.6, ROW_TOKENS - IMAGE),
        "text": lambda: log_normal(800, 0.8, 2 * ROW_TOKENS),
        "generation": lambda: IMAGE + log_normal(60, 0.6, 300),
    }


def simulate(stage: int, cut: Cut, unit: RatioUnit = "samples", num_rows: int = 2000, seed: int = 0) -> Simulation:
    """Packs the rows of one stream."""
    shares, draw = STAGES[stage], lengths(random.Random(seed))
    packer = BestFitPacker(ROW_TOKENS, shares, LOOKAHEAD, cut=cut, unit=unit, max_wait=MAX_WAIT)
    queues: dict[Kind, list[list[int]]] = {kind: [] for kind in shares}  # [remaining, length, row when sampled]
    amounts: dict[Kind, float] = dict.fromkeys(shares, 0.0)
    num_tokens, longest, longest_wait, max_deviation, seconds = 0, 1, 0, 0.0, 0.0
    for row in range(num_rows):
        for kind, documents in queues.items():
            while len(documents) < LOOKAHEAD or sum(remaining for remaining, _, _ in documents) < ROW_TOKENS:
                tokens = draw[kind]()
                documents.append([tokens, tokens, row])
                longest = max(longest, min(tokens, ROW_TOKENS))
        items = {
            k: [WaitingDocument(remaining, length, k == "text", row - since) for remaining, length, since in w]
            for k, w in queues.items()
        }
        start = time.perf_counter()
        choices = packer.choose(items, amounts, phase=seed, longest=longest)
        seconds += time.perf_counter() - start
        for choice in choices:
            document = queues[choice.kind][choice.place]
            amounts[choice.kind] += packer.weight(items[choice.kind][choice.place], choice.tokens)
            document[0] -= choice.tokens
            num_tokens += choice.tokens
            longest_wait = max(longest_wait, row - document[2])
        for kind, documents in queues.items():
            queues[kind] = [document for document in documents if document[0]]
        total, sample = sum(amounts.values()), 1 if unit == "samples" else longest
        max_deviation = max(
            max_deviation, *(abs(amounts[kind] - share * total) / sample for kind, share in shares.items())
        )
    return Simulation(num_tokens / num_rows / ROW_TOKENS, longest_wait, max_deviation, 1000 * seconds / num_rows)


def main() -> None:
    print(
        "| stage | text is cut | ratio counts | fill | longest wait, rows | largest deviation from the ratio, samples | ms per row |"
    )
    print("|---|---|---|---|---|---|---|")
    for stage in STAGES:
        for cut, unit in (("long", "samples"), ("fit", "samples"), ("long", "tokens")):
            result = simulate(stage, cut, unit)  # type: ignore[arg-type]
            print(
                f"| {stage} | {cut} | {unit} | {100 * result.fill:.1f} % | {result.longest_wait} | {result.max_deviation:.2f} | {result.ms_per_row:.2f} |"
            )


if __name__ == "__main__":
    main()
