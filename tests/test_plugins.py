"""Plug-ins: modules of a user, of installed packages and of this one, and when they are imported."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from janus_train import plugins
from janus_train.data.loader import open_recipe
from janus_train.data.sources.registry import open_source, own_config, source_type
from janus_train.data.templates import get_template
from janus_train.errors import UserError
from janus_train.evaluate.choice import choose
from janus_train.paths import ROOT
from tests.helpers import Run, config_of, make_shard

pytestmark = pytest.mark.usefixtures("registries")

NUMBERS = """
from pathlib import Path

from janus_train.data.sources.registry import SourceConfig, register_source
from janus_train.data.special_tokens import EOS
from janus_train.data.templates import register_template
from janus_train.data.types import Record, Segment


class NumbersConfig(SourceConfig):
    times: int = 1


class Numbers:
    def __init__(self, path: Path, times: int):
        self.numbers, self.times = path.read_text().split(), times

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, index):
        return Record(str(index), {"number": self.times * int(self.numbers[index])})

    def data_digest(self):
        return " ".join(self.numbers)


@register_source("numbers", NumbersConfig)
def open_numbers(config, places, image_size):
    return Numbers(places[0], config.times)


@register_template(reads="number")
def say_number(record):
    return [Segment("text", f"{record.fields['number']}" + EOS, loss=True)]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a plug-in and a recipe that needs it."""
    (tmp_path / "my_numbers.py").write_text(NUMBERS)
    (tmp_path / "numbers.txt").write_text("3 4 5")
    source = {"name": "n", "kind": "text", "type": "numbers", "template": "say_number", "weight": 1}
    source |= {"paths": ["numbers.txt"], "times": 7}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"name": "r", "licence": "none", "sources": [source]}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def text_only(folder: Path) -> tuple[str, ...]:
    return ("+stage=2", f"data.recipe={folder / 'r.yaml'}", "ratio.understanding=0", "ratio.generation=0")


def test_a_module_that_the_configuration_names_brings_a_source_and_a_template(folder: Path) -> None:
    with pytest.raises(
        UserError, match=r"sources\.0: there is no source type 'numbers', known are hf_dataset, .*scenes, shards$"
    ):
        open_recipe(config_of(*text_only(folder)))
    recipe = open_recipe(config_of(*text_only(folder), "plugins=[my_numbers]"))
    _, source = recipe.sources["n"]
    assert [source[i].fields["number"] for i in range(len(source))] == [21, 28, 35]
    assert recipe.digests()["n"] == "3 4 5"
    first = recipe.digests()["recipe"]
    values = yaml.safe_load((folder / "r.yaml").read_text())
    values["sources"][0]["times"] = 2
    (folder / "r.yaml").write_text(yaml.safe_dump(values))
    assert open_recipe(config_of(*text_only(folder))).digests()["recipe"] != first, "a type's own options count"


def test_inspect_shows_what_a_plug_in_brings(run: Run, folder: Path, random_base: Path) -> None:
    words = (*text_only(folder), f"init_from={random_base}", "plugins=[my_numbers]", "batch.rows_per_step=1")
    code, stdout, stderr = run("inspect", *words)
    assert code == 0, stderr
    assert {sample["source"] for sample in json.loads(stdout)["samples"]} == {"n"}


def test_verify_takes_plug_ins_for_its_worker_processes_too(run: Run, folder: Path) -> None:
    make_shard(folder / "a.tar", {f"{n}.json": {"number": n} for n in range(3)})
    code, stdout, _ = run("verify", "a.tar", "--max-bad", 0)
    assert code == 1
    code, stdout, stderr = run("verify", "a.tar", "r.yaml", "--max-bad", 0, "--workers", 2, "--plugin", "my_numbers")
    assert code == 0, stdout + stderr


@pytest.mark.parametrize(
    ("module", "says"),
    [
        ("no_such_module", "plugins: no_such_module cannot be imported (ModuleNotFoundError: No module named"),
        ("broken", "plugins: broken cannot be imported (ZeroDivisionError: division by zero)"),
        ("greedy", "plugins: greedy: template 'text' of greedy: janus_train.data.templates.text has one of this name"),
        ("my-numbers", "plugins: 'my-numbers' is not the name of a Python module"),
        ("./my_numbers.py", "plugins: './my_numbers.py' is not the name of a Python module"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line(folder: Path, module: str, says: str) -> None:
    (folder / "broken.py").write_text("1 / 0")
    (folder / "greedy.py").write_text(NUMBERS.replace("say_number", "text"))
    with pytest.raises(UserError) as error:
        config_of("+stage=1", f"plugins=[{module}]")
    assert says in str(error.value) and "\n" not in str(error.value)


def test_commands_name_the_option_whose_module_is_missing(run: Run, folder: Path) -> None:
    for words in (("verify", "r.yaml"), ("tokenize", "r.yaml", "--model", "m"), ("evaluate", "m", "--out", "o")):
        code, _, stderr = run(*words, "--plugin", "no_such_module")
        assert code == 2 and "error: --plugin: no_such_module cannot be imported" in stderr


def installed(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    points = [importlib.metadata.EntryPoint(f"p{n}", module, plugins.GROUP) for n, module in enumerate(modules)]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points if group == plugins.GROUP else [])


def test_an_installed_package_is_imported_only_when_a_name_is_unknown(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, "my_numbers", "broken_package")
    monkeypatch.syspath_prepend(folder)
    assert source_type("shards").urls and source_type("scenes").tars == "material" and get_template("text")
    assert "my_numbers" not in sys.modules
    assert source_type("numbers").config.model_fields["times"].default == 1
    assert get_template("say_number").reads == "number"
    with pytest.raises(UserError, match=r"^plug-in broken_package cannot be imported \(ModuleNotFoundError"):
        get_template("poem")


def test_the_examples_of_contributing_are_plug_ins(run: Run, folder: Path, random_base: Path) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    examples = [code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "register_" in code]
    assert len(examples) == 4
    for number, code in enumerate(examples):
        (folder / f"example_{number}.py").write_text(code)
    plugins.import_plugins([f"example_{number}" for number in range(len(examples))])
    (folder / "people.csv").write_text("name;age\nAda;36\n")
    values = {"name": "t", "kind": "text", "type": "table", "template": "text", "weight": 1, "paths": ["people.csv"]}
    config = own_config(values | {"separator": ";", "field": "name"})
    source = open_source(config, [folder / "people.csv"], 64)
    assert source[0].fields == {"text": "Ada"} and len(source) == 1 and len(source.data_digest()) == 16
    assert get_template("image_title").reads == "title"
    words = ("evaluate", random_base, "--out", "colours", "--evaluation", "colours", "--plugin", "example_2")
    code, stdout, stderr = run(*words, "--guidance", 1)
    assert code == 0 and "mean colour" in stdout, stderr
    assert set(json.loads((folder / "colours/results.json").read_text())) == {"red", "blue"}


def test_unknown_names_come_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"^there is no source type 'x', known are hf_dataset, .*, scenes, shards$"):
        source_type("x")
    with pytest.raises(UserError, match=r"^--evaluation: there is no evaluation 'x', known are demo, own_data$"):
        choose("x", {})


def test_this_package_names_its_plug_ins_as_entry_points_too() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert tuple(project["entry-points"][plugins.GROUP].values()) == plugins.BUILT_IN


def test_the_core_imports_the_demonstration_only_when_something_of_it_is_named(folder: Path) -> None:
    (folder / "a.json").write_text("{}")
    make_shard(folder / "a.tar", {"a.json": {"text": "a"}})
    source = "{name: a, kind: text, type: shards, template: text, weight: 1, paths: [a.tar]}"
    (folder / "r.yaml").write_text(f"{{name: r, licence: none, sources: [{source}]}}")
    code = f"""
import sys
from janus_train import cli
from janus_train.compose import compose_config
from janus_train.data.loader import open_recipe
import janus_train.train.run, janus_train.datatools.verify.run, janus_train.report, janus_train.evaluate.choice

config = compose_config({list(text_only(folder))!r})
assert open_recipe(config).digests()
assert not [name for name in sys.modules if name.startswith("janus_train.demo")]
assert open_recipe(compose_config(["+stage=2"])).digests()
assert "janus_train.demo.plugin" in sys.modules and "janus_train.demo.detector" not in sys.modules
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_no_module_of_the_core_names_the_demonstration_in_an_import() -> None:
    package = ROOT / "janus_train"
    core = [path for path in package.rglob("*.py") if package / "demo" not in path.parents]
    assert len(core) > 100
    assert not [
        path
        for path in core
        if "import janus_train.demo" in (text := path.read_text()) or "from janus_train.demo" in text
    ]
