"""Ways to the text head's loss, forward and backward: seconds, and the most that torch's allocator gave out meanwhile.

    python benchmarks/text_loss.py [--positions 1024] [--hidden 1024] [--vocabulary 32000] [--steps 3]

On a CPU, one thread, seconds are the process's own; on a GPU those of the clock, with products in bf16 by autocast. All ways
must come to the same loss and gradients. A table on standard output.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F

from benchmarks.train import allocated
from janus_train.model.chunked_cross_entropy import LOGITS, chunked_loss, losses_and_grads

Way = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def whole(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="sum")


def torchs(reduction: str, rows: int | None) -> Way:
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=rows)

    def way(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if torch.is_autocast_enabled(hidden.device.type):
            hidden, weight = hidden.bfloat16(), weight.bfloat16()  # it is not on autocast's list
        return F.linear_cross_entropy(hidden, weight, targets, reduction=reduction, options=options).sum()

    return way


def ways(vocabulary: int) -> dict[str, Way]:
    rows = max(1, LOGITS // vocabulary)
    compiled, pointwise = torch.compile(whole), torch.compile(losses_and_grads, dynamic=True)
    return {
        "all logits": whole,
        "all logits, compiled": compiled,
        f"chunks of {rows} (ours)": lambda *given: chunked_loss(*given)[0],
        f"chunks of {rows} (ours), compiled": lambda *given: chunked_loss(*given, pointwise)[0],
        "F.linear_cross_entropy, sum, its own chunks": torchs("sum", None),
        f"F.linear_cross_entropy, sum, chunks of {rows}": torchs("sum", rows),
        f"F.linear_cross_entropy, each, chunks of {rows}": torchs("none", rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("positions", 1024), ("hidden", 1024), ("vocabulary", 32000), ("steps", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    hidden = torch.randn(given.positions, given.hidden, device=device, requires_grad=True)
    weight = (torch.randn(given.vocabulary, given.hidden, device=device) / given.hidden**0.5).requires_grad_()
    targets = torch.randint(0, given.vocabulary, (given.positions,), device=device)
    clock = time.perf_counter if on_gpu else time.process_time
    print(
        f"{given.positions} positions, hidden size {given.hidden}, vocabulary {given.vocabulary}, torch {torch.__version__}\n"
    )
    print("| way | s, forward and backward | of all logits' | peak GB |\n|---|---|---|---|", flush=True)
    first: tuple[float, list[float]] | None = None
    for name, way in ways(given.vocabulary).items():

        def step(way: Way = way) -> float:
            hidden.grad = weight.grad = None
            with torch.autocast(device.type, torch.bfloat16, enabled=on_gpu):
                loss = way(hidden, weight, targets)
            loss.backward()
            return loss.item()

        step()  # compiles
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated() if on_gpu else 0
        loss, peak = (step(), torch.cuda.max_memory_allocated() - held) if on_gpu else allocated(step)
        seconds = []
        for _ in range(given.steps):
            began = clock()
            step()  # waits for the device: it asks for the loss
            seconds.append(clock() - began)
        assert hidden.grad is not None and weight.grad is not None
        found = [loss, hidden.grad.norm().item(), weight.grad.norm().item()]
        first = first or (min(seconds), found)
        tolerance = 1e-2 if on_gpu else 1e-5
        if any(abs(a - b) > tolerance * b for a, b in zip(found, first[1], strict=True)):
            sys.exit(f"error: {name} comes to {found}, all logits to {first[1]}")
        print(f"| {name} | {min(seconds):.2f} | {min(seconds) / first[0]:.2f} | {peak / 1e9:.2f} |", flush=True)


if __name__ == "__main__":
    main()
