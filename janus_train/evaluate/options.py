"""The options of evaluations, and how an evaluation reports its progress."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import Field

from janus_train.config import OptionGroup

Progress = Callable[[str, int, int], None]
"""Called with (phase, number of items done, total number of items)."""


class EvaluationOptions(OptionGroup):
    """Base of the options of an evaluation: a subclass has a field for each option that the evaluation uses.

    An option is ``--its-name`` of the command or, if the command has none of this name, ``--option its_name=VALUE``. One
    that the chosen evaluation does not have is refused. ``data`` is what stands behind the model.
    """

    def check(self) -> None:
        """Raises `UserError` for a mistake that can be seen before the model is loaded."""


class DrawOptions(EvaluationOptions):
    """Options of an evaluation that generates images."""

    seed: Annotated[int, Field(ge=0)] = 0
    """The first image's seed; the following images take the next numbers."""
    guidance: Annotated[float, Field(ge=1)] | None = None
    """None: the model's own."""
    temperature: Annotated[float, Field(ge=0)] | None = None
    """0 takes the most likely code each time. None: the model's own."""
    batch_size: Annotated[int, Field(ge=1)] = 64


def counter(report: Progress, phase: str, total: int) -> Callable[[int], None]:
    """Returns a function that adds up its arguments and reports the sum of ``phase`` to ``report``."""
    num_done = 0

    def count(num_new: int) -> None:
        nonlocal num_done
        num_done += num_new
        report(phase, num_done, total)

    return count
