"""Errors that a user can mend, and errors of libraries in one line."""

from __future__ import annotations


class UserError(Exception):
    """A user's mistake: its message is the one line that is printed; no traceback."""


def one_line(error: BaseException, max_chars: int | None = None) -> str:
    """The message of ``error`` on one line, cut to ``max_chars``; its class's name if it has no message."""
    return " ".join(str(error).split())[:max_chars] or type(error).__name__


def shortened(value: object, max_chars: int = 200) -> str:
    """``value`` as Python writes it, cut to ``max_chars``: it may be a whole file's."""
    text = repr(value)
    return text if len(text) <= max_chars else f"{text[:max_chars]}..."


def first_line(error: BaseException) -> str:
    """The first line of the message that is not empty; the class's name if there is none.

    For libraries whose messages go on for pages, such as PyTorch's distributed stores.
    """
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
