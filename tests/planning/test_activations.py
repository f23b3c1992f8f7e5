"""Activations by arithmetic against what is alive when the tiny model's forward has ended, on a CPU."""

from __future__ import annotations

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from janus_train.config import Part
from janus_train.data.sample import Batch
from janus_train.model.components import set_trainable
from janus_train.model.janus import PackedJanus, build
from janus_train.planning.activations import Policy, Widths, activations
from janus_train.planning.content import content_of_batch
from tests.planning.test_flops import MODEL, SIZE, STAGES, TOKENS, TRAINED, some_documents
from tests.model.reference import to_batch

WIDTHS = {"fp32": Widths(4, 4), "autocast": Widths(4, 2), "bf16": Widths(2, 2)}


class Allocated(TorchDispatchMode):
    """Every storage that an operation makes, for as long as it lives."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage()._cdata not in given:
                storage = leaf.untyped_storage()
                self._seen[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        return result

    @property
    def alive(self) -> int:
        return sum(size for reference, size in self._seen.values() if not reference.expired())


def test_x():
    for prec in WIDTHS:
        for name, trained in TRAINED.items():
            torch.manual_seed(0)
            janus = build(MODEL)
            set_trainable(janus, trained)
            model = PackedJanus(janus)
            batch = to_batch(some_documents(), TOKENS, SIZE)
            if prec == "bf16":
                janus.to(torch.bfloat16); janus.model.vqmodel.float()
            with Allocated() as a, torch.autocast("cpu", torch.bfloat16, enabled=prec=="autocast"):
                sums = model(batch)
            kept = a.alive
            pr = activations(MODEL, trained, content_of_batch(batch), WIDTHS[prec], grouped_attention=True)
            print(prec, name, kept, pr.kept, round(pr.kept/kept,3))
