"""Plans: the paper's anchors come out, what is recommended fits, and what does not is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from janus_train.planning.communication import Traffic, traffic
from janus_train.planning.gpus import GPUS
from janus_train.planning.measured import measured_mfu
from janus_train.planning.plan import POLICIES, StagePlan, implied_mfu, plan_stage
from janus_train.planning.run_plan import RunPlan, plan_run
from janus_train.planning.state import SHARDING_STRATEGIES, Sizes
from tests.helpers import config_of

A100 = GPUS["a100-40gb"]


def run_plan(model: str, num_gpus: int, gpu: str = "a100-40gb", stage: int = 2, mfu: float | None = 0.4) -> RunPlan:
    return plan_run([f"+stage={stage}", f"model={model}"], GPUS[gpu], num_gpus, mfu, cached_codes=False)


@pytest.fixture(scope="module")
def pro_7b() -> RunPlan:
    return run_plan("janus_pro_7b", 256)


@pytest.fixture(scope="module")
def pro_1b() -> RunPlan:
    return run_plan("janus_pro_1b", 128)


def test_flops_a_row_are_the_anchors(pro_1b: RunPlan, pro_7b: RunPlan) -> None:
    """TFLOP per row of 4096, stages 1 to 3."""
    for plan, anchors in ((pro_1b, (23.9, 34.9, 36.6)), (pro_7b, (106, 158, 158))):
        for stage, tflop in zip(plan.stages, anchors, strict=True):
            assert stage.flops_per_row / 1e12 == pytest.approx(tflop, rel=0.005)
    row = pro_1b.stages[2]
    assert row.work["understanding_encoder"].total / row.flops_per_row == pytest.approx(0.09, abs=0.005)


def test_the_papers_days_are_17_and_24_percent_of_peak(pro_1b: RunPlan, pro_7b: RunPlan) -> None:
    flops_1b, flops_7b = (sum(stage.flops for stage in plan.stages) for plan in (pro_1b, pro_7b))
    assert flops_1b == pytest.approx(5.3e21, rel=0.01) and flops_7b == pytest.approx(2.3e22, rel=0.01)
    assert round(100 * implied_mfu(flops_1b, A100, 128, 9)) == 17
    assert round(100 * implied_mfu(flops_7b, A100, 256, 14)) == 24
    assert pro_7b.paper == "the paper's 14 days on 256 x a100-40gb are 24 % of peak by this count"
    assert pro_1b.stages[1].flops / flops_1b > 0.9


def test_half_of_peak_is_days_not_weeks() -> None:
    """At 50 %, 3.1 days for the 1B on 128 and 6.7 for the 7B on 256, if nothing else cost time."""
    for model, num_gpus, days in (("janus_pro_1b", 128, 3.1), ("janus_pro_7b", 256, 6.7)):
        stages = run_plan(model, num_gpus, mfu=0.5).stages
        ideal = sum(stage.flops for stage in stages) / (num_gpus * A100.bf16 * 0.5) / 86400
        assert ideal == pytest.approx(days, abs=0.05)
        assert sum(stage.days for stage in stages) >= ideal


def test_what_is_recommended_fits_and_nothing_that_fits_is_quicker(pro_1b: RunPlan, pro_7b: RunPlan) -> None:
    for stage in (*pro_1b.stages, *pro_7b.stages):
        option = stage.best_option
        assert option and option.fits and option.total <= 39.4 * 2**30
        assert all(o.step_s >= 0.99 * option.step_s for o in stage.options if o.fits)
        assert stage.rows_per_gpu % option.micro_rows == 0
    assert pro_7b.stage.best_option and pro_7b.stage.best_option.sharding.weights, (
        "7 B times 16 bytes do not fit one card"
    )


def test_the_7b_takes_a_row_plain_and_two_selectively_on_40_gb(pro_7b: RunPlan) -> None:
    """Stage 2 under ZeRO-3 on 256 GPUs."""
    assert pro_7b.stage.largest_micro_rows("zero3", "none") == 1
    assert pro_7b.stage.largest_micro_rows("zero3", "selective") == 2


def test_checkpointing_costs_time_and_saves_memory(pro_1b: RunPlan) -> None:
    """Full checkpointing costs the 1B 1.31x over the run and 1.43x in stage 1."""
    for stage, cost in zip(pro_1b.stages, (1.43, 1.31, 1.31), strict=True):
        plain, selective, full = (stage.option("zero1", policy, 1) for policy in POLICIES)
        assert plain.total > selective.total > full.total
        assert plain.compute_s < selective.compute_s < full.compute_s
        assert full.compute_s / plain.compute_s == pytest.approx(cost, abs=0.03)


def test_more_gpus_than_rows_stand_idle_and_it_is_said(pro_7b: RunPlan) -> None:
    third = pro_7b.stages[2]
    assert (third.num_busy_gpus, third.rows_per_gpu) == (128, 1) and pro_7b.stages[1].num_busy_gpus == 256
    assert "stage 3 has 128 rows per step: only 128 of the 256 GPUs get some" in pro_7b.warnings
    assert third.gpu_hours == pytest.approx(third.days * 24 * 256), "idle ones are paid for"


def test_what_does_not_fit_is_said_with_what_would() -> None:
    plan = run_plan("janus_pro_1b", 1, "rtx4090")
    assert plan.stages[0].best_option and plan.stage.best_option is None
    [second] = [w for w in plan.warnings if w.startswith("stage 2")]
    assert "does not fit" in second and "1 x a100-40gb" in second and "2 x rtx4090" in second
    config = config_of("+stage=2", "model=janus_pro_1b")
    assert plan_stage(config, A100, 1, 0.4, "", True).best_option
    assert plan_stage(config, GPUS["rtx4090"], 2, 0.4, "", True).best_option


def test_the_other_stages_keep_their_own_settings() -> None:
    plan = plan_run(["+stage=2", "model=janus_pro_1b", "run.steps=1000"], A100, 8, 0.4, True)
    assert [stage.config.run.steps for stage in plan.stages] == [20000, 1000, 80000]
    assert all(stage.config.model.name == "janus_pro_1b" for stage in plan.stages)
    assert all(stage.work["generation_encoder"].total == 0 for stage in plan.stages), "codes are cached"


SIZES = Sizes(num_trained=1e9, num_frozen=1e8, num_vq=0, num_trained_matrices=0, largest_unit=0)


@pytest.mark.parametrize(
    ("sharding", "micro_batches", "num_bytes"),
    [
        ("ddp", 1, 2 * 4 * 1e9),
        ("ddp", 4, 2 * 4 * 1e9),
        ("zero1", 4, (2 * 2 + 2) * 1e9),
        ("zero2", 1, (2 * 2 + 2) * 1e9),
        ("zero2", 4, (4 * 2 * 2 + 2) * 1e9),
        ("zero3", 1, 2 * 2 * 1.1e9 + 2 * 1e9),
        ("zero3", 4, 4 * (2 * 2 * 1.1e9 + 2 * 1e9)),
        ("fsdp2", 1, 2 * 2 * 1.1e9 + 4 * 1e9),
    ],
)
def test_bytes_sent_in_a_step(sharding: str, micro_batches: int, num_bytes: float) -> None:
    """A ring of 128 sends 127 / 128 of it, across nodes; one of 8 sends 7 / 8 inside a node."""

    def sent(num_gpus: int) -> Traffic:
        return traffic(SIZES, SHARDING_STRATEGIES[sharding], num_gpus, micro_batches, "bf16")

    assert sent(128) == pytest.approx(Traffic(0.0, num_bytes * 127 / 128))
    assert sent(8) == pytest.approx(Traffic(num_bytes * 7 / 8, 0.0))
    assert sent(1).total == 0


def test_hsdp_sends_a_shard_of_the_gradients_across_nodes() -> None:
    """Whatever the number of micro-batches; all else stays in the node."""
    hsdp, fsdp2 = SHARDING_STRATEGIES["hsdp"], SHARDING_STRATEGIES["fsdp2"]
    for micro_batches in (1, 4):
        sent = traffic(SIZES, hsdp, 128, micro_batches, "bf16")
        assert sent.within_node == pytest.approx(micro_batches * (2 * 2 * 1.1e9 + 4 * 1e9) * 7 / 8)
        assert sent.across_nodes == pytest.approx(2 * 4 * 1e9 / 8 * 15 / 16)
    assert traffic(SIZES, hsdp, 8, 4, "bf16") == traffic(SIZES, fsdp2, 8, 4, "bf16")
    slow, wide = GPUS["rtx4090"], 8 * 16
    assert traffic(SIZES, hsdp, wide, 4, "bf16").seconds(slow) < traffic(SIZES, fsdp2, wide, 4, "bf16").seconds(slow)


def test_sending_takes_the_narrow_way() -> None:
    """Across nodes 8 networks of 25 GB/s; where they are more than the links, those."""
    assert Traffic(300e9, 0.0).seconds(A100) == pytest.approx(1)
    assert Traffic(0.0, 300e9).seconds(A100) == pytest.approx(1.5)
    assert Traffic(0.0, 64e9).seconds(GPUS["h100-pcie"]) == pytest.approx(1)


def test_a_measured_share_is_taken_and_a_foreign_one_is_not(tmp_path: Path) -> None:
    lines = [
        {"card": "h100", "model": "janus_pro_1b", "stage": 2, "mode": "ours", "mfu": 0.41},
        {"card": "h100", "model": "janus_pro_1b", "stage": 2, "mode": "padded", "mfu": 0.1},
        {"card": "h100", "model": "janus_pro_1b", "stage": 2, "mode": "ours", "mfu": 0.52},
        {"card": "cpu", "model": "tiny", "stage": 2, "mode": "ours", "mfu": 0.3},
    ]
    results = tmp_path / "train.jsonl"
    results.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert measured_mfu(GPUS["h100"], "janus_pro_1b", 2, results) == 0.52
    for gpu, model, stage in (("h200", "janus_pro_1b", 2), ("h100", "janus_pro_7b", 2), ("h100", "janus_pro_1b", 3)):
        assert measured_mfu(GPUS[gpu], model, stage, results) is None
    assert measured_mfu(GPUS["h100"], "janus_pro_1b", 2, tmp_path / "none.jsonl") is None


def test_the_tiny_model_can_be_planned() -> None:
    stage: StagePlan = run_plan("tiny", 1, "rtx3090").stage
    assert stage.best_option and stage.best_option.sharding.name == "ddp" and stage.row.tokens == pytest.approx(512)
    assert stage.best_option.state.copies == 0, "it trains in fp32"
