"""Chooses the evaluation that a command line asks for, and checks the options that it is given.

In: a name or none, and the options that were given. Out: the evaluation and its options. Nothing that is given is ignored:
an option that the entry evaluation does not use is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import ValidationError

from janus_train.errors import UserError, shortened
from janus_train.evaluate.options import EvaluationOptions
from janus_train.evaluate.own_data import evaluation  # noqa: F401 - it registers itself
from janus_train.evaluate.own_data.options import NAME as OWN_DATA
from janus_train.evaluate.registry import RegisteredEvaluation, evaluations_with, get_evaluation

WITHOUT_DATA, WITH_DATA = "demo", OWN_DATA
"""The evaluations that run if none is named."""


def choose(name: str | None, values: Mapping[str, Any]) -> tuple[RegisteredEvaluation, EvaluationOptions]:
    """Returns the evaluation called ``name``, and its options from their ``values`` by name.

    Without a name it is `WITH_DATA` if there is ``data``, else `WITHOUT_DATA`. Raises `UserError` for an unknown name, an
    option that the evaluation does not use, one that it needs, and a value that it cannot take.
    """
    entry = get_evaluation(name or (WITH_DATA if "data" in values else WITHOUT_DATA))
    for option in values:
        if option not in entry.options.model_fields:
            raise UserError(f"evaluation {entry.name} does not use {_written(option)}: {_who_does(option)}leave it out")
    try:
        return entry, entry.options.model_validate(dict(values))
    except ValidationError as error:
        first_error = error.errors()[0]
        option = str(first_error["loc"][0]) if first_error["loc"] else ""
        if first_error["type"] == "missing":
            raise UserError(f"evaluation {entry.name} needs {_written(option)}") from None
        problem = first_error["msg"].removeprefix("Value error, ")
        value = f", got {shortened(first_error['input'])}" if option else ""
        raise UserError(f"{_written(option)}{': ' if option else ''}{problem}{value}") from None


def parse_options(words: list[str]) -> dict[str, Any]:
    """Returns the values of ``--option NAME=VALUE``, each read as YAML. Raises `UserError` for another form."""
    values: dict[str, Any] = {}
    for word in words:
        name, has_value, text = word.partition("=")
        name = name.strip().replace("-", "_")
        if not has_value or not name:
            raise UserError(f"--option {word}: write NAME=VALUE")
        try:
            values[name] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"--option {word}: the value cannot be read as YAML") from None
    return values


def _written(option: str) -> str:
    """The option as it is written on the command line."""
    return "DATA" if option == "data" else f"--{option.replace('_', '-')}" if option else ""


def _who_does(option: str) -> str:
    names = evaluations_with(option)
    return f"it is an option of {' and '.join(names)}; " if names else ""
