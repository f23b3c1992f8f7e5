"""The training benchmark measures the same work in every mode, and says so in lines that a plan can read."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import train
from benchmarks.naive import pad_samples
from benchmarks.rows import documents, full_rows, pack_rows, with_codes
from janus_train.data.types import IGNORE, KINDS
from janus_train.model import compile as compiling
from janus_train.planning.workload import expected_row, workload_of


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--model", "tiny", "--samples", "3", "--steps", "1", *words])
    train.main()


def test_all_modes_do_the_same_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stage 1: ours, both naive ones and every ablation; those that change no result come to the same loss."""
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")  # the same work, without a minute of inductor's
    out = tmp_path / "train.jsonl"
    run(monkeypatch, "--stage", "1", "--out", str(out))
    lines = {line["mode"]: line for line in map(json.loads, out.read_text().splitlines())}
    ours = lines["ours"]
    same = [mode for mode in lines if mode != "ours, attention across samples"]
    assert len(same) == 12 and all(lines[mode]["loss"] == pytest.approx(ours["loss"], rel=1e-4) for mode in same)
    assert lines["ours, attention across samples"]["loss"] != pytest.approx(ours["loss"], rel=1e-4)
    assert (ours["card"], ours["model"], ours["stage"]) == ("cpu", "tiny", 1)
    assert all(line["tokens"] == ours["tokens"] and line["mfu"] > 0 for line in lines.values())
    assert ours["peak_gb"] > lines["ours, full checkpointing"]["peak_gb"] > 0
    assert "| ours |" in capsys.readouterr().err


def test_other_work_is_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    naive = train.naive_loss
    monkeypatch.setattr(train, "naive_loss", lambda *given: 1.01 * naive(*given))
    with pytest.raises(SystemExit, match="not the same work"):
        run(monkeypatch, "--modes", "ours;naive")


def test_an_unknown_mode_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, "--modes", "theirs")
    assert "no such mode: theirs" in capsys.readouterr().err


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_samples_are_shaped_like_the_papers(stage: int) -> None:
    """Of the 1B: per token within a quarter of what a plan expects; pairs apart, which a spread of lengths raises."""
    config = train.config_of("janus_pro_1b", stage)
    samples = documents(config, 200, seed=0)
    workload, expected = workload_of(samples), expected_row(config, cached_codes=False)
    for name, value in vars(expected).items():
        if name == "causal_pairs":
            assert workload.causal_pairs / workload.tokens > value / expected.tokens
            continue
        assert getattr(workload, name) / workload.tokens == pytest.approx(
            value / expected.tokens, rel=0.25, abs=1e-4
        ), name
    assert sum(len(row.documents) for row in pack_rows(samples, 4096)) == 200
    assert all(row.num_tokens <= 4096 for row in pack_rows(samples, 4096))


@pytest.mark.parametrize(("stage", "fill"), [(1, 0.95), (2, 0.98), (3, 0.98)])
def test_rows_are_as_full_as_a_runs(stage: int, fill: float) -> None:
    """Of the 1B; in stage 1 no row of whole samples is fuller on average (benchmarks/packing.md)."""
    config = train.config_of("janus_pro_1b", stage)
    samples, num_rows = full_rows(config, 8)
    rows = pack_rows(samples, 4096)
    assert len(rows) <= num_rows == 8 and max(row.num_tokens for row in rows) <= 4096
    assert sum(map(len, samples)) >= fill * 8 * 4096
    for kind in KINDS:
        share = getattr(config.ratio, kind) / sum(getattr(config.ratio, other) for other in KINDS)
        assert abs(sum(sample.kind == kind for sample in samples) - share * len(samples)) <= 1.5


def test_modes_keep_one_copy_of_the_weights_on_the_device_and_cast_what_is_frozen() -> None:
    config = train.config_of("tiny", 1).model_copy(update={"precision": "bf16"})
    bench = train.Bench(config, documents(config, 2, seed=0), 4096, torch.device("cpu"))
    pointers = {p.data_ptr() for p in bench.janus.parameters()}
    assert all(w.device.type == "cpu" and w.data_ptr() not in pointers for w in bench.weights.values())
    bench.our_step(compiled=False)
    layer = bench.janus.model.language_model.layers[0]
    assert layer.mlp.up_proj.weight.dtype == torch.bfloat16
    assert bench.janus.model.generation_head.vision_head.weight.dtype == torch.float32
    bench.our_step(compiled=False, extra_gradients=("language_model",))
    assert torch.equal(layer.mlp.up_proj.weight, bench.weights["model.language_model.layers.0.mlp.up_proj.weight"])


def test_padding_changes_no_target() -> None:
    config = train.config_of("tiny", 2)
    samples = documents(config, 5, seed=1)
    batch = pad_samples(samples, 64)
    for i, sample in enumerate(samples):
        n = len(sample)
        assert batch.input_ids[i, :n].tolist() == sample.input_ids.tolist() and not batch.attention_mask[i, n:].any()
        assert (batch.text_labels[i, n:] == IGNORE).all() and not batch.image_mask[i, n:].any()
    codes = np.zeros((sum(len(s.codes) for s in samples), 64), int)
    assert sum(c is not None for s in with_codes(samples, codes) for c in s.codes) == len(codes)
