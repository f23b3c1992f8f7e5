"""Works one batch of rows off. What comes of a row does not depend on the others in its batch.

A row ends by itself, at its own largest length, at its request's time limit, or when its request is cancelled; the batch
ends with its last row.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import torch

from janus_train.infer.answer_text import AnswerText
from janus_train.infer.chat import answer_tokens, chooser
from janus_train.infer.generate import generate_images
from janus_train.infer.image_inputs import image_features
from janus_train.infer.load import LoadedModel
from janus_train.infer.rows import Answered, ChatRow, Drawn, ImageRow, Piece, QueuedRow
from janus_train.infer.sampling import Chooser, TextSampling


class _NobodyWaits(Exception):
    """All rows of a batch are over."""


def run_batch(loaded: LoadedModel, batch: Sequence[QueuedRow]) -> None:
    """Works the rows off, which have the same ``batch_key``, and emits their events."""
    for queued in batch:
        queued.start()
    if isinstance(batch[0].row, ChatRow):
        _write(loaded, batch)
    else:
        _draw(loaded, batch)


def _write(loaded: LoadedModel, batch: Sequence[QueuedRow]) -> None:
    rows = [queued.row for queued in batch if isinstance(queued.row, ChatRow)]
    texts = [AnswerText(loaded.encoder, row.stop) for row in rows]
    longest = max(row.num_new for row in rows)
    columns = answer_tokens(
        loaded.janus,
        loaded.encoder,
        [row.prompt for row in rows],
        [image for row in rows for image in row.images],
        longest,
        row_chooser([row.sampling for row in rows], [row.seed for row in rows], longest),
    )
    with closing(columns):  # type: ignore[type-var]  # it is a generator
        for column in columns:
            for queued, row, text, token in zip(batch, rows, texts, column.tolist(), strict=True):
                if not queued.is_over:
                    _add(queued, row, text, token)
            if not _any_waits(batch):
                return


def _add(queued: QueuedRow, row: ChatRow, text: AnswerText, token: int) -> None:
    """One more token of a row."""
    piece = text.add(token)
    is_complete = text.has_ended or text.num_tokens == row.num_new
    if is_complete:
        piece += text.rest()
    if piece:
        queued.emit(Piece(piece))
    if is_complete:
        queued.emit(Answered("stop" if text.has_ended else "length", text.num_tokens))


def _draw(loaded: LoadedModel, batch: Sequence[QueuedRow]) -> None:
    rows = [queued.row for queued in batch if isinstance(queued.row, ImageRow)]
    janus, settings = loaded.janus, rows[0]

    def on_step() -> None:
        if not _any_waits(batch):
            raise _NobodyWaits

    features = [
        image_features(janus, loaded.encoder, row.images)
        if row.images
        else torch.empty(0, row.num_new, janus.config.text_config.hidden_size, device=janus.lm_head.weight.device)
        for row in rows
    ]
    try:
        images = generate_images(
            janus,
            [row.prompt for row in rows],
            image_features=features if any(row.images for row in rows) else (),
            pad_id=loaded.encoder.special.pad,
            guidance=settings.guidance,
            temperature=settings.temperature,
            seeds=[row.seed for row in rows],
            greedy=settings.temperature == 0,
            top_k=settings.top_k,
            top_p=settings.top_p,
            batch_size=len(rows),
            on_step=on_step,
        )
    except _NobodyWaits:
        return
    for queued, image in zip(batch, images, strict=True):
        queued.emit(Drawn(image))


def _any_waits(batch: Sequence[QueuedRow]) -> bool:
    """Whether somebody still waits for a row; those whose time is over fail here."""
    for queued in batch:
        queued.check_time()
    return any(not queued.is_over for queued in batch)


def row_chooser(samplings: Sequence[TextSampling], seeds: Sequence[int], max_new_tokens: int) -> Chooser:
    """Chooses the next tokens of rows that are sampled in different ways."""
    groups: dict[TextSampling, list[int]] = {}
    for number, sampling in enumerate(samplings):
        groups.setdefault(sampling, []).append(number)
    choosers = [
        (numbers, chooser(sampling, [seeds[number] for number in numbers], max_new_tokens))
        for sampling, numbers in groups.items()
    ]

    def choose(logits: torch.Tensor) -> torch.Tensor:
        """logits (N, V) -> tokens (N,)."""
        if len(choosers) == 1:
            return choosers[0][1](logits)
        tokens = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
        for numbers, choose_group in choosers:
            tokens[numbers] = choose_group(logits[numbers])
        return tokens

    return choose
