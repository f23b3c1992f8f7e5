"""Collects prompts from the command line and from a file."""

from __future__ import annotations

from pathlib import Path

from janus_train.errors import UserError
from janus_train.files import lines_of, read_text


def collect_prompts(prompts: list[str], file: Path | None) -> list[str]:
    """Returns ``prompts``, then the non-blank lines of ``file``. Raises `UserError` if a prompt is empty or there is none."""
    if any(not text.strip() for text in prompts):
        raise UserError("--prompt is empty: describe the image to generate")
    lines = [] if file is None else _lines(file)
    if not prompts and not lines:
        raise UserError("nothing to generate: give --prompt TEXT, or --prompts-file FILE with one prompt per line")
    return [*prompts, *lines]


def _lines(file: Path) -> list[str]:
    try:
        lines = lines_of(read_text(file))
    except FileNotFoundError:
        raise UserError(f"--prompts-file {file}: there is no such file") from None
    except UserError as error:
        raise UserError(f"--prompts-file {error}") from None
    if not lines:
        raise UserError(f"--prompts-file {file} contains no prompt: write one per line")
    return lines
