"""Reads and writes tensor files one tensor at a time: about one shard is in memory, however large the model.

It reads safetensors and, by torch's weights-only unpickler, ``.bin``, in one file or several with an index, and writes
safetensors only. Safetensors and ``.bin`` in torch's zip format are memory-mapped, so bytes are read when they are written.
Tensors saved from a model that was compiled or wrapped have the names of the plain model (`unwrapped_name`).
"""

from __future__ import annotations

import os
import pickle
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from janus_train.errors import UserError, one_line
from janus_train.files import os_errors_of_rust, read_json_object, refuse_lfs_pointer, write_json

EXTRAS = "official_extras.safetensors"
"""Side file of a folder in transformers' layout, with the tensors that only the official layout has."""

WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""What ``torch.compile``, DDP and DeepSpeed, FSDP and activation checkpointing put into the names of a model's tensors."""

SHARD_BYTES = 2 * 1024**3
"""Largest size of a written file, unless a single tensor is larger; a conversion needs that much memory."""


def weight_files(folder: Path) -> list[Path]:
    """Returns the folder's weight files, safetensors before ``.bin``. Raises `UserError` if there are none or one is missing."""
    for index, single, pattern in (
        ("model.safetensors.index.json", "model.safetensors", "*.safetensors"),
        ("pytorch_model.bin.index.json", "pytorch_model.bin", "*.bin"),
    ):
        if (folder / index).is_file():
            return _indexed_files(folder / index)
        if (folder / single).is_file():
            return [folder / single]
        if weight_files := sorted(path for path in folder.glob(pattern) if path.name != EXTRAS and path.is_file()):
            return weight_files
    raise UserError(
        f"{folder} is not complete: model.safetensors is missing, and there is no other .safetensors or .bin file"
    )


def has_weights(folder: Path) -> bool:
    """Whether the folder contains weights; it does not if only a model's small files were fetched from the hub."""
    return any(path.name != EXTRAS for pattern in ("*.safetensors", "*.bin") for path in folder.glob(pattern))


def _indexed_files(index: Path) -> list[Path]:
    try:
        names = set(read_json_object(index)["weight_map"].values())
        assert names and all(isinstance(name, str) and Path(name).name == name for name in names)
    except (KeyError, TypeError, AttributeError, AssertionError):
        raise UserError(f"{index} is not an index of weight files (weight_map: name -> file)") from None
    missing_files = sorted(name for name in names if not (index.parent / name).is_file())
    if missing_files:
        raise UserError(f"{index.parent} is not complete: {', '.join(missing_files)} of {index.name} is missing")
    return [index.parent / name for name in sorted(names)]


def unwrapped_name(name: str) -> str:
    """The tensor's name in a model that is not wrapped: ``module.model._orig_mod.layers`` is ``model.layers``."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def unwrapped_names(names: Iterable[str], path: Path) -> dict[str, str]:
    """`unwrapped_name` -> the name in ``path``. Raises `UserError` if two tensors would have one name."""
    own_names: dict[str, str] = {}
    for name in names:
        other = own_names.setdefault(unwrapped_name(name), name)
        if other != name:
            raise UserError(f"{path} has both {other} and {name}, which are one tensor's name: remove one of them")
    return own_names


def read(files: list[Path], prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Yields every (unwrapped name, tensor) whose name begins with ``prefix``, file by file.

    Raises `UserError` for a damaged file.
    """
    for path in files:
        if path.suffix == ".safetensors":
            with _user_errors(path), safe_open(path, framework="pt") as file:
                for name, own_name in unwrapped_names(file.keys(), path).items():
                    if name.startswith(prefix):
                        yield name, file.get_tensor(own_name)
        else:
            state = _load_state(path)
            for name in sorted(state):
                tensor = state.pop(name)
                if name.startswith(prefix):
                    yield name, tensor


def shapes(files: list[Path]) -> dict[str, tuple[int, ...]]:
    """Returns every tensor's shape by its unwrapped name, without reading its bytes."""
    by_name: dict[str, tuple[int, ...]] = {}
    for path in files:
        if path.suffix == ".safetensors":
            with _user_errors(path), safe_open(path, framework="pt") as file:
                for name, own_name in unwrapped_names(file.keys(), path).items():
                    by_name[name] = tuple(file.get_slice(own_name).get_shape())
        else:
            by_name |= {name: tuple(tensor.shape) for name, tensor in _load_state(path).items()}
    return by_name


class StoredTensors:
    """The tensors of weight files by name, each read when it is asked for.

    A tensor of a safetensors file is a view of the file's own pages, which all processes of a machine share, and the
    pages are given back with the tensor. A ``.bin`` file stays open as long as this object lives.
    """

    def __init__(self, files: list[Path]) -> None:
        self._files = files
        self._states: dict[Path, dict[str, torch.Tensor]] = {}

    @cached_property
    def _places(self) -> dict[str, tuple[Path, str]]:
        """For each name the file and the name there."""
        return {name: (path, own_name) for path in self._files for name, own_name in self._names(path).items()}

    def __getitem__(self, name: str) -> torch.Tensor:
        path, own_name = self._places[name]
        if path.suffix != ".safetensors":
            return self._state(path)[name]
        # Opened for this tensor alone: otherwise all pages that were ever read would stay until the file is closed.
        with _user_errors(path), safe_open(path, framework="pt") as file:
            return file.get_tensor(own_name)

    def _names(self, path: Path) -> dict[str, str]:
        if path.suffix != ".safetensors":
            return {name: name for name in self._state(path)}
        with _user_errors(path), safe_open(path, framework="pt") as file:
            return unwrapped_names(file.keys(), path)

    def _state(self, path: Path) -> dict[str, torch.Tensor]:
        if path not in self._states:
            self._states[path] = _load_state(path)
        return self._states[path]


@contextmanager
def _user_errors(path: Path) -> Iterator[None]:
    """Turns errors of safetensors into a `UserError` that names the file."""
    try:
        yield
    except (SafetensorError, OSError) as error:
        refuse_lfs_pointer(path)
        raise UserError(f"{path} cannot be read: {error}") from None


def load_pickle(path: Path) -> object:
    """Loads a file of torch.save with tensors and plain containers only. Raises `UserError` if it is damaged or contains code."""
    refuse_lfs_pointer(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # torch warns about other pickle protocols, but the file either loads or raises an error
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} contains more than tensors: loading it could run code, so it is refused; get it as safetensors"
        ) from None
    except (OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise UserError(f"{path} cannot be read: {one_line(error, 200)}") from None


def _load_state(path: Path) -> dict[str, torch.Tensor]:
    state = load_pickle(path)
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{path} is not a state dict: expected are names and tensors, nothing else")
    return {name: state[own_name] for name, own_name in unwrapped_names(state, path).items()}


class ShardWriter:
    """Writes tensors into ``folder`` as they come: ``model.safetensors``, or several files and their index.

    Call `close` at the end. ``max_bytes``: the largest size of a file, unless a single tensor is larger.
    """

    def __init__(self, folder: Path, max_bytes: int | None = None) -> None:
        self._folder, self._max_bytes = folder, max_bytes or SHARD_BYTES
        self._pending: dict[str, torch.Tensor] = {}
        self._pending_bytes = self._total = 0
        self._shards: list[list[str]] = []

    def add(self, name: str, tensor: torch.Tensor) -> None:
        size = tensor.nbytes
        if self._pending and self._pending_bytes + size > self._max_bytes:
            self._flush()
        assert name not in self._pending, name
        self._pending[name] = tensor.detach().to("cpu")
        self._pending_bytes += size
        self._total += size

    def close(self) -> None:
        """Writes the last file and the index, and gives the files their final names."""
        self._flush()
        if len(self._shards) == 1:
            os.replace(self._part(1), self._folder / "model.safetensors")
            return
        weight_map: dict[str, str] = {}
        for number, names in enumerate(self._shards, 1):
            final = f"model-{number:05d}-of-{len(self._shards):05d}.safetensors"
            os.replace(self._part(number), self._folder / final)
            weight_map |= dict.fromkeys(names, final)
        index = {"metadata": {"total_size": self._total}, "weight_map": dict(sorted(weight_map.items()))}
        write_json(self._folder / "model.safetensors.index.json", index)

    def _part(self, number: int) -> Path:
        return self._folder / f"part-{number:05d}.safetensors"

    def _flush(self) -> None:
        self._shards.append(list(self._pending))
        save_tensors(self._pending, self._part(len(self._shards)))
        self._pending.clear()
        self._pending_bytes = 0


def save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Writes a safetensors file; tied tensors are written separately. Raises OSError if the disk is full."""
    separate_tensors, pointers = {}, set()
    for name, tensor in tensors.items():
        separate_tensors[name] = tensor.clone() if tensor.data_ptr() in pointers else tensor.contiguous()
        pointers.add(tensor.data_ptr())
    try:
        with os_errors_of_rust():
            save_file(separate_tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(str(error)) from None
