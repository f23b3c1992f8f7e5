"""Drawing: guidance and its arithmetic, and images that depend on nothing but prompt and seed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from janus_train.errors import UserError
from janus_train.infer import generate as module
from janus_train.infer.generate import (
    apply_guidance,
    code_filters,
    filter_codes,
    generate_codes,
    generate_images,
    sample_codes,
    unconditional_prompt,
    uniforms,
)
from janus_train.model import vq
from janus_train.model.vq import decode_codes

PROMPTS = [[1, *range(20, 20 + n), 7] for n in (6, 2, 11, 9, 3)]


def plain_loop(janus, prompt, pad_id, guidance, codes=None):
    """Greedy codes and guided logits (P, C) of one prompt: no cache, no padding, no batch; `codes` forces the path."""
    model, drawn, all_logits = janus.model, [], []
    with torch.no_grad():
        for i in range(module.tokens_per_image(janus)):
            halves = []
            for ids in (prompt, [prompt[0], *[pad_id] * (len(prompt) - 2), prompt[-1]]):
                embeds = model.language_model.embed_tokens(torch.tensor([ids]))
                if drawn:
                    embeds = torch.cat(
                        [embeds, model.generation_aligner(model.generation_embeddings(torch.tensor([drawn])))], 1
                    )
                hidden = model.language_model(inputs_embeds=embeds, use_cache=False).last_hidden_state[0, -1]
                halves.append(model.generation_head(hidden))
            logits = halves[1] + guidance * (halves[0] - halves[1])
            all_logits.append(logits)
            drawn.append(int(logits.argmax()) if codes is None else int(codes[i]))
    return drawn, torch.stack(all_logits)


@pytest.fixture
def recorded(monkeypatch):
    """Every step's guided logits."""
    recorded_logits = []

    def recording(logits, guidance):
        recorded_logits.append(apply_guidance(logits, guidance))
        return recorded_logits[-1]

    monkeypatch.setattr(module, "apply_guidance", recording)
    return recorded_logits


def test_cached_padded_batch_equals_a_plain_loop(janus, encoder, recorded):
    pad = encoder.special.pad
    codes = generate_codes(janus, PROMPTS, pad_id=pad, guidance=3.0, temperature=1.0, seeds=[0] * 5, greedy=True)
    assert codes.shape == (5, 16) and codes.dtype == torch.int64
    assert len(set(map(tuple, codes.tolist()))) == 5, "prompts make no difference: the test would prove nothing"
    for n, prompt in enumerate(PROMPTS):
        drawn, logits = plain_loop(janus, prompt, pad, 3.0)
        assert codes[n].tolist() == drawn
        assert torch.allclose(torch.stack([step[n] for step in recorded]), logits, atol=1e-4)


def test_sampled_path_has_the_plain_loops_logits(janus, encoder, recorded):
    pad = encoder.special.pad
    codes = generate_codes(janus, PROMPTS, pad_id=pad, guidance=5.0, temperature=1.0, seeds=range(5))
    for n, prompt in enumerate(PROMPTS):
        _, logits = plain_loop(janus, prompt, pad, 5.0, codes[n].tolist())
        assert torch.allclose(torch.stack([step[n] for step in recorded]), logits, atol=1e-4)


def test_guidance_one_reads_no_unconditional_row(janus, encoder, recorded):
    pad = encoder.special.pad
    codes = generate_codes(janus, PROMPTS, pad_id=pad, guidance=1.0, temperature=1.0, seeds=[0] * 5, greedy=True)
    assert not recorded
    assert codes[2].tolist() == plain_loop(janus, PROMPTS[2], pad, 1.0)[0]


def test_a_image_does_not_depend_on_its_batch(janus, encoder):
    options = {"pad_id": encoder.special.pad, "guidance": 4.0, "temperature": 0.9}
    together = generate_codes(janus, PROMPTS, seeds=[3, 4, 5, 6, 7], **options)
    for n, prompt in enumerate(PROMPTS):
        single = generate_codes(janus, [prompt], seeds=[3 + n], **options)
        assert single[0].tolist() == together[n].tolist()
    other = generate_codes(janus, [PROMPTS[0]], seeds=[99], **options)
    assert other[0].tolist() != together[0].tolist()


@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,  # 1 draw in some 1e6 falls on the other side of an edge (`pick`)
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    batch=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), min_size=2, max_size=7),
    batch_size=st.integers(1, 7),
    guidance=st.sampled_from([1.0, 4.0]),
)
def test_whatever_is_drawn_beside_it_an_image_is_the_same(janus, encoder, batch, batch_size, guidance):
    """Any prompts, of any lengths, in any order, with any seeds, in batches of any size: to the last bit."""
    options = {"pad_id": encoder.special.pad, "guidance": guidance, "temperature": 0.9}
    together = generate_images(
        janus, [PROMPTS[n] for n, _ in batch], seeds=[seed for _, seed in batch], batch_size=batch_size, **options
    )
    for (n, seed), image in zip(batch, together, strict=True):
        (single,) = generate_images(janus, [PROMPTS[n]], seeds=[seed], **options)
        assert np.array_equal(image, single)


def test_unconditional_row_keeps_ends_and_attends_to_pad(janus, encoder):
    pad, prompt = encoder.special.pad, PROMPTS[0]
    assert unconditional_prompt(prompt, pad) == [1, pad, pad, pad, pad, pad, pad, 7]
    assert unconditional_prompt([1, 7], pad) == [1, 7]
    # With weight 0 only the unconditional row counts: its number of pads must matter, the text must not.
    options = {"pad_id": pad, "guidance": 0.0, "temperature": 1.0, "greedy": True}
    same_length = generate_codes(janus, [prompt, [1, *range(60, 66), 7]], seeds=[0, 0], **options)
    assert same_length[0].tolist() == same_length[1].tolist()
    longer = generate_codes(janus, [[1, *range(20, 40), 7]], seeds=[0], **options)
    assert longer[0].tolist() != same_length[0].tolist()


def test_modes_gradients_and_attention_are_put_back(janus, encoder):
    janus.train()
    janus.model.vqmodel.eval()
    janus.model.language_model.config._attn_implementation = "eager"
    before = [m.training for m in janus.modules()]
    weights = {name: value.clone() for name, value in janus.state_dict().items()}
    options = {"pad_id": encoder.special.pad, "guidance": 2.0, "temperature": 1.0}
    images = generate_images(janus, PROMPTS, seeds=range(5), batch_size=2, **options)
    assert [p.size for p in images] == [(16, 16)] * 5
    assert [m.training for m in janus.modules()] == before
    assert janus.model.language_model.config._attn_implementation == "eager"
    assert torch.is_grad_enabled()
    assert all(torch.equal(value, weights[name]) for name, value in janus.state_dict().items())


def test_images_come_in_the_prompts_order(janus, encoder):
    options = {"pad_id": encoder.special.pad, "guidance": 2.0, "temperature": 1.0}
    done = []
    together = generate_images(janus, PROMPTS, seeds=range(5), batch_size=3, progress=done.append, **options)
    assert done == [3, 2]
    for n, prompt in enumerate(PROMPTS):
        single = generate_images(janus, [prompt], seeds=[n], **options)[0]
        assert np.array_equal(together[n], single), "to the last bit: alone, and in a batch of mixed prompt lengths"


def test_a_gpu_decodes_several_images_at_a_time(janus, encoder, monkeypatch):
    """Its branch on a CPU: the same images, but for the rounding of another batch size."""
    options = {"pad_id": encoder.special.pad, "guidance": 1.0, "temperature": 1.0, "seeds": range(5)}
    alone, sizes, calls = generate_images(janus, PROMPTS, **options), [], []

    def watched(vqmodel, ids):
        sizes.append(len(ids))
        return decode_codes(vqmodel, ids)

    monkeypatch.setattr(module, "decode_codes", watched)
    monkeypatch.setattr(vq, "DECODE_PIXELS", 2 * 16 * 16)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    together = generate_images(janus, PROMPTS, on_step=lambda: calls.append(None), **options)
    assert sizes == [2, 2, 1] and len(calls) == module.tokens_per_image(janus) + 3
    for image, other in zip(together, alone, strict=True):
        assert np.abs(np.asarray(image, int) - np.asarray(other, int)).max() <= 1


def test_sampling_follows_the_distribution():
    logits = torch.tensor([2.0, 0.0, 1.0, -1.0])
    drawn = sample_codes(
        logits.expand(20000, 4), torch.rand(20000, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), 0.7
    )
    shares = torch.tensor([Counter(drawn.tolist())[c] / 20000 for c in range(4)])
    assert torch.allclose(shares, torch.softmax(logits / 0.7, 0), atol=0.015)


def test_top_k_and_top_p_keep_the_likeliest_alone():
    logits = torch.log(torch.tensor([[0.1, 0.4, 0.2, 0.3]]))
    for temperature in (1.0, 0.5):
        kept = filter_codes(logits, temperature, code_filters(2, 1.0))[0]
        assert torch.allclose(kept[[1, 3]], logits[0, [1, 3]].double() / temperature)
        assert kept[[0, 2]].tolist() == [-torch.inf, -torch.inf]
    # 0.4 alone is less than 0.65 and 0.4 + 0.3 is more; sharpened by the temperature, 0.533 and 0.3 are
    assert torch.isfinite(filter_codes(logits, 1.0, code_filters(0, 0.65))[0]).tolist() == [False, True, False, True]
    assert torch.isfinite(filter_codes(logits, 0.5, code_filters(0, 0.5))[0]).tolist() == [False, True, False, False]
    # of the two that top-k keeps, 0.4 has 0.57
    assert torch.isfinite(filter_codes(logits, 1.0, code_filters(2, 0.5))[0]).tolist() == [False, True, False, False]
    assert not code_filters(0, 1.0)


def test_top_k_and_top_p_change_images_only_when_they_are_given(janus, encoder):
    options = {"pad_id": encoder.special.pad, "guidance": 4.0, "temperature": 0.9, "seeds": range(5)}
    plain = generate_codes(janus, PROMPTS, **options)
    assert torch.equal(plain, generate_codes(janus, PROMPTS, top_k=0, top_p=1.0, **options))
    assert torch.equal(plain, generate_codes(janus, PROMPTS, top_k=40, **options)), "all 40 codes there are"
    likeliest = generate_codes(janus, PROMPTS, greedy=True, **options)
    assert torch.equal(likeliest, generate_codes(janus, PROMPTS, top_k=1, **options))
    assert torch.equal(likeliest, generate_codes(janus, PROMPTS, top_p=1e-9, **options))
    for some in ({"top_k": 3}, {"top_p": 0.5}):
        codes = generate_codes(janus, PROMPTS, **some, **options)
        assert not torch.equal(codes, plain) and not torch.equal(codes, likeliest)
        (alone,) = generate_codes(janus, PROMPTS[3:4], **some, **(options | {"seeds": [3]}))
        assert torch.equal(alone, codes[3]), "whatever its batch"


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2**-53])
def test_sampling_never_takes_an_impossible_code(uniform):
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]])
    assert sample_codes(logits, torch.tensor([uniform], dtype=torch.float64), 1.0).item() in (1, 2)


def test_seeds_are_streams_of_their_own():
    assert torch.equal(uniforms([5, 6], 8)[1], uniforms([6], 8)[0])
    assert not torch.equal(uniforms([5], 8), uniforms([6], 8))


def test_wrong_calls_say_what_is_wrong(janus):
    with pytest.raises(ValueError, match="2 prompts but 1 seeds"):
        generate_codes(janus, [[1, 2], [1, 2]], pad_id=0, guidance=1.0, temperature=1.0, seeds=[1])
    with pytest.raises(ValueError, match="temperature 0"):
        generate_codes(janus, [[1, 2]], pad_id=0, guidance=1.0, temperature=0, seeds=[1])
    with pytest.raises(UserError, match="1020 tokens and 16 of an image do not fit the context of 1024"):
        generate_codes(janus, [[1] * 1020], pad_id=0, guidance=1.0, temperature=1.0, seeds=[1])
    with pytest.raises(ValueError, match="top_p 0 must be above 0"):
        generate_codes(janus, [[1, 2]], pad_id=0, guidance=1.0, temperature=1.0, top_p=0, seeds=[1])
    with pytest.raises(ValueError, match="top_k -1 must be 0"):
        generate_codes(janus, [[1, 2]], pad_id=0, guidance=1.0, temperature=1.0, top_k=-1, seeds=[1])
    with pytest.raises(ValueError, match="begin_of_image"):
        generate_codes(janus, [[1]], pad_id=0, guidance=1.0, temperature=1.0, seeds=[1])
