"""Samples to documents: the project's only templates, and the only place where text becomes tokens.

    Record --TEMPLATES[name]--> Sample --Encoder.document--> Document

Formats: facts.md "Sequence formats" (the official code) and Pro, section 3.1 for the stages' templates.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from transformers import PreTrainedTokenizerFast

from janus_train.config import UserError
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

BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
PLACEHOLDER, BEGIN_OF_IMAGE, END_OF_IMAGE = "<image_placeholder>", "<begin_of_image>", "<end_of_image>"
USER, ASSISTANT = "<|User|>", "<|Assistant|>"
SPECIAL_TOKENS = (BOS, EOS, PAD, PLACEHOLDER, BEGIN_OF_IMAGE, END_OF_IMAGE, USER, ASSISTANT)
_SPECIAL = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))
_FIRST_SENTENCE = re.compile(r"^.*?(?:[.!?](?=\s|$|[\"'”’])|[。！？])", re.DOTALL)

ROLES = {USER: USER, ASSISTANT: ASSISTANT, "user": USER, "assistant": ASSISTANT, "User": USER, "Assistant": ASSISTANT}


@dataclass(frozen=True)
class SpecialTokens:
    """Ids looked up by string: they differ between the 1B and the 7B (facts.md)."""

    bos: int
    eos: int
    pad: int
    placeholder: int
    begin_of_image: int
    end_of_image: int

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> SpecialTokens:
        vocabulary = tokenizer.get_vocab()
        # Janus-1.3B's template has no tokens for the speakers: <|User|> is then written in several
        missing = [token for token in SPECIAL_TOKENS if token not in vocabulary and token not in (USER, ASSISTANT)]
        if missing:
            raise UserError(
                f"the tokenizer lacks Janus's special tokens {', '.join(missing)}: it is not a Janus tokenizer"
            )
        return cls(*(vocabulary[t] for t in (BOS, EOS, PAD, PLACEHOLDER, BEGIN_OF_IMAGE, END_OF_IMAGE)))


# ---------------------------------------------------------------------------------------------------------- templates


def _text(record: Record, name: str, *, clean: bool = True) -> str:
    value = record.fields.get(name)
    if not isinstance(value, str):
        raise BadSample(f"field {name!r} is missing or no text")
    if not value.strip():
        raise BadSample(f"field {name!r} is empty")
    found = _SPECIAL.search(value) if clean else None
    if found:
        raise BadSample(f"field {name!r} holds the special token {found[0]}")
    return value


def _picture(record: Record) -> tuple[Image.Image, np.ndarray | None]:
    if len(record.pictures) != 1:
        raise BadSample(f"{len(record.pictures)} pictures where the template takes 1")
    return record.pictures[0], (record.codes[0] if record.codes else None)


def _picture_in(record: Record) -> Segment:
    return Segment("picture_in", picture=_picture(record)[0])


def _picture_out(record: Record) -> Segment:
    picture, codes = _picture(record)
    return Segment("picture_out", picture=picture, codes=codes)


def text(record: Record) -> list[Segment]:
    """Plain text, all of it with loss."""
    return [Segment("text", _text(record, "text") + EOS, loss=True)]


def image_caption(record: Record) -> list[Segment]:
    """Stage 1: ``<image><text>``."""
    return [_picture_in(record), Segment("text", _text(record, "caption") + EOS, loss=True)]


def image_describe(record: Record) -> list[Segment]:
    """Stage 2: ``<image>Describe the image in detail.<caption>``."""
    caption = _text(record, "caption")
    return [
        _picture_in(record),
        Segment("text", "Describe the image in detail."),
        Segment("text", caption + EOS, loss=True),
    ]


def question_answer(record: Record) -> list[Segment]:
    """Stage 2, tables, charts and documents: ``<image><question><answer>``."""
    question, answer = _text(record, "question"), _text(record, "answer")
    return [_picture_in(record), Segment("text", question), Segment("text", answer + EOS, loss=True)]


def class_to_image(record: Record) -> list[Segment]:
    """Stage 1: ``<category_name><image>``."""
    return [Segment("text", _text(record, "class_name")), _picture_out(record)]


def text_to_image(record: Record) -> list[Segment]:
    """Stage 2: ``<caption><image>``."""
    return [Segment("text", _text(record, "caption")), _picture_out(record)]


def request_to_image(record: Record) -> list[Segment]:
    """Stage 3: a caption as the user's request and the picture as the answer, in the official generation prompt."""
    prompt = f"{USER}: {_text(record, 'caption')}\n\n{ASSISTANT}:"
    return [Segment("text", prompt), _picture_out(record), Segment("text", EOS)]


def conversation(record: Record) -> list[Segment]:
    """Stage 3: the official chat template; loss on the assistant's words and on the pictures it draws.

    A placeholder in a user's turn is a picture to look at, one in the assistant's turn a picture to draw.
    """
    turns = record.fields.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise BadSample("field 'conversations' is missing, empty or no list")
    pictures = iter(zip(record.pictures, record.codes or [None] * len(record.pictures), strict=True))
    wanted = sum(str(turn.get("content", "")).count(PLACEHOLDER) for turn in turns if isinstance(turn, dict))
    if wanted != len(record.pictures):
        raise BadSample(f"{wanted} placeholders but {len(record.pictures)} pictures")
    segments: list[Segment] = []
    for number, turn in enumerate(turns):
        role = ROLES.get(str(turn.get("role"))) if isinstance(turn, dict) else None
        if role != (USER, ASSISTANT)[number % 2]:
            raise BadSample(
                f"turn {number} is not the {'user' if number % 2 == 0 else 'assistant'}'s: turns must alternate"
            )
        content = turn.get("content")
        if not isinstance(content, str) or not content.strip():
            raise BadSample(f"turn {number} is empty or no text")
        found = _SPECIAL.search(content.replace(PLACEHOLDER, ""))
        if found:
            raise BadSample(f"turn {number} holds the special token {found[0]}")
        segments += _user_turn(content, pictures) if role == USER else _assistant_turn(content, pictures)
    if len(turns) % 2:
        raise BadSample("the last turn is the user's: there is nothing to learn from it")
    return segments


def _user_turn(content: str, pictures: Any) -> list[Segment]:
    first, *rest = f"{USER}: {content}\n\n".split(PLACEHOLDER)
    segments = [Segment("text", first)]
    for piece in rest:
        segments += [Segment("picture_in", picture=next(pictures)[0]), Segment("text", piece)]
    return segments


def _assistant_turn(content: str, pictures: Any) -> list[Segment]:
    """`` {words}<EOS>`` with loss; no space before a picture that comes first, and no loss on the EOS after a picture."""
    first, *rest = content.split(PLACEHOLDER)
    segments = [Segment("text", f"{ASSISTANT}:")]
    if first.strip():
        segments.append(Segment("text", " " + first + ("" if rest else EOS), loss=True))
    for number, piece in enumerate(rest):
        picture, codes = next(pictures)
        segments.append(Segment("picture_out", picture=picture, codes=codes))
        last = number == len(rest) - 1
        if piece.strip():
            segments.append(Segment("text", piece + (EOS if last else ""), loss=True))
        elif last:
            segments.append(Segment("text", EOS))
    return segments


def without_last_answer(record: Record) -> Record | None:
    """A conversation without its last question and answer and their pictures; None if it would be empty."""
    turns = record.fields["conversations"][:-2]
    if not turns:
        return None
    kept = sum(turn["content"].count(PLACEHOLDER) for turn in turns)
    return Record(record.key, record.fields | {"conversations": turns}, record.pictures[:kept], record.codes[:kept])


TEMPLATES: dict[str, Callable[[Record], list[Segment]]] = {
    f.__name__: f
    for f in (
        text,
        image_caption,
        image_describe,
        question_answer,
        class_to_image,
        text_to_image,
        request_to_image,
        conversation,
    )
}


def first_sentence(caption: str) -> str:
    """The caption up to its first full stop; the whole of it if it has none."""
    match = _FIRST_SENTENCE.match(caption)
    return match[0] if match else caption


# ------------------------------------------------------------------------------------------------------------ encoder


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
        self.tokens_per_picture = tokens_per_picture
        self.image_size = image_size
        self.picture_out_size = picture_out_size or image_size
        self.system_prompt = system_prompt
        self._known: dict[str, list[int]] = {}  # the templates' own words, and names, come again and again

    def ids(self, text: str) -> list[int]:
        found = self._known.get(text)
        if found is None:
            # the tokenizer behind transformers' wrapper, which takes longer than the tokenizing itself
            found = self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
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
        return f"{USER}: {prompt}\n\n{ASSISTANT}:"

    def generation_prompt_ids(self, prompt: str) -> list[int]:
        """BOS, prompt, ``<begin_of_image>``: the last hidden state predicts code 0."""
        return [self.special.bos, *self.ids(self.generation_prompt(prompt)), self.special.begin_of_image]

    def chat_prompt_ids(self, messages: list[dict[str, str]], num_pictures: int) -> list[int]:
        """BOS and the official chat prompt with its pictures' places; the model's answer comes next."""
        looks = any(PLACEHOLDER in message["content"] for message in messages)
        prompt = chat_prompt(messages, self.system_prompt if looks else "")
        pieces = prompt.split(PLACEHOLDER)
        if len(pieces) - 1 != num_pictures:
            raise UserError(f"the messages have {len(pieces) - 1} {PLACEHOLDER} but {num_pictures} pictures are given")
        special, picture = self.special, [self.special.placeholder] * self.tokens_per_picture
        ids = [special.bos, *self.ids(pieces[0])]
        for piece in pieces[1:]:
            ids += [special.begin_of_image, *picture, special.end_of_image, *self.ids(piece)]
        return ids


def chat_prompt(messages: list[dict[str, str]], system: str) -> str:
    """The official ``deepseek`` conversation template to the letter (tests/golden/official_prompts.json).

    An empty content leaves the turn open: ``<|Assistant|>:``, where the model goes on.
    """
    prompt = f"{system}\n\n" if system else ""
    for message in messages:
        role = ROLES[message["role"]]
        end = "\n\n" if role == USER else EOS
        prompt += f"{role}: {message['content']}{end}" if message["content"] else f"{role}:"
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
