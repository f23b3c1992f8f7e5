"""What is not used is counted by reason, where somebody counts."""

from __future__ import annotations

from collections import Counter

import pytest

from janus_train.data.unused import (
    MAX_REASONS,
    add_counts,
    counting,
    field_reason,
    file_reason,
    is_counting,
    is_hidden,
    not_used,
    summary_of,
)


def test_counts_belong_to_the_innermost_place_that_counts():
    not_used("files .heic")  # nobody counts
    assert not is_counting()
    with counting() as outer:
        assert is_counting()
        not_used("files .heic", 2)
        with counting() as inner:
            not_used("members .npy")
        not_used("files .heic")
    assert (outer, inner) == ({"files .heic": 3}, {"members .npy": 1})


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("a/b.HEIC", "files .heic"),
        ("a.b.npy", "files .npy"),
        ("a/README", "files without an ending"),
        ("a/x.", "files without an ending"),
        ("a/._b.jpg", "hidden files"),
        ("__MACOSX/a/b.jpg", "hidden files"),
        (".DS_Store", "hidden files"),
    ],
)
def test_reasons_of_files(path, reason):
    assert file_reason(path) == reason
    assert is_hidden(path) == (reason == "hidden files")
    assert file_reason(path, "members") == reason.replace("files", "members")


def test_a_summary_is_short_and_fields_do_not_hide_files():
    counts = {field_reason(f"field{n}"): 1000 for n in range(8)} | {"files .heic": 2, "members .npy": 3}
    summary = summary_of(counts)
    assert summary.startswith("3 members .npy, 2 files .heic, 1,000 fields 'field0', ")
    assert summary.endswith(", and 4 more kinds")
    assert summary_of({}) == ""


def test_the_number_of_reasons_is_limited():
    total: Counter[str] = Counter()
    for number in range(MAX_REASONS + 50):
        add_counts(total, {f"fields {number}": 2})
    add_counts(total, {"fields 0": 1})
    assert len(total) == MAX_REASONS + 1
    assert (total["fields 0"], total["others"]) == (3, 100)
