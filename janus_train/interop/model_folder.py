"""Reads a model's folder in either layout as if it were in transformers': configuration, tensors, tokenizer, settings.

A folder of LoRA adapters is read as the model that they and their base make.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import GenerationConfig, JanusConfig, JanusForConditionalGeneration, PreTrainedTokenizerFast

from janus_train.data.special_tokens import SpecialTokens
from janus_train.errors import UserError, one_line, shortened
from janus_train.files import read_json_object, read_json_object_if_any
from janus_train.interop import official, official_config, processor, tensors
from janus_train.interop.adapter import Adapter, is_adapter, open_adapters
from janus_train.interop.hub import local_folder
from janus_train.interop.other_models import TAKEN, contents_without_config, other_model
from janus_train.interop.tensors import StoredTensors
from janus_train.model.parts import part_of

FolderLayout = Literal["transformers", "official"]


MAX_ADAPTERS = 8
"""Adapters that were trained on adapters, and so on."""
MAX_LAYERS = 4096
"""Of any sort, and experts in a layer: the largest models have hundreds."""
_COUNT = re.compile(r"^(num|n)_.*(layer|block|expert|depth)|^(n_layer|layers|depth|num_res_blocks)$")


@dataclass(frozen=True)
class ModelFolder:
    """A model's folder, opened by `open_folder`. It is read on demand; unreadable files raise `UserError`."""

    path: Path
    layout: FolderLayout
    adapters: tuple[Adapter, ...] = ()
    """LoRA adapters that are added to the weights in ``path``, the first one first: those of the folder that was opened."""
    added: tuple[Adapter, ...] = ()
    """LoRA adapters that are added after those, whatever their own base is."""

    @property
    def origin(self) -> Path:
        """The folder that was opened: that of the last of its adapters if there are any, else ``path``."""
        return self.adapters[-1].folder if self.adapters else self.path

    @cached_property
    def _values(self) -> dict[str, Any]:
        return read_config(self.path)

    @cached_property
    def _files(self) -> list[Path]:
        return tensors.weight_files(self.path)

    @cached_property
    def config(self) -> JanusConfig:
        is_official = self.layout == "official"
        special = self.special if is_official and (self.path / "tokenizer.json").is_file() else None
        shapes = self._own_shapes if is_official and tensors.has_weights(self.path) else None
        try:
            if is_official:
                return official_config.from_official(self._values, shapes, special)
            return JanusConfig(**{k: v for k, v in self._values.items() if k != "model_type"})
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None
        except Exception as error:  # transformers' configurations raise many kinds of errors
            raise UserError(
                f"{self.path / 'config.json'} is not the configuration of a Janus model ({one_line(error, 200)})"
            ) from None

    @cached_property
    def _own_shapes(self) -> dict[str, tuple[int, ...]]:
        return tensors.shapes(self._files)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's shape, by transformers' name."""
        if self.layout == "transformers":
            return self._own_shapes
        meta_tensors = ((name, torch.empty(shape, device="meta")) for name, shape in self._own_shapes.items())
        with self._user_errors_on_names():
            return {name: tuple(tensor.shape) for name, tensor in official.from_official(meta_tensors)}

    def tensors(self, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
        """Yields (name, tensor) by transformers' names that begin with ``prefix``, one at a time."""
        yield from self._with_adapters(self._stored_tensors(prefix))

    def _with_adapters(self, pairs: Iterator[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        for adapter in self._fitting_adapters:
            pairs = adapter.merge(pairs)
        return pairs

    @cached_property
    def _fitting_adapters(self) -> tuple[Adapter, ...]:
        adapters = (*self.adapters, *self.added)
        shapes = self.shapes if adapters else {}
        for adapter in adapters:
            adapter.check_fits(shapes)
        return adapters

    def _stored_tensors(self, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
        if self.layout == "transformers":
            yield from tensors.read(self._files, prefix)
            return
        with self._user_errors_on_names():
            for name, tensor in official.from_official(tensors.read(self._files)):
                if name.startswith(prefix):
                    yield name, tensor

    def tensor(self, name: str) -> torch.Tensor:
        """Returns the tensor of transformers' name ``name``. Unlike `tensors` it keeps no other tensor's pages in memory."""
        return dict(self._with_adapters(iter([(name, self._stored_tensor(name))])))[name]

    def _stored_tensor(self, name: str) -> torch.Tensor:
        if self.layout == "transformers":
            return self._stored[name]
        official_name = self._official_names[name]
        pairs = official.from_official([(official_name, self._stored[official_name])])
        return dict(pairs)[name]

    @cached_property
    def _stored(self) -> StoredTensors:
        return StoredTensors(self._files)

    @cached_property
    def _official_names(self) -> dict[str, str]:
        """For each name of transformers the official tensor with its values."""
        names: dict[str, str] = {}
        with self._user_errors_on_names():
            for name, shape in self._own_shapes.items():
                pair = [(name, torch.empty(shape, device="meta"))]
                names |= {target: name for target, _ in official.from_official(pair)}
        return names

    def extras(self) -> dict[str, torch.Tensor]:
        """Returns the tensors that only the official layout has (`official.is_extra`), by official names; may be empty."""
        if self.layout == "official":
            return {name: tensor.clone() for name, tensor in tensors.read(self._files) if official.is_extra(name)}
        path = self.path / tensors.EXTRAS
        return {name: tensor.clone() for name, tensor in tensors.read([path])} if path.is_file() else {}

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        return processor.load_tokenizer(self.path)

    @property
    def special(self) -> SpecialTokens:
        try:
            return SpecialTokens.of(self.tokenizer)
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None

    @property
    def _own_settings(self) -> dict[str, Any]:
        """What an official folder of this project says beside the official values (`official_config.OWN_KEY`)."""
        try:
            return official_config.own_settings(self._values) if self.layout == "official" else {}
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None

    @property
    def system_prompt(self) -> str:
        """The system prompt that the model was trained with, or the official one."""
        prompt = self._own_settings.get("system_prompt")
        if prompt is None:
            return processor.system_prompt(self.path)
        if not isinstance(prompt, str):
            raise UserError(f"{self.path / 'config.json'}: {official_config.OWN_KEY}.system_prompt must be a string")
        return prompt

    @property
    def generation_settings(self) -> dict[str, float]:
        """The folder's ``guidance`` and ``temperature``, or the official values."""
        path, own = self.path / "generation_config.json", self._own_settings
        values = read_json_object_if_any(path)
        guidance, temperature = own.get("guidance"), own.get("temperature")
        try:
            return {
                "guidance": float(guidance or values.get("guidance_scale") or processor.GUIDANCE),
                "temperature": float(temperature or values.get("temperature") or processor.TEMPERATURE),
            }
        except (TypeError, ValueError):
            if guidance is None and temperature is None:
                raise UserError(f"{path}: guidance_scale and temperature must be numbers") from None
            where = f"{self.path / 'config.json'}: guidance and temperature of {official_config.OWN_KEY}"
            raise UserError(f"{where} must be numbers") from None

    @property
    def generation_config(self) -> GenerationConfig:
        return processor.generation_config(self.special, **self.generation_settings)

    def check_complete(self) -> None:
        """Raises `UserError` unless names and shapes of the tensors are those of the configured model."""
        config, shapes = self.config, self.shapes
        try:
            expected_shapes = model_shapes(config)
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None
        if missing_names := sorted(expected_shapes.keys() - shapes.keys()):
            parts = sorted({part_of(name) for name in missing_names})
            hint = "" if len(parts) == 1 else "; is it a base that was not trained yet?"
            raise UserError(
                f"{self.path} is not complete: {len(missing_names)} tensors are missing ({', '.join(parts)}), "
                f"the first is {missing_names[0]}{hint}"
            )
        if extra_names := sorted(shapes.keys() - expected_shapes.keys()):
            raise UserError(f"{self.path} has {extra_names[0]}, which the model in its config.json does not have")
        for name, shape in shapes.items():
            if shape != expected_shapes[name]:
                raise UserError(f"{self.path}: {name} is {shape}, its config.json asks for {expected_shapes[name]}")
        _ = self._fitting_adapters  # raises if one does not fit
        if (self.path / "tokenizer.json").is_file():
            self.check_tokenizer(config.text_config.vocab_size)

    def check_tokenizer(self, num_embeddings: int) -> None:
        """Raises `UserError` if its tokens do not all have a row in the table of ``num_embeddings``."""
        token, highest = max(self.tokenizer.get_vocab().items(), key=lambda item: item[1], default=("", -1))
        if highest >= num_embeddings:
            raise UserError(
                f"{self.path}: its tokenizer has tokens up to number {highest} ({shortened(token, 40)}), the model has room "
                f"for {num_embeddings}: call resize_token_embeddings after adding tokens, or take the model's own tokenizer"
            )

    @contextmanager
    def _user_errors_on_names(self) -> Iterator[None]:
        """Turns errors about unknown tensor names into a `UserError` that names the folder."""
        try:
            yield
        except ValueError as error:
            raise UserError(f"{self.path}: {error}") from None


def model_shapes(config: JanusConfig) -> dict[str, tuple[int, ...]]:
    """Returns every tensor's shape in the model of ``config``. Raises `UserError` if it cannot be built."""
    try:
        with torch.device("meta"):
            return {n: tuple(t.shape) for n, t in JanusForConditionalGeneration(config).state_dict().items()}
    except Exception as error:  # from any layer that its values make impossible
        raise UserError(f"the model in its config.json cannot be built ({one_line(error, 200)})") from None


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json. Raises `UserError` if it is missing or not a JSON object."""
    path = folder / "config.json"
    try:
        values = read_json_object(path)
    except FileNotFoundError:
        what = "there is no model (config.json is missing)" if folder.is_dir() else "there is no such folder"
        raise UserError(f"{folder}: {what}") from None
    _refuse_endless(path, values)
    return values


def _refuse_endless(path: Path, values: dict[str, Any]) -> None:
    """Raises `UserError` for a number of layers, or a list, that no model has: building it would take hours."""
    pairs: list[tuple[str, Any]] = list(values.items())
    while pairs:
        key, value = pairs.pop()
        if isinstance(value, dict):
            pairs += value.items()
            continue
        if isinstance(value, list):
            pairs += [(key, item) for item in value[:MAX_LAYERS]]
        num = len(value) if isinstance(value, list) else value if _COUNT.search(key) else 0
        if isinstance(num, (int, float)) and num > MAX_LAYERS:
            what = f"a list of {num:,}" if isinstance(value, list) else shortened(value, 20)
            raise UserError(f"{path}: {key} is {what}, at most {MAX_LAYERS} make a model")


def refuse_other_models(folder: Path) -> None:
    """Raises `UserError` if ``folder`` holds no model or another one than Janus. Only config.json and names are looked at."""
    if folder.is_dir() and not os.path.lexists(folder / "config.json"):
        raise UserError(f"{folder}: there is no model ({contents_without_config(folder)})")
    what = other_model(read_config(folder))
    if what is not None:
        raise UserError(f"{folder} is {what}; {TAKEN}")


def open_model(
    name: str,
    prefix: str,
    *,
    weights: bool = True,
    revision: str | None = None,
    added: Sequence[str] = (),
) -> ModelFolder:
    """Opens the model ``name``, a folder or a hub id, as `open_folder` does. Raises `UserError` as `hub.local_folder` does.

    Of a hub's model that is not Janus only the small files are fetched. ``weights``: whether they are to be fetched;
    ``revision``: see `hub.local_folder`; ``added``: see `open_folder`.
    """
    folder = local_folder(name, prefix, weights=weights, revision=revision, check=_refuse_before_weights)
    return open_folder(folder, added)


def _refuse_before_weights(folder: Path) -> None:
    if not is_adapter(folder) and not (folder / "final/config.json").is_file():
        refuse_other_models(folder)


def open_folder(path: Path, added: Sequence[str] = ()) -> ModelFolder:
    """Opens the model in ``path``, or in the ``final/`` of the run in ``path``. Raises `UserError` if there is none.

    LoRA adapters in ``path`` are opened with their base. ``added``: folders or hub ids of LoRA adapters that are added to
    the model one after the other, whatever their own base is.
    """
    more_adapters = open_adapters(added)
    adapters: list[Adapter] = []
    while is_adapter(path):
        adapters.insert(0, Adapter(path))
        if len(adapters) > MAX_ADAPTERS:
            raise UserError(f"{adapters[-1].folder}: the bases of these LoRA adapters are adapters again and again")
        path = adapters[0].base
    if not (path / "config.json").is_file() and (path / "final/config.json").is_file():
        path = path / "final"
    refuse_other_models(path)
    layout: FolderLayout = "official" if read_config(path)["model_type"] == "multi_modality" else "transformers"
    for adapter in more_adapters:
        if adapter.is_in(path) or adapter.folder in [own.folder for own in adapters]:
            raise UserError(
                f"--adapter {adapter.folder}: {path} has these adapters already; give their base as the model"
            )
    return ModelFolder(path, layout, tuple(adapters), more_adapters)
