"""The app's page: its two columns, and what happens at its buttons."""

from __future__ import annotations

import html
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before gradio is there: it asks at import, and would tell its makers and look for newer versions.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio
from PIL import Image

from janus_train.data.prompt_format import with_places
from janus_train.errors import UserError
from janus_train.infer.app_limits import CLEAN_EVERY_S, KEEP_S, MAX_WAITING, AppLimits
from janus_train.infer.engine import Engine
from janus_train.infer.limits import MAX_IMAGES, check_images, check_number, check_prompt, read_image

MAX_TOKENS, MAX_GUIDANCE, MAX_TEMPERATURE = 512, 10, 2
MAX_SEED = 2**53
"""The largest whole number that a browser holds exactly."""
_DECODING = threading.Semaphore(2)
"""A large image takes some hundred megabytes until it is fitted to the model."""
STYLE = """
.small-images .grid-container {grid-template-columns: repeat(4, 1fr) !important}
.grid-wrap {min-height: 0 !important; padding-top: 32px !important}
"""
"""Two images to ask about would fill the row, and be cut off; generated ones would lie under the label, over an empty field."""


def build(engine: Engine, name: str, limits: AppLimits | None = None) -> gradio.Blocks:
    """The page over one model, called ``name``. What is asked at the same time is worked on together; the rest waits."""
    with gradio.Blocks(title="Janus", analytics_enabled=False, delete_cache=(CLEAN_EVERY_S, KEEP_S)) as page:
        gradio.Markdown(f"# Janus\n`{name}`: ask about images, or have some drawn. {limits or AppLimits()}")
        with gradio.Row():
            with gradio.Column():
                _ask_column(engine)
            with gradio.Column():
                _draw_column(engine)
    return page.queue(max_size=MAX_WAITING, api_open=False)  # an open one lets requests pass the queue


def _ask_column(engine: Engine) -> None:
    def ask(uploads: list[tuple[str, str | None]] | None, question: str, max_new_tokens: float) -> Iterator[Any]:
        if not question.strip():
            yield _warn("Write a question first.")
            return
        answered = ""
        try:
            check_prompt(question)
            tokens = int(check_number("the longest answer", max_new_tokens, 1, MAX_TOKENS))
            check_images(len(uploads or []))
            images: list[Image.Image] = []
            pixels = 0
            for path, _ in uploads or []:
                with _DECODING:
                    image = _image(path)
                    pixels += image.width * image.height
                    check_images(len(uploads or []), pixels)
                    images.append(engine.fit(image))
            messages = [{"role": "user", "content": with_places(question, len(images))}]
            for piece in engine.chat(messages, images, tokens):
                answered += piece
                yield answered
        except UserError as error:
            yield _warn(str(error))
        else:
            if not answered:
                yield "(The model answered nothing.)"

    gradio.Markdown("## Ask")
    uploads = _take_uploads_only(
        gradio.Gallery(
            label="Images to ask about (without any, it answers from words alone)",
            type="filepath",
            file_types=["image"],
            columns=4,
            height=220,
            object_fit="contain",
            interactive=True,
            elem_classes="small-images",
        )
    )
    question = gradio.Textbox(label="Question", lines=2, placeholder="What colour is the background?")
    tokens = gradio.Slider(1, MAX_TOKENS, value=128, step=1, label="Longest answer, in tokens")
    button = gradio.Button("Ask", variant="primary")
    answer = gradio.Textbox(label="Answer", lines=4, interactive=False)
    for event in (button.click, question.submit):
        event(ask, [uploads, question, tokens], answer, **_together(engine))


def _draw_column(engine: Engine) -> None:
    def generate(prompt: str, number: float, seed: float | None, guidance: float, temperature: float) -> Any:
        if not prompt.strip():
            return _warn("Write what to draw first.")
        if seed is None or not 0 <= seed <= MAX_SEED:
            return _warn("The seed must be a whole number from 0: the same one draws the same image again.")
        try:
            check_prompt(prompt)
            number = int(check_number("the number of images", number, 1, MAX_IMAGES))
            seeds = [int(seed) + n for n in range(number)]
            images = engine.generate(
                [prompt] * number,
                seeds=seeds,
                guidance=check_number("guidance", guidance, 1, MAX_GUIDANCE),
                temperature=check_number("temperature", temperature, 0, MAX_TEMPERATURE),
            )
        except UserError as error:
            return _warn(str(error))
        return [(image, f"seed {own}") for image, own in zip(images, seeds, strict=True)]

    gradio.Markdown("## Draw")
    prompt = gradio.Textbox(label="Prompt", lines=2, placeholder="A red apple on a blue background.")
    with gradio.Row():
        number = gradio.Slider(1, MAX_IMAGES, value=4, step=1, label="Images")
        seed = gradio.Number(label="Seed of the first", value=0, precision=0)
    with gradio.Row():
        guidance = gradio.Slider(1, MAX_GUIDANCE, value=engine.guidance, step=0.5, label="Guidance")
        temperature = gradio.Slider(0, MAX_TEMPERATURE, value=engine.temperature, step=0.05, label="Temperature")
    button = gradio.Button("Draw", variant="primary")
    generated = gradio.Gallery(label="Images drawn", columns=4, format="png", interactive=False)
    for event in (button.click, prompt.submit):
        event(generate, [prompt, number, seed, guidance, temperature], generated, **_together(engine))


def _together(engine: Engine) -> dict[str, Any]:
    """So many requests at a time as the engine takes into a batch."""
    return {"concurrency_limit": engine.batch_size, "concurrency_id": "model"}


def _warn(message: str) -> Any:
    """Shows ``message`` in a corner of the page and leaves everything else as it is."""
    gradio.Warning(html.escape(message), duration=20)  # it takes HTML, and a placeholder looks like a tag
    return gradio.skip()


def _image(path: str) -> Image.Image:
    """An uploaded file, read whole. Gradio passes its path on without opening it: the gallery's type is filepath."""
    name = Path(path).name
    try:
        return read_image(Path(path), name)
    except (OSError, ValueError):
        raise UserError(f"{name} cannot be read as an image: upload it again") from None


def _take_uploads_only(gallery: gradio.Gallery) -> gradio.Gallery:
    """``gallery``, which by itself would fetch whatever address a request names."""
    # set on the one object: gradio writes a stub file beside the source of every class that is made of its own
    fetch, async_fetch = gallery.move_resource_to_block_cache, gallery.async_move_resource_to_block_cache

    def move(path: str | Path | None) -> str | None:
        _refuse_address(path)
        return fetch(path)

    async def async_move(path: str | Path | None) -> str | None:
        _refuse_address(path)
        return await async_fetch(path)

    gallery.move_resource_to_block_cache = move  # type: ignore[assignment]
    gallery.async_move_resource_to_block_cache = async_move  # type: ignore[assignment]
    return gallery


def _refuse_address(path: str | Path | None) -> None:
    if "://" in str(path):
        raise gradio.Error("Upload the image: nothing is fetched from an address.", print_exception=False)
