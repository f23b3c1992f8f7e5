"""Training's packed forward and inference's cached, padded batch are one model: the same logits, text and image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import JanusForConditionalGeneration

from janus_train.data.batch import collate
from janus_train.data.encode import Encoder
from janus_train.data.special_tokens import PLACEHOLDER
from janus_train.data.types import Document, Record, Row
from janus_train.infer import generate as drawing
from janus_train.infer.chat import open_turn
from janus_train.infer.decoding import Decoder, inference, left_pad
from janus_train.infer.image_inputs import image_features, prompt_embeds
from janus_train.model.janus import PackedJanus
from tests.helpers import document_of

CAPTIONS = ("A red apple.", "A dog on the right, on a blue background.", "苹果")
CODES = np.random.default_rng(0).integers(0, 40, (3, 16))
GUIDANCE = 5.0


def packed_logits(janus, encoder: Encoder, documents: Sequence[Document]) -> tuple[torch.Tensor, torch.Tensor]:
    """All documents in one row: logits where there is text loss, and where there is image loss."""
    model = PackedJanus(janus)
    batch = collate([Row(0, list(documents), {})], encoder.tokens_per_image, encoder.image_size)
    with torch.no_grad():
        hidden = model.hidden_states(model.embeddings(batch, model.codes(batch)), batch)
        return janus.lm_head(hidden[batch.text_positions]), janus.model.generation_head(
            hidden[batch.image_loss_positions]
        )


@pytest.mark.parametrize("fixed", [False, True])
def test_image_logits_with_guidance(
    janus: JanusForConditionalGeneration, encoder: Encoder, monkeypatch, fixed: bool
) -> None:
    records = [
        Record(str(n), {"caption": text}, [Image.new("RGB", (16, 16))], [CODES[n].astype(np.uint16)])
        for n, text in enumerate(CAPTIONS)
    ]
    documents = [
        document_of(encoder, record, "request_to_image", "generation", dropout=dropout)
        for dropout in (0.0, 1.0)
        for record in records
    ]
    conditional, without = packed_logits(janus, encoder, documents)[1].view(2, 3, 16, -1)
    trained = without + GUIDANCE * (conditional - without)  # (3, P, C)

    recorded_logits: list[torch.Tensor] = []

    def forced(logits: torch.Tensor, *_: object) -> torch.Tensor:
        recorded_logits.append(logits)
        return torch.from_numpy(CODES[:, len(recorded_logits) - 1])

    monkeypatch.setattr(drawing, "sample_codes", forced)
    monkeypatch.setattr(drawing, "Decoder", partial(Decoder, fixed=fixed))
    prompts = [encoder.generation_prompt_ids(text) for text in CAPTIONS]
    assert len(set(map(len, prompts))) == 3, "prompts of one length: no padding would be tested"
    drawing.generate_codes(
        janus, prompts, pad_id=encoder.special.pad, guidance=GUIDANCE, temperature=1.0, seeds=[0, 1, 2]
    )
    assert (torch.stack(recorded_logits, 1) - trained).abs().max() < 1e-4
    assert (conditional - without).abs().max() > 0.1, "text makes no difference: guidance would not be tested"


@pytest.mark.parametrize("fixed", [False, True])
def test_text_logits(janus: JanusForConditionalGeneration, encoder: Encoder, fixed: bool) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (3, 20, 12, 3), dtype=np.uint8)
    images = [Image.fromarray(p) for p in pixels]
    asked = (
        ([f"{PLACEHOLDER}\nWhat?"], images[:1]),
        ([f"{PLACEHOLDER} or {PLACEHOLDER}, which one is larger?"], images[1:]),
        (["Hello, who is there?"], []),
    )
    said = "Two of them."  # in each, so that all rows take equally many steps
    documents, prompts = [], []
    for number, (questions, shown) in enumerate(asked):
        messages = [{"role": "user", "content": text} for text in questions]
        kind = "understanding" if shown else "text"
        record = Record(
            str(number), {"conversations": [*messages, {"role": "assistant", "content": said}]}, list(shown)
        )
        documents.append(document_of(encoder, record, "conversation", kind))
        prompts.append(encoder.chat_prompt_ids(open_turn(messages), len(shown)))
    trained = packed_logits(janus, encoder, documents)[0].unflatten(0, (3, -1))  # (3, tokens, V)
    answer = documents[0].labels[documents[0].labels >= 0]
    assert all(list(d.input_ids) == [*p, *answer] for d, p in zip(documents, prompts, strict=True))

    ids, mask = left_pad(prompts, encoder.special.pad)
    with inference(janus):
        decoder = Decoder(janus, room=ids.shape[1] + len(answer), fixed=fixed)
        states = [decoder.prefill(prompt_embeds(janus, ids, [image_features(janus, encoder, images)]), mask)]
        for token in answer[:-1]:
            states.append(decoder.step(janus.get_input_embeddings()(torch.tensor([token] * 3))))
        inferred = janus.lm_head(torch.stack(states, 1))
    assert (inferred - trained).abs().max() < 1e-4
    assert (trained[0] - trained[1]).abs().max() > 0.1, "images and prompts make no difference"
