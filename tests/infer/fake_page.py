"""The app's page over an engine that costs nothing, and its functions without a browser."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image


class FakeEngine:
    """Answers with the sizes of the images that it is shown, and draws black."""

    guidance, temperature = 5.0, 1.0

    def __init__(self, batch_size: int = 1) -> None:
        self.batch_size = batch_size
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.asked = 0

    def fit(self, image: Image.Image) -> Image.Image:
        return image

    def chat(self, messages: Any, images: Sequence[Image.Image], max_new_tokens: int) -> Iterator[str]:
        self.asked += 1
        self.may_go_on.wait(60)
        yield str([image.size for image in images])

    def generate(self, prompts: Sequence[str], **options: Any) -> list[Image.Image]:
        self.asked += 1
        return [Image.new("RGB", (8, 8)) for _ in prompts]


def event_of(engine: Any, name: str, **limits: Any) -> Any:
    """The page's function ``ask`` or ``generate`` with its inputs, as gradio knows it."""
    from janus_train.infer.app_limits import AppLimits
    from janus_train.infer.app_page import build

    page = build(engine, "my/model", AppLimits(**limits))
    return next(function for function in page.fns.values() if function.name == name)
