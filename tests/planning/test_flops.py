"""FLOPs by arithmetic are those that torch counts, part by part, forward and backward, in every stage."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from transformers.models.janus import JanusVQVAE

from janus_train.config import PARTS, Part, PeftConfig
from janus_train.data.batch import collate
from janus_train.data.types import Row
from janus_train.datatools.inspect.drawn import open_run_data
from janus_train.demo.objects import CELL, UNIT
from janus_train.model import chunked_cross_entropy
from janus_train.model.attention import Documents as Layout
from janus_train.model.build import build, transformers_config
from janus_train.model.chunked_cross_entropy import text_head
from janus_train.model.janus import PackedJanus
from janus_train.model.lora import add_lora
from janus_train.model.parts import set_trainable
from janus_train.model.vq import encode_images
from janus_train.planning.flops import FLOPS_PARTS, FlopsPart, PartFlops, flops_by_part, total_flops, vq_encoder_flops
from janus_train.planning.workload import Workload, expected_row, workload_of, workload_of_batch
from tests.helpers import config_of
from tests.model.model_configs import model_config
from tests.model.reference import GENERATION, TEXT, UNDERSTANDING, Codes, Documents, ImageIn, Text, to_batch
from tests.train.conftest import SMALL

SIZE, TOKENS = UNIT, (UNIT // CELL) ** 2
STAGES = {stage: config_of(f"+stage={stage}") for stage in (1, 2, 3)}
MODEL = STAGES[2].model
UNUSUAL_PARTS: dict[str, tuple[str, ...]] = {
    "image head alone": ("image_head",),
    "encoder and its adaptor": ("understanding_encoder", "understanding_adaptor"),
    "code embeddings and language model": ("generation_embedding", "language_model"),
    "language model alone": ("language_model",),
    "upper layers": ("language_model.layers.2-",),
    "two layers and the encoder's last": (
        "language_model.layers.1",
        "language_model.layers.3",
        "understanding_encoder.layers.2",
    ),
    "text head alone": ("language_model.lm_head",),
    "norm and image head": ("language_model.norm", "image_head"),
    "lower layers of the encoder": ("understanding_encoder.layers.1",),
    "embeddings": ("language_model.embed_tokens", "understanding_encoder.embeddings"),
}
ENCODER_LAYERS = {
    "understanding_encoder": 3,
    "understanding_encoder.embeddings": 3,
    "understanding_encoder.layers.1": 2,
    "understanding_encoder.layers.2": 1,
}
"""Layers of the tiny model's encoder through which gradients go, by what trains."""
TRAINED_PARTS: dict[str, tuple[str, ...]] = {f"stage {n}": c.train_parts for n, c in STAGES.items()} | UNUSUAL_PARTS

MODULES: dict[FlopsPart, tuple[str, ...]] = {
    "language_model": ("PackedJanus.janus.model.language_model",),
    "text_head": ("PackedJanus.janus.lm_head",),
    "image_head": ("PackedJanus.janus.model.generation_head",),
    "understanding_encoder": ("PackedJanus.janus.model.vision_model",),
    "understanding_adaptor": ("PackedJanus.janus.model.aligner",),
    "generation_adaptor": ("PackedJanus.janus.model.generation_aligner",),
    "generation_encoder": ("PackedJanus.janus.model.vqmodel.encoder", "PackedJanus.janus.model.vqmodel.quant_conv"),
}
ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
ATTENTION_BACK = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
KERNELS = {
    ATTENTION: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    ATTENTION_BACK: lambda grad, q, k, v, *_, **__: 2 * sdpa_flop_count(q, k, v),
}
"""torch's counter does not know the CPU's kernel: the whole square counts, as for its other kernels; backward as we define it."""


def some_documents() -> Documents:
    g = torch.Generator().manual_seed(0)

    def words(count: int) -> list[int]:
        return torch.randint(6, 1024, (count,), generator=g).tolist()

    def image() -> ImageIn:
        return ImageIn(torch.rand(3, SIZE, SIZE, generator=g) * 2 - 1)

    def codes(encoded: bool) -> Codes:
        pixels = torch.rand(3, SIZE, SIZE, generator=g) * 2 - 1 if encoded else None
        return Codes(torch.randint(0, 512, (TOKENS,), generator=g), True, pixels)

    return [
        (UNDERSTANDING, [Text(words(3)), image(), Text(words(4)), Text(words(29), loss=True)]),
        (GENERATION, [Text(words(11)), codes(encoded=True)]),
        (TEXT, [Text(words(1)), Text(words(140), loss=True)]),
        (GENERATION, [Text(words(5)), codes(encoded=False)]),
    ]


class Counted:
    """What torch counts in one forward and backward of the tiny model; the chunked loss does its backward in its forward."""

    def __init__(self, trained_parts: Iterable[str], peft: PeftConfig | None = None, chunked: bool = False):
        torch.manual_seed(0)
        janus = build(MODEL)
        if peft is not None:
            add_lora(janus, peft)
        set_trainable(janus, tuple(trained_parts))
        text_head(janus).chunked = chunked
        self.batch = to_batch(some_documents(), TOKENS, SIZE)
        with FlopCounterMode(display=False, custom_mapping=KERNELS) as counter:  # type: ignore[arg-type]
            loss = PackedJanus(janus)(self.batch).total
        counts = counter.get_flop_counts()
        self.forward: dict[str, int] = {p: sum(_sum(counts.get(w, {})) for w in where) for p, where in MODULES.items()}
        self.forward["attention"] = counts["PackedJanus.janus.model.language_model"].get(ATTENTION, 0)
        # the angles of positions are a product of matrices in some versions of transformers only, and not part of ours
        angles = _sum(counts.get("PackedJanus.janus.model.language_model.rotary_emb", {}))
        self.forward["language_model"] -= self.forward["attention"] + angles
        # the search in the codebook is in no module: what is in none is its
        self.forward["generation_encoder"] += _sum(counts["Global"]) - angles - sum(self.forward.values())
        with FlopCounterMode(display=False, custom_mapping=KERNELS) as counter:  # type: ignore[arg-type]
            loss.backward()
        back = counter.get_flop_counts()["Global"]
        self.back_of_attention = back.pop(ATTENTION_BACK, 0)
        self.back_of_weights = _sum(back)
        self.total = sum(self.forward.values()) + self.back_of_attention + self.back_of_weights
        groups, _ = Layout(self.batch.cu_seqlens, self.batch.max_seqlen).groups
        self.squares = sum(group.num_documents * (len(group.index) // group.num_documents) ** 2 for group in groups)


def _sum(counts: dict[Any, int]) -> int:
    return sum(counts.values())


@pytest.fixture(scope="module", params=TRAINED_PARTS)
def case(request: pytest.FixtureRequest) -> tuple[tuple[str, ...], Counted, Workload, dict[FlopsPart, PartFlops]]:
    trained_parts = TRAINED_PARTS[request.param]
    counted = Counted(trained_parts)
    workload = workload_of_batch(counted.batch)
    return trained_parts, counted, workload, flops_by_part(MODEL, trained_parts, workload)


def test_forward_is_what_torch_counts_piece_by_piece(case: Any) -> None:
    _, counted, workload, expected = case
    for piece in FLOPS_PARTS:
        if piece == "attention":  # the kernels' squares, with their groups' padding, for our pairs
            assert counted.forward[piece] == expected[piece].forward * counted.squares / workload.causal_pairs
        else:
            assert counted.forward[piece] == expected[piece].forward, piece
        assert expected[piece].forward > 0


def test_backward_is_what_torch_counts(case: Any) -> None:
    """To the last FLOP, for more than a dozen choices of what trains: so no gradient is computed that nothing needs."""
    trained_parts, counted, workload, expected = case
    language_model = expected["attention"].input_gradients * counted.squares / workload.causal_pairs
    vision, P = MODEL.vision, MODEL.tokens_per_image
    num_layers = max((ENCODER_LAYERS.get(name, 0) for name in trained_parts), default=0)
    encoder = 8 * num_layers * vision.hidden_size * P * P * workload.understanding_images
    assert counted.back_of_attention == language_model + encoder
    other_pieces = {piece: flops for piece, flops in expected.items() if piece != "attention"}
    assert (
        counted.back_of_weights == sum(w.input_gradients + w.weight_gradients for w in other_pieces.values()) - encoder
    )


def test_stage_1_computes_no_weight_gradients_of_the_frozen_language_model() -> None:
    """The text head and every layer: input gradients as in stage 2, and nothing more, by torch's count."""
    stage_1, stage_2 = Counted(STAGES[1].train_parts), Counted(STAGES[2].train_parts)
    workload = workload_of_batch(stage_1.batch)
    weights = sum(flops_by_part(MODEL, (), workload)[piece].forward for piece in ("language_model", "text_head"))  # type: ignore[index]
    assert stage_2.back_of_weights - stage_1.back_of_weights == weights > 0
    assert stage_1.back_of_attention == stage_2.back_of_attention > 0


@pytest.mark.parametrize("stage", STAGES)
def test_the_chunked_text_loss_costs_the_same(stage: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No product of it is made twice, and none that nobody needs."""
    monkeypatch.setattr(chunked_cross_entropy, "LOGITS", 50 * 1024)
    trained_parts = STAGES[stage].train_parts
    assert Counted(trained_parts, chunked=True).total == Counted(trained_parts).total > 0


@pytest.mark.parametrize("use_dora", [False, True])
def test_lora_costs_what_torch_counts(use_dora: bool) -> None:
    """Beside adaptors that train in full: input gradients of the frozen matrices, and the adapters' own products.

    The norms of DoRA's rows depend on no token, and do not count.
    """
    trained_parts: tuple[str, ...] = ("understanding_adaptor", "generation_adaptor")
    peft = PeftConfig(
        rank=4, alpha=8.0, dropout=0.0, use_rslora=False, use_dora=use_dora, parts=("language_model", "image_head")
    )
    counted = Counted(trained_parts, peft)
    workload = workload_of_batch(counted.batch)
    expected = flops_by_part(MODEL, trained_parts, workload, peft)
    for piece in FLOPS_PARTS:
        if piece != "attention":
            assert counted.forward[piece] == expected[piece].forward, piece
    other_pieces = [flops for piece, flops in expected.items() if piece != "attention"]
    assert counted.back_of_weights == sum(flops.input_gradients + flops.weight_gradients for flops in other_pieces)


def test_content_of_documents_is_content_of_their_batch(small_rows: list[Row]) -> None:
    batch = collate(small_rows, TOKENS, SIZE)
    assert workload_of(d for row in small_rows for d in row.documents) == workload_of_batch(batch)


@pytest.fixture
def small_rows(random_base: Path) -> list[Row]:
    config = config_of("+stage=2", f"init_from={random_base}", *SMALL)
    return next(open_run_data(config).steps(1, 1))[1]


def test_an_image_costs_what_the_official_sizes_cost() -> None:
    """SigLIP-L takes 381 GFLOP, VQ-16's encoder 313, at 384 pixels."""
    model = config_of("+stage=2", "model=janus_pro_1b").model
    assert flops_by_part(model, (), Workload(understanding_images=1))[
        "understanding_encoder"
    ].forward / 1e9 == pytest.approx(381.4, abs=0.1)
    assert vq_encoder_flops(model) / 1e9 == pytest.approx(312.7, abs=0.1)


COUNTS = st.builds(Workload, *[st.floats(0, 1e6) for _ in fields(Workload)])
SOME_PARTS = st.sets(st.sampled_from([part for part in PARTS if part != "generation_encoder"]))


@settings(max_examples=30, deadline=None)
@given(COUNTS, COUNTS, SOME_PARTS)
def test_work_adds_up_over_rows_and_grows_with_what_trains(
    first_workload: Workload, second_workload: Workload, trained_parts: set[Part]
) -> None:
    total = total_flops(MODEL, trained_parts, first_workload + second_workload)
    assert total == pytest.approx(
        total_flops(MODEL, trained_parts, first_workload) + total_flops(MODEL, trained_parts, second_workload), rel=1e-9
    )
    for part in PARTS[:2]:
        assert total_flops(MODEL, trained_parts | {part}, first_workload) >= total_flops(
            MODEL, trained_parts, first_workload
        )
    for piece, flops in flops_by_part(MODEL, trained_parts, first_workload).items():
        assert flops.weight_gradients <= flops.forward and (flops.weight_gradients == 0 or piece != "attention")
        assert 0 <= flops.input_gradients <= 2 * flops.forward


def test_a_ratio_of_tokens_is_one_of_tokens() -> None:
    """Stage 2 by samples has more image tokens than by tokens: texts are the longer samples, half of the tokens else."""
    by_samples, by_tokens = (
        expected_row(config_of("+stage=2", "model=janus_pro_1b", f"ratio.unit={unit}"), True)
        for unit in ("samples", "tokens")
    )
    for row in (by_samples, by_tokens):
        assert row.tokens == pytest.approx(4096) and row.uncached_images == 0
    assert by_tokens.generation_images * 638 / 4096 == pytest.approx(0.5)
    assert by_samples.understanding_images / by_samples.generation_images == pytest.approx(0.4)


def test_a_vq_encoder_with_residual_blocks_costs_what_torch_counts() -> None:
    """Of growing width and with attention at the last level, as VQ-16; the tiny model's has neither."""
    model = model_config("tiny", vq={"channel_multiplier": [1, 1, 2, 2, 4], "num_res_blocks": 2, "base_channels": 32})
    vqmodel = JanusVQVAE(transformers_config(model, None, None, None, None).vq_config).eval()
    with FlopCounterMode(display=False) as counter:
        encode_images(vqmodel, torch.zeros(1, 3, SIZE, SIZE))
    assert counter.get_total_flops() == vq_encoder_flops(model)
