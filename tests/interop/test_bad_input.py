"""What a user can get wrong, or a disk: one helpful line, and nothing half written."""

from __future__ import annotations

import json
import pickle
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from janus_train import cli
from janus_train.errors import UserError
from janus_train.interop.convert import export_model, import_official
from janus_train.interop.model_folder import open_folder
from tests.helpers import LFS_POINTER


@pytest.fixture
def official(make_official, tmp_path) -> Path:
    """A folder to break."""
    folder, _ = make_official("safetensors")
    return Path(shutil.copytree(folder, tmp_path / "official"))


def change_tensors(folder: Path, change: Callable[[dict], object]) -> None:
    held = load_file(folder / "model.safetensors")
    change(held)
    save_file(held, folder / "model.safetensors")


def change_config(folder: Path, change: Callable[[dict], object]) -> None:
    values = json.loads((folder / "config.json").read_text())
    change(values)
    (folder / "config.json").write_text(json.dumps(values))


class Code:
    """Unpickled, it would leave a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


def marker(folder: Path) -> Path:
    """Beside ``folder``: the tests look at what is there."""
    return folder.parent / "code_ran"


def to_bin(folder: Path, value: object) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(value, folder / "pytorch_model.bin")


def to_plain_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"x": Code(marker(folder))}))


def cut(path: Path, share: float = 0.5) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def cut_bin(folder: Path) -> None:
    to_bin(folder, load_file(folder / "model.safetensors"))
    cut(folder / "pytorch_model.bin")


def lose_per_shard(folder: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def leave_the_folder(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))


HEAD = "gen_head.vision_head.weight"
BREAKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a key missing": (
        lambda f: change_tensors(f, lambda t: t.pop(HEAD)),
        r"not complete: 1 tensors are missing \(image_head\), the first is model\.generation_head\.vision_head\.weight",
    ),
    "a part missing": (
        lambda f: change_tensors(f, lambda t: [t.pop(n) for n in list(t) if n.startswith("aligner.")]),
        r"4 tensors are missing \(understanding_adaptor\)",
    ),
    "no VQ tokenizer": (
        lambda f: change_tensors(f, lambda t: [t.pop(n) for n in list(t) if n.startswith("gen_vision")]),
        r"gen_vision_model\.encoder\.conv_in\.weight is missing",
    ),
    "a strange key": (
        lambda f: change_tensors(f, lambda t: t.update({"vision_gen_enc_model.x": torch.zeros(2)})),
        r"vision_gen_enc_model\.x is not a name in an official Janus checkpoint",
    ),
    "a wrong shape": (
        lambda f: change_tensors(f, lambda t: t.update({HEAD: torch.zeros(52, 48)})),
        r"generation_head\.vision_head\.weight is \(52, 48\), its config\.json asks for \(53, 48\)",
    ),
    "config and tensors differ": (
        lambda f: change_config(f, lambda c: c["language_config"].update(num_hidden_layers=3)),
        r"not complete: 9 tensors are missing \(language_model\)",
    ),
    "another model": (
        lambda f: change_config(f, lambda c: c.update(model_type="llava")),
        r"is MultiModalityCausalLM \(model_type 'llava'\), another architecture than Janus; taken are Janus",
    ),
    "JanusFlow's projector": (
        lambda f: change_config(f, lambda c: c["aligner_config"]["params"].update(projector_type="linear")),
        r"aligner_config is MlpProjector linear",
    ),
    "an unknown SigLIP": (
        lambda f: change_config(f, lambda c: c["vision_config"].update(params={"model_name": "x", "image_size": 32})),
        r"model_name x is unknown; known are siglip_large_patch16_384",
    ),
    "config without a section": (
        lambda f: change_config(f, lambda c: c.pop("gen_head_config")),
        r"not that of an official Janus model: 'gen_head_config' is missing",
    ),
    "config no JSON": (lambda f: (f / "config.json").write_text("{"), r"config\.json is not a JSON object"),
    "no config": (
        lambda f: (f / "config.json").unlink(),
        r"there is no model \(config\.json is missing; model\.safetensors alone does not say which model it is",
    ),
    "no weights": (
        lambda f: (f / "model.safetensors").unlink(),
        r"model\.safetensors is missing, and there is no other",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), r"has no tokenizer\.json"),
    "a tokenizer no JSON": (lambda f: (f / "tokenizer.json").write_text("{"), r"tokenizer\.json cannot be read"),
    "truncated safetensors": (lambda f: cut(f / "model.safetensors"), r"model\.safetensors cannot be read"),
    "truncated bin": (cut_bin, r"pytorch_model\.bin cannot be read"),
    "code in a pickle": (
        lambda f: to_bin(f, {"x": Code(marker(f))}),
        r"contains more than tensors: loading it could run code, so it is refused",
    ),
    "code in an old pickle": (to_plain_pickle, r"pytorch_model\.bin (contains more than tensors|cannot be read)"),
    "no state dict": (lambda f: to_bin(f, [torch.zeros(2)]), r"is not a state dict"),
    "a shard missing": (
        lose_per_shard,
        r"model-00002-of-00002\.safetensors of model\.safetensors\.index\.json is missing",
    ),
    "safetensors a git-lfs pointer": (
        lambda f: (f / "model.safetensors").write_bytes(LFS_POINTER),
        r"model\.safetensors is a git-lfs pointer, not the file itself: run git lfs pull",
    ),
    "bin a git-lfs pointer": (
        lambda f: (to_bin(f, {}), (f / "pytorch_model.bin").write_bytes(LFS_POINTER)),
        r"pytorch_model\.bin is a git-lfs pointer",
    ),
    "config a git-lfs pointer": (lambda f: (f / "config.json").write_bytes(LFS_POINTER), r"config\.json is a git-lfs"),
    "tokenizer a git-lfs pointer": (
        lambda f: (f / "tokenizer.json").write_bytes(LFS_POINTER),
        r"tokenizer\.json is a git-lfs pointer",
    ),
    "one tensor twice": (
        lambda f: change_tensors(f, lambda t: t.update({f"module.{HEAD}": t[HEAD].clone()})),
        rf"has both {HEAD} and module\.{HEAD}, which are one tensor's name: remove one|has both module",
    ),
    "an index that leads elsewhere": (leave_the_folder, r"is not an index of weight files"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_checkpoint_is_one_line_and_leaves_nothing(official, tmp_path, name) -> None:
    change, message = BREAKS[name]
    change(official)
    with pytest.raises(UserError, match=message) as error:
        import_official(str(official), tmp_path / "out")
    assert "\n" not in str(error.value) and str(official) in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["official"], "neither a result nor what its code would leave"


def test_a_full_disk_is_one_line_and_leaves_nothing(official, tmp_path) -> None:
    """The system's limit on a file's size stands in for it: the same call fails in the same place."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UserError, match=r"out cannot be written: .*[Ff]ile too large.*; nothing of it is left"):
            import_official(str(official), tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["official"]


def test_nothing_is_replaced(official, tmp_path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=r"--out .*out exists"):
        import_official(str(official), tmp_path / "out")
    with pytest.raises(UserError, match=r"--out .*out exists"):
        export_model(str(official), tmp_path / "out", "hf")


def test_a_base_without_adaptors_is_no_model_to_export(tmp_path) -> None:
    from janus_train.paths import ROOT

    with pytest.raises(UserError, match=r"not complete: .*\(generation_adaptor, generation_embedding, image_head"):
        export_model(str(ROOT / "data_recipes/demo/base"), tmp_path / "out", "hf")


def test_a_language_model_that_is_no_llama_has_no_official_form(official, tmp_path) -> None:
    import_official(str(official), tmp_path / "hf")
    values = json.loads((tmp_path / "hf/config.json").read_text())
    values["text_config"]["model_type"] = "qwen3"
    (tmp_path / "hf/config.json").write_text(json.dumps(values))
    folder = open_folder(tmp_path / "hf")
    from janus_train.interop.official_fit import check_fits_layout

    with pytest.raises(
        UserError, match="plain Llama language models only, this one is qwen3: export it with --format hf"
    ):
        check_fits_layout(folder.config)


def test_import_of_what_needs_none(official, tmp_path) -> None:
    import_official(str(official), tmp_path / "hf")
    with pytest.raises(UserError, match="in transformers' layout already"):
        import_official(str(tmp_path / "hf"), tmp_path / "again")


def test_the_commands_end_with_one_line(monkeypatch, capsys, tmp_path) -> None:
    for words, message in (
        (
            ["import", str(tmp_path / "none"), "--out", "x"],
            "import " + str(tmp_path / "none") + ": there is no such folder",
        ),
        (["import", str(tmp_path), "--out", "x"], "there is no model (config.json is missing)"),
        (["export", str(tmp_path), "--out", str(tmp_path / "x"), "--format", "onnx"], "'onnx' is not one of"),
    ):
        monkeypatch.setattr(sys, "argv", ["janus-train", *words])
        with pytest.raises(SystemExit) as left:
            cli.main()
        said = capsys.readouterr().err
        assert left.value.code == 2 and message in said and said.count("\n") == 1, said
