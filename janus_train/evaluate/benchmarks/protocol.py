"""Protocols: which words a model is asked with, in which roles, and how its answers are decoded.

``deepseek`` and ``pro`` are files in ``protocols/``; a file of your own with the same keys can be given by its path.
"""

from __future__ import annotations

import hashlib
import json
import string
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from janus_train.data.prompt_format import PromptStyle
from janus_train.errors import UserError
from janus_train.files import read_yaml
from janus_train.infer.sampling import TextSampling

FOLDER = Path(__file__).with_name("protocols")
FIELDS = {
    "yes_no": {"question"},
    "short_answer": {"question"},
    "choice": {"hint", "question", "options"},
    "open": {"question"},
    "free": {"question"},
}
"""The kinds of prompts, and what stands in braces in each."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Decoding(_Strict):
    """How a text answer is decoded; see `TextSampling`."""

    max_new_tokens: Annotated[int, Field(gt=0)]
    """Less where the model's context ends earlier."""
    temperature: Annotated[float, Field(ge=0)]
    top_p: Annotated[float, Field(gt=0, le=1)]
    top_k: Annotated[int, Field(ge=0)]
    repetition_penalty: Annotated[float, Field(gt=0)]

    def sampling(self) -> TextSampling:
        return TextSampling(self.temperature, self.top_p, self.top_k, self.repetition_penalty)


class Generation(_Strict):
    """How images are generated: the roles and system prompt of image prompts, and how codes are sampled."""

    user: str | None
    assistant: str | None
    system: str
    guidance: Annotated[float, Field(ge=1)]
    temperature: Annotated[float, Field(ge=0)]
    """0 takes the most likely code each time: all images of a prompt are then the same."""
    top_k: Annotated[int, Field(ge=0)]
    top_p: Annotated[float, Field(gt=0, le=1)]

    def style(self) -> PromptStyle:
        return PromptStyle(self.user, self.assistant, self.system)


class Protocol(_Strict):
    """One protocol; the files in ``protocols/`` say where each value is from."""

    name: str
    source: str
    """Where the prompts were published."""
    user: str | None
    assistant: str | None
    """The roles; null: the model's own."""
    system: str | None
    """The system prompt; null: the model's own, empty: none."""
    system_of_task: dict[str, str]
    """The tasks with another system prompt."""
    images: Literal["before", "in_place"]
    """Whether all images stand before the text, or each at its ``<image n>``."""
    prompts: dict[str, str]
    """A text for each of `FIELDS`."""
    removed_from_question: dict[str, str]
    """By task: words that are taken out of its questions."""
    decoding: Decoding
    generation: Generation
    not_original: dict[str, str]
    """By task: why its prompts are not those of the papers; shown as a warning."""

    @field_validator("prompts")
    @classmethod
    def _has_each_prompt(cls, prompts: dict[str, str]) -> dict[str, str]:
        if prompts.keys() != FIELDS.keys():
            raise ValueError(f"give exactly {', '.join(FIELDS)}")
        for kind, allowed in FIELDS.items():
            fields = {name for _, name, _, _ in string.Formatter().parse(prompts[kind]) if name is not None}
            if "question" not in fields or not fields <= allowed:
                raise ValueError(
                    f"{kind}: {{question}} has to stand in it, and nothing but {', '.join(sorted(allowed))}"
                )
        return prompts

    def style(self, task: str) -> PromptStyle:
        """The roles and the system prompt of a task."""
        return PromptStyle(self.user, self.assistant, self.system_of_task.get(task, self.system))

    def prompt(self, task: str, kind: str, question: str, **fields: str) -> str:
        """The words of the user's turn, without its images. ``kind``: one of `FIELDS`; ``fields``: the others of it."""
        removed = self.removed_from_question.get(task)
        if removed:
            question = question.replace(removed, "")
        return self.prompts[kind].format(question=question, **fields)

    def digest(self) -> str:
        """A SHA-256 of all values."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()


def load_protocol(name: str) -> Protocol:
    """Loads a protocol by its name, or from a YAML file. Raises `UserError`."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    try:
        values = read_yaml(path)
    except FileNotFoundError:
        names = ", ".join(sorted(each.stem for each in FOLDER.glob("*.yaml")))
        raise UserError(f"--protocol {name}: there is none, known are {names}, or give a YAML file") from None
    try:
        return Protocol.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise UserError(f"--protocol {name}: {place}: {first['msg'].removeprefix('Value error, ')}") from None
