"""The tests' truth: one document at a time, eager attention, all logits, an explicit shift; slow and plain.

A document is a list of pieces. `losses` runs transformers' own parts over one document; `to_batch` packs several into
the `Batch` that the model under test takes, written independently of the project's own collation.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from transformers import JanusForConditionalGeneration

from janus_train.data.batch import Batch
from janus_train.data.types import IGNORE

SIZE, TOKENS, VOCABULARY, CODEBOOK = 32, 16, 97, 53
"""The small model of conftest.py: images of 32 x 32 pixels, 16 tokens each."""
BOS, EOS, PAD, PLACEHOLDER, BOI, EOI = range(6)
UNDERSTANDING, TEXT, GENERATION = "understanding", "text", "generation"


@dataclass
class Text:
    ids: list[int]
    loss: bool = False


@dataclass
class ImageIn:
    pixels: torch.Tensor  # (3, S, S)


@dataclass
class Codes:
    ids: torch.Tensor  # (P,)
    loss: bool = True
    pixels: torch.Tensor | None = None  # given: the batch leaves the codes to the VQ encoder


Document = list[Text | ImageIn | Codes]
Documents = list[tuple[str, Document]]
"""(kind, document) pairs."""


def plain_copy(janus: JanusForConditionalGeneration) -> JanusForConditionalGeneration:
    """The same weights, with transformers' eager attention."""
    plain = copy.deepcopy(janus)
    plain.set_attn_implementation("eager")
    return plain


def embed(janus: JanusForConditionalGeneration, document: Document) -> torch.Tensor:
    """(1, T, D)"""
    rows = []
    for piece in document:
        if isinstance(piece, Text):
            rows.append(janus.get_input_embeddings()(torch.tensor(piece.ids)))
        elif isinstance(piece, ImageIn):
            rows.append(janus.model.aligner(janus.model.vision_model(piece.pixels[None]).last_hidden_state)[0])
        else:
            rows.append(janus.model.generation_aligner(janus.model.generation_embeddings(piece.ids)))
    return torch.cat(rows)[None]


def labels(janus: JanusForConditionalGeneration, document: Document) -> tuple[torch.Tensor, torch.Tensor]:
    """Text labels and image labels (T,), each at the token's own place."""
    num_features = janus.config.vision_config.num_image_tokens
    text, image = [], []
    for piece in document:
        if isinstance(piece, Text):
            text += piece.ids if piece.loss else [IGNORE] * len(piece.ids)
            image += [IGNORE] * len(piece.ids)
        elif isinstance(piece, ImageIn):
            text += [IGNORE] * num_features
            image += [IGNORE] * num_features
        else:
            text += [IGNORE] * len(piece.ids)
            image += piece.ids.tolist() if piece.loss else [IGNORE] * len(piece.ids)
    return torch.tensor(text), torch.tensor(image)


def hidden_states(janus: JanusForConditionalGeneration, document: Document) -> torch.Tensor:
    """(T, D), after the final norm."""
    return janus.model.language_model(inputs_embeds=embed(janus, document), use_cache=False).last_hidden_state[0]


def losses(janus: JanusForConditionalGeneration, document: Document) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums of the cross-entropies over text targets and over image targets."""
    hidden_TD = hidden_states(janus, document)
    text_labels, image_labels = labels(janus, document)
    text_logits, image_logits = janus.lm_head(hidden_TD), janus.model.generation_head(hidden_TD)
    return (
        F.cross_entropy(text_logits[:-1], text_labels[1:], reduction="sum", ignore_index=IGNORE),
        F.cross_entropy(image_logits[:-1], image_labels[1:], reduction="sum", ignore_index=IGNORE),
    )


def to_batch(documents: Documents, num_image_tokens: int = TOKENS, size: int = SIZE) -> Batch:
    """The documents as one flat sequence."""
    ids: list[int] = []
    positions: list[int] = []
    bounds = [0]
    text_positions: list[int] = []
    text_targets: list[int] = []
    is_understanding: list[bool] = []
    pixels_in, feature_positions = [], []
    pixels_out, cached, code_positions = [], [], []
    uncached: list[int] = []
    image_positions: list[int] = []
    images_with_loss: list[int] = []
    for kind, document in documents:
        for piece in document:
            here = len(ids)
            if isinstance(piece, Text):
                if piece.loss:
                    text_positions += range(here - 1, here - 1 + len(piece.ids))
                    text_targets += piece.ids
                    is_understanding += [kind == UNDERSTANDING] * len(piece.ids)
                ids += piece.ids
                continue
            there = range(here, here + num_image_tokens)
            ids += [PLACEHOLDER] * num_image_tokens
            if isinstance(piece, ImageIn):
                pixels_in.append(piece.pixels)
                feature_positions += there
                continue
            if piece.loss:
                image_positions += [p - 1 for p in there]
                images_with_loss.append(len(cached))
            if piece.pixels is not None:
                pixels_out.append(piece.pixels)
                uncached.append(len(cached))
            cached.append(torch.full_like(piece.ids, -1) if piece.pixels is not None else piece.ids)
            code_positions += there
        positions += range(len(ids) - bounds[-1])
        bounds.append(len(ids))
    return Batch(
        input_ids=torch.tensor([ids]),
        position_ids=torch.tensor([positions]),
        cu_seqlens=torch.tensor(bounds, dtype=torch.int32),
        max_seqlen=max(b - a for a, b in pairwise(bounds)),
        text_positions=torch.tensor(text_positions, dtype=torch.int64),
        text_targets=torch.tensor(text_targets, dtype=torch.int64),
        text_target_is_understanding=torch.tensor(is_understanding, dtype=torch.bool),
        num_understanding_targets=sum(is_understanding),
        understanding_pixels=torch.stack(pixels_in) if pixels_in else torch.zeros(0, 3, size, size),
        feature_positions=torch.tensor(feature_positions, dtype=torch.int64),
        generation_pixels=torch.stack(pixels_out) if pixels_out else torch.zeros(0, 3, size, size),
        uncached_images=torch.tensor(uncached, dtype=torch.int64),
        cached_codes=torch.stack(cached) if cached else torch.zeros(0, num_image_tokens, dtype=torch.int64),
        code_positions=torch.tensor(code_positions, dtype=torch.int64),
        image_loss_positions=torch.tensor(image_positions, dtype=torch.int64),
        image_loss_images=torch.tensor(images_with_loss, dtype=torch.int64),
    )
