"""The result of a finished run.

In: the backend's weights. Out: ``final/``, the complete model in transformers' layout, and with LoRA ``adapter/`` with
the adapters alone.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch

from janus_train.config import Config
from janus_train.data.encode import Encoder
from janus_train.interop.model_folder import open_folder
from janus_train.interop.write import save_model
from janus_train.model import lora
from janus_train.train.backends import Backend
from janus_train.train.run_dir import RunDir
from janus_train.train.trainable import TrainableModel


def write_final_model(
    backend: Backend, model: TrainableModel, encoder: Encoder, run_dir: RunDir, config: Config
) -> None:
    """Write the model, and mark the run as finished. All ranks call it; the main process writes, ``final/`` last."""
    weights = backend.full_state_dict()
    if weights is None:
        return
    run_dir.refuse_if_gone()
    start = model.start.recorded_path
    weights = with_start_weights(weights, model.bf16_names, Path(start))
    if config.peft is not None:
        lora.write_adapter(model.janus, weights, config.peft, run_dir.adapter, start, config.train_parts)
        weights = lora.merge_lora(weights, config.peft)
    save_model(model.janus, encoder, run_dir.final, weights, model.extras)
    run_dir.write_end(config.run.steps)


def with_start_weights(
    weights: dict[str, torch.Tensor], bf16_names: Collection[str], start: Path
) -> dict[str, torch.Tensor]:
    """Replace the frozen weights that were kept in bf16 (``bf16_names``) by the start folder's, in fp32."""
    if not bf16_names:
        return weights
    names = {lora.plain_name(name): name for name in bf16_names}
    originals = {names[name]: tensor.float() for name, tensor in open_folder(start).tensors() if name in names}
    assert originals.keys() == set(bf16_names)
    return weights | originals
