"""The options of the evaluation on own data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from janus_train.errors import UserError
from janus_train.evaluate.options import DrawOptions
from janus_train.evaluate.own_data.selection import Split

NAME = "own_data"


class OwnDataOptions(DrawOptions):
    """``data`` is a recipe or a file of JSON lines."""

    data: str
    num_samples: Annotated[int, Field(ge=1)] = 1000
    """At most so many samples of each source are read, evenly spread over it."""
    num_questions: Annotated[int, Field(ge=0)] = 400
    """At most so many questions and images to describe are put to the model."""
    num_prompts: Annotated[int, Field(ge=0)] = 200
    """At most so many images are generated."""
    max_answer_tokens: Annotated[int, Field(ge=1)] = 64
    """The longest answer; a sample whose true answer is longer counts for the losses alone."""
    by: str | None = None
    """A field of the records, by whose values the scores are given too."""
    template: tuple[str, ...] = Field(strict=False, default=())
    """The templates of a file of JSON lines; by default those of its fields."""

    split: Split | None = None
    """The samples of a recipe that are evaluated; by default those that it holds out, if it does."""
    always_system: bool = False
    """Whether the model's own system prompt stands before conversations without images too; see `PromptStyle`."""
    clip: str | None = None
    """A CLIP folder in transformers' layout, for the CLIP score of the generated images."""
    inception: str | None = None
    """The Inception network as TorchScript, for their FID to the true ones (`evaluate.image_metrics`)."""

    def check(self) -> None:
        if self.clip is not None and not Path(self.clip).expanduser().is_dir():
            raise UserError(f"--clip {self.clip}: there is no such folder; give that of a CLIP in transformers' layout")
        if self.inception is not None and not Path(self.inception).expanduser().is_file():
            raise UserError(f"--inception {self.inception}: there is no such file")
        from janus_train.evaluate.own_data.sources import open_data

        open_data(self.data, self.template, self.split, image_size=0, num_samples=1)
