"""Names of classes: from their ids (``n01440764``) or numbers to words."""

from __future__ import annotations

import json
import re
from pathlib import Path

from janus_train.errors import UserError, one_line
from janus_train.files import lines_of, read_text

_WORDNET = re.compile(r"n\d{8}")


class Classes:
    """A mapping file: JSON, or text with an id and its names in each line (``n01440764 tench, Tinca tinca``).

    JSON may be id -> names, number -> [id, names] (``imagenet_class_index.json``), or a list of names. In a text file
    and a list the line's place, counted from 0, is the class's number. Without a file classes are called as their
    folders. Raises `UserError` for a file that is none of these.
    """

    def __init__(self, path: str | None, names: str = "first"):
        self.path, self._names = path, names
        self._class_names: dict[str, str] = {} if path is None else self._read(path)

    def name(self, key: str) -> str:
        """The words for a class's id, folder or number. Raises `UserError` if the file does not have it."""
        if self.path is None:
            if _WORDNET.fullmatch(key) or key.isdigit():
                raise UserError(
                    f"class {key!r} is an id and no name: give --classes, a JSON file or lines of the form "
                    "'n01440764 tench, Tinca tinca'"
                )
            return key.replace("_", " ").strip()
        if key not in self._class_names:
            raise UserError(
                f"{self.path} has no class {key!r} (it has {len(self._class_names)}, such as {self._example()})"
            )
        return self._class_names[key]

    def _example(self) -> str:
        return repr(next(iter(self._class_names)))

    def _read(self, path: str) -> dict[str, str]:
        try:
            content = read_text(Path(path))
        except FileNotFoundError:
            raise UserError(f"--classes {path}: there is no such file") from None
        except UserError as error:
            raise UserError(f"--classes {error}") from None
        class_names = self._from_json(content) if content.lstrip().startswith(("{", "[")) else self._from_lines(content)
        if not class_names:
            raise UserError(f"--classes {path} holds no class")
        empty = next((key for key, name in class_names.items() if not name), None)
        if empty is not None:
            raise UserError(f"--classes {path}: class {empty!r} has no name")
        return class_names

    def _from_json(self, content: str) -> dict[str, str]:
        try:
            values = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise UserError(f"--classes {self.path} is no valid JSON ({one_line(error, 200)})") from None
        if isinstance(values, list):
            values = {str(number): value for number, value in enumerate(values)}
        class_names: dict[str, str] = {}
        for key, value in values.items():
            ids, name = [str(key)], value
            if isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value):
                ids, name = [str(key), value[0]], value[1]
            if not isinstance(name, str):
                raise UserError(f"--classes {self.path}: the name of class {key!r} is no text")
            class_names |= dict.fromkeys(ids, self.chosen(name))
        return class_names

    def _from_lines(self, content: str) -> dict[str, str]:
        class_names: dict[str, str] = {}
        for number, line in enumerate(lines_of(content)):
            parts = line.split(maxsplit=1)
            if len(parts) < 2:
                raise UserError(f"--classes {self.path}: line {line[:40]!r} has no name after the id")
            class_names[parts[0]] = self.chosen(parts[1])
            class_names.setdefault(str(number), class_names[parts[0]])
        return class_names

    def chosen(self, name: str) -> str:
        name = name.replace("_", " ").strip()
        return name.split(",")[0].strip() if self._names == "first" else name
