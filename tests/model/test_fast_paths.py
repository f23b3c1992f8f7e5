"""Every combination of attention, text loss, checkpointing and compiling equals the plain path: losses and gradients.

The plain path is transformers' own eager forward, a document at a time, with all logits (`reference`).
"""

from __future__ import annotations

import copy
import dataclasses
import shutil
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import JanusForConditionalGeneration

from janus_train.config import ActivationCheckpointing, ModelConfig, Part, PeftConfig
from janus_train.data import fixed_shapes
from janus_train.data.batch import Batch
from janus_train.errors import UserError
from janus_train.model import chunked_cross_entropy, compile, lora
from janus_train.model.activation_checkpointing import checkpoint_layers
from janus_train.model.build import build
from janus_train.model.chunked_cross_entropy import text_head
from janus_train.model.compile import compile_errors_as_user_errors, compile_layers
from janus_train.model.janus import PackedJanus
from janus_train.model.parts import set_trainable
from tests.model import reference
from tests.model.reference import Documents, to_batch
from tests.model.test_packing import STAGES

POLICIES: tuple[ActivationCheckpointing, ...] = ("none", "selective", "full")
COMBINATIONS = list(product(("chunked", "whole"), POLICIES, (False, True)))
PAIRWISE = {  # (stage, *combination): every two choices meet
    (1, "chunked", "none", True),
    (3, "whole", "none", False),
    (3, "chunked", "selective", True),
    (1, "whole", "selective", False),
    (3, "chunked", "full", True),
    (3, "chunked", "full", False),
    (1, "whole", "full", True),
}
Found = dict[str, torch.Tensor]


def slow_unless(quick: bool, *values: Any) -> Any:
    return pytest.param(*values, marks=() if quick else pytest.mark.slow)


@pytest.fixture(autouse=True)
def fresh_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(
        chunked_cross_entropy, "LOGITS", 7 * reference.VOCABULARY
    )  # so that this small batch has many chunks
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def plain(janus: JanusForConditionalGeneration, documents: Documents, parts: tuple[Part, ...]) -> Found:
    """Of the plain path: both losses together, and every gradient; zeros where nothing reaches a trained parameter."""
    copied = reference.plain_copy(janus)
    set_trainable(copied, parts)
    total = torch.stack([sum(reference.losses(copied, document)) for _, document in documents]).sum()  # type: ignore[arg-type]
    total.backward()
    return found(copied, total)


def fast(
    janus: JanusForConditionalGeneration,
    batch: Batch,
    parts: tuple[Part, ...],
    loss: str,
    policy: ActivationCheckpointing,
    backend: Any = None,
) -> Found:
    copied = copy.deepcopy(janus)
    set_trainable(copied, parts)
    checkpoint_layers(copied, policy)
    text_head(copied).chunked = loss == "chunked"
    if backend is not None:
        compile_layers(copied, 1, backend)
    total = PackedJanus(copied)(batch).total
    total.backward()
    return found(copied, total)


def found(janus: JanusForConditionalGeneration, total: torch.Tensor) -> Found:
    gradients = {name: p.grad.float().cpu() for name, p in janus.named_parameters() if p.grad is not None}
    return {"loss": total.detach().cpu()} | gradients


def assert_same(actual: Found, expected: Found, tolerance: float = 1e-5) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        # a key's bias moves all of a query's scores alike: its gradient is rounding alone, beside the query's
        scale = expected[name.replace("k_proj.bias", "q_proj.bias")].abs().max()
        assert (actual[name] - value).abs().max() <= tolerance * scale, name


@pytest.mark.parametrize(
    ("stage", "loss", "policy", "compiled"),
    [slow_unless((s, *c) in PAIRWISE, s, *c) for s, c in product((1, 3), COMBINATIONS)],
)
def test_every_combination_equals_the_plain_path(
    janus: JanusForConditionalGeneration,
    documents: Documents,
    stage: int,
    loss: str,
    policy: ActivationCheckpointing,
    compiled: bool,
) -> None:
    expected = plain(janus, documents, STAGES[stage])
    backend = "aot_eager" if compiled else None
    assert_same(fast(janus, to_batch(documents), STAGES[stage], loss, policy, backend), expected)


ROW = 320
"""Tokens that hold all of the documents and some filler."""


def packings(documents: Documents) -> list[Batch]:
    """The same documents in other orders and numbers."""
    return [fixed(chosen) for chosen in (documents, documents[::-1], documents[2:5], documents[:1], documents[3:])]


def fixed(documents: Documents) -> Batch:
    """As `collate` with ``fixed_tokens`` makes it, from the reference's own batch."""
    batch = to_batch(documents)
    free = ROW - batch.input_ids.shape[1]
    longest = fixed_shapes.round_length(batch.max_seqlen, ROW)
    lengths = batch.cu_seqlens.diff().tolist() + fixed_shapes.filler_lengths(free, longest)
    lengths += [0] * (fixed_shapes.room_for(len(lengths), 1) - len(lengths))
    return dataclasses.replace(
        batch,
        input_ids=torch.cat([batch.input_ids, torch.zeros(1, free, dtype=torch.int64)], 1),
        position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
        cu_seqlens=torch.tensor([0, *lengths]).cumsum(0).int(),
        max_seqlen=longest,
    )


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes that differ between packings of the few documents here, as those of long rows do."""
    monkeypatch.setattr(fixed_shapes, "SHORTEST", 32)
    monkeypatch.setattr(fixed_shapes, "DOCUMENTS_PER_ROW", 2)


def shape(batch: Batch) -> tuple[int, int]:
    return len(batch.cu_seqlens), batch.max_seqlen


@pytest.mark.parametrize("policy", POLICIES)
def test_one_compilation_serves_all_packings_of_a_shape_and_all_layers(
    janus: JanusForConditionalGeneration, documents: Documents, policy: ActivationCheckpointing
) -> None:
    """What stands behind the documents changes neither losses nor gradients."""
    batches = packings(documents)
    assert len(set(map(shape, batches))) == 1
    assert_compiled_as_plain(janus, batches, policy, num_graphs=1)
    compiled_as_set_up = PackedJanus(janus)(to_batch(documents)).total
    assert_same({"loss": PackedJanus(janus)(fixed(documents)).total.detach()}, {"loss": compiled_as_set_up.detach()})


def test_each_shape_is_compiled_once(
    janus: JanusForConditionalGeneration, documents: Documents, small_steps: None
) -> None:
    batches = 2 * packings(documents)
    shapes = set(map(shape, batches))
    assert 3 <= len(shapes) <= fixed_shapes.max_shapes(ROW)
    assert_compiled_as_plain(janus, batches, "none", num_graphs=len(shapes))


def assert_compiled_as_plain(
    janus: JanusForConditionalGeneration, batches: list[Batch], policy: ActivationCheckpointing, num_graphs: int
) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    set_trainable(janus, STAGES[3])
    compiled = copy.deepcopy(janus)
    checkpoint_layers(compiled, policy)
    compile_layers(compiled, fixed_shapes.max_shapes(ROW), counter)
    text_head(
        compiled
    ).logits_to_grads = chunked_cross_entropy.logits_to_grads  # whose one compilation is counted elsewhere
    for batch in batches:
        for model in (janus, compiled):
            model.zero_grad()
            PackedJanus(model)(batch).total.backward()
        assert_same(found(compiled, torch.zeros(1)), found(janus, torch.zeros(1)))
    assert counter.frame_count == num_graphs


def test_more_shapes_than_were_announced_end_the_run_instead_of_leaving_layers_uncompiled(
    janus: JanusForConditionalGeneration, documents: Documents, small_steps: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compile, "VARIANTS", 2)
    *batches, one_more = list({shape(batch): batch for batch in packings(documents)}.values())[:3]
    compile_layers(janus, 1, "aot_eager")
    model = PackedJanus(janus)
    with compile_errors_as_user_errors():
        for batch in batches:
            model(batch)
        with pytest.raises(UserError, match=r"more shapes.*run\.compile=false"), compile_errors_as_user_errors():
            model(one_more)


def test_max_seqlen_is_no_less_than_the_longest_document(
    janus: JanusForConditionalGeneration, documents: Documents
) -> None:
    """The kernel on CUDA would leave out the rest of the document without a word."""
    batch = to_batch(documents)
    compile_layers(janus, 1, "aot_eager")
    with pytest.raises(AssertionError, match="max_seqlen"):
        PackedJanus(janus)(dataclasses.replace(batch, max_seqlen=batch.max_seqlen - 1))


def test_the_text_losss_pointwise_part_compiles_for_any_number_of_positions() -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled_fn = torch.compile(chunked_cross_entropy.logits_to_grads, backend=counter, dynamic=True)
    for n in (9, 4, 17, 30):
        logits, targets = torch.randn(n, 50), torch.randint(0, 50, (n,))
        expected_grads = logits.clone()
        expected = chunked_cross_entropy.logits_to_grads(expected_grads, targets)
        torch.testing.assert_close(compiled_fn(logits, targets), expected)
        torch.testing.assert_close(logits, expected_grads)
    assert counter.frame_count == 1


def test_drawing_saving_and_adapters_see_the_plain_model(janus: JanusForConditionalGeneration) -> None:
    names = list(janus.state_dict())
    ids = torch.randint(6, 97, (2, 9), generator=torch.Generator().manual_seed(0))
    before = janus.generate(ids, max_new_tokens=8, do_sample=False)
    counter = CompileCounterWithBackend("aot_eager")
    compile_layers(janus, 1, counter)
    assert torch.equal(janus.generate(ids, max_new_tokens=8, do_sample=False), before)
    assert counter.frame_count == 0 and list(janus.state_dict()) == names


@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("policy", [slow_unless(policy != "selective", policy) for policy in POLICIES])
def test_lora_compiles(
    janus: JanusForConditionalGeneration, documents: Documents, policy: ActivationCheckpointing, use_dora: bool
) -> None:
    pytest.importorskip("peft")
    parts: tuple[Part, ...] = ("language_model",)
    lora.add_lora(janus, PeftConfig(rank=4, alpha=8.0, dropout=0.0, use_rslora=False, use_dora=use_dora, parts=parts))
    for name, parameter in janus.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    batch = to_batch(documents)
    expected = fast(janus, batch, STAGES[1], "whole", "none")
    assert any(".lora_A." in name for name in expected)
    counter = CompileCounterWithBackend("aot_eager")
    assert_same(fast(janus, batch, STAGES[1], "chunked", policy, counter), expected)
    assert counter.frame_count >= 1


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
def test_inductors_code_gives_the_same(
    janus: JanusForConditionalGeneration, documents: Documents, policy: ActivationCheckpointing
) -> None:
    """What a run compiles with; minutes, and it needs a C++ compiler."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    expected = plain(janus, documents, STAGES[3])
    assert_same(fast(janus, fixed(documents), STAGES[3], "chunked", policy, "inductor"), expected)


@pytest.fixture
def fresh(small_config: ModelConfig) -> JanusForConditionalGeneration:
    """Weights as training from scratch begins with them: large ones make bf16 itself leave fp32 by more."""
    torch.manual_seed(0)
    return build(small_config)


def near(actual: Found, expected: Found) -> bool:
    """The loss within 1 %, the gradients by the norm over all of them."""
    actual, expected = dict(actual), dict(expected)
    assert actual.keys() == expected.keys()
    loss = expected.pop("loss")
    if (actual.pop("loss") - loss).abs() > 1e-2 * loss:
        return False
    apart = torch.stack([(actual[name] - value).norm() for name, value in expected.items()]).norm()
    return bool(apart <= 1e-2 * torch.stack([value.norm() for value in expected.values()]).norm())


@pytest.mark.parametrize(
    ("loss", "compiled"),
    [
        slow_unless((loss == "chunked") == compiled, loss, compiled)
        for loss, compiled in product(("chunked", "whole"), (False, True))
    ],
)
def test_in_bf16_they_are_near_fp32(
    fresh: JanusForConditionalGeneration, documents: Documents, loss: str, compiled: bool
) -> None:
    expected = plain(fresh, documents, STAGES[3])
    with torch.autocast("cpu", torch.bfloat16):
        actual = fast(fresh, to_batch(documents), STAGES[3], loss, "selective", "aot_eager" if compiled else None)
    assert near(actual, expected)
    half = {name: value / 2 for name, value in actual.items()}
    assert not near(half, expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("loss", "policy", "compiled"), COMBINATIONS)
def test_on_a_gpu_in_bf16_every_combination_is_near_fp32(
    fresh: JanusForConditionalGeneration,
    documents: Documents,
    loss: str,
    policy: ActivationCheckpointing,
    compiled: bool,
) -> None:
    """The variable-length kernel, autocast and inductor against the plain path in fp32 on the CPU."""
    expected = plain(fresh, documents, STAGES[3])
    with torch.autocast("cuda", torch.bfloat16):
        batch = fixed(documents).to("cuda")
        actual = fast(fresh.cuda(), batch, STAGES[3], loss, policy, "inductor" if compiled else None)
    assert near(actual, expected)
