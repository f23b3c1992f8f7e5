"""The answers of a task on disk: a line per item in answers.jsonl, durable after each batch.

With several processes each appends to a file of its own, because appending to one file from several nodes loses lines;
`merge` puts them into answers.jsonl.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from janus_train.errors import UserError
from janus_train.files import sync
from janus_train.jsonl import JsonLinesFile, Line, read_json_lines, write_json_lines

ANSWERS = "answers.jsonl"


def merge(folder: Path, keys: Sequence[str]) -> dict[str, Line]:
    """Puts the answers of all processes into answers.jsonl, in the order of ``keys``, and returns them by key.

    A line that a kill has cut off is left out. Raises `UserError` for a damaged file, and for a key that is not known.
    """
    parts = sorted(folder.glob("answers-*.jsonl"))
    number_of = {key: number for number, key in enumerate(keys)}
    lines: dict[str, Line] = {}
    for path in (folder / ANSWERS, *parts):
        for line in read_json_lines(path):
            key = line.get("key")
            if key not in number_of:
                raise UserError(
                    f"{path} has an answer to {key!r}, which is no question of this task: use another --out"
                )
            lines[key] = line
    ordered = {key: lines[key] for key in sorted(lines, key=number_of.__getitem__)}
    write_json_lines(folder / ANSWERS, ordered.values())
    for path in parts:
        path.unlink()
    return ordered


class AnswerFile:
    """The file to which one process appends its answers."""

    def __init__(self, folder: Path, rank: int):
        self._path = folder / (ANSWERS if rank == 0 else f"answers-{rank}.jsonl")
        self._file = JsonLinesFile(self._path)

    def append(self, lines: Sequence[Line]) -> None:
        """Adds the lines and waits until they are on the disk."""
        self._file.append(*lines)
        sync(self._path)

    def close(self) -> None:
        self._file.close()
