"""Whether the disk has room for what a run writes, known before anything large is loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

from janus_train.config import Config
from janus_train.errors import UserError
from janus_train.planning.parameters import adapter_counts, parameter_counts

BYTES_A_PARAMETER = 4 + 8
"""In a checkpoint: the fp32 weight and AdamW's two moments."""


def check_space(config: Config, folder: Path) -> None:
    """Raises `UserError` if the disk of ``folder``, which need not exist yet, has no room for one checkpoint."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    counts = parameter_counts(config.model)
    trained = sum(counts[part] for part in config.train_parts)
    trained += sum(adapter_counts(config.model, config.peft).values())
    one = trained * BYTES_A_PARAMETER
    if free < one:
        final = 4 * sum(counts.values())
        most = (config.run.keep_checkpoints + 1) * one + final
        raise UserError(
            f"output_dir {folder}: one checkpoint of {trained / 1e6:.1f} M trained parameters needs {_size(one)}, its disk "
            f"has {_size(free)} free ({_size(most)} for run.keep_checkpoints={config.run.keep_checkpoints}, the one being "
            "written and the final model): make room or choose another output_dir"
        )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"
