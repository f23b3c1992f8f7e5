"""The app's page over a model that costs nothing, and its functions without a browser."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from PIL import Image


class FakeModel:
    """Answers with the sizes of the images that it is shown, and draws black; each a step at a time."""

    guidance, temperature = 5.0, 1.0

    def __init__(self, steps: int = 1) -> None:
        self.steps = steps
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.asked = 0

    def chat(
        self, messages: Any, images: Sequence[Image.Image], max_new_tokens: int, *, on_step: Callable[[], None]
    ) -> Iterator[str]:
        self.asked += 1
        self.may_go_on.wait(60)
        for _ in range(self.steps):
            on_step()
            yield str([image.size for image in images])

    def generate(self, prompts: Sequence[str], *, on_step: Callable[[], None], **options: Any) -> list[Image.Image]:
        self.asked += 1
        for _ in range(self.steps):
            on_step()
        return [Image.new("RGB", (8, 8)) for _ in prompts]


def event_of(model: Any, name: str, **limits: Any) -> Any:
    """The page's function ``ask`` or ``generate`` with its inputs, as gradio knows it."""
    from janus_train.infer.app import build
    from janus_train.infer.app_limits import AppLimits

    page = build(model, "my/model", AppLimits(**limits))
    return next(function for function in page.fns.values() if function.name == name)
