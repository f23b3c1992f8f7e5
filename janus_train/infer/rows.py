"""What the engine works on: rows, one answer or one image each, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from PIL import Image

from janus_train.data.encode import Encoder
from janus_train.data.images import understanding_pixels
from janus_train.data.prompt_format import OWN_STYLE, PromptStyle, with_places
from janus_train.data.types import BadSample
from janus_train.errors import UserError
from janus_train.infer.chat import Messages, open_turn
from janus_train.infer.decoding import check_fits
from janus_train.infer.generate import tokens_per_image
from janus_train.infer.limits import Deadline
from janus_train.infer.load import LoadedModel
from janus_train.infer.sampling import GREEDY, TextSampling


@dataclass(frozen=True, eq=False)
class ChatRow:
    """One answer to be written."""

    prompt: list[int]
    images: Sequence[Image.Image]
    num_new: int
    """The largest number of tokens."""
    sampling: TextSampling
    seed: int
    stop: Sequence[str]

    @property
    def batch_key(self) -> object:
        """Rows with the same key can share a batch: answers of any kind can."""
        return "chat"

    @property
    def num_tokens(self) -> int:
        """What the row takes of a batch, in tokens."""
        return len(self.prompt) + self.num_new


@dataclass(frozen=True, eq=False)
class ImageRow:
    """One image to be generated. ``images``: those that it is made from, for editing."""

    prompt: list[int]
    images: Sequence[Image.Image]
    num_new: int
    """The number of codes of an image."""
    guidance: float
    temperature: float
    top_k: int
    top_p: float
    seed: int

    @property
    def batch_key(self) -> object:
        return self.guidance, self.temperature, self.top_k, self.top_p

    @property
    def num_tokens(self) -> int:
        return (len(self.prompt) + self.num_new) * (1 if self.guidance == 1 else 2)


Row = ChatRow | ImageRow


@dataclass(frozen=True)
class Piece:
    """More of an answer's text."""

    text: str


@dataclass(frozen=True)
class Answered:
    """An answer is complete: by EOS or a stop sequence, or cut at its largest length. ``num_tokens``: its own."""

    reason: Literal["stop", "length"]
    num_tokens: int


@dataclass(frozen=True)
class Drawn:
    """An image is complete."""

    image: Image.Image


@dataclass(frozen=True)
class Failed:
    """Nothing more comes. `UserError`: the message is for whoever asked; others are defects or a lack of memory."""

    error: Exception


Event = Piece | Answered | Drawn | Failed
Put = Callable[[int, Event], None]
"""Called in the engine's thread with the number of a row within its request; the last event of a row is no `Piece`."""


@dataclass(eq=False)
class Request:
    """Rows that were asked for together, and share their time."""

    rows: Sequence[Row]
    put: Put
    time_limit_s: float
    deadline: Deadline | None = None
    """From when the first of the rows is worked on."""
    queued: list[QueuedRow] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.queued = [QueuedRow(self, number, row) for number, row in enumerate(self.rows)]

    def cancel(self) -> None:
        """Nobody waits for it any more: rows that wait are dropped, and the running ones end at the next step."""
        for row in self.queued:
            row.is_over = True


@dataclass(eq=False)
class QueuedRow:
    """A row in the engine."""

    request: Request
    number: int
    row: Row
    is_over: bool = False
    """Complete, failed or cancelled."""
    has_text: bool = False
    """Whether a part of the answer has been handed on."""

    def start(self) -> None:
        """The row's turn has come."""
        if self.request.deadline is None:
            self.request.deadline = Deadline(self.request.time_limit_s)

    def check_time(self) -> None:
        """Fails the row if its request's time is over."""
        try:
            if self.request.deadline is not None:
                self.request.deadline.check()
        except UserError as error:
            self.emit(Failed(error))

    def emit(self, event: Event) -> None:
        """Hands an event on, unless the row is over."""
        if self.is_over:
            return
        self.has_text = self.has_text or isinstance(event, Piece)
        self.is_over = not isinstance(event, Piece)
        try:
            self.request.put(self.number, event)
        except Exception:  # whoever waited is gone, and so may be their event loop: the others' rows go on
            self.request.cancel()


def chat_row(
    loaded: LoadedModel,
    messages: Messages,
    images: Sequence[Image.Image],
    max_new_tokens: int | None,
    *,
    style: PromptStyle = OWN_STYLE,
    sampling: TextSampling = GREEDY,
    seed: int = 0,
    stop: Sequence[str] = (),
) -> ChatRow:
    """The row of what `LoadedModel.chat` takes. ``max_new_tokens`` None: as many as fit, at most 256.

    Raises `UserError` as it does.
    """
    prompt = loaded.encoder.chat_prompt_ids(open_turn(messages), len(images), style)
    if max_new_tokens is None:
        context = loaded.janus.config.text_config.max_position_embeddings
        max_new_tokens = max(1, min(256, context - len(prompt)))
    check_fits(loaded.janus, len(prompt), max_new_tokens, "new ones")
    small = [fitted(loaded.encoder, image) for image in images]
    return ChatRow(prompt, small, max_new_tokens, sampling, seed, stop)


def image_row(
    loaded: LoadedModel,
    prompt: str,
    *,
    seed: int,
    images: Sequence[Image.Image] = (),
    guidance: float | None = None,
    temperature: float | None = None,
    top_k: int = 0,
    top_p: float = 1.0,
) -> ImageRow:
    """The row of what `LoadedModel.generate` takes for one image. Raises `UserError` as it does."""
    ids = loaded.encoder.generation_prompt_ids(with_places(prompt, len(images)), len(images))
    num_codes = tokens_per_image(loaded.janus)
    check_fits(loaded.janus, len(ids), num_codes, "of an image")
    return ImageRow(
        ids,
        [fitted(loaded.encoder, image) for image in images],
        num_codes,
        loaded.guidance if guidance is None else guidance,
        loaded.temperature if temperature is None else temperature,
        top_k,
        top_p,
        seed,
    )


def fitted(encoder: Encoder, image: Image.Image) -> Image.Image:
    """``image`` as the understanding encoder sees it, in place of up to 25 megapixels while it waits.

    Fitting twice changes nothing. Raises `UserError` if it cannot be decoded.
    """
    try:
        return Image.fromarray(understanding_pixels(image, encoder.image_size))
    except BadSample as error:
        raise UserError(str(error)) from None
