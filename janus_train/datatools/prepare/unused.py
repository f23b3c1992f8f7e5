"""Records that know which of their fields were read, so that the others are counted by name."""

from __future__ import annotations

from typing import Any

from janus_train.data.conversations import is_empty
from janus_train.data.unused import field_reason, not_used


class TrackedRecord(dict[str, Any]):
    """A record. A field counts as read when its value was asked for."""

    def __init__(self, fields: dict[str, Any]):
        super().__init__(fields)
        self._read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self._read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self._read.add(name)
        return super().get(name, default)

    def count_unread(self, path: str = "") -> None:
        """Count (`not_used`) each field that has a value which nobody asked for. ``path``: where the record stands."""
        for name, value in self.items():
            if name not in self._read and not is_empty(value):
                not_used(field_reason(path + name))
