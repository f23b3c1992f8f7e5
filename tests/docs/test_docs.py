"""What the documentation says is there: links, files, commands, options, Python names."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from janus_train.cli import app
from janus_train.compose import compose_values, validate
from janus_train.data.recipe import RecipeConfig
from janus_train.errors import UserError
from janus_train.paths import ROOT

SITE = sorted((ROOT / "docs").glob("*.md"))
PAGES = [
    *SITE,
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "launch/README.md",
    ROOT / "data_recipes/README.md",
    ROOT / "examples/README.md",
]
ALL_MARKDOWN = sorted({*PAGES, *(ROOT / "benchmarks").glob("*.md"), *(ROOT / "tests").rglob("*.md")})
MADE_BY_READERS = {"data_recipes/mine.yaml"}
"""Files that the text tells its reader to write."""

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def test_there_are_pages_to_check() -> None:
    assert len(SITE) >= 12
    assert sum(len(commands(page)) for page in PAGES) > 30
    assert sum(len(code_blocks(page, "python")) for page in PAGES) >= 3


# --------------------------------------------------------------------------------------------------------------- links


@pytest.mark.parametrize("page", ALL_MARKDOWN, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_and_anchor_resolves(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(place), f"{page.name}: {target}; {place.name} has {sorted(anchors(place))}"


@pytest.mark.parametrize("page", SITE, ids=lambda page: page.name)
def test_the_sites_pages_link_to_each_other_alone(page: Path) -> None:
    """MkDocs has only the files in docs/: a link out of it would be dead on the site."""
    for target in re.findall(r"\]\(([^)\s#]+)", without_code(page)):
        assert re.match(r"[a-z]+:", target) or (page.parent / target).resolve() in SITE, target


def test_the_sites_menu_has_every_page_once() -> None:
    values = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = [name for entry in values["nav"] for name in entry.values()]
    assert sorted(listed) == sorted(page.name for page in SITE)


@pages
def test_files_of_the_repository_that_are_named_exist(page: Path) -> None:
    tops = "janus_train|tests|configs|launch|data_recipes|benchmarks|docs|examples"
    names = set(re.findall(rf"`((?:{tops})/[\w./*-]*)`", page.read_text(encoding="utf-8"))) - MADE_BY_READERS
    assert not sorted(name for name in names if not any(ROOT.glob(name.rstrip("/"))))


def test_the_readmes_map_names_folders_and_files_that_exist() -> None:
    [tree] = code_blocks(ROOT / "README.md", "text")
    top, _, package = tree.partition("janus_train/\n")
    for folder, lines in ((ROOT, top), (ROOT / "janus_train", package)):
        names = [
            word
            for line in lines.splitlines()
            for word in re.split(r"\s{2,}", line.strip())[0].split()
            if word.endswith(("/", ".py"))
        ]
        assert len(names) >= 7
        for name in names:
            assert (folder / name).exists(), name


@pytest.mark.parametrize("page", ALL_MARKDOWN, ids=lambda page: str(page.relative_to(ROOT)))
def test_nothing_refers_to_what_is_not_in_the_repository(page: Path) -> None:
    found = re.findall(r"facts\.md|\btraps? \d+|\.\./shared", page.read_text(encoding="utf-8"))
    assert not found, f"{page.name}: {found}"


# ------------------------------------------------------------------------------------------------------------ commands


@pages
def test_commands_name_real_subcommands_options_and_keys(page: Path) -> None:
    for words in commands(page):
        check_command(words, page, whole=True)


@pages
def test_commands_inside_sentences_do_too(page: Path) -> None:
    for code in re.findall(r"`([^`\n]+)`", without_blocks(page)):
        if (
            " train.py" in code
            or " janus_train.train " in code
            or code.startswith(("janus-train ", "launch/", "make "))
        ):
            check_command(command_words(code), page, whole=False)


@pages
def test_options_inside_sentences_exist(page: Path) -> None:
    known = keys(compose_values(["+stage=1", "+peft=lora"]))
    groups = "optim|batch|memory|data|run|logging|ratio|peft"
    for key in re.findall(rf"`((?:{groups})\.[a-z_]+)(?:=[^`]*)?`", page.read_text(encoding="utf-8")):
        assert key in known, f"{page.name}: {key}"


def check_command(words: list[str], page: Path, *, whole: bool) -> None:
    """``whole``: it is a command to type as it stands, so that its arguments have to fit as well."""
    where = f"{page.name}: {shlex.join(words)}"
    for word in words:
        if word.startswith(("launch/", "benchmarks/", "tests/", "examples/")):
            assert (ROOT / word).exists(), where
    if words[0] == "janus-train":
        check_janus_train(words[1:], where, whole=whole)
    elif words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert words[1] in targets, where
    trainers = ("train.py", "janus_train.train", "launch/slurm/train.sbatch")
    for script, stages in (*((trainer, ()) for trainer in trainers), ("three_stages.sh", (1, 2, 3))):
        at = next((i for i, word in enumerate(words) if word.endswith(script)), None)
        if at is not None:
            overrides = [word for word in words[at + 1 :] if "=" in word]
            if not (overrides or whole or stages):  # a script's name, not a command
                continue
            for stage in stages or (0,):
                check_overrides(tuple([f"+stage={stage}", *overrides] if stage else overrides), where)


def check_janus_train(words: list[str], where: str, *, whole: bool) -> None:
    root: Any = typer.main.get_command(app)
    assert words[0] in root.commands, where
    command = root.commands[words[0]]
    options = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options | {"--help"}, where
    if whole:
        command.make_context(words[0], list(words[1:]))  # parses, runs nothing
    overrides = [word for word in words[1:] if re.match(r"\+?[a-z_.]+=", word)]
    if overrides:
        check_overrides(tuple(overrides), where)


def check_overrides(overrides: tuple[str, ...], where: str) -> None:
    assert any(word.startswith("+stage=") for word in overrides), f"{where}: no stage"
    problem = problem_of(overrides)
    assert problem is None, f"{where}: {problem}"


@cache
def problem_of(overrides: tuple[str, ...]) -> str | None:
    """What is wrong with the overrides, if anything."""
    words = ["+stage=1" if word == "+stage=N" else word for word in overrides]
    try:
        values = compose_values(words)
        if "model=from_folder" not in words:  # what is null there stands in the reader's folder
            validate(values)
    except UserError as error:
        return str(error)
    return None


# ------------------------------------------------------------------------------------------------- Python, YAML, JSON


@pages
def test_python_blocks_parse_and_import_what_exists(page: Path) -> None:
    for code in code_blocks(page, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    importlib.import_module(alias.name)
            elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "janus_train":
                module = importlib.import_module(node.module or "")
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{page.name}: {node.module}.{alias.name}"


@pages
def test_yaml_blocks_are_recipes_that_validate(page: Path) -> None:
    for code in code_blocks(page, "yaml"):
        RecipeConfig.model_validate(yaml.safe_load(code))


# ------------------------------------------------------------------------------------------------------------- reading


@cache
def code_blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def without_blocks(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def without_code(page: Path) -> str:
    return re.sub(r"`[^`\n]*`", "`code`", without_blocks(page))


@cache
def commands(page: Path) -> list[list[str]]:
    lines = "\n".join(code_blocks(page, "bash")).replace("\\\n", " ").splitlines()
    return [words for line in lines for part in re.split(r"&&", line) if (words := command_words(part))]


def command_words(line: str) -> list[str]:
    """The words of a command without the variables that are set before it."""
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    return [word for word in words if word != "..."]


@cache
def anchors(page: Path) -> set[str]:
    """The headings' anchors that GitHub and MkDocs agree on."""
    found = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *$", without_blocks(page), re.MULTILINE):
        text = re.sub(r"`|\[|\]\([^)]*\)", "", heading)
        on_github = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
        in_mkdocs = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())
        if on_github == in_mkdocs:
            found.add(on_github)
    return found


def keys(values: dict[str, Any], prefix: str = "") -> set[str]:
    found = set()
    for name, value in values.items():
        found.add(prefix + name)
        if isinstance(value, dict):
            found |= keys(value, f"{prefix}{name}.")
    return found
