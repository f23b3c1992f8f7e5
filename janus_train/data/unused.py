"""Counts what readers come across and do not use, by reason, so that nothing is lost in silence.

A reader calls `not_used` where it passes something over; whoever runs the reader collects the counts:

    with counting() as unused:
        ...                                             # deep inside: not_used(file_reason("cats/1.heic"))
    print(summary_of(unused))                           # 1 files .heic

Outside of `counting` nothing is counted, so training pays nothing. In ``prepare`` a format is run under `counting` in
three places, and should count each thing in one of them only: when it is opened (files of the inputs), in ``plan`` (files
and members, once per job), and in ``item`` (fields, turns and tags of a record that is used, once per record). What it
does in ``entries`` is not counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import PurePosixPath

MAX_REASONS = 200
"""Names of fields and endings come from the data, so their number is limited; the others are counted together."""
MAX_SHOWN = 6
"""Number of reasons in a summary."""
_OTHERS = "others"
_LONGEST_NAME = 40
_counts: ContextVar[Counter[str] | None] = ContextVar("counts", default=None)


def not_used(reason: str, count: int = 1) -> None:
    """Count things that are not used. ``reason``: what they are, in the plural: "files .heic", "turns after the answer"."""
    counts = _counts.get()
    if counts is not None:
        counts[reason] += count


def is_counting() -> bool:
    """Whether somebody collects the counts; otherwise a reader need not look at what it does not read."""
    return _counts.get() is not None


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """Collect what `not_used` counts inside; an enclosing `counting` gets nothing of it."""
    counts: Counter[str] = Counter()
    token = _counts.set(counts)
    try:
        yield counts
    finally:
        _counts.reset(token)


def file_reason(path: str, what: str = "files") -> str:
    """The reason not to use a file (or, as ``what``, a tar's member) that readers of its ending do not know."""
    name = PurePosixPath(path).name
    if is_hidden(path):
        return f"hidden {what}"
    ending = name.rpartition(".")[2] if "." in name else ""
    return f"{what} .{ending.lower()[:_LONGEST_NAME]}" if ending else f"{what} without an ending"


def field_reason(name: str) -> str:
    """The reason to count for a field of records, or a column, that nothing reads."""
    return f"fields {name[:_LONGEST_NAME]!r}"


def is_hidden(path: str) -> bool:
    """Whether a file is left by a system and not by a person: ``.DS_Store``, macOS's ``._x.jpg`` and ``__MACOSX/``."""
    parts = PurePosixPath(path).parts
    return bool(parts) and (parts[-1].startswith(".") or "__MACOSX" in parts)


def add_counts(total: Counter[str], counts: Mapping[str, int]) -> None:
    """Add to ``total``, which gets at most `MAX_REASONS` reasons and one for the others."""
    for reason, count in counts.items():
        total[reason if reason in total or len(total) < MAX_REASONS else _OTHERS] += count


def summary_of(counts: Mapping[str, int]) -> str:
    """The most frequent reasons in a line: ``3 files .heic, 2 members .npy``; empty if there are none.

    Fields come last: they are counted once per record, and would hide a file or a member.
    """
    ordered = sorted(counts.items(), key=lambda pair: (pair[0].startswith("fields "), -pair[1], pair[0]))
    shown = [f"{count:,} {reason}" for reason, count in ordered[:MAX_SHOWN]]
    more = [f"and {len(ordered) - MAX_SHOWN} more kinds"] if len(ordered) > MAX_SHOWN else []
    return ", ".join(shown + more)
