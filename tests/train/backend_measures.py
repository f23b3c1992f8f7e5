"""Measured inside the processes of a backend: memory by purpose, and a step on micro-batches of given kinds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from transformers import JanusForConditionalGeneration

from janus_train.config import Config
from janus_train.data.batch import collate
from janus_train.data.encode import Encoder
from janus_train.data.loader import open_mixture, open_recipe
from janus_train.data.streams import Stream
from janus_train.data.types import KINDS, Kind, Row
from janus_train.interop.processor import load_tokenizer
from janus_train.model.build import prepare
from janus_train.model.lora import add_lora
from janus_train.model.loss_totals import LossTotals
from janus_train.train.backends import Backend, make_backend
from janus_train.train.distributed.context import Distributed
from janus_train.train.step import train_step
from janus_train.train.trainable import make_trainable

Assignment = list[list[Kind]]
"""The kinds of each micro-batch's documents, rank 0's micro-batches first."""


def start(config: Config, distributed: Distributed) -> tuple[Backend, list[Row]]:
    """The backend on the configuration's base, and some rows of its recipe, the same on all ranks."""
    assert config.init_from
    folder = Path(config.init_from)
    janus = prepare(JanusForConditionalGeneration.from_pretrained(folder))
    if config.peft is not None:
        add_lora(janus, config.peft)
    make_trainable(janus, config, [], False, distributed)
    encoder = Encoder(load_tokenizer(folder), config.model.tokens_per_image, config.model.image_size, "")
    sampler, packer = open_mixture(config, open_recipe(config), encoder)
    rows = [next(Stream(v, sampler, packer)) for v in range(config.batch.rows_per_step)]
    return make_backend(janus, config, distributed), rows


class OneStep:
    """A backend that is set back to the base before each step, so that no step knows of another."""

    def __init__(self, config: Config, distributed: Distributed):
        self._config, self._distributed = config, distributed
        self._backend, rows = start(config, distributed)
        documents = [document for row in rows for document in row.documents]
        self._documents = {kind: [d for d in documents if d.kind == kind] for kind in KINDS}
        self._backend.init_optimizer_state()
        self._begin = [piece.weight.clone() for piece in self._backend.local_shards()]

    @torch.no_grad()
    def _set_back(self) -> None:
        for piece, weight in zip(self._backend.local_shards(), self._begin, strict=True):
            piece.weight.copy_(weight)
            for moment in piece.moments.values():
                moment.zero_()
        self._backend.set_optimizer_steps(0)
        self._backend.sync_model_weights()

    def on(self, assignment: Assignment) -> tuple[float, float, dict[str, torch.Tensor] | None]:
        """Loss, gradient norm, and on rank 0 all weights after a step on these micro-batches, dealt to the ranks in order."""
        self._set_back()
        config, used = self._config, dict.fromkeys(KINDS, 0)
        batches = []
        for kinds in assignment:
            chosen = []
            for kind in kinds:
                there = self._documents[kind]
                chosen.append(there[used[kind] % len(there)])
                used[kind] += 1
            batches.append(collate([Row(0, chosen, {})], config.model.tokens_per_image, config.model.image_size))
        share = len(batches) // self._distributed.world_size
        mine = batches[self._distributed.rank * share :][:share]
        tokens = sum(batch.num_loss_tokens for batch in batches)
        result = train_step(self._backend, mine, tokens, config.optim.gradient_clip)
        assert result.applied
        totals = LossTotals.sum_of(self._distributed.gather([result.losses]))
        whole = self._backend.full_state_dict()
        return totals.mean, result.grad_norm, whole and {name: tensor.clone() for name, tensor in whole.items()}


def memory(config: Config, distributed: Distributed) -> dict[str, int]:
    """Bytes on this rank after two steps (gradients: after any of their backwards), and frozen parts' gradients."""
    backend, rows = start(config, distributed)
    mine = rows[distributed.rank :: distributed.world_size]
    batches = [collate([row], config.model.tokens_per_image, config.model.image_size) for row in mine]
    parameters = list(_parameters(backend))
    measured = {"gradients": 0, "frozen_gradients": 0, "layer_passes": 0}
    backward = backend.backward

    def count(*_: Any) -> None:
        measured["layer_passes"] += 1

    for layer in backend.janus.model.language_model.layers:
        layer.mlp.register_forward_pre_hook(count)

    def backward_and_measure(loss: torch.Tensor) -> None:
        backward(loss)
        measured["gradients"] = max(measured["gradients"], _bytes(_gradients(backend)))
        measured["frozen_gradients"] += sum(p.grad is not None for p in parameters if not p.requires_grad)

    backend.backward = backward_and_measure  # type: ignore[method-assign]
    tokens = sum(document.num_loss_tokens for row in rows for document in row.documents)
    for _ in range(2):
        train_step(backend, batches, tokens, config.optim.gradient_clip)
    zero = getattr(backend, "_zero", None)
    measured["parameters"] = _bytes([*map(_local, parameters), *([] if zero is None else _masters(zero))])
    measured["optimizer"] = _bytes(
        value for state in backend.optimizer.state.values() for key, value in state.items() if key != "step"
    )
    measured["owned"] = sum(piece.weight.numel() for piece in backend.checkpoint_shards())
    measured["pieces_with_moments"] = sum(len(piece.moments) == 2 for piece in backend.checkpoint_shards())
    measured["pieces"] = len(backend.checkpoint_shards())
    totals = distributed.sum([float(measured["owned"])])
    measured["owned_by_all"] = int(totals[0])
    return measured


def _parameters(backend: Backend) -> Iterable[Any]:
    yield from backend.janus.parameters()
    if hasattr(backend, "_code_encoder"):
        yield from backend._code_encoder.parameters()


def _masters(zero: Any) -> Iterable[torch.Tensor]:
    yield from getattr(zero, "single_partition_of_fp32_groups", [])
    yield from getattr(zero, "fp32_partitioned_groups_flat", [])


def _gradients(backend: Backend) -> Iterable[torch.Tensor]:
    for parameter in _parameters(backend):
        for gradient in (
            parameter.grad,
            getattr(parameter, "grad_accum", None),
        ):  # DeepSpeed's own, beside bf16 weights
            if gradient is not None:
                yield _local(gradient)
    for gradients in getattr(getattr(backend, "_zero", None), "averaged_gradients", {}).values():
        yield from gradients or []


def _local(tensor: Any) -> torch.Tensor:
    if hasattr(tensor, "ds_tensor"):
        return tensor.ds_tensor
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Of the memory behind the tensors, each piece once."""
    seen = {}
    for tensor in tensors:
        local = _local(tensor)
        if local.numel():
            storage = local.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
    return sum(seen.values())
