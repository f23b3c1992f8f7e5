"""torch.compile of the decoder layers: norms, rotary embeddings and SwiGLU fused, products and attention as they were.

Each layer's own forward is compiled, not the model: all layers share the compiled code, the hooks of backends (FSDP2's
gathering, DDP's buckets) stay outside it, and parameters keep their names. Compilation wraps
`model.activation_checkpointing`, so that the compiler sees what has to be recomputed.

Code is compiled for one shape, at its first use: `collate` with ``fixed_tokens`` fills a micro-batch up to a fixed number
of tokens, and to one of a few numbers of documents and longest lengths (`data.fixed_shapes`), so a few pieces of code
serve all packings. A limit on their number is an error, never a silent return to uncompiled layers. Generation, which
has a cache and no documents, is not compiled, and neither is validation, which has no gradients and other shapes.
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
from janus_train.model.chunked_cross_entropy import logits_to_grads, text_head

BACKEND: Any = "inductor"
"""The backend of torch.compile."""
VARIANTS = 4
"""Pieces of code per shape: a layer's input may have a gradient or not, and its weights too (`train_parts` of some layers)."""


def should_compile(config: Config, device: torch.device, gathers_inside_layers: bool) -> bool:
    """Whether this run compiles.

    With ``run.compile`` null it does on a GPU in bf16, if Triton finds the C compiler that it needs and rows are packed
    (``batch.unit=samples`` would fill each sample up to a row's length).

    Raises `UserError` if compiling is requested where it cannot be: in fp32 on a GPU, whose attention depends on the
    documents' lengths on the host, and under ZeRO-3 (``gathers_inside_layers``), whose hooks on every linear layer would
    break compiled code into pieces.
    """
    setting = config.run.compile
    if setting and gathers_inside_layers:
        raise UserError(
            "run.compile=true does not work with ZeRO-3: launch with launch/accelerate/fsdp2.yaml, or compile=false"
        )
    if setting and device.type == "cuda" and config.precision == "fp32":
        raise UserError("run.compile=true on a GPU needs precision=bf16: attention in fp32 cannot be compiled there")
    if setting is not None:
        return setting
    has_compiler = any(shutil.which(name) for name in ("cc", "gcc", "clang"))
    has_packed_rows = config.batch.unit == "rows"
    is_bf16_on_gpu = device.type == "cuda" and config.precision == "bf16"
    return is_bf16_on_gpu and has_compiler and has_packed_rows and not gathers_inside_layers


def compile_layers(janus: JanusForConditionalGeneration, num_shapes: int, backend: Any = None) -> None:
    """Compiles every decoder layer of ``janus`` and the pointwise part of its text loss, on first use.

    Call it once, after `activation_checkpointing.checkpoint_layers`. ``num_shapes``: the largest number of shapes of
    micro-batches (`data.fixed_shapes.max_shapes`). ``backend``: torch.compile's; `BACKEND` by default.
    """
    backend, limit = backend or BACKEND, VARIANTS * num_shapes
    config = torch._dynamo.config
    # torch's limit for a function anywhere in the process
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, limit + 1)
    # DDP's splitting of compiled code at bucket boundaries is for whole models, and does not support checkpointing.
    config.optimize_ddp = False
    for layer in janus.model.language_model.layers:
        layer.forward = _Compiled(layer.forward, backend, limit)
    text_head(janus).logits_to_grads = torch.compile(logits_to_grads, backend=backend, fullgraph=True, dynamic=True)


@contextmanager
def compile_errors_as_user_errors() -> Iterator[None]:
    """Turns a compiler's failure (at a shape's first step, forward or backward) into a `UserError` of one line."""
    try:
        yield
    except torch._dynamo.exc.FailOnRecompileLimitHit as error:
        raise UserError(
            "the decoder layers were compiled for more shapes than rows can have, an error of janus_train or torch: "
            "run.compile=false trains without compiling"
        ) from error
    except torch._dynamo.exc.TorchDynamoException as error:
        reason = one_line(error, 300)
        raise UserError(
            f"the decoder layers cannot be compiled here ({reason}): run.compile=false trains without compiling"
        ) from error


class _Compiled:
    """A layer's forward: compiled for packed documents in training, the original one for anything else."""

    def __init__(self, forward: Any, backend: Any, limit: int):
        self._forward = forward
        method = forward if hasattr(forward, "__func__") else forward.__call__
        self._compiled_forward = torch.compile(  # type: ignore[call-overload]  # whose overloads lack the limit
            method, backend=backend, fullgraph=True, dynamic=False, recompile_limit=limit
        )

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        is_training = kwargs.get("documents") is not None and torch.is_grad_enabled()
        return (self._compiled_forward if is_training else self._forward)(*args, **kwargs)
