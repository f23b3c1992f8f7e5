"""Which way imports point: the contracts of pyproject.toml, and what may be imported without loading torch."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

from janus_train.paths import ROOT

PACKAGE = ROOT / "janus_train"
HEAVY = ("torch", "transformers", "accelerate", "deepspeed", "datasets", "peft")
LIGHT = (
    "janus_train.config",
    "janus_train.compose",
    "janus_train.cli",
    "janus_train.launch",
    "janus_train.data.types",
    "janus_train.data.recipe",
    "janus_train.data.encode",
    "janus_train.data.prompt_format",
    "janus_train.datatools.prepare.run",
    "janus_train.datatools.index",
    "janus_train.planning.gpus",
    "janus_train.report",
    "janus_train.train.distributed.signals",
)


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """import-linter on the package in ``folder``, by the contracts of the project."""
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(sys.argv[1], no_cache=True))"
    command = [sys.executable, "-c", code, str(ROOT / "pyproject.toml")]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)


def in_fresh_python(code: str) -> str:
    """What ``code`` prints last in a process that has imported nothing yet."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()[-1]


def test_every_contract_holds() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("data/types.py", "    from janus_train.model import vq", "data/ knows neither"),
        ("model/vq.py", "    from janus_train.data.recipe import Recipe", "model/ takes batches"),
        ("train/run.py", "    from janus_train import report", "Imports point one way"),
        ("errors.py", "    from janus_train.files import sync", "Imports point one way"),
        ("data/shards/index.py", "    from janus_train.data.sources import jsonl", "No circle"),
        ("data/packing/best_fit.py", "    from janus_train.commands import plan", "Imports point one way"),
    ],
)
def test_an_import_inside_a_function_breaks_a_contract_too(tmp_path: Path, module: str, line: str, broken: str) -> None:
    shutil.copytree(PACKAGE, tmp_path / "janus_train", ignore=shutil.ignore_patterns("__pycache__", "shipped"))
    with (tmp_path / "janus_train" / module).open("a") as file:
        file.write(f"\n\ndef late() -> None:\n{line}\n")
    result = lint_imports(tmp_path)
    assert result.returncode == 1
    assert any(line.startswith(broken) and " BROKEN" in line for line in result.stdout.splitlines()), result.stdout


def test_a_new_package_needs_a_place_in_the_layers(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "janus_train", ignore=shutil.ignore_patterns("__pycache__", "shipped"))
    (tmp_path / "janus_train/helpers.py").write_text("")
    result = lint_imports(tmp_path)
    assert result.returncode == 1 and "helpers" in result.stdout


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = grimp.build_graph("janus_train", cache_dir=None)
    imported = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    TopologicalSorter(imported).prepare()  # raises CycleError that names the circle


def test_the_documentation_has_the_layers_as_they_are_checked() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    shown = [layer.replace("(", "").replace(")", "") for layer in layers]
    assert "\n".join(["```text", *shown, "```"]) in (ROOT / "docs/architecture.md").read_text()


def test_what_is_light_loads_no_heavy_library() -> None:
    code = f"""
import importlib, sys
found = {{}}
for name in {LIGHT}:
    importlib.import_module(name)
    for library in {HEAVY}:
        if library in sys.modules:
            found.setdefault(library, name)
print(found)
"""
    assert in_fresh_python(code) == "{}"


def test_no_commands_help_loads_a_heavy_library() -> None:
    code = f"""
import sys
from janus_train.cli import app
commands = [command.name or command.callback.__name__ for command in app.registered_commands]
for words in [[], *([name] for name in commands)]:
    try:
        app([*words, "--help"])
    except SystemExit as end:
        assert end.code == 0, words
print([library for library in {HEAVY} if library in sys.modules], len(commands))
"""
    imports, number = in_fresh_python(code).rsplit(maxsplit=1)
    assert imports == "[]" and int(number) > 10


@pytest.mark.slow
def test_every_module_can_be_imported() -> None:
    pytest.importorskip("gradio")  # an extra, for the app
    code = """
from importlib import import_module
from pkgutil import walk_packages
import janus_train
names = [module.name for module in walk_packages(janus_train.__path__, "janus_train.")]
for name in names:
    import_module(name)
print(len(names))
"""
    packages_and_modules = [path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem != "__init__"]
    assert int(in_fresh_python(code)) == len(packages_and_modules)
