"""Packing is exact: a packed batch is nothing but its documents, and these are what the plain reference says."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from transformers import JanusForConditionalGeneration

from janus_train.config import Part
from janus_train.model.janus import PackedJanus
from janus_train.model.parts import parameters_by_part, set_trainable
from janus_train.model.vq import encode_images
from tests.model import reference
from tests.model.reference import GENERATION, TEXT, UNDERSTANDING, Documents, Text, to_batch

STAGES: dict[int, tuple[Part, ...]] = {
    1: ("understanding_adaptor", "generation_adaptor", "image_head"),
    2: ("understanding_adaptor", "generation_adaptor", "image_head", "language_model"),
    3: ("understanding_adaptor", "generation_adaptor", "image_head", "language_model", "understanding_encoder"),
}
ALL_BUT_VQ = tuple(part for part in get_args(Part) if part != "generation_encoder")


def assert_close(actual: torch.Tensor, expected: torch.Tensor, relative: float = 1e-5) -> None:
    """Largest difference within ``relative`` of the largest value."""
    difference, largest = (actual - expected).abs().max().item(), expected.abs().max().item()
    assert difference <= relative * largest, f"differs by {difference}, largest value {largest}"


def test_losses_equal_the_plain_reference(janus: JanusForConditionalGeneration, documents: Documents) -> None:
    plain = reference.plain_copy(janus)
    expected = {UNDERSTANDING: torch.zeros(()), TEXT: torch.zeros(()), GENERATION: torch.zeros(())}
    with torch.no_grad():
        for kind, document in documents:
            text, image = reference.losses(plain, document)
            text_kind = UNDERSTANDING if kind == UNDERSTANDING else TEXT
            expected[text_kind] = expected[text_kind] + text
            expected[GENERATION] = expected[GENERATION] + image
        sums = PackedJanus(janus)(to_batch(documents))
    assert_close(sums.understanding, expected[UNDERSTANDING])
    assert_close(sums.text, expected[TEXT])
    assert_close(sums.generation, expected[GENERATION])
    assert_close(sums.total, expected[UNDERSTANDING] + expected[TEXT] + expected[GENERATION])
    assert (sums.num_understanding, sums.num_text, sums.num_generation) == (5 + 3 + 4, 41 + 2, 3 * reference.TOKENS)


def test_a_packed_batch_is_the_sum_of_its_samples(janus: JanusForConditionalGeneration, documents: Documents) -> None:
    packed = PackedJanus(janus)
    with torch.no_grad():
        together = packed(to_batch(documents))
        alone = [packed(to_batch([document])) for document in documents]
    for name in ("text", "understanding", "generation", "total"):
        assert_close(getattr(together, name), torch.stack([getattr(sums, name) for sums in alone]).sum())
    for name in ("num_text", "num_understanding", "num_generation", "num_total"):
        assert getattr(together, name) == sum(getattr(sums, name) for sums in alone)


def test_a_documents_tokens_reach_no_other_document(janus: JanusForConditionalGeneration, documents: Documents) -> None:
    packed = PackedJanus(janus)
    batch = to_batch(documents)
    bounds = batch.cu_seqlens.tolist()
    with torch.no_grad():
        before = packed.hidden_states(packed.embeddings(batch, packed.codes(batch)), batch)
        for changed in (0, 2, len(documents) - 1):
            here = slice(bounds[changed], bounds[changed + 1])
            ids = batch.input_ids.clone()
            ids[0, here] = (ids[0, here] + 7) % reference.VOCABULARY
            other = to_batch(documents)
            other.input_ids = ids
            after = packed.hidden_states(packed.embeddings(other, packed.codes(other)), other)
            same = (after == before).all(dim=1)
            assert not same[bounds[changed + 1] - 1], "the changed document's own states must change"
            assert same[: here.start].all() and same[here.stop :].all(), "bitwise"


@pytest.mark.parametrize("stage", STAGES)
def test_gradients_equal_the_plain_reference(
    janus: JanusForConditionalGeneration, documents: Documents, stage: int
) -> None:
    plain = reference.plain_copy(janus)
    set_trainable(janus, STAGES[stage])
    set_trainable(plain, STAGES[stage])
    PackedJanus(janus)(to_batch(documents)).total.backward()
    for _, document in documents:
        text, image = reference.losses(plain, document)
        if (text + image).requires_grad:
            (text + image).backward()
    expected = dict(plain.named_parameters())
    for part, parameters in parameters_by_part(janus).items():
        for name, parameter in parameters:
            if part not in STAGES[stage]:
                assert parameter.grad is None and expected[name].grad is None, f"{name} is frozen"
                continue
            actual, want = parameter.grad, expected[name].grad
            assert actual is not None and want is not None, f"{name} trains"
            if name.endswith("k_proj.bias"):  # zero in exact arithmetic: a shift of all keys changes no softmax
                assert max(actual.abs().max(), want.abs().max()) < 1e-3
            else:
                assert_close(actual, want, relative=2e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_only_a_training_encoder_leaves_a_graph(
    janus: JanusForConditionalGeneration, documents: Documents, stage: int
) -> None:
    """A frozen encoder's activations are not kept."""
    set_trainable(janus, STAGES[stage])
    graphs: list[bool] = []
    janus.model.aligner.register_forward_pre_hook(lambda _, inputs: graphs.append(inputs[0].requires_grad))
    PackedJanus(janus)(to_batch(documents))
    assert graphs == [stage == 3]


def test_gradient_checkpointing_changes_no_gradient(janus: JanusForConditionalGeneration, documents: Documents) -> None:
    packed, batch = PackedJanus(janus), to_batch(documents)
    set_trainable(janus, STAGES[2])
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            janus.model.language_model.gradient_checkpointing_enable()
            assert all(layer.gradient_checkpointing for layer in janus.model.language_model.layers)
        janus.zero_grad()
        packed(batch).total.backward()
        gradients.append([p.grad.clone() for p in janus.parameters() if p.grad is not None])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain)


def test_codes_made_online_equal_cached_ones(janus: JanusForConditionalGeneration, documents: Documents) -> None:
    """Some images with codes, some without: the encoder's go to the right images."""
    g = torch.Generator().manual_seed(3)
    pixels = torch.rand(4, 3, reference.SIZE, reference.SIZE, generator=g) * 2 - 1
    made = encode_images(janus.model.vqmodel, pixels)
    assert len({tuple(row) for row in made.tolist()}) == 4, "the images must differ in their codes"
    pieces = [piece for _, document in documents for piece in document if isinstance(piece, reference.Codes)]
    for i in (1, 3):
        pieces[i].ids = made[i]
    packed = PackedJanus(janus)
    with torch.no_grad():
        cached = packed(to_batch(documents))
        for i in (1, 3):
            pieces[i].pixels = pixels[i]
        batch = to_batch(documents)
        assert (batch.cached_codes[:, 0] < 0).tolist() == [False, True, False, True]
        online = packed(batch)
    assert torch.equal(online.generation, cached.generation) and torch.equal(online.total, cached.total)


def test_images_and_places_that_disagree_are_counted_in_the_error(
    janus: JanusForConditionalGeneration, documents: Documents
) -> None:
    batch = to_batch(documents)
    batch.feature_positions = batch.feature_positions[:-1]
    with pytest.raises(ValueError, match="48 features for 47 places"):
        PackedJanus(janus)(batch)


def test_a_batch_of_text_alone_runs_under_no_grad(janus: JanusForConditionalGeneration) -> None:
    with torch.no_grad():
        sums = PackedJanus(janus)(to_batch([(TEXT, [Text([0]), Text([7, 8], loss=True)])]))
    assert sums.num_total == 2 and not sums.total.requires_grad and sums.generation == 0


def test_bf16_autocast_stays_near_fp32(janus: JanusForConditionalGeneration, documents: Documents) -> None:
    """Features and codes are scattered into embeddings of another dtype; sums stay fp32."""
    packed, batch = PackedJanus(janus), to_batch(documents)
    set_trainable(janus, ALL_BUT_VQ)
    exact = packed(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = packed(batch)
    rough.total.backward()
    assert rough.total.dtype == torch.float32
    assert_close(rough.total, exact.total, relative=0.02)
    assert_close(PackedJanus(janus.to(torch.bfloat16))(batch).total, exact.total, relative=0.02)
