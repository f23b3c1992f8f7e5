"""Prompts from the command line and from a file."""

from __future__ import annotations

from pathlib import Path

from janus_train.errors import UserError


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
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError:
        raise UserError(f"--prompts-file {file}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--prompts-file {file} cannot be read as UTF-8 text: {error}") from None
    if not lines:
        raise UserError(f"--prompts-file {file} holds no prompt: write one a line")
    return lines
