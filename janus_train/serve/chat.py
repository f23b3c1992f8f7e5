"""``POST /v1/chat/completions``: answers, whole or as they are written."""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from janus_train.data.prompt_format import OWN_STYLE, SEPARATOR, PromptStyle
from janus_train.data.special_tokens import PLACEHOLDER
from janus_train.errors import UserError
from janus_train.infer.chat import Messages
from janus_train.infer.limits import check_prompt
from janus_train.infer.load import LoadedModel
from janus_train.infer.rows import Answered, ChatRow, Event, Piece, chat_row
from janus_train.infer.sampling import TextSampling
from janus_train.serve.bodies import read_body
from janus_train.serve.errors import ApiError
from janus_train.serve.images import ImageReader
from janus_train.serve.schema import MAX_SEED, ChatBody, ImagePart, Message
from janus_train.serve.service import Rows, Service, check_text

MAX_CHAT_CHARS = 100_000
"""All texts of a conversation together."""


@dataclass(frozen=True)
class Prepared:
    """A request that has passed all checks."""

    rows: list[ChatRow]
    is_streamed: bool
    has_usage: bool
    """Whether a stream ends with its usage."""


async def complete(service: Service, request: Request) -> Response:
    """Answers the conversation. Raises `ApiError`."""
    async with service.bodies.room_for(request, "application/json"):
        prepared = await service.in_thread(_prepare, service, await read_body(request))
    rows = service.submit(prepared.rows)
    answers = Answers(service.name, prepared.rows)
    if prepared.is_streamed:
        return EventStream(rows, answers, prepared.has_usage)
    for number, event in await rows.all_events(request):
        answers.add(number, event)
    return JSONResponse(answers.completion())


def _prepare(service: Service, data: bytes) -> Prepared:
    body = ChatBody.model_validate_json(data)
    service.check_model(body.model)
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options needs stream", param="stream_options")
    stream_options = body.stream_options
    return Prepared(
        _rows(service.engine.loaded, body),
        bool(body.stream),
        bool(stream_options and stream_options.include_usage),
    )


def _rows(loaded: LoadedModel, body: ChatBody) -> list[ChatRow]:
    """One row for each of ``n`` answers, with consecutive seeds."""
    if body.max_tokens is not None and body.max_completion_tokens not in (None, body.max_tokens):
        raise ApiError(400, "max_tokens and max_completion_tokens differ: give one", param="max_tokens")
    reader = ImageReader(loaded.encoder)
    style, messages = _conversation(body.messages, reader)
    sampling = TextSampling(
        temperature=body.temperature or 0.0,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=body.top_k or 0,
        repetition_penalty=1.0 if body.repetition_penalty is None else body.repetition_penalty,
    )
    seed = random.randrange(2**32) if body.seed is None else body.seed
    max_tokens = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    try:
        row = chat_row(
            loaded,
            messages,
            reader.images,
            max_tokens,
            style=style,
            sampling=sampling,
            seed=seed,
            stop=body.stop or (),
        )
    except UserError as error:  # the conversation is too long
        raise ApiError(400, str(error), param="messages", code="context_length_exceeded") from None
    return [replace(row, seed=(seed + number) % (MAX_SEED + 1)) for number in range(body.n or 1)]


def _conversation(turns: list[Message], reader: ImageReader) -> tuple[PromptStyle, Messages]:
    """The system prompt and the turns, an image's place being its placeholder; the images go to ``reader``."""
    system: list[str] = []
    messages: Messages = []
    num_chars = 0
    for number, turn in enumerate(turns):
        param = f"messages.{number}.content"
        texts: list[str] = []
        for place, part in enumerate(turn.content):
            if isinstance(part, ImagePart):
                if turn.role != "user":
                    raise ApiError(400, f"an image in a turn of {turn.role}: only users show images", param=param)
                reader.add_url(part.image_url.url, f"{param}.{place}.image_url.url")
                texts.append(PLACEHOLDER)
            else:
                num_chars += len(part.text)
                check_prompt("" if num_chars <= MAX_CHAT_CHARS else part.text, MAX_CHAT_CHARS)
                check_text(part.text, param)
                texts.append(part.text)
        text = "\n".join(texts)
        if turn.role in ("system", "developer"):
            if messages:
                raise ApiError(400, "a system message must stand before all others", param=f"messages.{number}.role")
            system.append(text)
        elif not text.strip():
            raise ApiError(400, f"the turn of {turn.role} is empty", param=param)
        else:
            messages.append({"role": turn.role, "content": text})
    if not messages or messages[-1]["role"] != "user":
        raise ApiError(400, "the last message must be the user's", param="messages")
    return (PromptStyle(system=SEPARATOR.join(system)) if system else OWN_STYLE), messages


class Answers:
    """The answers to a request as they come, in OpenAI's forms."""

    def __init__(self, model: str, rows: list[ChatRow]):
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._texts: list[list[str]] = [[] for _ in rows]
        self._reasons: list[str | None] = [None] * len(rows)
        self._num_prompt_tokens, self._num_tokens = len(rows[0].prompt), 0

    def add(self, number: int, event: Event) -> dict[str, Any]:
        """Takes an event of a row, and returns it as a chunk."""
        if isinstance(event, Piece):
            self._texts[number].append(event.text)
            return self.chunk(number, {"content": event.text})
        assert isinstance(event, Answered)
        self._reasons[number] = event.reason
        self._num_tokens += event.num_tokens
        return self.chunk(number, {}, event.reason)

    def first_chunks(self) -> list[dict[str, Any]]:
        return [self.chunk(number, {"role": "assistant", "content": ""}) for number in range(len(self._texts))]

    def chunk(self, number: int, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": number, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}

    def usage_chunk(self) -> dict[str, Any]:
        return {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": self._usage()}

    def completion(self) -> dict[str, Any]:
        choices = [
            {
                "index": number,
                "message": {"role": "assistant", "content": "".join(texts), "refusal": None},
                "logprobs": None,
                "finish_reason": reason,
            }
            for number, (texts, reason) in enumerate(zip(self._texts, self._reasons, strict=True))
        ]
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": self._usage()}

    def _usage(self) -> dict[str, int]:
        return {
            "prompt_tokens": self._num_prompt_tokens,
            "completion_tokens": self._num_tokens,
            "total_tokens": self._num_prompt_tokens + self._num_tokens,
        }


class EventStream(StreamingResponse):
    """Answers as server-sent events. What a client that is gone has asked for is cancelled."""

    def __init__(self, rows: Rows, answers: Answers, has_usage: bool):
        self._rows = rows
        super().__init__(_lines(rows, answers, has_usage), media_type="text/event-stream")
        self.headers["Cache-Control"] = "no-cache"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._rows.cancel()


async def _lines(rows: Rows, answers: Answers, has_usage: bool) -> AsyncIterator[str]:
    for chunk in answers.first_chunks():
        yield _line(chunk)
    try:
        async for number, event in rows.events():
            yield _line(answers.add(number, event))
    except ApiError as error:
        yield _line(error.body())
        return
    if has_usage:
        yield _line(answers.usage_chunk())
    yield "data: [DONE]\n\n"


def _line(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"
