"""How full rows get on lengths like those of the paper's mixes, and how long a document waits.

    python benchmarks/packing.py

Lengths (performance.md's assumptions with a spread): an image is 578 tokens; understanding adds log-normal text of mean
150, generation of mean 60; pure text is log-normal of mean 800, here up to two rows long. Rows of 4096, the shipped settings.
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
class Found:
    """``off``: the largest distance of a kind from its share after any row, in samples."""

    fill: float
    most_waited: int
    off: float
    ms_per_row: float


def lengths(rng: random.Random) -> dict[Kind, Callable[[], int]]:
    def log_normal(mean: float, sigma: float, most: int) -> int:
        return max(5, min(most, int(rng.lognormvariate(math.log(mean) - sigma * sigma / 2, sigma))))

    return {
        "understanding": lambda: IMAGE + log_normal(150, 0.6, ROW_TOKENS - IMAGE),
        "text": lambda: log_normal(800, 0.8, 2 * ROW_TOKENS),
        "generation": lambda: IMAGE + log_normal(60, 0.6, 300),
    }


def simulate(stage: int, cut: Cut, unit: RatioUnit = "samples", num_rows: int = 2000, seed: int = 0) -> Found:
    """One stream's rows."""
    shares, draw = STAGES[stage], lengths(random.Random(seed))
    packer = BestFitPacker(ROW_TOKENS, shares, LOOKAHEAD, cut=cut, unit=unit, max_wait=MAX_WAIT)
    waiting: dict[Kind, list[list[int]]] = {kind: [] for kind in shares}  # [left, whole, drawn before row]
    placed: dict[Kind, float] = dict.fromkeys(shares, 0.0)
    used, longest, most_waited, off, seconds = 0, 1, 0, 0.0, 0.0
    for row in range(num_rows):
        for kind, documents in waiting.items():
            while len(documents) < LOOKAHEAD or sum(left for left, _, _ in documents) < ROW_TOKENS:
                tokens = draw[kind]()
                documents.append([tokens, tokens, row])
                longest = max(longest, min(tokens, ROW_TOKENS))
        items = {
            k: [WaitingDocument(left, whole, k == "text", row - since) for left, whole, since in w]
            for k, w in waiting.items()
        }
        began = time.perf_counter()
        chosen = packer.choose(items, placed, phase=seed, longest=longest)
        seconds += time.perf_counter() - began
        for choice in chosen:
            document = waiting[choice.kind][choice.place]
            placed[choice.kind] += packer.weight(items[choice.kind][choice.place], choice.tokens)
            document[0] -= choice.tokens
            used += choice.tokens
            most_waited = max(most_waited, row - document[2])
        for kind, documents in waiting.items():
            waiting[kind] = [document for document in documents if document[0]]
        total, sample = sum(placed.values()), 1 if unit == "samples" else longest
        off = max(off, *(abs(placed[kind] - share * total) / sample for kind, share in shares.items()))
    return Found(used / num_rows / ROW_TOKENS, most_waited, off, 1000 * seconds / num_rows)


def main() -> None:
    print(
        "| stage | text is cut | ratio counts | fill | longest wait, rows | farthest off the ratio, samples | ms a row |"
    )
    print("|---|---|---|---|---|---|---|")
    for stage in STAGES:
        for cut, unit in (("long", "samples"), ("fit", "samples"), ("long", "tokens")):
            found = simulate(stage, cut, unit)  # type: ignore[arg-type]
            print(
                f"| {stage} | {cut} | {unit} | {100 * found.fill:.1f} % | {found.most_waited} | {found.off:.2f} | {found.ms_per_row:.2f} |"
            )


if __name__ == "__main__":
    main()
