"""The options of the demonstration's evaluation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from janus_train.evaluate.options import DrawOptions


class DemoOptions(DrawOptions):
    """``seed`` also chooses among a scene's questions."""

    num_prompts: Annotated[int, Field(ge=1)] = 200
    """Held-out scenes to generate."""
    num_questions: Annotated[int, Field(ge=4)] = 400
    """Questions about held-out scenes."""
