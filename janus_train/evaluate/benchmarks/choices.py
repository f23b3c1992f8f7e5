"""Multiple choice: the options of a row, its question, and the letter in an answer.

An answer without a letter is wrong: nothing is guessed and no other model is asked.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence

from janus_train.errors import UserError
from janus_train.evaluate.benchmarks.protocol import Protocol
from janus_train.evaluate.benchmarks.tables import Row

_WORD = re.compile(r"[^\W_]+")
_EDGES = string.punctuation + string.whitespace
_LETTER = re.compile(r"(?<![\w'’-])([B-HJ-Z]|[AI](?!\s+(?!(?:is|or|and)\b)[a-z]))(?![\w'’-])")
"""A capital letter that stands alone. A and I are words too: before a word other than is, or, and they are no option."""


def options_of(row: Row) -> dict[str, str]:
    """The options by letter, from columns ``A``, ``B`` ... or ``choice_a``, ``choice_b`` ... Raises `UserError` for none."""
    options: dict[str, str] = {}
    for letter in string.ascii_uppercase:
        text = row.values.get(letter) or row.values.get(f"choice_{letter.lower()}")
        if text is None:
            break
        options[letter] = text
    if len(options) < 2:
        raise UserError(f"{row.where}: there are no options A and B")
    return options


def expected_letter(row: Row, options: Mapping[str, str]) -> str:
    """The letter of the right option. Raises `UserError` if it is none of the options."""
    letter = row.get("answer").strip().upper()
    if letter not in options:
        raise UserError(f"{row.where}: the answer is {letter!r}, the options are {', '.join(options)}")
    return letter


def choice_prompt(task: str, row: Row, options: Mapping[str, str], protocol: Protocol) -> str:
    """The user's turn: hint, question, a line for each option, the request for a letter."""
    hint = row.values.get("hint")
    return protocol.prompt(
        task,
        "choice",
        row.get("question"),
        hint=f"Hint: {hint}\n" if hint else "",
        options="".join(f"{letter}. {text}\n" for letter, text in options.items()),
    )


def letter_of(answer: str, options: Mapping[str, str]) -> str | None:
    """The letter that an answer means, or None: for no option, and for several.

    In this order: the answer is a letter; it is the text of one option; one letter stands alone in it; the text of one
    option stands in it.
    """
    alone = answer.strip(_EDGES)
    if len(alone) == 1 and alone.upper() in options:
        return alone.upper()
    texts = {letter: _words(text) for letter, text in options.items()}
    words = _words(answer)
    same = [letter for letter, text in texts.items() if text == words]
    if len(same) == 1:
        return same[0]
    letters = {match[1] for match in _LETTER.finditer(answer) if match[1] in options}
    if letters:
        return letters.pop() if len(letters) == 1 else None
    named = [letter for letter, text in texts.items() if text.strip() and text in words]
    longest = [letter for letter in named if not _is_inside_another(letter, named, texts)]
    return longest[0] if len(longest) == 1 else None


def _is_inside_another(letter: str, named: Sequence[str], texts: Mapping[str, str]) -> bool:
    """Whether the option's text is part of another named one's: "cat" of "black cat"."""
    return any(texts[letter] in texts[other] and texts[letter] != texts[other] for other in named)


def _words(text: str) -> str:
    """The words in lower case, with a space before and after each."""
    return " ".join(["", *_WORD.findall(text.lower()), ""])
