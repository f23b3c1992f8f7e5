"""Reads the JSON lines that scorers and detectors write, with the file and the line in every error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from janus_train.errors import UserError
from janus_train.files import read_regular
from janus_train.jsonl import Line, LineError, is_blank, parse_line


def numbered_objects(path: Path, hint: str) -> Iterator[tuple[str, Line]]:
    """Yields where each object stands ("FILE: line N") and the object; blank lines are passed over.

    Raises `UserError` if there is no such file, with ``hint`` what to do, or if it cannot be read; also for a line that is not
    a JSON object, and for a file without any.
    """
    try:
        data = read_regular(path)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; {hint}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    for number, text in enumerate(data.split(b"\n"), 1):
        if is_blank(text):
            continue
        where = f"{path}: line {number}"
        try:
            value = parse_line(text)
        except LineError as error:
            raise UserError(f"{where} {error.reason}") from None
        if not isinstance(value, dict):
            raise UserError(f"{where} is not a JSON object")
        yield where, value
    if is_blank(data):
        raise UserError(f"{path} is empty; {hint}")
