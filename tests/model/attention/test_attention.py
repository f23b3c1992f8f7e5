"""Packed attention: inside documents only, as eager attention a document at a time, and never a square of the row."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import JanusForConditionalGeneration, LlamaConfig, LlamaModel

from janus_train.model import attention
from janus_train.model.attention import documents as grouping
from janus_train.model.attention import packed
from janus_train.model.attention.documents import Documents as Layout
from janus_train.model.janus import PackedJanus
from tests.model.reference import Documents, Text, to_batch

LENGTHS = {
    "mixed": [7, 40, 1, 38, 41, 3, 3, 100, 12, 90],
    "one": [33],
    "equal": [16, 16, 16],
    "single tokens": [1, 1, 1],
}


def layout(lengths: list[int]) -> Layout:
    bounds = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    return Layout(bounds, max(lengths))


def states(heads: int, kv_heads: int, length: int, width: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(length)
    shapes = ((1, h, length, width) for h in (heads, kv_heads, kv_heads))
    query, key, value = (torch.randn(shape, generator=g, requires_grad=True) for shape in shapes)
    return query, key, value


def eager(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """(1, L, H, d): softmax of scores, document after document."""
    outputs = []
    repeat = query.shape[1] // key.shape[1]
    for q, k, v in zip(*(x.split(lengths, dim=2) for x in (query, key, value)), strict=True):
        scores = q @ k.repeat_interleave(repeat, 1).mT / math.sqrt(q.shape[-1])
        hidden = torch.ones_like(scores, dtype=torch.bool).triu(1)
        outputs.append(scores.masked_fill(hidden, -math.inf).softmax(-1) @ v.repeat_interleave(repeat, 1))
    return torch.cat(outputs, dim=2).transpose(1, 2)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_values_and_gradients_are_eager_attentions(lengths: list[int], kv_heads: int) -> None:
    inputs = states(4, kv_heads, sum(lengths))
    actual, _ = attention.packed_attention(SimpleNamespace(), *inputs, None, scaling=8**-0.5, documents=layout(lengths))
    expected = eager(*inputs, lengths)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0))
    for a, b in zip(*(torch.autograd.grad((x * weight).sum(), inputs) for x in (actual, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_groups_hold_every_token_once_and_little_padding() -> None:
    lengths = LENGTHS["mixed"] * 3
    groups, place = layout(lengths).groups
    taken = torch.cat([group.index for group in groups])[place]
    assert torch.equal(taken, torch.arange(sum(lengths)))
    assert sum(len(group.index) for group in groups) <= (1 + grouping.MAX_PADDING) * sum(lengths)
    assert len(groups) < len(lengths) / 3


def test_groups_are_made_once(
    janus: JanusForConditionalGeneration, documents: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    group_by_length = grouping._group_by_length
    monkeypatch.setattr(grouping, "_group_by_length", lambda spans: calls.append(1) or group_by_length(spans))  # type: ignore[func-returns-value]
    PackedJanus(janus)(to_batch(documents))
    assert janus.config.text_config.num_hidden_layers == 2 and len(calls) == 1


def test_an_empty_document_takes_no_part() -> None:
    inputs = states(2, 2, 9)
    actual, _ = attention.packed_attention(SimpleNamespace(), *inputs, None, documents=layout([4, 0, 5]))
    torch.testing.assert_close(actual, eager(*inputs, [4, 5]), rtol=1e-5, atol=1e-6)


class LargestTensor(TorchDispatchMode):
    """Remembers the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.numel = max([self.numel, *sizes])
        return result


def test_nothing_of_the_rows_square_is_ever_made() -> None:
    """20,000 tokens, forward and backward: no tensor comes near L x L, no mask, no scores."""
    lengths = [500, 300, 700, 500] * 10
    length = sum(lengths)
    config = LlamaConfig(
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=9,
    )
    model = LlamaModel(config)
    model.set_attn_implementation(attention.NAME)
    text: Documents = [("text", [Text([1] * n)]) for n in lengths]
    batch = to_batch(text)
    janus = SimpleNamespace(model=SimpleNamespace(language_model=model))
    embeds = torch.randn(length, 8, requires_grad=True)
    with LargestTensor() as largest:
        PackedJanus.hidden_states(SimpleNamespace(janus=janus), embeds, batch).sum().backward()  # type: ignore[arg-type]
    assert length == 20_000 and largest.numel < 100 * length, largest.numel


def test_the_square_would_be_seen() -> None:
    """The test above can fail: transformers' own path for packed positions makes an L x L mask."""
    config = LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=9)
    model = LlamaModel(config)
    positions = torch.arange(100).repeat(10)[None]
    with LargestTensor() as largest, torch.no_grad():
        model(inputs_embeds=torch.randn(1, 1000, 8), position_ids=positions, use_cache=False)
    assert largest.numel >= 1000 * 1000


@pytest.mark.parametrize("takes_groups", [True, False])
def test_the_cuda_kernel_gets_flat_causal_documents(monkeypatch: pytest.MonkeyPatch, takes_groups: bool) -> None:
    """The call's arguments, with a kernel of our own in its place: shapes (L, H, d), bounds, causal window, GQA.

    Before torch 2.12 the kernel has no ``enable_gqa``, and gets as many heads of keys and values as of queries.
    """
    import torch.nn.attention.varlen as varlen

    lengths = [5, 9, 2]

    def kernel(q, k, v, bounds, bounds_k, longest, longest_k, *, scale, window_size, **options):  # type: ignore[no-untyped-def]
        assert bounds.tolist() == bounds_k.tolist() == [0, 5, 14, 16] and longest == longest_k == 9
        assert bounds.dtype == torch.int32 and window_size == (-1, 0) and scale == 8**-0.5
        assert options == ({"enable_gqa": True} if takes_groups else {})
        assert k.shape[1] == v.shape[1] == (2 if takes_groups else 4)
        assert all(x.is_contiguous() for x in (q, k, v))
        return eager(*(x.transpose(0, 1)[None] for x in (q, k, v)), lengths)[0]

    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    monkeypatch.setattr(packed, "VARLEN_TAKES_GROUPS", takes_groups)
    inputs = states(4, 2, 16)
    flat = (x[0].transpose(0, 1) for x in inputs)
    actual = packed._attend_varlen(*flat, layout(lengths), 8**-0.5)
    torch.testing.assert_close(actual[None], eager(*inputs, lengths))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_the_cuda_kernel_equals_eager_attention(kv_heads: int) -> None:
    lengths = LENGTHS["mixed"]
    inputs = [x.detach() for x in states(4, kv_heads, sum(lengths), width=64)]
    expected = eager(*inputs, lengths)
    narrow = [x.cuda().bfloat16().requires_grad_() for x in inputs]
    on_gpu = Layout(layout(lengths).cu_seqlens.cuda(), max(lengths))
    actual, _ = attention.packed_attention(SimpleNamespace(), *narrow, None, scaling=64**-0.5, documents=on_gpu)
    torch.testing.assert_close(actual.cpu().float(), expected, rtol=0.02, atol=0.02)
    actual.float().sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in narrow)


# ------------------------------------------------------------------------------- without documents: transformers' sdpa


def test_without_documents_it_is_sdpa(janus: JanusForConditionalGeneration) -> None:
    """Bitwise: no mask, a left-padded batch, and steps over a cache."""
    model = janus.model.language_model
    ids = torch.randint(6, 97, (2, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    results = []
    for name in (attention.NAME, "sdpa"):
        janus.set_attn_implementation({"text_config": name})
        with torch.no_grad():
            alone = model(input_ids=ids).last_hidden_state
            padded = model(input_ids=ids, attention_mask=mask)
            longer = torch.cat([mask, mask.new_ones(2, 1)], dim=1)
            step = model(input_ids=ids[:, :1], attention_mask=longer, past_key_values=padded.past_key_values)
        results.append((alone, padded.last_hidden_state[mask.bool()], step.last_hidden_state))
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(results[0][0][0, 5:], results[0][1][:7]), "the mask must matter"


def test_generation_needs_no_switching(janus: JanusForConditionalGeneration) -> None:
    ids = torch.randint(6, 97, (2, 9), generator=torch.Generator().manual_seed(0))
    answers = []
    for name in (attention.NAME, "sdpa"):
        janus.set_attn_implementation({"text_config": name})
        mask = torch.ones_like(ids)
        mask[1, :4] = 0
        answers.append(janus.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False))
    assert torch.equal(*answers) and answers[0].shape[1] > 9


def test_the_vision_encoder_keeps_its_own_attention(janus: JanusForConditionalGeneration) -> None:
    assert janus.config.text_config._attn_implementation == attention.NAME
    assert janus.config.vision_config._attn_implementation == "sdpa"
