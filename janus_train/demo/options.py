"""The options of the demonstration's evaluation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from janus_train.demo.objects import ObjectChoice
from janus_train.evaluate.options import DrawOptions


class DemoOptions(DrawOptions):
    """``seed`` also chooses among a scene's questions."""

    num_prompts: Annotated[int, Field(ge=1)] = 200
    """Held-out scenes to generate."""
    num_questions: Annotated[int, Field(ge=4)] = 400
    """Questions about held-out scenes."""
    only: tuple[str, ...] = Field(strict=False, default=())
    """Names of the objects that scenes and dialogues are about; empty: all."""
    without: tuple[str, ...] = Field(strict=False, default=())
    """Names of objects that they are never about."""

    @property
    def choice(self) -> ObjectChoice:
        return ObjectChoice(self.only, self.without)
