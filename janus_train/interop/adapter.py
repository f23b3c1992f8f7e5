"""LoRA adapters in peft's format, as a training run writes them: added to the weights of their base as these are read.

In: a folder with adapter_config.json and adapter_model.safetensors. Out: W + alpha / rank * B A for each adapted W.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from janus_train.errors import UserError
from janus_train.files import read_json_object
from janus_train.interop import tensors
from janus_train.interop.hub import local_folder
from janus_train.model.lora import ADAPTER_PREFIX, full_parts_of, merged_weight

CONFIG = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_NOT_READ = ("use_dora", "use_rslora", "fan_in_fan_out", "rank_pattern", "alpha_pattern", "modules_to_save")


def is_adapter(folder: Path) -> bool:
    """Whether ``folder`` holds adapters and no model."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


@dataclass(frozen=True)
class Adapter:
    """The adapters in ``folder``. They are read on demand; what cannot be read or merged raises `UserError`."""

    folder: Path

    @cached_property
    def _config(self) -> dict[str, Any]:
        config = read_json_object(self.folder / CONFIG)
        if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none":
            raise UserError(
                f"{self.folder} holds adapters of another kind than LoRA without biases: merge them with peft"
            )
        if used := [key for key in _NOT_READ if config.get(key)]:
            raise UserError(
                f"{self.folder} holds adapters with {', '.join(used)}, which is not read: merge them with peft"
            )
        return config

    @property
    def base(self) -> Path:
        """The folder of the base, fetched if it is a hub's."""
        name = self._config.get("base_model_name_or_path")
        if not isinstance(name, str) or not name:
            raise UserError(f"{self.folder} holds LoRA adapters and does not name their base{self._merged}")
        try:
            return local_folder(name, "")
        except UserError as error:
            raise UserError(
                f"{self.folder} holds LoRA adapters, not a model, and of their base {error}{self._merged}"
            ) from None

    @property
    def _merged(self) -> str:
        """The end of a message: where the merged model is, if a run has written it."""
        final = self.folder.parent / "final"
        return f"; the merged model is {final}" if (final / "config.json").is_file() else ""

    @cached_property
    def _scale(self) -> float:
        try:
            return float(self._config["lora_alpha"]) / int(self._config["r"])
        except (KeyError, TypeError, ValueError, ZeroDivisionError):
            raise UserError(f"{self.folder / CONFIG}: r and lora_alpha must be numbers") from None

    @cached_property
    def _layers(self) -> dict[str, dict[str, torch.Tensor]]:
        """Layer -> {"A": (rank, in), "B": (out, rank)}, in fp32."""
        path = next((self.folder / name for name in _WEIGHTS if (self.folder / name).is_file()), None)
        if path is None:
            raise UserError(f"{self.folder} is not complete: {_WEIGHTS[0]} is missing")
        if parts := full_parts_of(path):
            raise UserError(
                f"{self.folder}: the run of these LoRA adapters trained {parts} in full, so that with their base alone they "
                f"are another model{self._merged}"
            )
        layers: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.read([path]):
            layer, _, matrix = name.removeprefix(ADAPTER_PREFIX).rpartition(".lora_")
            if not layer or matrix not in ("A.weight", "B.weight") or tensor.ndim != 2:
                raise UserError(f"{path}: {name} is not the A or B of a linear layer: merge the adapters with peft")
            layers.setdefault(layer, {})[matrix[0]] = tensor.float()
        if incomplete := [layer for layer, matrices in layers.items() if len(matrices) < 2]:
            raise UserError(f"{path} is not complete: {incomplete[0]} has only one of A and B")
        return layers

    def check_fits(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise `UserError` if an adapted layer is not in a base of these ``shapes``, or is of another shape."""
        for layer, matrices in self._layers.items():
            a, b = matrices["A"], matrices["B"]
            shape = shapes.get(f"{layer}.weight")
            if shape is None or shape != (b.shape[0], a.shape[1]) or a.shape[0] != b.shape[1]:
                what = f"which is {shape} there" if shape else "which is not there"
                raise UserError(f"{self.folder} holds LoRA adapters of another base: one is of {layer}, {what}")

    def merge(self, pairs: Iterator[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        """The base's tensors with the adapters added, each in its own type."""
        for name, tensor in pairs:
            matrices = self._layers.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
            if matrices is not None:
                tensor = merged_weight(tensor, matrices["A"], matrices["B"], self._scale).to(tensor.dtype)
            yield name, tensor
