"""Whose codes they are: the record in a tar says it, whatever bytes it holds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from janus_train.data.shards.vq_codes import UNKNOWN, CodesOrigin, origin_in

ORIGIN = CodesOrigin("ab" * 32, 384)


def test_a_record_says_what_it_was_written_with() -> None:
    assert origin_in(ORIGIN.record()) == str(ORIGIN) == "vq abababababababab, images of 384, rule 1"
    others = (CodesOrigin("cd" * 32, 384), CodesOrigin("ab" * 32, 256), CodesOrigin("ab" * 32, 384, 2))
    assert len({str(ORIGIN), *map(str, others)}) == 4


@given(record=st.binary(max_size=60))
def test_any_bytes_are_of_unknown_origin(record: bytes) -> None:
    assert origin_in(record) == UNKNOWN


@pytest.mark.parametrize(
    "change", [{"encoder": 3}, {"image_size": "384"}, {"image_size": True}, {"version": None}, {"version": 1.0}]
)
def test_values_of_a_wrong_type_are_unknown(change: dict[str, Any]) -> None:
    assert origin_in(json.dumps(json.loads(ORIGIN.record()) | change).encode()) == UNKNOWN
