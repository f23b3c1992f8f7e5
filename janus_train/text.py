"""Text that comes from data, made safe to show on a terminal, in a log or on a page."""

from __future__ import annotations

import re

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ud800-\udfff]")
"""Control characters, line separators, what reorders text (bidirectional controls), and halves of surrogate pairs."""

_LINE_BREAKS = re.compile("[ \t]*[\r\n][ \t\r\n]*")


def printable(text: str, keep: str = "") -> str:
    r"""Write control and bidirectional characters as escapes (``\x1b``, ``\u202e``), so that they act on nothing.

    They can clear a terminal, forge lines of a log, or make a text read differently from what it is. ``keep``: characters
    that stay as they are, for example ``"\n"`` where lines are shown as lines.
    """

    def escaped(match: re.Match[str]) -> str:
        character = match[0]
        return character if character in keep else character.encode("unicode_escape").decode("ascii")

    return _UNPRINTABLE.sub(escaped, text)


def printable_line(text: str) -> str:
    """`printable` on one line: line breaks, which messages of libraries have, become spaces."""
    return printable(_LINE_BREAKS.sub(" ", text))
