"""Codes and images (the quantiser's rule and its fp32 are in test_known_mistakes.py and test_golden_model.py)."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext, suppress

import numpy as np
import pytest
import torch
from torch import nn
from transformers import JanusForConditionalGeneration

from janus_train.model import vq
from janus_train.model.vq import decode_codes, encode_images, quantise
from tests.model.reference import CODEBOOK, SIZE, TOKENS


def test_decoding_clips_and_truncates_as_the_official_code(janus: JanusForConditionalGeneration) -> None:
    vqmodel = janus.model.vqmodel
    ids = torch.randint(0, CODEBOOK, (3, TOKENS), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        decoded = vqmodel.decode(ids).permute(0, 2, 3, 1).numpy()
    expected = np.zeros((3, SIZE, SIZE, 3), np.uint8)
    expected[:] = np.clip((decoded + 1) / 2 * 255, 0, 255)
    assert (decoded < -1).any() and (decoded > 1).any(), "both ends must be clipped somewhere"
    actual = decode_codes(vqmodel, ids)
    assert actual.dtype == torch.uint8 and np.array_equal(actual.numpy(), expected)


def test_the_codes_length_does_not_matter(janus: JanusForConditionalGeneration) -> None:
    """A code is a direction: scaled rows of the codebook encode and decode the same."""
    vqmodel = janus.model.vqmodel
    pixels = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    ids = encode_images(vqmodel, pixels)
    image = decode_codes(vqmodel, ids)
    with torch.no_grad():
        vqmodel.quantize.embedding.weight *= torch.linspace(0.5, 2, CODEBOOK)[:, None]
    assert torch.equal(encode_images(vqmodel, pixels), ids)
    assert (decode_codes(vqmodel, ids).int() - image.int()).abs().max() <= 1  # rounding may cross a whole number


def test_ids_are_in_reading_order() -> None:
    """Row by row, as the decoder lays them out."""
    codebook = torch.eye(6)
    latent = codebook.T.reshape(1, 6, 2, 3)  # the place (y, x) points along axis 3 y + x
    assert quantise(latent, codebook).tolist() == [[0, 1, 2, 3, 4, 5]]


def test_chunks_change_nothing(janus: JanusForConditionalGeneration, monkeypatch: pytest.MonkeyPatch) -> None:
    vqmodel = janus.model.vqmodel
    pixels = torch.rand(5, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    ids = encode_images(vqmodel, pixels)
    images = decode_codes(vqmodel, ids)
    monkeypatch.setattr(vq, "ENCODE_CHUNK", 2)
    monkeypatch.setattr(vq, "DECODE_PIXELS", 2 * SIZE * SIZE)
    assert vq.decode_chunk(vqmodel, TOKENS) == 2
    monkeypatch.setattr(vq, "_SCORES_CHUNK", 7)
    assert torch.equal(encode_images(vqmodel, pixels), ids)
    # A convolution over another number of images may round its last bit the other way: one level of 256 at most.
    apart = (decode_codes(vqmodel, ids).int() - images.int()).abs()
    assert apart.max() <= 1 and (apart > 0).float().mean() < 0.01


def test_no_gradient_reaches_the_tokenizer(janus: JanusForConditionalGeneration) -> None:
    pixels = torch.zeros(1, 3, SIZE, SIZE, requires_grad=True)
    ids = encode_images(janus.model.vqmodel, pixels)
    assert not ids.requires_grad and not decode_codes(janus.model.vqmodel, ids).requires_grad


@pytest.mark.parametrize("precision", ["highest", "high"])
@pytest.mark.parametrize("tf32", [False, True])
def test_tf32_on_cuda_is_set_inside_and_as_it_was_afterwards(precision: str, tf32: bool) -> None:
    """Whatever the user has set, and also if an error ends it."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = torch.get_float32_matmul_precision()
    expected = "tf32" if tf32 else "ieee"
    try:
        torch.set_float32_matmul_precision(precision)
        settings = matmul.allow_tf32, cudnn.conv.fp32_precision, cudnn.allow_tf32
        with warnings.catch_warnings(), suppress(KeyError):
            warnings.simplefilter("ignore")  # autocast for a device that is not there
            with vq._fp32(torch.device("cuda"), tf32):
                assert matmul.fp32_precision == cudnn.conv.fp32_precision == expected
                raise KeyError
        assert (matmul.allow_tf32, cudnn.conv.fp32_precision, cudnn.allow_tf32) == settings
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


def test_only_decoding_may_use_tf32(janus: JanusForConditionalGeneration, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def watched(device: torch.device, tf32: bool = False) -> AbstractContextManager[None]:
        asked.append(tf32)
        return nullcontext()

    monkeypatch.setattr(vq, "_fp32", watched)
    ids = encode_images(janus.model.vqmodel, torch.zeros(1, 3, SIZE, SIZE))
    assert asked == [False, False]  # the encoder, the search in the codebook
    decode_codes(janus.model.vqmodel, ids)
    assert asked == [False, False, True]


def test_the_embedding_starts_as_the_normalised_codebook(janus: JanusForConditionalGeneration) -> None:
    codebook = janus.model.vqmodel.quantize.embedding.weight
    assert (codebook.norm(dim=1) - 1).abs().max() > 0.1, "normalising must matter here"
    torch.testing.assert_close(janus.model.generation_embeddings.weight, nn.functional.normalize(codebook, dim=1))
