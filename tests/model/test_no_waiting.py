"""The forward asks the device for nothing: counts and which codes are missing travel with the batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import JanusForConditionalGeneration

from janus_train.data.batch import collate
from janus_train.data.types import Row
from janus_train.datatools.inspect.drawn import open_run_data
from janus_train.model import attention
from janus_train.model.janus import PackedJanus
from tests.helpers import config_of
from tests.model.reference import Codes, Documents, to_batch
from tests.train.conftest import SMALL

aten = torch.ops.aten
WAITING = {aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.is_nonzero.default}
"""On CUDA the host waits for each of them; indexing by a mask goes through nonzero."""


class Waits(TorchDispatchMode):
    """The operations that would make the host wait."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        masks = [x for x in (args[1] if func is aten.index.Tensor else ()) if x is not None and x.dtype == torch.bool]
        if func in WAITING or masks:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@contextmanager
def groups_made_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The CPU's grouping of documents looks at their lengths; the GPU's kernel has no such step."""
    layout = attention.Documents

    def prepared(*args: object) -> attention.Documents:
        with torch.utils._python_dispatch._disable_current_modes():
            documents = layout(*args)  # type: ignore[arg-type]
            assert documents.groups
        return documents

    monkeypatch.setattr(attention, "Documents", prepared)
    yield


def with_uncached(documents: Documents) -> Documents:
    """The same, the last image's codes left to the encoder."""
    kind, pieces = documents[1]
    prompt, codes = pieces
    assert isinstance(codes, Codes)
    return [*documents, (kind, [prompt, Codes(codes.ids, True, torch.zeros(3, 32, 32))])]


@pytest.mark.parametrize("encode", [False, True], ids=["cached", "uncached"])
def test_forward_and_backward_wait_for_nothing(
    janus: JanusForConditionalGeneration, documents: Documents, encode: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = to_batch(with_uncached(documents) if encode else documents)
    with groups_made_before(monkeypatch), Waits() as waits:
        PackedJanus(janus)(batch).total.backward()
    assert not waits.found


def test_waiting_would_be_seen() -> None:
    mask = torch.tensor([True, False])
    with Waits() as waits:
        assert mask.any()
        mask[mask]
    assert len(waits.found) == 2


def test_a_batch_carries_what_it_would_have_to_ask_for(random_base) -> None:  # type: ignore[no-untyped-def]
    config = config_of("+stage=2", f"init_from={random_base}", *SMALL, "batch.row_tokens=512")
    rows: list[Row] = next(open_run_data(config).steps(1, 1))[1]
    batch = collate(rows, 64, 64)
    assert batch.num_understanding_targets == int(batch.text_target_is_understanding.sum()) > 0
    missing = (batch.cached_codes < 0).any(dim=1).nonzero().flatten()
    assert torch.equal(batch.uncached_images, missing) and len(batch.generation_pixels) == len(missing)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_nothing_waits(janus: JanusForConditionalGeneration, documents: Documents) -> None:
    batch = to_batch(documents).to("cuda")
    model = PackedJanus(janus).cuda()
    with torch.autocast("cuda", torch.bfloat16):
        model(batch).total.backward()  # what is set up once may wait
        torch.cuda.set_sync_debug_mode("error")
        try:
            model(batch).total.backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
