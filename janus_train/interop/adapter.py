"""LoRA adapters in peft's format: written when a run ends, and added to the weights of a base as these are read.

A folder has adapter_config.json and adapter_model.safetensors. It is read as W + s B A for each adapted W, with rsLoRA's
s or DoRA's magnitudes if it has them (`model.lora`).
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import JanusForConditionalGeneration

from janus_train.config import PeftConfig
from janus_train.errors import UserError
from janus_train.files import os_errors_of_rust, read_json_object, staged_folder, write_json, write_text
from janus_train.interop import tensors
from janus_train.interop.hub import local_folder
from janus_train.interop.write import TRAINING
from janus_train.model.lora import MAGNITUDE, name_without_adapter, peft_config
from janus_train.model.lora_weights import merged_weight, scale_of
from janus_train.model.parts import is_lora

logger = logging.getLogger(__name__)

CONFIG = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_PREFIX = "base_model.model."
"""What peft puts before the names of tensors in an adapter's file."""
_FULL_PARTS = "full_parts"
"""The key in the file's metadata for the parts that trained in full beside the adapters."""
_NOT_READ = (
    "fan_in_fan_out",
    "modules_to_save",
    "lora_bias",
    "trainable_token_indices",
    "target_parameters",
    "layer_replication",
    "arrow_config",
    "alora_invocation_tokens",
    "kasa_config",
    "monteclora_config",
    "use_bdlora",
    "use_qalora",
)
_MAX_REPEATS = 4
"""In a pattern of layers' names, none of them of a group."""
_PLAIN_INITS = ("gaussian", "eva", "orthogonal")
"""peft's ways to initialise A and B, beside true and false, that leave the base as it is."""
_NUMBERS = "r and lora_alpha must be numbers above 0, and rank_pattern and alpha_pattern map names of layers to such"
MODEL_OF = {"adapter": "final", "adapter-best": "best", "adapter-ema": "ema"}
"""A run's folders of adapters, and those of the models that they give."""


def write_adapter(
    janus: JanusForConditionalGeneration,
    weights: Mapping[str, torch.Tensor],
    options: PeftConfig,
    target: Path,
    base: str,
    train_parts: Collection[str],
    record: Mapping[str, Any],
) -> None:
    """Writes the adapters alone: ``PeftModel.from_pretrained(base, target)``.

    ``weights``: the state of a model with adapters; ``base``: their base model; ``train_parts``: parts that trained in
    full; ``record``: the folder's `TRAINING`.
    """
    adapters = {
        f"{_PREFIX}{name_without_adapter(name)}": tensor.detach().cpu().contiguous()
        for name, tensor in weights.items()
        if is_lora(name)
    }
    full_parts, model = ", ".join(train_parts), f"../{MODEL_OF.get(target.name, 'final')}/"
    usage = (
        f"In their run {full_parts} trained in full: with the base alone they do not give that model. Use {model}."
        if full_parts
        else f"With that base they give the model in {model}."
    )
    title = f"{options.method} adapters, rank {options.rank}"
    with staged_folder(target) as folder:
        peft_config(janus, options, base).save_pretrained(folder)
        with os_errors_of_rust():
            save_file(adapters, folder / _WEIGHTS[0], {"format": "pt", _FULL_PARTS: full_parts})
        write_json(folder / TRAINING, dict(record))
        write_text(
            folder / "README.md", f"# {title}\n\nAdapters for {', '.join(options.parts)}; base: `{base}`. {usage}\n"
        )


def is_adapter(folder: Path) -> bool:
    """Whether ``folder`` holds adapters and no model."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def open_adapters(names: Iterable[str]) -> tuple[Adapter, ...]:
    """The adapters in these folders, or of these runs or hub ids, to be added to any model.

    Raises `UserError` if there are none.
    """
    adapters = []
    for name in names:
        path = local_folder(name, "--adapter ")
        path = path if is_adapter(path) or not is_adapter(path / "adapter") else path / "adapter"
        if not is_adapter(path):
            what = f"a whole model: give it as MODEL, or {path / 'adapter'}" if (path / "config.json").is_file() else ""
            raise UserError(f"--adapter {name} is {what or f'not a folder of adapters: {CONFIG} is missing'}")
        adapters.append(Adapter(path, has_own_base=False))
    return tuple(adapters)


@dataclass(frozen=True)
class _Layer:
    """A layer's adapters, in fp32."""

    a: torch.Tensor  # (rank, in)
    b: torch.Tensor  # (out, rank)
    magnitudes: torch.Tensor | None  # (out,)
    scale: float


@dataclass(frozen=True)
class Adapter:
    """The adapters in ``folder``. They are read on demand; what cannot be read or merged raises `UserError`."""

    folder: Path
    has_own_base: bool = True
    """Whether they are added to the base that they name, and not to a model that the user has chosen."""

    @cached_property
    def _config(self) -> dict[str, Any]:
        config = read_json_object(self.folder / CONFIG)
        if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none":
            raise UserError(
                f"{self.folder} holds adapters of another kind than LoRA without biases: merge them with peft"
            )
        used = [key for key in _NOT_READ if config.get(key)]
        init = config.get("init_lora_weights")
        if isinstance(init, str) and init not in _PLAIN_INITS:
            used.append(f"init_lora_weights {init}")
        if used:
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
        model = self.folder.parent / MODEL_OF.get(self.folder.name, "final")
        return f"; the merged model is {model}" if (model / "config.json").is_file() else ""

    def is_in(self, model: Path) -> bool:
        """Whether ``model`` is one that the adapters' own run has written, and so has them already."""
        folder, path = self.folder.resolve(), model.resolve()
        return path.parent == folder.parent and folder.name in MODEL_OF and path.name in MODEL_OF.values()

    def _scale(self, layer: str, rank: int) -> float:
        """The scale of a layer whose matrices are of ``rank``."""
        config = self._config
        try:
            expected_rank = int(_by_pattern(config.get("rank_pattern"), layer, config["r"]))
            alpha = float(_by_pattern(config.get("alpha_pattern"), layer, config["lora_alpha"]))
            scale = scale_of(alpha, expected_rank, bool(config.get("use_rslora")))
            if not math.isfinite(scale):
                raise ValueError(scale)
        except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError, re.error):
            raise UserError(f"{self.folder / CONFIG}: {_NUMBERS}") from None
        if expected_rank != rank:
            raise UserError(f"{self.folder}: the adapters of {layer} are of rank {rank}, {CONFIG} says {expected_rank}")
        return scale

    @cached_property
    def _layers(self) -> dict[str, _Layer]:
        path = next((self.folder / name for name in _WEIGHTS if (self.folder / name).is_file()), None)
        if path is None:
            raise UserError(f"{self.folder} is not complete: {_WEIGHTS[0]} is missing")
        self._check_full_parts(path)
        layers: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.read([path]):
            layer, _, kind = name.removeprefix(_PREFIX).rpartition(".lora_")
            kind = f"lora_{kind}".removesuffix(".weight")
            if not layer or tensor.ndim != {"lora_A": 2, "lora_B": 2, MAGNITUDE: 1}.get(kind):
                raise UserError(f"{path}: {name} is not the A or B of a linear layer: merge the adapters with peft")
            layers.setdefault(layer, {})[kind] = tensor.float()
        kinds = {"lora_A", "lora_B"} | ({MAGNITUDE} if self._config.get("use_dora") else set())
        for layer, values in layers.items():
            if missing := sorted(kinds - values.keys()):
                raise UserError(f"{path} is not complete: {layer} has no {missing[0]}")
            if extra := sorted(values.keys() - kinds):
                raise UserError(f"{path}: {layer} has {extra[0]}, but {CONFIG} does not say use_dora")
        return {
            layer: _Layer(v["lora_A"], v["lora_B"], v.get(MAGNITUDE), self._scale(layer, len(v["lora_A"])))
            for layer, v in layers.items()
        }

    def _check_full_parts(self, path: Path) -> None:
        """Raise `UserError`, or warn, if parts trained in full in the adapters' run, which these do not hold."""
        parts = _full_parts_of(path)
        if parts and self.has_own_base:
            raise UserError(
                f"{self.folder}: the run of these LoRA adapters trained {parts} in full, so that with their base alone they "
                f"are another model{self._merged}"
            )
        if parts:
            logger.warning(
                f"the run of the adapters in {self.folder} trained {parts} in full, which they do not hold: the "
                "model's own are used"
            )

    def check_fits(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise `UserError` if an adapted layer is not in a base of these ``shapes``, or is of another shape."""
        for name, layer in self._layers.items():
            shape, a, b = shapes.get(f"{name}.weight"), layer.a.shape, layer.b.shape
            fits = layer.magnitudes is None or len(layer.magnitudes) == b[0]
            if shape is None or shape != (b[0], a[1]) or a[0] != b[1] or not fits:
                what = f"which is {shape} there" if shape else "which is not there"
                raise UserError(f"{self.folder} holds LoRA adapters of another base: one is of {name}, {what}")

    def merge(self, pairs: Iterator[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        """The base's tensors with the adapters added, each in its own type."""
        for name, tensor in pairs:
            layer = self._layers.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
            if layer is not None:
                merged = merged_weight(tensor, layer.a, layer.b, layer.scale, layer.magnitudes)
                tensor = merged.to(tensor.dtype)
            yield name, tensor


def _by_pattern(patterns: dict[str, Any] | None, layer: str, default: Any) -> Any:
    """The value of the first pattern that matches a layer's name or its end, as peft matches them.

    Raises ValueError for a pattern whose search could take for ever: it may come from anybody.
    """
    for key, value in (patterns or {}).items():
        if len(re.findall(r"[*+?{]", key)) > _MAX_REPEATS or re.search(r"\)[*+?{]", key):
            raise ValueError(f"{key} repeats too much")
        if re.match(rf"(.*\.)?({key})$", layer):
            return value
    return default


def _full_parts_of(path: Path) -> str:
    """The parts that trained in full beside the adapters in the file ``path``; empty if none did, or if it does not say."""
    if path.suffix != ".safetensors":
        return ""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get(_FULL_PARTS, "")
    except (SafetensorError, OSError):  # who reads its tensors says what is wrong
        return ""
