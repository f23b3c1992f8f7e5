"""Mistakes that other code bases for Janus make in silence: each is stated by a test that it would fail here."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import nn
from transformers import JanusConfig, JanusForConditionalGeneration
from transformers.models.janus.configuration_janus import JanusVQVAEConfig
from transformers.models.janus.modeling_janus import JanusVQVAEVectorQuantizer

from janus_train.config import ModelConfig, Part
from janus_train.errors import UserError
from janus_train.model.build import build, prepare, transformers_config
from janus_train.model.janus import PackedJanus
from janus_train.model.losses import cross_entropies
from janus_train.model.parts import MODULES, set_trainable
from janus_train.model.vq import encode_images, quantise
from tests.model import reference
from tests.model.reference import (
    BOI,
    BOS,
    CODEBOOK,
    EOI,
    GENERATION,
    PAD,
    SIZE,
    TEXT,
    TOKENS,
    UNDERSTANDING,
    Codes,
    Documents,
    ImageIn,
    Text,
    to_batch,
)

ALL_BUT_VQ = tuple(part for part in get_args(Part) if part != "generation_encoder")


def drawing(seed: int = 0) -> tuple[str, reference.Document]:
    g = torch.Generator().manual_seed(seed)
    return GENERATION, [Text([BOS, 11, 12, 13, BOI]), Codes(torch.randint(0, CODEBOOK, (TOKENS,), generator=g))]


def looking(seed: int = 0) -> tuple[str, reference.Document]:
    pixels = torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return UNDERSTANDING, [Text([BOS, BOI]), ImageIn(pixels), Text([EOI, 20]), Text([21, 22], loss=True)]


def reading() -> tuple[str, reference.Document]:
    return TEXT, [Text([BOS]), Text([30, 31, 32], loss=True)]


def test_code_0_is_trained_at_begin_of_image(janus: JanusForConditionalGeneration) -> None:
    """The mistake: shifting the labels once in the data and once more in the loss, which leaves code 0 untrained.

    Here all P codes are targets: the first at begin-of-image, the last at code P-2.
    """
    packed, batch = PackedJanus(janus), to_batch([reading(), drawing()])
    seen: list[torch.Tensor] = []
    hidden_states = packed.hidden_states

    def watched(*arguments: object) -> torch.Tensor:
        seen.append(hidden_states(*arguments))  # type: ignore[arg-type]
        seen[0].retain_grad()
        return seen[0]

    packed.hidden_states = watched  # type: ignore[method-assign]
    sums = packed(batch)
    sums.generation.backward()
    begin = 4 + 4  # the reading has four tokens, begin-of-image is the fifth of the drawing
    assert int(batch.input_ids[0, begin]) == BOI
    with_loss = seen[0].grad.abs().sum(dim=1).nonzero().flatten().tolist()
    assert with_loss == list(range(begin, begin + TOKENS))
    assert sums.num_generation == TOKENS
    logits = janus.model.generation_head(seen[0][begin : begin + TOKENS])
    torch.testing.assert_close(sums.generation, cross_entropies(logits, batch.cached_codes[0]).sum())


def test_codes_have_their_own_embedding(janus: JanusForConditionalGeneration) -> None:
    """The mistake: looking codes up in the text embedding, where code 17 is read as word 17.

    Neither the placeholder's row nor that of a word with a code's number is read at a code's place.
    """
    packed, batch = PackedJanus(janus), to_batch([drawing()])
    set_trainable(janus, ALL_BUT_VQ)
    packed(batch).total.backward()
    text_rows = janus.get_input_embeddings().weight.grad.abs().sum(dim=1).nonzero().flatten().tolist()
    assert text_rows == sorted([BOS, 11, 12, 13, BOI])
    code_rows = janus.model.generation_embeddings.weight.grad.abs().sum(dim=1).nonzero().flatten().tolist()
    assert code_rows == sorted(set(batch.cached_codes[0, :-1].tolist())), "all but the last code are read"


def test_codes_come_from_the_generation_image(janus: JanusForConditionalGeneration) -> None:
    """The mistake: making codes of the padded image that the understanding encoder gets, so that the model learns bars."""
    understanding, generation = looking(seed=1), drawing()
    pixels = torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(2)) * 2 - 1
    generation[1][1].pixels = pixels
    batch = to_batch([understanding, generation])
    codes = PackedJanus(janus).codes(batch)
    assert torch.equal(codes, encode_images(janus.model.vqmodel, pixels[None]))
    assert not torch.equal(codes, encode_images(janus.model.vqmodel, batch.understanding_pixels))


def test_codes_are_made_in_fp32(janus: JanusForConditionalGeneration) -> None:
    """The mistake: running the VQ encoder under autocast, where 5.5 % of the codes change in bf16.

    Under autocast, and from a module in bf16, every operation of the encoder is fp32.
    """
    vqmodel = janus.model.vqmodel
    pixels = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    exact = encode_images(vqmodel, pixels)
    dtypes: set[torch.dtype] = set()
    vqmodel.quant_conv.register_forward_hook(
        lambda module, inputs, output: dtypes.update({inputs[0].dtype, output.dtype})
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(encode_images(vqmodel, pixels), exact)
        assert encode_images(vqmodel, pixels.bfloat16()).shape == exact.shape
    rounded = copy.deepcopy(vqmodel).to(torch.bfloat16)
    assert torch.equal(encode_images(rounded, pixels), encode_images(copy.deepcopy(rounded).float(), pixels))
    assert {p.dtype for p in rounded.parameters()} == {torch.bfloat16}, "left as it was"
    assert dtypes == {torch.float32}


def test_a_model_loaded_in_bf16_gets_an_fp32_vq_tokenizer(janus: JanusForConditionalGeneration) -> None:
    """The mistake: casting the whole model to bf16, and with it the weights that codes depend on."""
    prepare(janus.to(torch.bfloat16))
    assert {p.dtype for p in janus.model.vqmodel.parameters()} == {torch.float32}
    assert janus.lm_head.weight.dtype == torch.bfloat16


def test_latent_and_codebook_are_normalised() -> None:
    """The mistake, also in transformers' quantiser: taking the nearest code without the L2 normalisation of both sides.

    The official rule is the nearest direction, not point; with norms of 0.9 to 1.1 the codes differ.
    """
    g = torch.Generator().manual_seed(0)
    codebook = nn.functional.normalize(torch.randn(512, 8, generator=g)) * (0.9 + 0.2 * torch.rand(512, 1, generator=g))
    latent = torch.randn(2, 8, 6, 5, generator=g)
    ids = quantise(latent, codebook)
    assert ids.shape == (2, 30) and ids.dtype == torch.int64
    z, e = nn.functional.normalize(latent, dim=1), nn.functional.normalize(codebook)  # (2, 8, 6, 5), (512, 8)
    for n in range(2):
        for y in range(6):
            for x in range(5):
                distances = ((e - z[n, :, y, x]) ** 2).sum(dim=1)
                assert int(ids[n, y * 5 + x]) == int(distances.argmin())
    theirs = JanusVQVAEVectorQuantizer(JanusVQVAEConfig(num_embeddings=512, embed_dim=8))
    theirs.embedding.weight.data = codebook
    share = (theirs(latent)[2].view(2, -1) != ids).float().mean()
    assert share > 0.2, "the mistake would not show here"
    theirs.embedding.weight.data = e
    assert torch.equal(theirs(z)[2].view(2, -1), ids)


def test_the_pad_row_is_trained(janus: JanusForConditionalGeneration, tmp_path: Path) -> None:
    """The mistake: an embedding with a padding_idx, whose row gets no gradient although guidance drop-out feeds it.

    As built, and as loaded: transformers puts the padding_idx back when it loads.
    """
    janus.save_pretrained(tmp_path)
    loaded = JanusForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.get_input_embeddings().padding_idx == PAD, "transformers sets it"
    assert torch.equal(loaded.get_input_embeddings().weight[PAD], janus.get_input_embeddings().weight[PAD])
    for model in (janus, loaded):
        packed = PackedJanus(model)
        assert model.get_input_embeddings().padding_idx is None
        _, document = drawing()
        packed(to_batch([(GENERATION, [Text([BOS, PAD, PAD, BOI]), document[1]])])).total.backward()
        assert model.get_input_embeddings().weight.grad[PAD].abs().max() > 0


def test_the_pad_row_starts_like_any_other(small_config: ModelConfig) -> None:
    """The mistake: a pad row of zeros, as transformers initialises it, where the norm behind it is a thousand times as steep."""
    janus = build(small_config, pad=PAD)
    assert janus.config.text_config.pad_token_id == PAD
    rows = janus.get_input_embeddings().weight.norm(dim=1)
    assert 0.5 * rows.mean() < rows[PAD] < 2 * rows.mean()


def test_the_text_head_is_its_own(
    janus: JanusForConditionalGeneration, small_config: ModelConfig, tmp_path: Path
) -> None:
    """The mistake: leaving tie_word_embeddings at transformers' default, which trains one matrix as both tables."""
    assert JanusConfig().tie_word_embeddings, "transformers' default"
    assert janus.lm_head.weight is not janus.get_input_embeddings().weight
    janus.save_pretrained(tmp_path)
    loaded = prepare(JanusForConditionalGeneration.from_pretrained(tmp_path))
    assert torch.equal(loaded.lm_head.weight, janus.lm_head.weight)
    config = transformers_config(small_config, BOS, 1, PAD, 3)
    config.tie_word_embeddings = True
    with pytest.raises(UserError, match="tie_word_embeddings"):
        prepare(JanusForConditionalGeneration(config))


def test_isolation_does_not_hang_on_positions(janus: JanusForConditionalGeneration) -> None:
    """The mistake: finding the documents of a row by positions that start again, or not at all.

    With positions that run on, documents stay apart here; transformers' own rule sees one document there and leaks.
    """
    documents: Documents = [(TEXT, [Text([BOS, *range(10, 30)])]), (TEXT, [Text([BOS, *range(40, 60)])])]
    batch = to_batch(documents)
    batch.position_ids = torch.arange(batch.position_ids.shape[1])[None]
    other = to_batch([(TEXT, [Text([BOS, *range(60, 80)])]), documents[1]])
    other.position_ids = batch.position_ids
    packed, model = PackedJanus(janus), janus.model.language_model

    def second(batch) -> torch.Tensor:  # type: ignore[no-untyped-def]
        return packed.hidden_states(packed.embeddings(batch, packed.codes(batch)), batch)[21:]

    with torch.no_grad():
        assert torch.equal(second(batch), second(other))
        leaking = [
            model(input_ids=b.input_ids, position_ids=b.position_ids).last_hidden_state[0, 21:] for b in (batch, other)
        ]
    assert (leaking[0] - leaking[1]).abs().max() > 1e-3, "transformers' rule leaks"


def test_no_loss_is_zero_not_nan(janus: JanusForConditionalGeneration) -> None:
    """The mistake: a mean over no targets, which is NaN.

    The batch is a piece of text without any loss, as a cut conversation can leave it.
    """
    set_trainable(janus, ALL_BUT_VQ)
    sums = PackedJanus(janus)(to_batch([(TEXT, [Text([BOS, 10, 11])])]))
    assert sums.total.item() == 0.0 and sums.num_total == 0
    sums.total.backward()
    for name, parameter in janus.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and not parameter.grad.any(), name


@pytest.mark.parametrize("trained", [ALL_BUT_VQ, ("understanding_adaptor", "generation_adaptor", "image_head")])
def test_every_batch_runs_every_module(janus: JanusForConditionalGeneration, trained: tuple[Part, ...]) -> None:
    """The mistake: skipping a module that a micro-batch has no input for; the ranks then wait for each other for ever.

    Here the calls and the parameters that get gradients are the same, whatever a rank's micro-batch holds.
    """
    packed = PackedJanus(janus)
    set_trainable(janus, trained)
    calls: Counter[str] = Counter()
    for name, module in janus.named_modules():
        if not name.startswith("model.vqmodel"):
            module.register_forward_hook(lambda *_, name=name: calls.update([name]))
    trainable = {name for name, parameter in janus.named_parameters() if parameter.requires_grad}
    everything = to_batch([looking(), reading(), drawing()])
    packed(everything)
    expected = calls.copy()
    assert all(calls[module] for part in ALL_BUT_VQ for module in MODULES[part] if module != "model.language_model")
    for documents in ([reading()], [looking()], [drawing()], [(TEXT, [Text([BOS, 9])])], [looking(), looking(1)]):
        calls.clear()
        janus.zero_grad()
        packed(to_batch(documents)).total.backward()
        assert calls == expected
        assert {name for name, parameter in janus.named_parameters() if parameter.grad is not None} == trainable


def test_the_dummies_change_nothing(janus: JanusForConditionalGeneration) -> None:
    """The mistake: a dummy input whose output leaks into the loss. Parts without work get zeros for gradients, exactly."""
    set_trainable(janus, ALL_BUT_VQ)
    PackedJanus(janus)(to_batch([reading()])).total.backward()
    for part in set(ALL_BUT_VQ) - {"language_model"}:
        for module in MODULES[part]:
            assert all(not p.grad.any() for p in janus.get_submodule(module).parameters()), part


def test_pads_inside_a_document_are_attended_to(janus: JanusForConditionalGeneration) -> None:
    """The mistake: masking every pad, also those that guidance drop-out puts in place of the words.

    They are read like any word: no mask is made from ``ids == pad``.
    """
    _, document = drawing()
    dropped: Documents = [(GENERATION, [Text([BOS, PAD, PAD, PAD, BOI]), document[1]])]
    packed, plain = PackedJanus(janus), reference.plain_copy(janus)
    with torch.no_grad():
        before = packed(to_batch(dropped)).generation
        torch.testing.assert_close(before, reference.losses(plain, dropped[0][1])[1])
        janus.get_input_embeddings().weight[PAD] += 1.0
        assert (packed(to_batch(dropped)).generation - before).abs() > 1e-3
