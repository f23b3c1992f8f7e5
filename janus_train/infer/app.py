"""Both directions in a browser, as in the official demo: ask about images, generate one from a prompt."""

from __future__ import annotations

import html
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

# Before gradio is there: it asks at import, and would tell its makers and look for newer versions.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio
from PIL import Image
from starlette.middleware import Middleware

from janus_train.data.image_files import ImageError, load_image, open_image
from janus_train.data.prompt_format import with_places
from janus_train.errors import UserError
from janus_train.infer.app_limits import (
    CLEAN_EVERY_S,
    KEEP_S,
    MAX_IMAGES,
    MAX_PIXELS,
    MAX_WAITING,
    AppLimits,
    Deadline,
    RequestLimits,
    check_images,
    check_number,
    check_prompt,
    upload_folder,
)
from janus_train.infer.load import LoadedModel

MAX_TOKENS, MAX_GUIDANCE, MAX_TEMPERATURE = 512, 10, 2
MAX_SEED = 2**53
"""The largest whole number that a browser holds exactly."""
_WHAT_TO_GIVE = f"give a JPEG, PNG or WebP of at most {MAX_PIXELS // 10**6} megapixels"
_STYLE = """
.small-images .grid-container {grid-template-columns: repeat(4, 1fr) !important}
.grid-wrap {min-height: 0 !important; padding-top: 32px !important}
"""
"""Two images to ask about would fill the row, and be cut off; generated ones would lie under the label, over an empty field."""


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


def build(loaded: LoadedModel, name: str, limits: AppLimits | None = None) -> gradio.Blocks:
    """The page over one model, called ``name``. One question or generation runs at a time; the others wait in a queue."""
    limits = limits or AppLimits()

    def ask(uploads: list[tuple[str, str | None]] | None, question: str, max_new_tokens: float) -> Iterator[Any]:
        deadline = Deadline(limits.time_limit_s)
        if not question.strip():
            yield _warn("Write a question first.")
            return
        answered = ""
        try:
            check_prompt(question)
            tokens = int(check_number("the longest answer", max_new_tokens, 1, MAX_TOKENS))
            check_images(len(uploads or []))
            images: list[Image.Image] = []
            for path, _ in uploads or []:
                images.append(_image(path))
                check_images(len(images), sum(image.width * image.height for image in images))
                deadline.check()
            messages = [{"role": "user", "content": with_places(question, len(images))}]
            for piece in loaded.chat(messages, images, tokens, on_step=deadline.check):
                answered += piece
                yield answered
        except UserError as error:
            yield _warn(str(error))
        else:
            if not answered:
                yield "(The model answered nothing.)"

    def generate(prompt: str, number: float, seed: float | None, guidance: float, temperature: float) -> Any:
        if not prompt.strip():
            return _warn("Write what to draw first.")
        if seed is None or not 0 <= seed <= MAX_SEED:
            return _warn("The seed must be a whole number from 0: the same one draws the same image again.")
        try:
            check_prompt(prompt)
            number = int(check_number("the number of images", number, 1, MAX_IMAGES))
            seeds = [int(seed) + n for n in range(number)]
            images = loaded.generate(
                [prompt] * number,
                seeds=seeds,
                guidance=check_number("guidance", guidance, 1, MAX_GUIDANCE),
                temperature=check_number("temperature", temperature, 0, MAX_TEMPERATURE),
                on_step=Deadline(limits.time_limit_s).check,
            )
        except UserError as error:
            return _warn(str(error))
        return [(image, f"seed {own}") for image, own in zip(images, seeds, strict=True)]

    one_at_a_time: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "model"}
    with gradio.Blocks(title="Janus", analytics_enabled=False, delete_cache=(CLEAN_EVERY_S, KEEP_S)) as page:
        gradio.Markdown(f"# Janus\n`{name}`: ask about images, or have some drawn. {limits}")
        with gradio.Row():
            with gradio.Column():
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
                question = gradio.Textbox(
                    label="Question",
                    lines=2,
                    placeholder="What colour is the background?",
                )
                tokens = gradio.Slider(1, MAX_TOKENS, value=128, step=1, label="Longest answer, in tokens")
                ask_button = gradio.Button("Ask", variant="primary")
                answer = gradio.Textbox(label="Answer", lines=4, interactive=False)
            with gradio.Column():
                gradio.Markdown("## Draw")
                prompt = gradio.Textbox(
                    label="Prompt",
                    lines=2,
                    placeholder="A red apple on a blue background.",
                )
                with gradio.Row():
                    number = gradio.Slider(1, MAX_IMAGES, value=4, step=1, label="Images")
                    seed = gradio.Number(label="Seed of the first", value=0, precision=0)
                with gradio.Row():
                    guidance = gradio.Slider(1, MAX_GUIDANCE, value=loaded.guidance, step=0.5, label="Guidance")
                    temperature = gradio.Slider(
                        0, MAX_TEMPERATURE, value=loaded.temperature, step=0.05, label="Temperature"
                    )
                generate_button = gradio.Button("Draw", variant="primary")
                generated = gradio.Gallery(label="Images drawn", columns=4, format="png", interactive=False)
        for event in (ask_button.click, question.submit):
            event(ask, [uploads, question, tokens], answer, **one_at_a_time)
        for event in (generate_button.click, prompt.submit):
            event(generate, [prompt, number, seed, guidance, temperature], generated, **one_at_a_time)
    return page.queue(max_size=MAX_WAITING, api_open=False)  # an open one lets requests pass the queue


def _warn(message: str) -> Any:
    """Shows ``message`` in a corner of the page and leaves everything else as it is."""
    gradio.Warning(html.escape(message), duration=20)  # it takes HTML, and a placeholder looks like a tag
    return gradio.skip()


def check_address(host: str, port: int) -> None:
    """Raises `UserError` unless a page can be served there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise UserError(
            f"http://{host}:{port} cannot be served ({error.strerror or error}): give another --port or --host"
        ) from None


def serve(loaded: LoadedModel, name: str, host: str, port: int, limits: AppLimits) -> None:
    """Serves the page until Ctrl-C or SIGTERM; nothing of the uploads is left then.

    Raises:
        UserError: the port is taken, or the host is none of this machine's.
    """
    signal.signal(signal.SIGTERM, _exit)
    with serving(loaded, name, host, port, limits) as page:
        print(f"http://{host}:{port} (Ctrl-C ends it)", flush=True)
        page.block_thread()


def _exit(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


@contextmanager
def serving(loaded: LoadedModel, name: str, host: str, port: int, limits: AppLimits) -> Iterator[gradio.Blocks]:
    """The page, served in threads of its own while the block runs. No sharing, no accounts, and fonts that the browser has.

    Raises:
        UserError: the port is taken, or the host is none of this machine's.
    """
    check_address(host, port)  # gradio's server would log it, and gradio guess at the reason
    with upload_folder() as folder:
        page = build(loaded, name, limits)
        try:
            page.launch(
                server_name=host,
                server_port=port,
                share=False,
                quiet=True,
                show_error=False,
                ssr_mode=False,
                enable_monitoring=False,
                run_history=False,
                max_file_size=limits.max_upload_bytes,
                app_kwargs={"middleware": [Middleware(RequestLimits, folder=folder, limits=limits)]},
                theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
                css=_STYLE,
                footer_links=[],
                prevent_thread_lock=True,
            )
            yield page
        finally:
            page.close()


def _image(path: str) -> Image.Image:
    """An uploaded file, read whole. Gradio passes its path on without opening it: the gallery's type is filepath."""
    name = Path(path).name
    try:
        image = open_image(Path(path))
        if image.width * image.height > MAX_PIXELS:
            raise ImageError(f"has {image.width} x {image.height} pixels, at most {MAX_PIXELS:,} are taken")
        load_image(image)
    except ImageError as error:
        raise UserError(f"{name} cannot be read as an image: it {error}; {_WHAT_TO_GIVE}") from None
    except (OSError, ValueError):
        raise UserError(f"{name} cannot be read as an image: upload it again") from None
    return image
