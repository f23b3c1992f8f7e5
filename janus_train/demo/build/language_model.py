"""Pretrains the base's language model on plain text: definitions, captions, dialogues, of the training split.

In: a Llama with head, a tokenizer. Out: the same, trained; perplexity on held-out captions and on unseen wordings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import JanusForConditionalGeneration, PreTrainedTokenizerFast

from janus_train.data.special_tokens import ASSISTANT, BOS, EOS, PLACEHOLDER, SPECIAL_TOKENS, USER
from janus_train.demo.build.common import ENDLESS, SHARDS, Figures, Progress, Schedule
from janus_train.demo.scenes import SceneSource, caption
from janus_train.demo.words import notes

VIEWS = ("text", "reading", "dialogue", "notes", "scene_caption", "notes", "naming", "description")
"""The views of consecutive training documents."""
MEASURED_VIEWS = {
    "captions": "scene_caption",
    "readings": "reading",
    "notes": "notes",
    "descriptions": "description",
    "definitions": "text",
    "dialogues": "dialogue",
}
DOCUMENTS = 24  # per step
LONGEST = 160  # tokens; longer documents are cut


EMBEDDING_STD = 0.5


SOURCES = {
    "scene_caption": "draw",
    "naming": "class",
    "reading": "conversation",
    "notes": "conversation",
    "description": "scene",
}
"""The views of `SceneSource` that give a document's facts, where they are not of the same name."""


def document(view: str, index: int, split: str = "train") -> str:
    """A document as text, with the special tokens of Janus's formats at the same places as in the stages.

    Where the stages have an image there are words about it here, a caption or notes: a language model that can say and
    answer what a text holds has only the image's features to learn later.
    """
    source = SceneSource(SHARDS, SOURCES.get(view, view), split, ENDLESS)
    record, rng = source[index], np.random.default_rng(index)
    if view == "text":
        return BOS + record.fields["text"] + EOS
    if view == "naming":  # half of them the name alone
        name = record.fields["class_name"]
        return BOS + (f"{name}: " if index // len(VIEWS) % 2 else "") + record.fields["caption"] + EOS
    if view == "description":
        words = notes(source.scene(index), rng)
        return BOS + f"{words}. Describe the image in detail." + record.fields["caption"] + EOS
    turns = record.fields["conversations"]
    if view == "scene_caption":  # the words that ask for an image, as plain text
        return BOS + turns[0]["content"] + EOS
    if view in ("reading", "notes"):
        words = (caption if view == "reading" else notes)(source.scene(index), rng)
        turns[0]["content"] = turns[0]["content"].replace(PLACEHOLDER, words)
    pieces = []
    for number, turn in enumerate(turns):
        pieces.append(f"{USER}: {turn['content']}\n\n" if number % 2 == 0 else f"{ASSISTANT}: {turn['content']}{EOS}")
    return BOS + "".join(pieces)


def texts(count: int) -> Iterator[str]:
    """Training texts of every view for the tokenizer, without special tokens."""
    views = ("text", "dialogue", "scene_caption", "conversation", "draw")
    for index in range(count):
        for view in views:
            text = document(view, index)
            for token in SPECIAL_TOKENS:
                text = text.replace(token, "")
            yield text


def batch(tokenizer: PreTrainedTokenizerFast, documents: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and targets, both (N, width), of N documents, with -100 where there is nothing to predict.

    width: tokens of the longest document. With causal attention no real token sees the padding on its right.
    """
    rows = [tokenizer.encode(d, add_special_tokens=False)[: LONGEST + 1] for d in documents]
    width = max(map(len, rows)) - 1
    ids = torch.full((len(rows), width), tokenizer.pad_token_id)
    targets = torch.full((len(rows), width), -100)
    for number, row in enumerate(rows):
        ids[number, : len(row) - 1] = torch.tensor(row[:-1])
        targets[number, : len(row) - 1] = torch.tensor(row[1:])
    return ids, targets


def loss_sum(janus: JanusForConditionalGeneration, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    output = janus.model.language_model(input_ids=ids, use_cache=False)
    has_target = targets != -100
    return F.cross_entropy(janus.lm_head(output.last_hidden_state[has_target]), targets[has_target], reduction="sum")


def train_llm(janus: JanusForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, steps: int) -> Figures:
    model = nn.ModuleList([janus.model.language_model, janus.lm_head]).train()
    # Large embeddings: with vectors of scale 0.02, the adaptors' outputs become a hundred times larger within minutes,
    # and the layers no longer change them. With these, text, features and codes enter the layers at the same scale.
    nn.init.normal_(janus.get_input_embeddings().weight, std=EMBEDDING_STD)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    schedule, progress = Schedule(3e-3, steps), Progress("llm", steps)
    for step in range(steps):
        schedule.apply(optimizer, step)
        indices = [step * DOCUMENTS + n for n in range(DOCUMENTS)]
        ids, targets = batch(tokenizer, [document(VIEWS[i % len(VIEWS)], i) for i in indices])
        loss = loss_sum(janus, ids, targets) / (targets != -100).sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        progress(step, loss=loss.item())
    return {"steps": steps, "seconds": round(progress.seconds)}


@torch.no_grad()
def evaluate_llm(janus: JanusForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, count: int = 240) -> Figures:
    """Perplexity per token on captions of held-out combinations, and on definitions in wordings not trained on."""
    janus.eval()
    figures: Figures = {}
    for name, view in MEASURED_VIEWS.items():
        total, number = 0.0, 0
        for start in range(0, count, DOCUMENTS):
            documents = [document(view, i, "held_out") for i in range(start, start + DOCUMENTS)]
            ids, targets = batch(tokenizer, documents)
            total += loss_sum(janus, ids, targets).item()
            number += int((targets != -100).sum())
        figures[f"perplexity, held-out {name}"] = math.exp(total / number)
    return figures
