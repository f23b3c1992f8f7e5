"""Lets the base's language model read images while the vision encoder is pretrained, as captioning pretraining does.

CapPa (arXiv 2306.07915) and LocCa (2403.19596) train an encoder by captions that a decoder generates from its features; LocCa's
captions say where things are. Here the decoder is the base's language model, frozen, with one linear layer between,
which is thrown away: Janus's own adaptor is new in stage 1. Without this loss name and place are in the features but not in
a form that a language model of a million weights learns to bind within the demo's minutes (benchmarks/demo.md).

In: images with captions and questions of the training split, in the formats of the stages. Out: the loss of their texts.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn
from transformers import JanusForConditionalGeneration, PreTrainedTokenizerFast
from transformers.models.janus.modeling_janus import JanusVisionModel

from janus_train.data.encode import Encoder
from janus_train.data.special_tokens import PLACEHOLDER
from janus_train.data.templates import get_template
from janus_train.data.types import IGNORE, IMAGE_FEATURE, Document, Record, Reference
from janus_train.demo.build.common import ENDLESS, SHARDS, to_float
from janus_train.demo.build.documents import held_out_question
from janus_train.demo.scenes import SceneSource, load_library, render

TEMPLATES = {"conversation": "conversation", "scene": "image_caption"}
"""View of a scene -> the template of its documents."""


class ImageReader(nn.Module):
    """The frozen language model and the linear layer before it."""

    def __init__(self, janus: JanusForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, size: int):
        super().__init__()
        vision = janus.model.vision_model.config
        self.bridge = nn.Linear(vision.hidden_size, janus.config.text_config.hidden_size)
        self._frozen = (
            janus.model.language_model,
            janus.lm_head,
        )  # a tuple: no submodules, so nothing here trains them
        self._library = load_library(tuple(SHARDS))
        self._encoder = Encoder(tokenizer, (size // vision.patch_size) ** 2, size, "")

    def documents(self, first: int, count: int, split: str) -> list[Document]:
        views = list(TEMPLATES)
        return [self._document(views[i % len(views)], i, split) for i in range(first, first + count)]

    def _document(self, view: str, index: int, split: str) -> Document:
        record = SceneSource(SHARDS, view, split, ENDLESS, self._encoder.image_size)[index]
        return self._encode(record, view, index)

    def forward(self, vision: JanusVisionModel, documents: list[Document]) -> torch.Tensor:
        """The mean loss of the documents' text tokens."""
        logits, labels = self._logits(vision, documents)
        return F.cross_entropy(logits[labels != IGNORE], labels[labels != IGNORE])

    @torch.no_grad()
    def right_answers(self, vision: JanusVisionModel, sort: str, count: int) -> float:
        """The share of ``count`` questions of a sort about images of held-out scenes that get the right answer."""
        documents = [self._question(sort, index) for index in range(count)]
        right = 0
        for start in range(0, count, 32):
            logits, labels = self._logits(vision, documents[start : start + 32])
            right += int(((logits.argmax(-1) == labels) | (labels == IGNORE)).all(1).sum())
        return right / count

    def _question(self, sort: str, index: int) -> Document:
        scene, question, answer = held_out_question(sort, index)
        turns = (("user", f"{PLACEHOLDER}\n{question}"), ("assistant", answer))
        fields = {"conversations": [{"role": role, "content": content} for role, content in turns]}
        record = Record(f"{sort}-{index}", fields, [render(scene, self._library, self._encoder.image_size)])
        return self._encode(record, "conversation", index)

    def _encode(self, record: Record, view: str, index: int) -> Document:
        reference = Reference(view, 0, index, record.key)
        return self._encoder.encode_without_chance(record, get_template(TEMPLATES[view]), "understanding", reference)

    def _logits(self, vision: JanusVisionModel, documents: list[Document]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (N, width, V) and labels (N, width) of N documents, padded on the right."""
        language_model, head = self._frozen
        width = max(map(len, documents))
        ids = torch.zeros(len(documents), width, dtype=torch.long)
        labels = torch.full_like(ids, IGNORE)
        is_image = torch.zeros_like(ids, dtype=torch.bool)
        for row, each in enumerate(documents):
            ids[row, : len(each)] = torch.from_numpy(each.input_ids)
            labels[row, : len(each)] = torch.from_numpy(each.labels)
            is_image[row, : len(each)] = torch.from_numpy(each.modality == IMAGE_FEATURE)
        pixels = torch.from_numpy(np.stack([each.understanding_pixels[0] for each in documents]))
        features = vision(to_float(rearrange(pixels, "n h w c -> n c h w"))).last_hidden_state
        embeddings = language_model.embed_tokens(ids)
        embeddings = embeddings.masked_scatter(is_image[..., None], self.bridge(features))
        return head(language_model(inputs_embeds=embeddings, use_cache=False).last_hidden_state), labels
