"""Model folders from somebody else: what may be wrong with each of their files."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

Change = Callable[[Path], object]
WEIGHTS = "model.safetensors"


class Code:
    """Unpickled, it leaves a file in the ground's folder."""

    def __init__(self, folder: Path) -> None:
        self.marker = folder.parent.parent / "code_ran"

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def config(**values: Any) -> Change:
    """Changes of config.json; a name with a double underscore reaches into a section."""

    def change(folder: Path) -> None:
        whole = json.loads((folder / "config.json").read_text())
        for name, value in values.items():
            *sections, key = name.split("__")
            inner = whole
            for section in sections:
                inner = inner[section]
            inner[key] = value
        (folder / "config.json").write_text(json.dumps(whole))

    return change


def replaced(name: str, data: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(data)


def weights(change: Callable[[bytes], bytes]) -> Change:
    def act(folder: Path) -> None:
        path = folder / WEIGHTS
        path.write_bytes(change(path.read_bytes()))

    return act


def header(change: Callable[[dict[str, Any]], object], pad: int = 0) -> Change:
    """Another header over the same bytes."""

    def rewrite(data: bytes) -> bytes:
        length = int.from_bytes(data[:8], "little")
        values = json.loads(data[8 : 8 + length])
        change(values)
        new = json.dumps(values).encode() + b" " * pad
        return struct.pack("<Q", len(new)) + new + data[8 + length :]

    return weights(rewrite)


def one_tensor(**fields: Any) -> Change:
    """Wrong claims about the first tensor."""

    def change(values: dict[str, Any]) -> None:
        name = next(name for name in values if name != "__metadata__")
        values[name] |= fields

    return header(change)


def pickled(value: Callable[[Path], Any], name: str = "pytorch_model.bin") -> Change:
    def act(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        (folder / name).write_bytes(pickle.dumps(value(folder)))

    return act


def torch_saved(folder: Path) -> None:
    import torch

    (folder / WEIGHTS).unlink()
    torch.save({"x": Code(folder)}, folder / "pytorch_model.bin")


def index(weight_map: Any) -> Change:
    def act(folder: Path) -> None:
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))

    return act


def linked_out(name: str) -> Change:
    """The file is a link to one that lies outside."""

    def act(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(folder.parent.parent / "outside/secret.png")

    return act


def piped(name: str) -> Change:
    def act(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return act


def renamed_tensor(folder: Path) -> None:
    held = load_file(folder / WEIGHTS)
    held["../../outside/x"] = held.pop(next(iter(held)))
    save_file(held, folder / WEIGHTS)


def code_beside(folder: Path) -> None:
    """Python that ``trust_remote_code`` would run, and a configuration that asks for it."""
    program = f"open({os.fspath(folder.parent.parent / 'code_ran')!r}, 'w')\n"
    (folder / "modeling_evil.py").write_text(program)
    (folder / "tokenization_evil.py").write_text(program)
    config(
        auto_map={"AutoConfig": "modeling_evil.Config", "AutoModel": "modeling_evil.Model"},
        architectures=["modeling_evil.Model"],
    )(folder)
    path = folder / "tokenizer_config.json"
    values = json.loads(path.read_text()) if path.is_file() else {}
    values |= {"auto_map": {"AutoTokenizer": ["tokenization_evil.T", None]}, "tokenizer_class": "tokenization_evil.T"}
    path.write_text(json.dumps(values))


def template_of_code(folder: Path) -> None:
    """A chat template that reaches for Python's own modules, were it rendered without a sandbox."""
    marker = os.fspath(folder.parent.parent / "code_ran")
    (folder / "chat_template.jinja").write_text("{{ cycler.__init__.__globals__.os.system('touch " + marker + "') }}")


REFUSED: dict[str, tuple[Change, str]] = {
    "config empty": (replaced("config.json", b""), r"config\.json"),
    "config a list": (replaced("config.json", b"[]"), r"config\.json is not a JSON object"),
    "config nested deep": (replaced("config.json", b"[" * 200_000), r"config\.json is not a JSON object"),
    "config no UTF-8": (replaced("config.json", b'{"a": "\xff"}'), r"config\.json"),
    "config a pipe": (piped("config.json"), r"config\.json"),
    "config a link out": (linked_out("config.json"), r"config\.json is not a JSON object"),
    "another model": (config(model_type="llama"), "model_type 'llama'"),
    "a model type of code": (config(model_type={"_target_": "os.system"}), "model_type"),
    "10,000,000 layers": (config(text_config__num_hidden_layers=10_000_000), "num_hidden_layers|at most|layers"),
    "2^80 layers": (config(text_config__num_hidden_layers=2**80), "num_hidden_layers|layers"),
    "layers below zero": (
        config(text_config__num_hidden_layers=-1),
        r"config\.json|not complete|does not fit|greater than 0",
    ),
    "a hidden size of 2^40": (config(text_config__hidden_size=2**40), r"config\.json|does not fit"),
    "a vocabulary of 2^50": (config(text_config__vocab_size=2**50), r"config\.json|does not fit"),
    "heads of zero": (config(text_config__num_attention_heads=0), r"config\.json"),
    "a size of letters": (config(text_config__hidden_size="big"), r"config\.json"),
    "a section of null": (config(vision_config=None), r"config\.json|not complete|is \(|does not fit"),
    "a section a list": (config(vq_config=[1, 2]), r"config\.json"),
    "an activation of code": (
        config(text_config__hidden_act="__import__('os').system"),
        r"config\.json|no model can be built|does not fit",
    ),
    "a patch of zero": (config(vision_config__patch_size=0), r"config\.json"),
    "channels of 10^6": (config(vq_config__channel_multiplier=[1] * 1_000_000), r"config\.json|channel_multiplier"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), r"model\.safetensors is missing"),
    "weights empty": (replaced(WEIGHTS, b""), r"model\.safetensors cannot be read"),
    "weights cut": (weights(lambda data: data[: len(data) // 2]), r"model\.safetensors cannot be read"),
    "weights of words": (replaced(WEIGHTS, b"these are words" * 9), r"model\.safetensors cannot be read"),
    "a header of 2^62 bytes": (weights(lambda data: struct.pack("<Q", 2**62) + data[8:]), "cannot be read"),
    "a header of 2^64 - 1 bytes": (weights(lambda data: b"\xff" * 8 + data[8:]), "cannot be read"),
    "a header nested deep": (replaced(WEIGHTS, struct.pack("<Q", 200_000) + b"[" * 200_000), "cannot be read"),
    "offsets beyond the end": (one_tensor(data_offsets=[0, 2**60]), "cannot be read"),
    "offsets that overlap": (one_tensor(data_offsets=[0, 8]), "cannot be read"),
    "a shape of 2^60": (one_tensor(shape=[2**60, 2**60]), "cannot be read"),
    "a type of its own": (one_tensor(dtype="PICKLE"), "cannot be read"),
    "a name that leaves": (renamed_tensor, r"missing|has \.\./|not complete|does not fit"),
    "weights a pipe": (piped(WEIGHTS), r"model\.safetensors|not complete"),
    "weights a link out": (linked_out(WEIGHTS), r"model\.safetensors cannot be read"),
    "an index that leaves": (index({"a": "../../outside/secret.png"}), "is not an index of weight files"),
    "an index with an absolute path": (index({"a": "/etc/passwd"}), "is not an index of weight files"),
    "an index of numbers": (index({"a": 1}), "is not an index of weight files"),
    "an index that is a list": (index([]), "is not an index of weight files"),
    "an index of what is not there": (index({"a": "model-1.safetensors"}), "is missing"),
    "an index to the config": (index({"a": "config.json"}), r"config\.json|no index"),
    "a pickle of code": (pickled(lambda f: {"x": Code(f)}), "contains more than tensors|cannot be read"),
    "torch's pickle of code": (torch_saved, "contains more than tensors"),
    "a pickle bomb": (replaced("model.safetensors", pickle.dumps([[[]] * 1000] * 1000)), "cannot be read"),
    "a tokenizer that is empty": (replaced("tokenizer.json", b""), r"tokenizer\.json"),
    "a tokenizer nested deep": (replaced("tokenizer.json", b"[" * 100_000), r"tokenizer\.json"),
    "a tokenizer of another form": (replaced("tokenizer.json", b'{"model": {"type": "Evil"}}'), r"tokenizer\.json"),
    "a tokenizer a pipe": (piped("tokenizer.json"), r"tokenizer\.json"),
    "a tokenizer a link out": (linked_out("tokenizer.json"), r"tokenizer\.json"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), r"tokenizer\.json"),
}
"""Name -> (what is done to the folder, what is said of it)."""

HARMLESS: dict[str, Change] = {
    "code beside": code_beside,
    "a chat template of code": template_of_code,
    "pickles beside": lambda folder: (folder / "training_args.bin").write_bytes(pickle.dumps(Code(folder))),
}
"""What lies in the folder, asks to be run, and is not."""
