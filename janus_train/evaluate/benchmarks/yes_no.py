"""Yes or no in an answer, as POPE and MME count it."""

from __future__ import annotations

import re

_WORD = re.compile(r"[a-z]+")


def yes_or_no(answer: str) -> str | None:
    """ "yes" if the word yes is in the answer and the word no is not, and the other way round; None for both or neither."""
    words = set(_WORD.findall(answer.lower()))
    found = words & {"yes", "no"}
    return found.pop() if len(found) == 1 else None
