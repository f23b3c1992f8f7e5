"""Errors of libraries in one line."""

from __future__ import annotations

from janus_train.errors import first_line, one_line


def test_an_error_of_many_lines_becomes_one() -> None:
    assert one_line(ValueError("first\n  second\n")) == "first second"


def test_a_long_error_is_cut() -> None:
    assert one_line(ValueError("first\nsecond"), 8) == "first se"


def test_an_error_without_a_message_is_named_by_its_class() -> None:
    assert one_line(KeyboardInterrupt()) == first_line(KeyboardInterrupt("\n")) == "KeyboardInterrupt"


def test_the_first_line_leaves_out_the_trace_that_follows() -> None:
    assert first_line(RuntimeError("\n connection refused \nException raised from listen")) == "connection refused"
