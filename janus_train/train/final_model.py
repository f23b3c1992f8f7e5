"""The result of a finished run.

In: the backend's weights. Out: ``final/``, the complete model in transformers' layout, ``ema/`` with the model of the
averaged weights if a run keeps an average, and ``best/`` with the model of the best validation if a run keeps it and it is
not the last step's. With LoRA these are merged, and ``adapter/``, ``adapter-ema/`` and ``adapter-best/`` have the adapters
alone. ``training.json`` in each says which step the model is of, and which step was the best.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

from janus_train.config import Config
from janus_train.data.encode import Encoder
from janus_train.interop.adapter import write_adapter
from janus_train.interop.model_folder import open_folder
from janus_train.interop.write import save_model
from janus_train.model import lora
from janus_train.train.backends import Backend
from janus_train.train.best import Best
from janus_train.train.checkpoint.format import load
from janus_train.train.checkpoint.store import Checkpoint, fault_of, folder_of
from janus_train.train.run_dir import RunDir
from janus_train.train.trainable import TrainableModel
from janus_train.train.validation import AVERAGE_PREFIX

logger = logging.getLogger(__name__)


def write_results(
    backend: Backend, model: TrainableModel, encoder: Encoder, run_dir: RunDir, config: Config, step: int, best: Best
) -> None:
    """Write the models of a run that ended at ``step``, and mark it as finished. All ranks call it.

    The backend has the weights of the best step afterwards, if ``best/`` is written.
    """
    group, kept = backend.distributed, valid_best(best.kept.step, run_dir, backend)
    best_is_average = best.metric.startswith(AVERAGE_PREFIX)
    last_folder = run_dir.ema if best_is_average else run_dir.final
    folder = None if kept is None else last_folder if kept.step == step else run_dir.best
    record = None
    if best.result.step is not None:
        values = {"metric": best.metric, "step": best.result.step, "value": best.result.value}
        record = values | {"folder": folder.name if folder else None}
    with group.raise_on_all_ranks():
        for model_folder in [run_dir.best, run_dir.ema] if group.is_main else []:  # of an earlier end of the run
            for old in (model_folder, run_dir.adapter_of(model_folder)):
                if old.exists():
                    shutil.rmtree(old)
    write = partial(write_model, backend, model, encoder, run_dir, config)
    write(run_dir.final, {"step": step, "best": record})
    if backend.average is not None:
        with backend.averaged_weights():
            write(run_dir.ema, {"step": step, "ema": config.run.ema, "best": record})
    if kept is not None and folder == run_dir.best:
        load(kept, backend)
        average = {"ema": config.run.ema} if best_is_average else {}
        with backend.averaged_weights() if best_is_average else nullcontext():
            write(run_dir.best, {"step": kept.step, **average, "best": record})
    if group.is_main:
        run_dir.write_end(step, record, config.run.patience if best.is_out_of_patience else None)


def valid_best(step: int | None, run_dir: RunDir, backend: Backend) -> Checkpoint | None:
    """The best step's checkpoint; None without one, and, with a warning, if it is not valid."""
    if step is None:
        return None
    folder = folder_of(run_dir.path, step)
    fault = fault_of(folder, backend.distributed)
    if fault is None:
        return Checkpoint(folder, step)
    logger.warning(f"the best step's checkpoint {folder} is not valid ({fault}): its model is not written")
    return None


def write_model(
    backend: Backend,
    model: TrainableModel,
    encoder: Encoder,
    run_dir: RunDir,
    config: Config,
    target: Path,
    record: dict[str, Any],
) -> None:
    """Write the backend's model into ``target``, with ``record`` as its training.json.

    All ranks call it; the main process writes. The adapters of LoRA are written beside it.
    """
    weights = backend.full_state_dict()
    if weights is None:
        return
    run_dir.refuse_if_gone()
    start = model.start.recorded_path
    weights = with_start_weights(weights, model.bf16_names, Path(start))
    record = {"stage": config.stage, **record}
    if config.peft is not None:
        adapter = run_dir.adapter_of(target)
        write_adapter(model.janus, weights, config.peft, adapter, start, config.train_parts, record)
        weights = lora.merge_lora(weights, config.peft)
    save_model(model.janus, encoder, target, weights, model.extras, record)


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
