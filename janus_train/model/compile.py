"""torch.compile of the decoder layers: norms, rotary embeddings and SwiGLU fused, products and attention as they were.

Each layer's own forward is compiled, not the model: all layers share one compiled code, what backends hang around a layer
(FSDP2's gathering, DDP's buckets) stays outside it, and parameters keep their names. It goes around what
`model.activation_checkpointing` does, so that the compiler sees what is to be computed again.

One code serves all packings if shapes never change: `collate` with ``fixed_tokens`` fills a micro-batch up to a fixed number
of tokens and of document boundaries. Generation, which comes with a cache and no documents, runs as it was.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch._dynamo.exc
from transformers import JanusForConditionalGeneration

from janus_train.config import Config
from janus_train.errors import UserError, one_line
from janus_train.model.chunked_cross_entropy import losses_and_grads, text_head

BACKEND: Any = "inductor"
"""torch.compile's."""


def should_compile(config: Config, device: torch.device, gathers_inside_layers: bool) -> bool:
    """Whether this run compiles. ``run.compile`` null: on a GPU, if Triton finds the C compiler that it needs, and rows are
    packed (``batch.unit=samples`` would fill each sample up to a row's length).

    ``gathers_inside_layers``: ZeRO-3, whose hooks on every linear layer would cut compiled code to pieces; `UserError` if
    compiling was asked for all the same.
    """
    asked = config.run.compile
    if asked and gathers_inside_layers:
        raise UserError(
            "run.compile=true does not go with ZeRO-3: launch with launch/accelerate/fsdp2.yaml, or compile=false"
        )
    if asked is not None:
        return asked
    has_compiler = any(shutil.which(name) for name in ("cc", "gcc", "clang"))
    packed = config.batch.unit == "rows"
    return device.type == "cuda" and has_compiler and packed and not gathers_inside_layers


def compile_layers(janus: JanusForConditionalGeneration, backend: Any = None) -> None:
    """Compile every decoder layer of ``janus`` and the pointwise part of its text loss, on first use.

    Call it once, after `activation_checkpointing.checkpoint_layers`. ``backend``: torch.compile's, `BACKEND` unless given.
    """
    backend = backend or BACKEND
    # DDP's own cutting of compiled code at bucket boundaries is for whole models, and knows no checkpoints.
    torch._dynamo.config.optimize_ddp = False
    for layer in janus.model.language_model.layers:
        layer.forward = _Compiled(layer.forward, backend)
    text_head(janus).losses_and_grads = torch.compile(losses_and_grads, backend=backend, dynamic=True)


@contextmanager
def compile_errors_as_user_errors() -> Iterator[None]:
    """Turns a compiler's failure (at the first step, forward or backward) into a `UserError` of one line."""
    try:
        yield
    except torch._dynamo.exc.TorchDynamoException as error:
        why = one_line(error, 300)
        raise UserError(
            f"the decoder layers cannot be compiled here ({why}): run.compile=false trains without"
        ) from error


class _Compiled:
    """A layer's forward: compiled over packed documents, as it was for anything else."""

    def __init__(self, forward: Any, backend: Any):
        self._plain = forward
        method = forward if hasattr(forward, "__func__") else forward.__call__
        self._compiled = torch.compile(method, backend=backend, fullgraph=True, dynamic=False)

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return (self._plain if kwargs.get("documents") is None else self._compiled)(*args, **kwargs)
