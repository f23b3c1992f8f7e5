"""The cached steps: a CPU's way and a GPU's come to the same, and a CUDA graph to what it was captured from."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import JanusForConditionalGeneration

from janus_train.errors import UserError
from janus_train.infer.decoding import CudaGraph, Decoder, check_fits, inference, left_pad

ROWS = ([5, 6, 7], [8], [9, 10, 11, 12, 13])


def states(janus: JanusForConditionalGeneration, device: str, fixed: bool | None, room: int = 12) -> torch.Tensor:
    """(3, 6, D): of the last prompt token and of five more."""
    ids, mask = (t.to(device) for t in left_pad(ROWS, 0))
    more = torch.arange(20, 35, device=device).view(5, 3)
    embed = janus.get_input_embeddings()
    with inference(janus):
        decoder = Decoder(janus, room=room, fixed=fixed)
        actual = [decoder.prefill(embed(ids), mask)]
        actual += [decoder.step(embed(tokens)) for tokens in more]
    return torch.stack(actual, 1)


def test_both_caches_give_the_same(janus: JanusForConditionalGeneration) -> None:
    growing = states(janus, "cpu", False)
    assert (states(janus, "cpu", True) - growing).abs().max() < 1e-5
    assert (states(janus, "cpu", True, room=40) - growing).abs().max() < 1e-5  # empty room is never attended to
    assert (growing[:, 1:] - growing[:, :-1]).abs().max() > 0.1


def test_both_caches_give_the_same_under_autocast(janus: JanusForConditionalGeneration) -> None:
    """As previews of a bf16 run generate: rotary embeddings leave keys in fp32, values are bf16."""
    exact = states(janus, "cpu", False)
    with torch.autocast("cpu", torch.bfloat16):
        growing, fixed = (states(janus, "cpu", fixed) for fixed in (False, True))
    assert (fixed - growing).abs().max() < 1e-2 < (growing - exact).abs().max() < 0.1
    assert fixed.dtype == growing.dtype == torch.float32


@pytest.mark.parametrize("fixed", [False, True])
def test_a_cache_has_one_type_and_steps_have_the_prompts(janus: JanusForConditionalGeneration, fixed: bool) -> None:
    """An adaptor's embeddings are bf16 under autocast; the residual stream stays in fp32, as in training."""
    ids, mask = left_pad(ROWS, 0)
    embeds = janus.get_input_embeddings()(ids)
    with inference(janus), torch.autocast("cpu", torch.bfloat16):
        decoder = Decoder(janus, room=12, fixed=fixed)
        decoder.prefill(embeds, mask)
        assert decoder.step(embeds[:, -1].bfloat16()).dtype == torch.float32
    for layer in decoder.cache.layers:
        assert layer.keys.dtype == layer.values.dtype == torch.bfloat16


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_cuda_graph_gives_the_same(janus: JanusForConditionalGeneration) -> None:
    expected = states(janus, "cpu", False)
    janus.to("cuda")
    assert (states(janus, "cuda", None).cpu() - expected).abs().max() < 1e-3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_capturing_leaves_the_state() -> None:
    total = torch.zeros(2, device="cuda")
    graph = CudaGraph(lambda value: total.add_(value) * 2, torch.ones(2, device="cuda"), [total])
    assert total.tolist() == [0, 0]
    assert [graph(torch.full((2,), v, device="cuda")).tolist() for v in (1.0, 2.0)] == [[2, 2], [6, 6]]


def test_a_graph_is_captured_thread_local(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's own classes are replaced: what counts is how the capture is asked for, and that warming up is not in it."""
    events: list[Any] = []
    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", SimpleNamespace)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, **options: events.append(options) or nullcontext())

    def function(value: torch.Tensor) -> torch.Tensor:
        events.append("call")
        return value

    CudaGraph(function, torch.ones(2), [])
    assert events == ["call", "call", {"capture_error_mode": "thread_local"}, "call"]


def test_what_does_not_fit_is_told(janus: JanusForConditionalGeneration) -> None:
    check_fits(janus, 1000, 24, "new ones")
    with pytest.raises(UserError, match="1000 tokens and 25 new ones do not fit the context of 1024"):
        check_fits(janus, 1000, 25, "new ones")
