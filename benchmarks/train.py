"""Training speed on synthetic rows: ours, what a user would write today, and ours with one thing off at a time.

    python benchmarks/train.py --model small --stage 2 [--samples 16] [--steps 3] [--modes "ours;naive;..."] [--out FILE]

Models: janus_pro_1b and janus_pro_7b (a GPU), and for a CPU tiny; small (about 100 M, an eighth of the paper's lengths);
small-384 (the same language model at the paper's own lengths, with Janus' own VQ tokenizer); small-janus (about 100 M too, with
Janus' own vocabulary besides). Weights are random; the model, the packed forward and the train step are the real ones. All
modes get the same samples; naive ones must come to the same loss, or the benchmark stops. Every step is timed: on a GPU by
the clock, on a CPU, one thread, by the process's own CPU time, so that what else the machine does counts little. Peak memory
is what torch's allocator gave out beyond the weights: of all timed steps on a GPU, of the step before them on a CPU. One JSON
line a mode on standard output, or added to ``--out``; a table on standard error.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.naive import naive_loss, padded
from benchmarks.rows import documents, packed, with_codes
from janus_train.compose import compose_config
from janus_train.config import Config
from janus_train.data.batch import Batch, collate
from janus_train.data.images import to_float
from janus_train.data.types import Document
from janus_train.jsonl import append_json_lines, json_line
from janus_train.model.activation_checkpointing import checkpoint_layers
from janus_train.model.build import build, prepare
from janus_train.model.chunked_cross_entropy import text_head
from janus_train.model.compile import compile_layers
from janus_train.model.janus import PackedJanus
from janus_train.model.losses import LossSums, cross_entropies, loss_sums
from janus_train.model.parts import set_trainable
from janus_train.model.vq import encode_images
from janus_train.paths import ROOT
from janus_train.planning.flops import total_flops
from janus_train.planning.gpus import gpu_of, peak_flops
from janus_train.planning.workload import workload_of
from janus_train.train.backends import make_backend
from janus_train.train.distributed.context import Distributed
from janus_train.train.optim import make_optimizer
from janus_train.train.step import train_step

SMALL = (
    "model=tiny",
    "model.name=small",
    "model.image_size=128",
    "model.text={hidden_size: 768, num_hidden_layers: 12, num_attention_heads: 12, num_key_value_heads: 12, "
    "intermediate_size: 2048, vocab_size: 16384, max_position_embeddings: 512}",
    "model.vision={hidden_size: 384, num_hidden_layers: 6, num_attention_heads: 6, mlp_ratio: 4.0, patch_size: 16}",
    "model.vq={num_embeddings: 2048, base_channels: 32, channel_multiplier: [1, 1, 2, 2, 4], num_res_blocks: 2, latent_channels: 128}",
    "batch.row_tokens=512",
    "batch.micro_rows=1",
)
"""About 110 M parameters. A row of 512 with images of 64 tokens is an eighth of the paper's in both."""
SMALL_384 = (
    *(
        word
        for word in SMALL
        if not word.startswith(("model.name", "model.image_size", "model.text", "model.vq", "batch.row"))
    ),
    "model.name=small-384",
    "model.image_size=384",
    SMALL[3].replace("max_position_embeddings: 512", "max_position_embeddings: 4096"),
    "model.vq={num_embeddings: 16384, base_channels: 128, channel_multiplier: [1, 1, 2, 2, 4], num_res_blocks: 2, latent_channels: 256}",
    "batch.row_tokens=4096",
)
"""The same language model and vision encoder; images of 384 pixels and 576 tokens, rows of 4096, the paper's VQ tokenizer."""
SMALL_JANUS = (
    *(word for word in SMALL_384 if not word.startswith(("model.name", "model.text"))),
    "model.name=small-janus",
    "model.text={hidden_size: 384, num_hidden_layers: 14, num_attention_heads: 6, num_key_value_heads: 6, "
    "intermediate_size: 1024, vocab_size: 102400, max_position_embeddings: 4096}",
)
"""About 103 M parameters in the language model with Janus' own vocabulary; else as `SMALL_384`."""
PRESETS = {"small": SMALL, "small-384": SMALL_384, "small-janus": SMALL_JANUS}
NAIVE_BATCH, TRAINER_BATCH = 8, 2
"""Samples padded together; Trainer's accumulates over small batches, each padded for itself."""


def config_of(model: str, stage: int) -> Config:
    overrides = PRESETS.get(model, (f"model={model}",))
    return compose_config([f"+stage={stage}", *overrides])


class HeadsEverywhere(PackedJanus):
    """Ours, but both heads at every position; the losses are taken where they belong."""

    def forward(self, batch: Batch) -> LossSums:
        codes = self.codes(batch)
        hidden = self.hidden_states(self.embeddings(batch, codes), batch)
        text = self.janus.lm_head(hidden).float().index_select(0, batch.text_positions)
        image = self.janus.model.generation_head(hidden).float().index_select(0, batch.image_loss_positions)
        losses = cross_entropies(text, batch.text_targets)
        return loss_sums(
            losses.sum(),
            losses,
            batch.text_target_is_understanding,
            batch.num_understanding_targets,
            cross_entropies(image, codes[batch.image_loss_images].flatten()),
        )


def one_document(batch: Batch) -> Batch:
    """Attention across the whole micro-batch: wrong, and what packing without boundaries costs."""
    length = batch.input_ids.shape[1]
    return dataclasses.replace(batch, cu_seqlens=torch.tensor([0, length], dtype=torch.int32), max_seqlen=length)


class Bench:
    """A fresh model of the same weights for every mode, and the same samples."""

    def __init__(self, config: Config, samples: list[Document], micro_tokens: int, device: torch.device):
        self.config, self.device, self.uncached = config, device, samples
        self.micro_tokens = micro_tokens
        self.distributed = Distributed(config)
        self.num_targets = sum(int((s.labels != -100).sum()) + int(s.image_targets.sum()) for s in samples)
        torch.manual_seed(0)
        with device:
            self.janus = build(config.model)
        images = [torch.from_numpy(to_float(p)) for s in samples for p in s.generation_pixels if p is not None]
        made = encode_images(self.janus.model.vqmodel, torch.stack(images).to(device))
        self.samples = with_codes(samples, made.cpu().numpy())
        self.weights = {name: value.clone() for name, value in self.janus.state_dict().items()}

    def reset(self, policy: Any = "none", text_loss: str = "chunked", compiled: bool = False) -> None:
        self.janus.load_state_dict(self.weights)
        self.janus.zero_grad(set_to_none=True)  # or their going would count against the next mode's memory
        for module in (*self.janus.model.language_model.layers, self.janus.lm_head):
            module.__dict__.pop("forward", None)
        prepare(self.janus)
        set_trainable(self.janus, self.config.train_parts)
        checkpoint_layers(self.janus, policy)
        text_head(self.janus).chunked = text_loss == "chunked"
        if compiled:
            torch._dynamo.reset()
            compile_layers(self.janus)

    def batches(self, samples: list[Document], flat: bool = True, fixed: bool = False) -> list[Batch]:
        """Rows of the configured length, as many at a time as ``micro_tokens`` hold, or one at a time; ``fixed``: filled up."""
        model, T = self.config.model, self.config.batch.row_tokens
        rows = packed(samples, T)
        size = max(1, self.micro_tokens // T) if flat else 1
        return [
            collate(rows[i : i + size], model.tokens_per_image, model.image_size, fixed_tokens=T if fixed else None)
            for i in range(0, len(rows), size)
        ]

    def ours(
        self,
        policy: str = "none",
        flat: bool = True,
        model: type[PackedJanus] = PackedJanus,
        change: Callable[[Batch], Batch] = lambda batch: batch,
        samples: list[Document] | None = None,
        extra_gradients: tuple[Any, ...] = (),
        fused: bool = True,
        text_loss: str = "chunked",
        compiled: bool | None = None,
    ) -> Callable[[], float]:
        """A step through `train_step`, as a run does it; gives the loss. The options switch one thing each."""
        compiled = self.device.type == "cuda" if compiled is None else compiled
        self.reset(policy, text_loss, compiled)
        backend = make_backend(self.janus, self.config, self.distributed)
        backend.model = model(self.janus)
        if not fused:
            options = {"foreach": False, "fused": False}
            trained = backend.optimizer.param_groups[0]["params"]
            backend.optimizer = torch.optim.AdamW(trained, lr=1e-4, **options)
        if extra_gradients:
            set_trainable(self.janus, (*self.config.train_parts, *extra_gradients))
        batches = [change(batch) for batch in self.batches(samples or self.samples, flat, compiled)]

        def step() -> float:
            for part in self.janus.parameters():
                part.grad = None
            tokens = sum(batch.num_loss_tokens for batch in batches)
            return train_step(backend, batches, tokens, 1.0).losses.mean

        return step

    def naive(self, size: int) -> Callable[[], float]:
        """A step over padded batches of ``size`` samples, accumulated."""
        self.reset()
        optimizer = make_optimizer(self.janus, self.config.optim)
        groups = [self.uncached[i : i + size] for i in range(0, len(self.uncached), size)]
        batches = [padded(group, self.config.model.image_size) for group in groups]

        def step() -> float:
            optimizer.zero_grad(set_to_none=True)
            total = 0.0
            for batch in batches:
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
                    loss = naive_loss(self.janus, batch.to(self.device)) / self.num_targets
                loss.backward()
                total += loss.item()
            torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
            optimizer.step()
            return total

        return step

    def modes(self) -> dict[str, Callable[[], Callable[[], float]]]:
        modes: dict[str, Callable[[], Callable[[], float]]] = {
            "ours": self.ours,
            "naive": lambda: self.naive(NAIVE_BATCH),
            "trainer": lambda: self.naive(TRAINER_BATCH),
            "ours, heads at every position": lambda: self.ours(model=HeadsEverywhere),
            "ours, attention across samples": lambda: self.ours(change=one_document),
            "ours, a row at a time": lambda: self.ours(flat=False),
            "ours, codes made in the step": lambda: self.ours(samples=self.uncached),
            "ours, selective checkpointing": lambda: self.ours("selective"),
            "ours, full checkpointing": lambda: self.ours("full"),
            "ours, AdamW not fused": lambda: self.ours(fused=False),
            "ours, text loss of whole logits": lambda: self.ours(text_loss="whole"),
        }
        if self.device.type == "cuda":  # where a run compiles unless told not to
            modes["ours, not compiled"] = lambda: self.ours(compiled=False)
        else:
            modes["ours, compiled"] = lambda: self.ours(compiled=True)
        if "language_model" not in self.config.train_parts:
            modes["ours, weight gradients of the frozen language model"] = lambda: self.ours(
                extra_gradients=("language_model",)
            )
        return modes

    def measure(self, make: Callable[[], Callable[[], float]], steps: int) -> dict[str, Any]:
        """One step that is not counted, then ``steps``; the first one's loss; seconds a step; peak memory beyond the weights.

        With no further ``steps`` the first one counts: where a step takes minutes, what it sets up takes no time.
        """
        step = make()
        on_gpu = self.device.type == "cuda"
        clock = time.perf_counter if on_gpu else time.process_time
        began = clock()
        loss, peak = (step(), 0.0) if on_gpu else allocated(step)
        seconds = [] if steps else [clock() - began]
        if on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        for _ in range(steps):
            began = clock()
            step()
            if on_gpu:
                torch.cuda.synchronize()
            seconds.append(clock() - began)
        if on_gpu:
            peak = torch.cuda.max_memory_allocated() - sum(p.nbytes for p in self.janus.parameters())
        times = {"step_s": statistics.median(seconds), "step_s_range": [min(seconds), max(seconds)]}
        return {"loss": loss, "peak_gb": peak / 1e9, **times}


def allocated(step: Callable[[], float]) -> tuple[float, float]:
    """What ``step`` gives, and the most bytes that torch's allocator on the CPU had given out meanwhile beyond what there was."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        loss = step()
    changes = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    alive = peak = 0
    for change in sorted(changes, key=lambda event: event.start_ns()):
        alive += change.nbytes()
        peak = max(peak, alive)
    return loss, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", choices=("tiny", *PRESETS, "janus_pro_1b", "janus_pro_7b"))
    parser.add_argument("--stage", type=int, default=2, choices=(1, 2, 3))
    parser.add_argument("--samples", type=int, default=16, help="a step's; all modes get the same")
    parser.add_argument(
        "--steps", type=int, default=3, help="timed ones; 0: the first, which else only warms up, is timed"
    )
    parser.add_argument("--micro-tokens", type=int, default=16384, help="ours: a micro-batch's flat budget")
    parser.add_argument("--modes", default="", help="names, separated by semicolons; left out: all")
    parser.add_argument("--out", type=Path, help="JSON lines are added here")
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = config_of(given.model, given.stage)
    if device.type == "cpu":
        config = config.model_copy(update={"run": config.run.model_copy(update={"cpu_threads": 1})})
    samples = documents(config, given.samples, seed=0)
    bench = Bench(config, samples, given.micro_tokens, device)
    modes = bench.modes()
    unknown = [name for name in filter(None, given.modes.split(";")) if name not in modes]
    if unknown:
        parser.error(f"no such mode: {unknown[0]}; there are {'; '.join(modes)}")
    chosen = list(filter(None, given.modes.split(";"))) or list(modes)
    tokens, useful = sum(map(len, samples)), total_flops(config.model, config.train_parts, workload_of(bench.samples))
    peak = peak_flops(device, config.precision)
    card = gpu_of(torch.cuda.get_device_name()) if device.type == "cuda" else None
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    found: dict[str, dict[str, Any]] = {}
    for mode in chosen:
        result = bench.measure(modes[mode], given.steps)
        if mode in ("naive", "trainer") and "ours" in found:
            apart = abs(result["loss"] - found["ours"]["loss"]) / found["ours"]["loss"]
            if apart > (1e-4 if config.precision == "fp32" else 1e-2):
                sys.exit(
                    f"error: {mode} comes to loss {result['loss']}, ours to {found['ours']['loss']}: not the same work"
                )
        found[mode] = {
            "card": card.name if card else device.type,
            "model": given.model,
            "stage": given.stage,
            "mode": mode,
            "samples": given.samples,
            "tokens": tokens,
            "tokens_per_s": tokens / result["step_s"],
            "mfu": useful / (result["step_s"] * peak) if peak else None,
            **result,
            "precision": config.precision,
            "torch": torch.__version__,
            "commit": commit.strip(),
        }
        if given.out:
            append_json_lines(given.out, [found[mode]])
        else:
            print(json_line(found[mode]), end="", flush=True)
    _print_table(found)


def _print_table(found: dict[str, dict[str, Any]]) -> None:
    ours = found.get("ours")
    print(
        "| mode | useful tokens/s | MFU | s a step (least to most) | of ours' time | peak GB | of ours' |",
        file=sys.stderr,
    )
    print("|---|---|---|---|---|---|---|", file=sys.stderr)
    for mode, entry in found.items():
        share = f"{100 * entry['mfu']:.1f} %" if entry["mfu"] is not None else "unknown"
        ratio = f"{entry['step_s'] / ours['step_s']:.2f}" if ours else ""
        low, high = entry["step_s_range"]
        more = f"{entry['peak_gb'] / ours['peak_gb']:.2f}" if ours else ""
        print(
            f"| {mode} | {entry['tokens_per_s']:.0f} | {share} | {entry['step_s']:.3f} ({low:.3f} to {high:.3f}) "
            f"| {ratio} | {entry['peak_gb']:.3g} | {more} |",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
