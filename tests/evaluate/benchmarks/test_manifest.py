"""What a manifest says of the model, and which changes it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from janus_train.data.special_tokens import ASSISTANT, USER
from janus_train.errors import UserError
from janus_train.evaluate.benchmarks.manifest import SAME, begin, model_values, roles, weights_digest
from janus_train.infer.load import load_model
from tests.evaluate.benchmarks.making import short_protocol


def test_the_digest_is_that_of_the_weights(random_base: Path) -> None:
    model = load_model(random_base)
    digest = weights_digest(model)
    assert weights_digest(load_model(random_base)) == digest
    with torch.no_grad():
        model.janus.lm_head.weight[0, 0] += 1
    assert weights_digest(model) != digest


def test_versions_and_precision_are_named(random_base: Path) -> None:
    values = model_values(load_model(random_base, dtype=torch.bfloat16))
    assert values["precision"] == "bfloat16" and values["model"] == str(random_base)
    assert values["versions"]["torch"] == torch.__version__ and "transformers" in values["versions"]


def test_the_roles_are_those_that_the_model_reads(random_base: Path) -> None:
    model = load_model(random_base)
    assert roles(short_protocol().style("pope"), model) == ("User", "Assistant")
    assert roles(short_protocol("pro").style("pope"), model) == (USER, ASSISTANT)
    assert roles(short_protocol(user=None).style("pope"), model) == (USER, "Assistant")
    model.encoder.speakers = ("User", "Assistant")
    assert roles(short_protocol("pro").style("pope"), model) == ("User", "Assistant")


MANIFEST = {**dict.fromkeys(SAME, "a"), "data": {"a.tsv": "1", "b.tsv": "2"}, "versions": {"torch": "1"}}


def test_what_may_change_between_two_runs(tmp_path: Path) -> None:
    begin(tmp_path / "new/task", MANIFEST)
    elsewhere = MANIFEST | {"data": {"x/b.tsv": "2", "x/a.tsv": "1"}, "versions": {"torch": "2"}}
    begin(tmp_path / "new/task", elsewhere)
    assert json.loads((tmp_path / "new/task/manifest.json").read_text()) == elsewhere
    for key, what in SAME.items():
        with pytest.raises(UserError, match=f"was begun with another {what}: give another --out"):
            begin(tmp_path / "new/task", elsewhere | {key: {"a.tsv": "9"} if key == "data" else "b"})
