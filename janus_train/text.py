"""Text for people: data made safe to show on a terminal, in a log or on a page, durations, and numbers of tables."""

from __future__ import annotations

import re
from decimal import ROUND_HALF_UP, Decimal

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ud800-\udfff]")
"""Control characters, line separators, bidirectional controls (which reorder text), and lone surrogates."""

_LINE_BREAKS = re.compile("[ \t]*[\r\n][ \t\r\n]*")


def printable(text: str, keep: str = "") -> str:
    r"""Writes control and bidirectional characters as escapes (``\x1b``, ``\u202e``), so that they have no effect.

    They can clear a terminal, forge lines of a log, or make a text read differently from what it is. ``keep``: characters
    that stay unchanged, for example ``"\n"`` where lines are shown as lines.
    """

    def escape(match: re.Match[str]) -> str:
        character = match[0]
        return character if character in keep else character.encode("unicode_escape").decode("ascii")

    return _UNPRINTABLE.sub(escape, text)


def printable_line(text: str) -> str:
    """`printable` on one line: line breaks, which messages of libraries have, become spaces."""
    return printable(_LINE_BREAKS.sub(" ", text))


def duration(seconds: float) -> str:
    """``42 s``, ``3.5 min`` or ``7.2 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def rounded(value: float, digits: int = 1) -> str:
    """``value`` as a table shows it; halves are rounded up (62.25 is 62.3), where Python's format would give 62.2."""
    return str(Decimal(repr(value)).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP))
