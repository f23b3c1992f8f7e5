"""The wheel, installed into a folder without a checkout around it, used from an empty folder as a user would."""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import pytest

from janus_train.paths import ROOT

BUILT_FROM = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "train.py", "constraints.txt")
BUILT_FROM_FOLDERS = ("janus_train", "configs", "data_recipes", "launch", "benchmarks")
SHORT = ("batch.row_tokens=256", "batch.rows_per_step=2", "data.lookahead=2", "run.cpu_threads=1", "run.steps=2")


@dataclass(frozen=True)
class Installed:
    site: Path
    """The only folder that janus_train can be imported from."""

    empty: Path
    """Where commands run."""

    def run(self, *words: str | Path) -> str:
        """The command's standard output and errors. It must end well."""
        environment = os.environ | {
            "PATH": f"{self.site / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.site),
            "PYTHONSAFEPATH": "1",  # not the working directory
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(
            [str(word) for word in words],
            cwd=self.empty, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    def files(self) -> dict[Path, int]:
        """The package's files with their times of change."""
        return {path: path.stat().st_mtime_ns for path in (self.site / "janus_train").rglob("*")}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy to build in: a build leaves folders behind, which later builds would pick up."""
    folder = tmp_path_factory.mktemp("source")
    for name in BUILT_FROM:
        shutil.copyfile(ROOT / name, folder / name)
    for name in BUILT_FROM_FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "outputs"))
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", source, "--no-deps", "--no-build-isolation", "--wheel-dir", folder)
    [path] = folder.glob("janus_train-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """Beside this environment's other packages. No command may write into the package's folder."""
    user = Installed(tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("empty"))
    pip("install", "--no-deps", "--no-compile", "--target", user.site, wheel)
    place = user.run(sys.executable, "-c", "import janus_train; print(janus_train.__file__)").strip()
    assert Path(place).is_relative_to(user.site)
    before = user.files()
    yield user
    assert user.files() == before


def pip(*words: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def names_under(folder: Path, *patterns: str) -> set[str]:
    return {
        path.relative_to(folder).as_posix() for pattern in patterns for path in folder.glob(pattern) if path.is_file()
    }


def test_the_wheel_has_the_package_and_its_data_and_nothing_else(source: Path, wheel: Path) -> None:
    shipped = names_under(
        source, "configs/**/*.yaml", "data_recipes/**/*.yaml", "data_recipes/demo/base/*", "data_recipes/demo/shards/*",
        "launch/accelerate/*.yaml", "benchmarks/train.jsonl",
    )  # fmt: skip
    assert {
        "configs/train.yaml",
        "data_recipes/demo/stage1.yaml",
        "data_recipes/demo/base/model.safetensors",
        "data_recipes/demo/shards/LICENSE",
        "data_recipes/demo/shards/shards.json",
    } <= shipped
    package = names_under(source, "janus_train/**/*")
    assert {name.rpartition(".")[2] for name in package} >= {"py", "typed", "j2", "jinja"}
    with ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        infos = {name.partition(".dist-info/")[2] for name in archive.namelist() if ".dist-info/" in name}
        [metadata] = [archive.read(name).decode() for name in archive.namelist() if name.endswith("/METADATA")]
    assert names == package | {f"janus_train/shipped/{name}" for name in shipped}
    assert {"licenses/LICENSE", "licenses/data_recipes/demo/shards/LICENSE", "entry_points.txt"} <= infos
    fields = email.message_from_string(metadata)
    assert fields["License-Expression"] == "MIT" and "torch<2.15,>=2.11" in fields.get_all("Requires-Dist", [])


@pytest.mark.slow
def test_the_source_distribution_builds_the_same_wheel(source: Path, wheel: Path, tmp_path: Path) -> None:
    build = f"from setuptools.build_meta import build_sdist; build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    [archive] = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    [folder] = (tmp_path / "unpacked").iterdir()
    pip("wheel", folder, "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path)
    [again] = tmp_path.glob("*.whl")
    with ZipFile(wheel) as one, ZipFile(again) as other:
        assert sorted(one.namelist()) == sorted(other.namelist())


def test_plan_names_files_and_commands_that_are_there(installed: Installed) -> None:
    printed = installed.run(
        "janus-train", "plan", "+stage=2", "model=janus_pro_1b", "--gpus", "8", "--gpu", "a100-40gb"
    )
    [config] = re.findall(r"accelerate launch --config_file (\S+) -m janus_train\.train \+stage=2", printed)
    assert Path(config).is_file() and Path(config).is_relative_to(installed.site)


def test_inspect_draws_from_the_embedded_demonstration(installed: Installed) -> None:
    assert "class_to_image" in installed.run("janus-train", "inspect", "+stage=1", "--steps", "1")


def test_training_as_a_module_then_drawing(installed: Installed) -> None:
    launch = ("accelerate", "launch", "--quiet", "--num_processes", "1", "-m", "janus_train.train")
    said = installed.run(*launch, "+stage=1", *SHORT)
    assert "starts from the shipped base data_recipes/demo/base" in said
    final = installed.empty / "outputs/tiny/stage1/final"
    manifest = (final.parent / "manifest.json").read_text(encoding="utf-8")
    assert '"commit": null' in manifest and '"janus_train": "' in manifest
    installed.run("janus-train", "generate", final, "--prompt", "red apple", "--num-images", "1", "--out", "drawn")
    assert (installed.empty / "drawn/000-0.png").is_file()
