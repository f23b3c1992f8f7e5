"""Pretrains the base's language model on plain text: definitions, captions, dialogues, of the training split.

In: a Llama with head, a tokenizer. Out: the same, trained; perplexity on held-out captions and on unseen wordings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import JanusForConditionalGeneration, PreTrainedTokenizerFast

from janus_train.data.special_tokens import EOS
from janus_train.demo.build.common import Figures, Progress, Schedule
from janus_train.demo.build.documents import ASKED, chat, document, held_out_question
from janus_train.demo.words import notes


@dataclass(frozen=True)
class Phase:
    """A part of the training."""

    views: tuple[str, ...]
    """The views of consecutive documents."""
    steps: int
    matrix_rate: float
    """Peak rate of Muon, for the layers' matrices."""
    rate: float
    """Peak rate of AdamW, for embeddings, head and norms."""


_ALL_VIEWS = """
    repetition restatement notes reading restatement scene_caption notes naming
    restatement description notes text restatement dialogue notes text
"""
PHASES = (
    Phase(("repetition", "list"), 800, 0.02, 3e-3),
    Phase(tuple(_ALL_VIEWS.split()), 3600, 0.005, 1.5e-3),
)
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


def train_llm(janus: JanusForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, effort: float = 1.0) -> Figures:
    model = nn.ModuleList([janus.model.language_model, janus.lm_head]).train()
    # Large embeddings: with vectors of scale 0.02, the adaptors' outputs become a hundred times larger within minutes,
    # and the layers no longer change them. With these, text, features and codes enter the layers at the same scale.
    nn.init.normal_(janus.get_input_embeddings().weight, std=EMBEDDING_STD)
    seconds, documents_before = 0.0, 0
    for phase in PHASES:
        phase = replace(phase, steps=max(1, round(phase.steps * effort)))
        seconds += _train_phase(model, janus, tokenizer, phase, documents_before)
        documents_before += phase.steps * DOCUMENTS
    return {"steps": documents_before // DOCUMENTS, "seconds": round(seconds)}


def _optimizers(model: nn.Module, layers: nn.Module, phase: Phase) -> list[torch.optim.Optimizer]:
    """Muon (Jordan 2024) for the layers' matrices, which finds what belongs together in a context in fewer steps than AdamW."""
    matrices = [p for p in layers.parameters() if p.dim() == 2]
    in_layers = {id(p) for p in matrices}
    tables = [p for p in model.parameters() if p.dim() == 2 and id(p) not in in_layers]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": tables, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return [
        torch.optim.Muon(matrices, lr=phase.matrix_rate, weight_decay=0.1),
        torch.optim.AdamW(groups, lr=phase.rate, betas=(0.9, 0.95)),
    ]


def _train_phase(
    model: nn.Module,
    janus: JanusForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    phase: Phase,
    documents_before: int,
) -> float:
    """Run a phase; returns its seconds."""
    optimizers = _optimizers(model, janus.model.language_model.layers, phase)
    schedules = [Schedule(phase.matrix_rate, phase.steps), Schedule(phase.rate, phase.steps)]
    progress = Progress(f"llm {phase.views[0]}", phase.steps)
    for step in range(phase.steps):
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            schedule.apply(optimizer, step)
            optimizer.zero_grad()
        first = documents_before + step * DOCUMENTS
        documents = [document(phase.views[i % len(phase.views)], i) for i in range(first, first + DOCUMENTS)]
        ids, targets = batch(tokenizer, documents)
        loss = loss_sum(janus, ids, targets) / (targets != -100).sum()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        progress(step, loss=loss.item())
    return progress.seconds


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
    return figures | {f"answers about notes, {sort}": right_answers(janus, tokenizer, sort, count) for sort in ASKED}


@torch.no_grad()
def right_answers(
    janus: JanusForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, sort: str, count: int
) -> float:
    """The share of ``count`` questions of a sort about notes of held-out scenes with several objects that get the right answer."""
    right = 0
    for start in range(0, count, DOCUMENTS):
        asked = [_notes_and_answer(sort, i) for i in range(start, min(start + DOCUMENTS, count))]
        ids, targets = batch(tokenizer, [prompt + answer for prompt, answer in asked])
        logits = janus.lm_head(janus.model.language_model(input_ids=ids, use_cache=False).last_hidden_state)
        for row, (_, answer) in enumerate(asked):
            last = int((targets[row] != -100).sum())
            length = len(tokenizer.encode(answer, add_special_tokens=False))
            is_right = logits[row, last - length : last].argmax(-1) == targets[row, last - length : last]
            right += bool(is_right.all())
    return right / count


def _notes_and_answer(sort: str, index: int) -> tuple[str, str]:
    """Notes with a question, and the answer's part of the document."""
    scene, question, answer = held_out_question(sort, index)
    text = chat([f"{notes(scene, np.random.default_rng(index))}\n{question}", answer])
    length = len(f" {answer}{EOS}")
    return text[:-length], text[-length:]
