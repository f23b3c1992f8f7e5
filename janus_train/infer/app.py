"""Both directions in a browser, as in the official demo: ask about images, generate one from a prompt."""

from __future__ import annotations

import html
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before gradio is there: it asks at import, and would tell its makers and look for newer versions.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio
from PIL import Image

from janus_train.data.image_files import WHAT_TO_GIVE, ImageError, load_image, open_image
from janus_train.data.prompt_format import with_places
from janus_train.errors import UserError
from janus_train.infer.load import LoadedModel

MAX_IMAGES, MAX_TOKENS = 16, 512
MAX_SEED = 2**53
"""The largest whole number that a browser holds exactly."""
_STYLE = """
.small-images .grid-container {grid-template-columns: repeat(4, 1fr) !important}
.grid-wrap {min-height: 0 !important; padding-top: 32px !important}
"""
"""Two images to ask about would fill the row, and be cut off; generated ones would lie under the label, over an empty field."""


def build(loaded: LoadedModel, name: str) -> gradio.Blocks:
    """The page over one model, called ``name``. One question or generation runs at a time; the others wait in a queue."""

    def ask(shown: list[tuple[str, str | None]] | None, question: str, max_new_tokens: float) -> Iterator[Any]:
        if not question.strip():
            yield _warn("Write a question first.")
            return
        answered = ""
        try:
            images = [_image(path) for path, _ in shown or []]
            messages = [{"role": "user", "content": with_places(question, len(images))}]
            for piece in loaded.chat(messages, images, int(max_new_tokens)):
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
        seeds = [int(seed) + n for n in range(int(number))]
        try:
            images = loaded.generate([prompt] * len(seeds), seeds=seeds, guidance=guidance, temperature=temperature)
        except UserError as error:
            return _warn(str(error))
        return [(image, f"seed {own}") for image, own in zip(images, seeds, strict=True)]

    one_at_a_time: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "model"}
    with gradio.Blocks(title="Janus", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gradio.Markdown(f"# Janus\n`{name}`: ask about images, or have some drawn.")
        with gradio.Row():
            with gradio.Column():
                gradio.Markdown("## Ask")
                shown = gradio.Gallery(
                    label="Images to ask about (without any, it answers from words alone)",
                    type="filepath",
                    file_types=["image"],
                    columns=4,
                    height=220,
                    object_fit="contain",
                    interactive=True,
                    elem_classes="small-pictures",
                )
                question = gradio.Textbox(label="Question", lines=2, placeholder="What colour is the background?")
                tokens = gradio.Slider(1, MAX_TOKENS, value=128, step=1, label="Longest answer, in tokens")
                ask_button = gradio.Button("Ask", variant="primary")
                answer = gradio.Textbox(label="Answer", lines=4, interactive=False)
            with gradio.Column():
                gradio.Markdown("## Draw")
                prompt = gradio.Textbox(label="Prompt", lines=2, placeholder="A red apple on a blue background.")
                with gradio.Row():
                    number = gradio.Slider(1, MAX_IMAGES, value=4, step=1, label="Images")
                    seed = gradio.Number(label="Seed of the first", value=0, precision=0)
                with gradio.Row():
                    guidance = gradio.Slider(1, 10, value=loaded.guidance, step=0.5, label="Guidance")
                    temperature = gradio.Slider(0, 2, value=loaded.temperature, step=0.05, label="Temperature")
                generate_button = gradio.Button("Draw", variant="primary")
                generated = gradio.Gallery(label="Images drawn", columns=4, format="png", interactive=False)
        for event in (ask_button.click, question.submit):
            event(ask, [shown, question, tokens], answer, **one_at_a_time)
        for event in (generate_button.click, prompt.submit):
            event(generate, [prompt, number, seed, guidance, temperature], generated, **one_at_a_time)
    return page


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


def serve(loaded: LoadedModel, name: str, host: str, port: int, *, wait: bool = True) -> gradio.Blocks:
    """Serves the page; with ``wait`` until Ctrl-C. No sharing, no accounts, and fonts that the browser has.

    Raises:
        UserError: the port is taken, or the host is none of this machine's.
    """
    check_address(host, port)  # gradio's server would log it, and gradio guess at the reason
    page = build(loaded, name)
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        show_error=False,
        ssr_mode=False,
        theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        css=_STYLE,
        footer_links=[],
        prevent_thread_lock=True,
    )
    if wait:
        print(f"http://{host}:{port} (Ctrl-C ends it)", flush=True)
        page.block_thread()
    return page


def _image(path: str) -> Image.Image:
    """An uploaded file, read whole. Gradio passes its path on without opening it: the gallery's type is filepath."""
    name = Path(path).name
    try:
        image = open_image(Path(path))
        load_image(image)
    except ImageError as error:
        raise UserError(f"{name} cannot be read as an image: it {error}; {WHAT_TO_GIVE}") from None
    except (OSError, ValueError):
        raise UserError(f"{name} cannot be read as an image: upload it again") from None
    return image
