"""Measures training speed on synthetic rows: ours, the usual implementation, and ours with one feature off at a time.

    python benchmarks/train.py --model small --stage 2 [--rows 4] [--steps 3] [--modes "ours;naive;..."] [--out FILE]

Models: janus_pro_1b and janus_pro_7b (a GPU), and for a CPU tiny; small (about 100 M, an eighth of the paper's lengths);
small-384 (the same language model at the paper's own lengths, with Janus' own VQ tokenizer); small-janus (also about 100 M, with
Janus' own vocabulary as well). Weights are random; the model, the packed forward and the train step are those of real runs.
All modes get the same samples, by default those of rows that a run's packer fills; naive ones must give the same loss, or the benchmark stops. Every step is timed: on a GPU by
the clock, on a CPU, with one thread, by the process's CPU time, so that other load on the machine matters little. Peak memory
is that of torch's allocator beyond the weights: over all timed steps on a GPU, over the step before them on a CPU. The output
is one JSON line per mode on standard output, or appended to ``--out``, and a table on standard error.
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

from benchmarks.naive import naive_loss, pad_samples
from benchmarks.rows import documents, full_rows, pack_rows, with_codes
from janus_train.compose import compose_config
from janus_train.config import Config
from janus_train.data.batch import Batch, collate
from janus_train.data.fixed_shapes import max_shapes
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
from janus_train.model.precision import cast_frozen_to_bf16
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
"""About 110 M parameters. Rows of 512 tokens and images of 64 are an eighth of the paper's."""
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
"""About 103 M parameters in the language model with Janus' own vocabulary; otherwise as `SMALL_384`."""
PRESETS = {"small": SMALL, "small-384": SMALL_384, "small-janus": SMALL_JANUS}
NAIVE_BATCH, TRAINER_BATCH = 8, 2
"""Samples that are padded together; Trainer accumulates over small batches that are padded separately."""


def config_of(model: str, stage: int) -> Config:
    overrides = PRESETS.get(model, (f"model={model}",))
    return compose_config([f"+stage={stage}", *overrides])


class HeadsEverywhere(PackedJanus):
    """Our model, but with both heads at every position; losses are taken at loss positions only."""

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
    """Makes attention span the micro-batch: incorrect, but it shows what packing without boundaries costs."""
    length = batch.input_ids.shape[1]
    return dataclasses.replace(batch, cu_seqlens=torch.tensor([0, length], dtype=torch.int32), max_seqlen=length)


class Bench:
    """Gives every mode a fresh model with the same weights, and the same samples."""

    def __init__(self, config: Config, samples: list[Document], micro_tokens: int, device: torch.device):
        self.config, self.device, self.uncached_samples = config, device, samples
        self.micro_tokens = micro_tokens
        self.distributed = Distributed(config)
        self.num_targets = sum(int((s.labels != -100).sum()) + int(s.image_targets.sum()) for s in samples)
        torch.manual_seed(0)
        with device:
            self.janus = build(config.model)
        images = [torch.from_numpy(to_float(p)) for s in samples for p in s.generation_pixels if p is not None]
        codes = encode_images(self.janus.model.vqmodel, torch.stack(images).to(device))
        self.samples = with_codes(samples, codes.cpu().numpy())
        # on the host: a GPU's memory is for what a run keeps there
        self.weights = {name: value.to("cpu", copy=True) for name, value in self.janus.state_dict().items()}

    def reset(self, policy: Any = "none", text_loss: str = "chunked", compiled: bool = False) -> None:
        self.janus.float()  # what an earlier mode has cast
        self.janus.load_state_dict(self.weights)
        self.janus.zero_grad(set_to_none=True)  # otherwise freeing them would count in the next mode's memory
        for module in (*self.janus.model.language_model.layers, self.janus.lm_head):
            module.__dict__.pop("forward", None)
        prepare(self.janus)
        set_trainable(self.janus, self.config.train_parts)
        checkpoint_layers(self.janus, policy)
        text_head(self.janus).chunked = text_loss == "chunked"
        if compiled:
            torch._dynamo.reset()
            compile_layers(self.janus, max_shapes(self.config.batch.row_tokens))

    def batches(self, samples: list[Document], flat: bool = True, fixed: bool = False) -> list[Batch]:
        """Collates rows of the configured length, up to ``micro_tokens`` or one row at a time; ``fixed``: filled up."""
        model, T = self.config.model, self.config.batch.row_tokens
        rows = pack_rows(samples, T)
        size = max(1, self.micro_tokens // T) if flat else 1
        return [
            collate(rows[i : i + size], model.tokens_per_image, model.image_size, fixed_tokens=T if fixed else None)
            for i in range(0, len(rows), size)
        ]

    def our_step(
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
        """Makes a step with `train_step`, as in a run, that returns the loss. Each option switches one feature."""
        compiled = self.device.type == "cuda" if compiled is None else compiled
        self.reset(policy, text_loss, compiled)
        if self.config.precision == "bf16":  # as a run does
            cast_frozen_to_bf16(self.janus, keep=extra_gradients)
        backend = make_backend(self.janus, self.config, self.distributed)
        backend.model = model(self.janus)
        if not fused:
            options = {"foreach": False, "fused": False}
            parameters = backend.optimizer.param_groups[0]["params"]
            backend.optimizer = torch.optim.AdamW(parameters, lr=1e-4, **options)
        if extra_gradients:
            set_trainable(self.janus, (*self.config.train_parts, *extra_gradients))
        batches = [change(batch) for batch in self.batches(samples or self.samples, flat, compiled)]

        def step() -> float:
            for part in self.janus.parameters():
                part.grad = None
            tokens = sum(batch.num_loss_tokens for batch in batches)
            return train_step(backend, batches, tokens, 1.0).losses.mean

        return step

    def naive_step(self, size: int) -> Callable[[], float]:
        """Makes a step that accumulates over padded batches of ``size`` samples."""
        self.reset()
        optimizer = make_optimizer(self.janus, self.config.optim)
        groups = [self.uncached_samples[i : i + size] for i in range(0, len(self.uncached_samples), size)]
        batches = [pad_samples(group, self.config.model.image_size) for group in groups]

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
            "ours": self.our_step,
            "naive": lambda: self.naive_step(NAIVE_BATCH),
            "trainer": lambda: self.naive_step(TRAINER_BATCH),
            "ours, heads at every position": lambda: self.our_step(model=HeadsEverywhere),
            "ours, attention across samples": lambda: self.our_step(change=one_document),
            "ours, a row at a time": lambda: self.our_step(flat=False),
            "ours, codes made in the step": lambda: self.our_step(samples=self.uncached_samples),
            "ours, selective checkpointing": lambda: self.our_step("selective"),
            "ours, full checkpointing": lambda: self.our_step("full"),
            "ours, AdamW not fused": lambda: self.our_step(fused=False),
            "ours, text loss of whole logits": lambda: self.our_step(text_loss="whole"),
        }
        if self.device.type == "cuda":  # where runs compile by default
            modes["ours, not compiled"] = lambda: self.our_step(compiled=False)
        else:
            modes["ours, compiled"] = lambda: self.our_step(compiled=True)
        if "language_model" not in self.config.train_parts:
            modes["ours, weight gradients of the frozen language model"] = lambda: self.our_step(
                extra_gradients=("language_model",)
            )
        return modes

    def measure(self, make: Callable[[], Callable[[], float]], steps: int) -> dict[str, Any]:
        """Measures the first step's loss, seconds per step over ``steps`` further ones, and peak memory beyond the weights.

        If ``steps`` is 0 the first step is timed: if a step takes minutes, its setup does not matter.
        """
        step = make()
        on_gpu = self.device.type == "cuda"
        clock = time.perf_counter if on_gpu else time.process_time
        start = clock()
        loss, peak = (step(), 0.0) if on_gpu else measure_allocation(step)
        seconds = [] if steps else [clock() - start]
        if on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        for _ in range(steps):
            start = clock()
            step()
            if on_gpu:
                torch.cuda.synchronize()
            seconds.append(clock() - start)
        if on_gpu:
            peak = torch.cuda.max_memory_allocated() - sum(p.nbytes for p in self.janus.parameters())
        times = {"step_s": statistics.median(seconds), "step_s_range": [min(seconds), max(seconds)]}
        return {"loss": loss, "peak_gb": peak / 1e9, **times}


def measure_allocation(step: Callable[[], float]) -> tuple[float, float]:
    """Returns the result of ``step``, and the peak bytes that torch's CPU allocator added during it."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        loss = step()
    changes = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    alive_bytes = peak = 0
    for change in sorted(changes, key=lambda event: event.start_ns()):
        alive_bytes += change.nbytes()
        peak = max(peak, alive_bytes)
    return loss, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", choices=("tiny", *PRESETS, "janus_pro_1b", "janus_pro_7b"))
    parser.add_argument("--stage", type=int, default=2, choices=(1, 2, 3))
    parser.add_argument("--rows", type=int, default=4, help="rows per step, as full as a run's; all modes get the same")
    parser.add_argument("--samples", type=int, help="samples per step instead, whose rows may be less full")
    parser.add_argument(
        "--steps", type=int, default=3, help="timed steps; 0: time the first step, which is otherwise a warm-up"
    )
    parser.add_argument("--micro-tokens", type=int, default=16384, help="ours: tokens per micro-batch")
    parser.add_argument("--modes", default="", help="names, separated by semicolons; default: all")
    parser.add_argument("--out", type=Path, help="file to which JSON lines are appended")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = config_of(options.model, options.stage)
    if device.type == "cpu":
        config = config.model_copy(update={"run": config.run.model_copy(update={"cpu_threads": 1})})
    samples = documents(config, options.samples, seed=0) if options.samples else full_rows(config, options.rows)[0]
    num_rows = len(pack_rows(samples, config.batch.row_tokens))
    bench = Bench(config, samples, options.micro_tokens, device)
    modes = bench.modes()
    unknown_modes = [name for name in filter(None, options.modes.split(";")) if name not in modes]
    if unknown_modes:
        parser.error(f"no such mode: {unknown_modes[0]}; there are {'; '.join(modes)}")
    mode_names = list(filter(None, options.modes.split(";"))) or list(modes)
    tokens, useful_flops = (
        sum(map(len, samples)),
        total_flops(config.model, config.train_parts, workload_of(bench.samples)),
    )
    peak = peak_flops(device, config.precision)
    gpu = gpu_of(torch.cuda.get_device_name()) if device.type == "cuda" else None
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    results: dict[str, dict[str, Any]] = {}
    for mode in mode_names:
        result = bench.measure(modes[mode], options.steps)
        if mode in ("naive", "trainer") and "ours" in results:
            difference = abs(result["loss"] - results["ours"]["loss"]) / results["ours"]["loss"]
            if difference > (1e-4 if config.precision == "fp32" else 1e-2):
                sys.exit(
                    f"error: {mode} has loss {result['loss']}, ours to {results['ours']['loss']}: not the same work"
                )
        results[mode] = {
            "card": gpu.name if gpu else device.type,
            "model": options.model,
            "stage": options.stage,
            "mode": mode,
            "samples": len(samples),
            "rows": num_rows,
            "fill": sum(map(len, samples)) / (num_rows * config.batch.row_tokens),
            "tokens": tokens,
            "tokens_per_s": tokens / result["step_s"],
            "mfu": useful_flops / (result["step_s"] * peak) if peak else None,
            **result,
            "precision": config.precision,
            "torch": torch.__version__,
            "commit": commit.strip(),
        }
        if options.out:
            append_json_lines(options.out, [results[mode]])
        else:
            print(json_line(results[mode]), end="", flush=True)
    _print_table(results)


def _print_table(results: dict[str, dict[str, Any]]) -> None:
    our_result = results.get("ours")
    print(
        "| mode | useful tokens/s | MFU | s per step (least to most) | of ours' time | peak GB | of ours' |",
        file=sys.stderr,
    )
    print("|---|---|---|---|---|---|---|", file=sys.stderr)
    for mode, entry in results.items():
        share = f"{100 * entry['mfu']:.1f} %" if entry["mfu"] is not None else "unknown"
        ratio = f"{entry['step_s'] / our_result['step_s']:.2f}" if our_result else ""
        low, high = entry["step_s_range"]
        memory_ratio = f"{entry['peak_gb'] / our_result['peak_gb']:.2f}" if our_result else ""
        print(
            f"| {mode} | {entry['tokens_per_s']:.0f} | {share} | {entry['step_s']:.3f} ({low:.3f} to {high:.3f}) "
            f"| {ratio} | {entry['peak_gb']:.3g} | {memory_ratio} |",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
