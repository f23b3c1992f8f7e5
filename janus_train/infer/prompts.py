"""Prompts from the command line and from a file."""

from __future__ import annotations

from pathlib import Path

from janus_train.errors import UserError
from janus_train.files import lines_of, read_text


def collect_prompts(prompts: list[str], file: Path | None) -> list[str]:
    """``prompts``, then the lines of ``file`` that are not blank. Raises `UserError` if one is empty or there is none."""
    if any(not text.strip() for text in prompts):
        raise UserError("--prompt is empty: say what to draw")
    lines = [] if file is None else _lines(file)
    if not prompts and not lines:
        raise UserError("nothing to draw: give --prompt TEXT, or --prompts-file FILE with a prompt a line")
    return [*prompts, *lines]


def _lines(file: Path) -> list[str]:
    try:
        lines = lines_of(read_text(file))
    except FileNotFoundError:
        raise UserError(f"--prompts-file {file}: there is no such file") from None
    except UserError as error:
        raise UserError(f"--prompts-file {error}") from None
    if not lines:
        raise UserError(f"--prompts-file {file} holds no prompt: write one a line")
    return lines
