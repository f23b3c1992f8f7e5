"""The same script with the official package and with this one: what it finds is the same.

It runs where ``JANUS_OFFICIAL_PYTHON`` names an interpreter that can ``import janus.models`` (docs/official_interface.md). The
encoders are the real ones with random weights, the language model is small: some minutes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from janus_train.interop.convert import export_model
from tests.interop.test_official_code import make_model, official_interpreter
from tests.official.conftest import SCRIPT, ask, run_script

pytestmark = pytest.mark.official


@pytest.fixture(scope="module")
def export(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    official_interpreter()
    work = tmp_path_factory.mktemp("both packages")
    try:
        make_model(tokenizer, work / "hf")
        export_model(str(work / "hf"), work / "export", "official")
        yield work / "export"
    finally:
        shutil.rmtree(work)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_same_answers_and_sampled_images(export: Path, ported: Path, tmp_path: Path, dtype: str) -> None:
    asked = ask(tmp_path, dtype=dtype, number=2)
    theirs = run_script(SCRIPT, export, asked, official_interpreter())
    ours = run_script(ported, export, asked)
    assert ours.keys() == theirs.keys()
    own_tokens = theirs["batch/attention_mask"].astype(bool)  # a padding's logits are nobody's
    # In bf16 the official code finds codes in bf16 too: 5.5 % are others. Here they are always found in fp32.
    in_bf16 = {"draw/quant", "draw/encoded"} if dtype == "bfloat16" else set()
    for name in theirs.keys() - in_bf16:
        own, their = ours[name], theirs[name]
        if name == "batch/logits":
            own, their = own[own_tokens], their[own_tokens]
        if their.dtype.kind == "f":
            assert np.abs(own - their).max() <= 1e-6 * np.abs(their).max(), name
        else:
            assert np.array_equal(own, their), name
    assert len(np.unique(theirs["draw/codes"])) > 500, "images of a few codes would show little"
