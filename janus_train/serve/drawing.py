"""``POST /v1/images/generations`` and ``/v1/images/edits``: images from prompts, and from images."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import FormData, UploadFile

from janus_train.errors import UserError
from janus_train.infer.limits import MAX_IMAGES, MAX_PROMPT_CHARS, check_prompt
from janus_train.infer.rows import Drawn, ImageRow, image_row
from janus_train.serve.bodies import read_body, read_form
from janus_train.serve.errors import ApiError
from janus_train.serve.images import ImageReader, as_png
from janus_train.serve.schema import MAX_SEED, EditBody, ImageBody
from janus_train.serve.service import Service, check_text

_IMAGE_FIELDS = ("image", "image[]")
_MAX_FIELDS = 32


async def generate(service: Service, request: Request) -> Response:
    """Draws the prompt. Raises `ApiError`."""
    async with service.bodies.room_for(request, "application/json"):
        rows = await service.in_thread(_of_json, service, await read_body(request))
    return await _draw(service, request, rows)


async def edit(service: Service, request: Request) -> Response:
    """Draws the prompt with the images in it. Raises `ApiError`."""
    async with service.bodies.room_for(request, "multipart/form-data"):
        form = await read_form(request, MAX_IMAGES, _MAX_FIELDS, 4 * MAX_PROMPT_CHARS)
        try:
            files = [await _read(name, value) for name, value in form.multi_items() if isinstance(value, UploadFile)]
        finally:
            await form.close()
        rows = await service.in_thread(_of_form, service, form, files)
        del files
    return await _draw(service, request, rows)


async def _read(name: str, file: UploadFile) -> bytes:
    if name not in _IMAGE_FIELDS:
        raise ApiError(400, f"a file in {name[:100]!r} is not supported: leave it out", param=name[:100])
    return await file.read()


def _of_json(service: Service, data: bytes) -> list[ImageRow]:
    return _rows(service, ImageBody.model_validate_json(data), ImageReader(service.engine.loaded.encoder))


def _of_form(service: Service, form: FormData, files: Sequence[bytes]) -> list[ImageRow]:
    fields = {name: value for name, value in form.multi_items() if isinstance(value, str)}
    if not files:
        raise ApiError(400, "there is no image: send a file in the field image", param="image")
    body = EditBody.model_validate(fields)
    reader = ImageReader(service.engine.loaded.encoder)
    for data in files:
        reader.add(data, "image")
    return _rows(service, body, reader)


def _rows(service: Service, body: ImageBody, reader: ImageReader) -> list[ImageRow]:
    """One row for each of ``n`` images, with consecutive seeds."""
    loaded = service.engine.loaded
    if body.model is not None:
        service.check_model(body.model)
    side = loaded.encoder.generation_image_size
    if body.size not in (None, "auto", f"{side}x{side}"):
        raise ApiError(400, f"the model draws images of {side}x{side}: give that, or auto", param="size")
    if not body.prompt.strip():
        raise ApiError(400, "the prompt is empty: describe the image", param="prompt")
    check_text(body.prompt, "prompt")
    seed = random.randrange(2**32) if body.seed is None else body.seed
    try:
        check_prompt(body.prompt)
        row = image_row(
            loaded,
            body.prompt,
            seed=seed,
            images=reader.images,
            guidance=body.guidance,
            temperature=body.temperature,
            top_k=body.top_k or 0,
            top_p=1.0 if body.top_p is None else body.top_p,
        )
    except UserError as error:  # the prompt is too long
        raise ApiError(400, str(error), param="prompt", code="context_length_exceeded") from None
    return [replace(row, seed=(seed + number) % (MAX_SEED + 1)) for number in range(body.n or 1)]


async def _draw(service: Service, request: Request, rows: list[ImageRow]) -> Response:
    events = dict(await service.submit(rows).all_events(request))
    images = [event.image for _, event in sorted(events.items()) if isinstance(event, Drawn)]
    data = [
        {"b64_json": await service.in_thread(as_png, image), "seed": row.seed}
        for image, row in zip(images, rows, strict=True)
    ]
    side = images[0].width
    answer: dict[str, Any] = {
        "created": int(time.time()),
        "data": data,
        "output_format": "png",
        "size": f"{side}x{side}",
        "usage": _usage(service, rows),
    }
    return JSONResponse(answer)


def _usage(service: Service, rows: Sequence[ImageRow]) -> dict[str, Any]:
    """In tokens; an image that is shown and one that is drawn have equally many."""
    num_input, num_output = len(rows[0].prompt), sum(row.num_new for row in rows)
    num_shown = len(rows[0].images) * service.engine.loaded.encoder.tokens_per_image
    return {
        "input_tokens": num_input,
        "input_tokens_details": {"image_tokens": num_shown, "text_tokens": num_input - num_shown},
        "output_tokens": num_output,
        "total_tokens": num_input + num_output,
    }
