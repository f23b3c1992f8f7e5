"""Samples to documents: the only place where text becomes tokens.

Record --TEMPLATES[name]--> Sample --Encoder.document--> Document
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
from transformers import PreTrainedTokenizerFast

from janus_train.data.pictures import generation_pixels, understanding_pixels
from janus_train.data.sample import (
    CODE_SLOT,
    FEATURE_SLOT,
    IGNORE,
    TEXT_SLOT,
    BadSample,
    Document,
    Kind,
    Record,
    Reference,
    Sample,
    Segment,
)
from janus_train.data.special_tokens import ASSISTANT, EOS, PAD, PLACEHOLDER, ROLES, USER, SpecialTokens, speakers
from janus_train.data.templates import TEMPLATES, first_sentence, without_last_answer
from janus_train.errors import UserError


def fitted(record: Record, template: str, row_tokens: int, encode: Callable[[Record], Document]) -> Document:
    """The record's document, of at most ``row_tokens``: a conversation loses whole trailing turns for it.

    Plain text stays whole, the packer cuts it. Raises `BadSample` for what cannot be made to fit.
    """
    whole = document = encode(record)
    while len(document) > row_tokens and template != "text":
        shorter = without_last_answer(record) if template == "conversation" else None
        if shorter is None:
            raise BadSample(f"{len(whole)} tokens do not fit a row of {row_tokens}")
        record, document = shorter, encode(shorter)
    return document


SHORT, MOST_KNOWN = 80, 10_000
"""Texts of up to so many characters, and so many of them, are tokenized once."""


class Encoder:
    """Turns samples into documents, and prompts into the ids that inference starts from."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        tokens_per_picture: int,
        image_size: int,
        system_prompt: str,
        reduced_jpeg: bool = False,
        picture_out_size: int | None = None,
    ):
        self.reduced_jpeg = reduced_jpeg
        self.tokenizer = tokenizer
        self.special = SpecialTokens.of(tokenizer)
        self.speakers = speakers(tokenizer)
        self.tokens_per_picture = tokens_per_picture
        self.image_size = image_size
        self.picture_out_size = picture_out_size or image_size
        self.system_prompt = system_prompt
        self._known: dict[str, list[int]] = {}  # the templates' own words, and names, come again and again

    def ids(self, text: str) -> list[int]:
        """The text's tokens; `USER` and `ASSISTANT` in it become the model's own speakers."""
        found = self._known.get(text)
        if found is None:
            user, assistant = self.speakers
            said = text if user == USER else text.replace(USER, user).replace(ASSISTANT, assistant)
            # the tokenizer behind transformers' wrapper, which takes longer than the tokenizing itself
            found = self.tokenizer.backend_tokenizer.encode(said, add_special_tokens=False).ids
            if len(text) <= SHORT and len(self._known) < MOST_KNOWN:
                self._known[text] = found
        return list(found)

    # -- training

    def sample(
        self, record: Record, template: str, kind: Kind, rng: random.Random, guidance_dropout: float, cut_caption: float
    ) -> Sample:
        """Apply the template and the recipe's randomness. Raises `BadSample` with the reason.

        ``cut_caption``: probability that a text-to-image caption keeps only its first sentence (Janus: 25 %).
        ``guidance_dropout``: probability that a drawn picture's prompt becomes pad tokens (Janus: 10 %), the pictures in
        it too.
        """
        drop, cut = rng.random() < guidance_dropout, rng.random() < cut_caption
        segments = TEMPLATES[template](record)
        if template == "text_to_image" and cut:
            segments = [Segment("text", first_sentence(segments[0].text)), *segments[1:]]
        if template == "conversation" and kind == "understanding" and self.system_prompt:
            segments = [Segment("text", self.system_prompt + "\n\n"), *segments]
        if drop and _is_prompt_and_picture(segments):
            drawn = [segment.role for segment in segments].index("picture_out")
            segments = [Segment("text", PAD * self._length(segments[:drawn])), *segments[drawn:]]
        return Sample(record.key, kind, tuple(segments))

    def _length(self, segments: Sequence[Segment]) -> int:
        """Their number of tokens."""
        pieces = _pieces(segments)
        return sum(len(self.ids(p[0])) if isinstance(p, tuple) else self.tokens_per_picture + 2 for p in pieces)

    def document(self, sample: Sample, reference: Reference) -> Document:
        """BOS, then the segments; see `Document` for what each array means."""
        P, special = self.tokens_per_picture, self.special
        runs: list[Sequence[int] | np.ndarray] = [[special.bos]]  # of ids that have slot and loss in common
        slots, losses = [TEXT_SLOT], [False]
        length, drawn_at = 1, []
        understanding: list[np.ndarray] = []
        generation: list[np.ndarray | None] = []
        codes: list[np.ndarray | None] = []
        codes_have_loss: list[bool] = []
        for piece in _pieces(sample.segments):
            if isinstance(piece, tuple):
                runs.append(self.ids(piece[0]))
                slots.append(TEXT_SLOT)
                losses.append(piece[1])
                length += len(runs[-1])
                continue
            begin, length = length, length + P + 2
            runs += [[special.begin_of_image], np.full(P, special.placeholder), [special.end_of_image]]
            slots += [TEXT_SLOT, FEATURE_SLOT if piece.role == "picture_in" else CODE_SLOT, TEXT_SLOT]
            losses += [False] * 3
            if piece.role == "picture_in":
                assert piece.picture is not None
                understanding.append(understanding_pixels(piece.picture, self.image_size, reduced=self.reduced_jpeg))
                continue
            if piece.codes is None:
                # trap 3: the generation encoder sees the cropped picture, never the grey-padded one
                assert piece.picture is not None
                generation.append(generation_pixels(piece.picture, self.picture_out_size))
            else:
                if piece.codes.shape != (P,):
                    raise BadSample(f"cached codes have shape {piece.codes.shape}, the model takes ({P},)")
                generation.append(None)
            codes.append(piece.codes)
            codes_have_loss.append(piece.role == "picture_out")
            if piece.role == "picture_out":
                # trap 1: the state at <begin_of_image> predicts code 0, the one at code i predicts code i+1
                drawn_at.append(begin)
        ids = np.concatenate([np.asarray(run, np.int64) for run in runs])
        lengths = [len(run) for run in runs]
        labels = np.full(length, IGNORE, np.int64)
        with_loss = np.flatnonzero(np.repeat(losses, lengths))
        labels[with_loss - 1] = ids[with_loss]  # BOS has no loss, so no index is -1
        targets = np.zeros(length, bool)
        for begin in drawn_at:
            targets[begin : begin + P] = True
        return Document(
            reference=reference,
            kind=sample.kind,
            input_ids=ids,
            labels=labels,
            slots=np.repeat(np.asarray(slots, np.uint8), lengths),
            image_targets=targets,
            understanding_pixels=understanding,
            generation_pixels=generation,
            codes=codes,
            codes_have_loss=codes_have_loss,
        )

    # -- inference: the same strings, up to where the model goes on

    def generation_prompt(self, prompt: str) -> str:
        """The official text-to-image prompt; ``<begin_of_image>`` follows without a space."""
        return f"{USER}: {prompt.strip()}\n\n{ASSISTANT}:"

    def generation_prompt_ids(self, prompt: str, num_pictures: int = 0) -> list[int]:
        """BOS, prompt with its pictures' places, ``<begin_of_image>``: the last hidden state predicts code 0."""
        return [*self._prompt_ids(self.generation_prompt(prompt), num_pictures), self.special.begin_of_image]

    def chat_prompt_ids(self, messages: list[dict[str, str]], num_pictures: int) -> list[int]:
        """BOS and the official chat prompt with its pictures' places; the model's answer comes next."""
        looks = any(PLACEHOLDER in message["content"] for message in messages)
        return self._prompt_ids(chat_prompt(messages, self.system_prompt if looks else ""), num_pictures)

    def _prompt_ids(self, prompt: str, num_pictures: int) -> list[int]:
        """BOS and the prompt, each placeholder in it grown to P between a picture's marks."""
        first, *rest = prompt.split(PLACEHOLDER)
        if len(rest) != num_pictures:
            raise UserError(f"the prompt has {len(rest)} {PLACEHOLDER} but {num_pictures} pictures are given")
        special, picture = self.special, [self.special.placeholder] * self.tokens_per_picture
        ids = [special.bos, *self.ids(first)]
        for piece in rest:
            ids += [special.begin_of_image, *picture, special.end_of_image, *self.ids(piece)]
        return ids


def with_places(text: str, num_pictures: int) -> str:
    """The text with placeholders for pictures that it gives no place: before it, a line each."""
    return f"{PLACEHOLDER}\n" * (num_pictures - text.count(PLACEHOLDER)) + text


def chat_prompt(messages: list[dict[str, str]], system: str) -> str:
    """The official ``deepseek`` conversation template to the letter (tests/golden/official_prompts.json).

    Contents lose the white space around them; an empty one leaves the turn open: ``<|Assistant|>:``, where the model
    goes on.
    """
    prompt = f"{system}\n\n" if system else ""
    for message in messages:
        role = ROLES[message["role"]]
        content, end = message["content"].strip(), "\n\n" if role == USER else EOS
        prompt += f"{role}: {content}{end}" if content else f"{role}:"
    return prompt


def _merge(segments: Sequence[Segment]) -> list[tuple[str, bool]]:
    """Neighbouring texts with the same loss become one string: tokens may span segments, as they do at inference."""
    merged: list[tuple[str, bool]] = []
    for segment in segments:
        if merged and merged[-1][1] == segment.loss:
            merged[-1] = (merged[-1][0] + segment.text, segment.loss)
        else:
            merged.append((segment.text, segment.loss))
    return merged


def _pieces(segments: Sequence[Segment]) -> list[tuple[str, bool] | Segment]:
    """The segments with each run of texts merged."""
    pieces: list[tuple[str, bool] | Segment] = []
    run: list[Segment] = []
    for segment in segments:
        if segment.role == "text":
            run.append(segment)
        else:
            pieces += [*_merge(run), segment]
            run = []
    return [*pieces, *_merge(run)]


def _is_prompt_and_picture(segments: Sequence[Segment]) -> bool:
    """One prompt, of words or of words and pictures, and the picture drawn from it: what guidance drop-out is for."""
    roles = [segment.role for segment in segments]
    first = roles.index("picture_out") if "picture_out" in roles else 0
    lossless = not any(segment.loss for segment in segments)
    return (
        first > 0 and set(roles[:first]) <= {"text", "picture_in"} and set(roles[first + 1 :]) <= {"text"} and lossless
    )
