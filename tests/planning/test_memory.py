"""Memory by arithmetic against what the tiny model takes on a CPU: state to the byte, activations within 10 %."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import JanusForConditionalGeneration

from janus_train.config import ActivationCheckpointing, TextLoss
from janus_train.data.batch import Batch
from janus_train.model.activation_checkpointing import checkpoint_layers
from janus_train.model.build import build
from janus_train.model.chunked_cross_entropy import text_head
from janus_train.model.janus import PackedJanus
from janus_train.model.lora import add_lora
from janus_train.model.parts import set_trainable
from janus_train.model.precision import cast_frozen_to_bf16
from janus_train.planning.activations import Activations, Widths, activations
from janus_train.planning.gpus import GPUS
from janus_train.planning.plan import POLICIES, RESERVE
from janus_train.planning.state import SHARDING_STRATEGIES, Sizes, sizes_of, state_bytes
from janus_train.planning.workload import Workload, expected_row, workload_of_batch
from janus_train.train.optim import make_optimizer
from tests.helpers import config_of
from tests.model.reference import to_batch
from tests.planning.test_flops import MODEL, SIZE, STAGES, TOKENS, TRAINED_PARTS, some_documents

WIDTHS = {"fp32": Widths(4, 4), "autocast": Widths(4, 2), "bf16": Widths(2, 2)}
CASES = [
    *((f"stage {stage}", "fp32", policy) for stage in STAGES for policy in POLICIES),
    *(("stage 2", "bf16", policy) for policy in POLICIES),
    *((f"stage {stage}", "autocast", "none") for stage in (1, 3)),
    ("encoder and its adaptor", "fp32", "none"),
    ("code embeddings and language model", "fp32", "none"),
    *(("upper layers", "fp32", policy) for policy in POLICIES),
    ("upper layers", "autocast", "none"),
    *(
        (name, kind, "none")
        for name in ("two layers and the encoder's last", "norm and image head", "lower layers of the encoder")
        for kind in ("fp32", "autocast")
    ),
    ("text head alone", "fp32", "none"),
    ("embeddings", "fp32", "none"),
]


class Allocated(TorchDispatchMode):
    """Every storage that an operation makes, for as long as it lives; and the most that lived at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        inputs = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage()._cdata not in inputs:
                storage = leaf.untyped_storage()
                self._storages[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
                if storage.nbytes() > 1 << 18:  # small ones are counted at the next large one
                    self.peak_bytes = max(self.peak_bytes, self.alive)
        return result

    @property
    def alive(self) -> int:
        self._storages = {key: entry for key, entry in self._storages.items() if not entry[0].expired()}
        return sum(size for _, size in self._storages.values())


def tiny(
    trained_parts: tuple[str, ...], policy: ActivationCheckpointing = "none", text_loss: TextLoss = "chunked"
) -> JanusForConditionalGeneration:
    torch.manual_seed(0)
    janus = build(MODEL)
    text_head(janus).chunked = text_loss == "chunked"
    set_trainable(janus, trained_parts)
    checkpoint_layers(janus, policy)
    return janus


def a_batch() -> Batch:
    return to_batch(some_documents() * 2, TOKENS, SIZE)


def planned_activations(
    workload: Workload,
    trained_parts: tuple[str, ...],
    kind: str,
    policy: ActivationCheckpointing,
    text_loss: TextLoss = "chunked",
) -> Activations:
    return activations(
        MODEL, trained_parts, workload, WIDTHS[kind], policy, grouped_attention=True, text_loss=text_loss
    )  # fmt: skip


@pytest.mark.parametrize("text_loss", get_args(TextLoss))
@pytest.mark.parametrize(("name", "kind", "policy"), CASES)
def test_activations_are_what_is_alive_after_the_forward(
    name: str, kind: str, policy: ActivationCheckpointing, text_loss: TextLoss
) -> None:
    trained_parts, batch = TRAINED_PARTS[name], a_batch()
    janus = tiny(trained_parts, policy, text_loss)
    if kind == "bf16":
        janus.to(torch.bfloat16).model.vqmodel.float()
    if kind == "autocast":
        cast_frozen_to_bf16(janus, keep=())
    model = PackedJanus(janus)
    with Allocated() as allocated, torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"):
        sums = model(batch)
    assert sums.total.requires_grad
    planned_bytes = planned_activations(workload_of_batch(batch), trained_parts, kind, policy, text_loss).kept_bytes
    if kind == "autocast":
        planned_bytes += state_bytes(sizes_of(MODEL, trained_parts), SHARDING_STRATEGIES["ddp"], 1, "bf16").copies
    assert planned_bytes == pytest.approx(allocated.alive, rel=0.1)


@pytest.mark.parametrize("text_loss", get_args(TextLoss))
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("stage", STAGES)
def test_a_whole_step_peaks_where_planned(stage: int, policy: ActivationCheckpointing, text_loss: TextLoss) -> None:
    """The most that is alive at a time in a step that adds to gradients, as all but a step's first micro-batch do."""
    trained_parts, batch = STAGES[stage].train_parts, a_batch()
    janus = tiny(trained_parts, policy, text_loss)
    model = PackedJanus(janus)
    optimizer = make_optimizer(model, STAGES[stage].optim)
    with Allocated() as allocated:
        for _ in range(2):
            loss = model(batch).total
            loss.backward()
            optimizer.step()
    parameter_bytes = sum(p.numel() * p.element_size() for p in janus.parameters())
    planned_bytes = state_bytes(sizes_of(MODEL, trained_parts), SHARDING_STRATEGIES["ddp"], 1, "fp32").total
    planned_bytes += planned_activations(workload_of_batch(batch), trained_parts, "fp32", policy, text_loss).peak_bytes
    assert planned_bytes == pytest.approx(allocated.peak_bytes + parameter_bytes, rel=0.1)


@pytest.mark.parametrize("name", TRAINED_PARTS)
def test_state_is_the_tensors_bytes(name: str) -> None:
    trained_parts = TRAINED_PARTS[name]
    janus = tiny(trained_parts)
    model = PackedJanus(janus)
    optimizer = make_optimizer(model, STAGES[1].optim)
    model(a_batch()).total.backward()
    optimizer.step()
    planned_state = state_bytes(sizes_of(MODEL, trained_parts), SHARDING_STRATEGIES["ddp"], 1, "fp32")
    assert planned_state.weights == sum(p.nbytes for p in janus.parameters())
    assert planned_state.gradients == sum(p.grad.nbytes for p in janus.parameters() if p.grad is not None)
    moments = [s[key] for s in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
    assert planned_state.moments == sum(moment.nbytes for moment in moments)
    assert planned_state.masters == planned_state.copies == planned_state.gathered == 0


def test_an_average_of_the_weights_takes_as_much_as_a_moment() -> None:
    sizes = sizes_of(MODEL, ["language_model"])
    for name, shards in (("ddp", 1), ("zero1", 4), ("fsdp2", 4)):
        plain, averaged = (
            state_bytes(sizes, SHARDING_STRATEGIES[name], 4, "bf16", has_average=has) for has in (False, True)
        )
        assert averaged.total - plain.total == pytest.approx(4 * sizes.num_trained / shards), name


def pro(name: str, stage: int) -> tuple[Sizes, Workload, tuple[str, ...]]:
    config = config_of(f"+stage={stage}", f"model={name}")
    return sizes_of(config.model, config.train_parts), expected_row(config, cached_codes=True), config.train_parts


def test_lora_of_the_7b_fits_a_24_gb_card_because_frozen_weights_are_bf16() -> None:
    """Rank 64, one row of 4096, full checkpointing; in fp32 it would not."""
    config = config_of("+stage=3", "model=janus_pro_7b", "+peft=lora", "peft.rank=64")
    sizes = sizes_of(config.model, config.train_parts, config.peft)
    text = config.model.text
    D, mlp_width = text.hidden_size, text.intermediate_size
    assert sizes.num_trained == text.num_hidden_layers * 64 * (4 * 2 * D + 3 * (D + mlp_width))
    row = expected_row(config, cached_codes=True)
    activation_bytes = activations(config.model, (), row, Widths(4, 2), "full", peft=config.peft).peak_bytes + RESERVE
    total, without_bf16 = (
        state_bytes(s, SHARDING_STRATEGIES["ddp"], 1, "bf16").total + activation_bytes
        for s in (sizes, replace(sizes, num_frozen_matrices=0.0))
    )
    assert total < GPUS["rtx4090"].memory < without_bf16


@pytest.mark.parametrize("policy", ["none", "selective"])
@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("kind", ["fp32", "autocast"])
def test_lora_keeps_what_is_planned(kind: str, use_dora: bool, policy: ActivationCheckpointing) -> None:
    """Activations, weights and copies, beside adaptors that train in full; within 10 % as the others."""
    peft = config_of("+stage=3", "+peft=lora", "peft.rank=8", f"peft.use_dora={use_dora}").peft
    assert peft
    parts: tuple[str, ...] = ("understanding_adaptor", "generation_adaptor")
    janus, batch = build(MODEL), a_batch()
    add_lora(janus, peft)
    set_trainable(janus, parts)
    checkpoint_layers(janus, policy)
    if kind == "autocast":
        cast_frozen_to_bf16(janus, keep=())
    planned_state = state_bytes(
        sizes_of(MODEL, parts, peft), SHARDING_STRATEGIES["ddp"], 1, "bf16" if kind == "autocast" else "fp32"
    )
    assert planned_state.weights == sum(p.nbytes for p in janus.parameters())
    model = PackedJanus(janus)
    with Allocated() as allocated, torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"):
        sums = model(batch)
    assert sums.total.requires_grad
    activation_bytes = activations(
        MODEL, parts, workload_of_batch(batch), WIDTHS[kind], policy, grouped_attention=True, peft=peft
    ).kept_bytes  # fmt: skip
    assert activation_bytes + planned_state.copies == pytest.approx(allocated.alive, rel=0.1)


def test_full_stage_3_of_the_1b_fits_an_80_gb_card_without_offload() -> None:
    config = config_of("+stage=3", "model=janus_pro_1b")
    sizes, row, trained_parts = pro("janus_pro_1b", 3)
    total = state_bytes(sizes, SHARDING_STRATEGIES["ddp"], 1, "bf16").total + RESERVE
    total += activations(config.model, trained_parts, row, Widths(4, 2)).peak_bytes
    assert GPUS["a100-40gb"].memory < total < GPUS["a100-80gb"].memory


@pytest.mark.parametrize("name", ["janus_pro_1b", "janus_pro_7b"])
@pytest.mark.parametrize("stage", STAGES)
def test_sharing_out_more_takes_less(name: str, stage: int) -> None:
    sizes, _, _ = pro(name, stage)
    for gpus in (8, 128):
        totals = [state_bytes(sizes, SHARDING_STRATEGIES[s], gpus, "bf16").total for s in ("zero1", "zero2", "zero3")]
        assert totals == sorted(totals, reverse=True)
        assert state_bytes(sizes, SHARDING_STRATEGIES["zero3"], 2 * gpus, "bf16").total < totals[-1]
        ddp_bytes, zero1_bytes = (
            state_bytes(sizes, SHARDING_STRATEGIES[s], gpus, "bf16").total for s in ("ddp", "zero1")
        )
        assert zero1_bytes < ddp_bytes or stage == 1, "there less trains than buckets take"


def test_bf16_weights_halve_what_zero2_keeps_whole() -> None:
    """Stage 2 of the 7B on 256 GPUs: beside fp32 weights, 29.6 GB and 13.0 GB of autocast's copies."""
    sizes, _, _ = pro("janus_pro_7b", 2)
    state, fp32_state = (state_bytes(sizes, SHARDING_STRATEGIES["zero2"], 256, p) for p in ("bf16", "fp32"))
    embedding = 102400 * 4096
    assert state.copies == 0 and fp32_state.weights / 1e9 == pytest.approx(29.6, abs=0.1)
    assert state.weights == pytest.approx(fp32_state.weights / 2, abs=2 * embedding + 4 * sizes.num_vq)
    assert state.masters == fp32_state.masters and state.moments == fp32_state.moments


def test_hsdp_shards_over_a_node() -> None:
    sizes, _, _ = pro("janus_pro_7b", 2)
    on_a_node, wide = (state_bytes(sizes, SHARDING_STRATEGIES["hsdp"], gpus, "bf16") for gpus in (8, 256))
    assert wide == on_a_node == state_bytes(sizes, SHARDING_STRATEGIES["fsdp2"], 8, "bf16")


def test_trained_parameters_are_16_bytes_each() -> None:
    """Weights, gradients and two moments in fp32: the 2.0 B of stage 3's 1B, and the VQ tokenizer's 4 bytes."""
    sizes, _, _ = pro("janus_pro_1b", 3)
    ddp_state = state_bytes(sizes, SHARDING_STRATEGIES["ddp"], 1, "fp32")
    assert ddp_state.total == 16 * sizes.num_trained + 4 * (sizes.num_frozen + sizes.num_vq)
    assert ddp_state.total / 1e9 == pytest.approx(32.4, abs=0.1)
