"""What README and docs tell people to type, as it is written there."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from janus_train.demo.objects import UNIT
from janus_train.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
DATA = (ROOT / "docs/data.md").read_text(encoding="utf-8")
CHECKPOINTS = (ROOT / "docs/checkpoints.md").read_text(encoding="utf-8")
QUICK = ("batch.row_tokens=256", "batch.rows_per_step=2", "batch.micro_rows=2", "data.lookahead=2", "run.cpu_threads=1")


def block(text: str, language: str, of: str) -> str:
    """The first fenced block of ``language`` after the heading ``of``."""
    after = text[text.index(f"## {of}\n") :]
    found = re.search(rf"```{language}\n(.*?)```", after, re.DOTALL)
    assert found, f"no {language} under {of}"
    return found[1]


@pytest.mark.parametrize(("text", "heading"), [(README, "From Python"), (CHECKPOINTS, "Use a model from Python")])
def test_the_python_example(text: str, heading: str, random_base: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "outputs/tiny/stage3").mkdir(parents=True)
    (tmp_path / "outputs/tiny/stage3/final").symlink_to(random_base)
    Image.new("RGB", (80, 60), (200, 30, 30)).save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    code = block(text, "python", heading)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.endswith("\n")
    generated = [Image.open(tmp_path / f"moose-{n}.png") for n in range(4)]
    assert [image.size for image in generated] == [(UNIT, UNIT)] * 4
    assert len({image.tobytes() for image in generated}) == 4
    from transformers import JanusForConditionalGeneration

    assert "`JanusForConditionalGeneration.from_pretrained(folder)`" in README
    JanusForConditionalGeneration.from_pretrained("outputs/tiny/stage3/final")


def project(folder: Path) -> Path:
    """A copy of the project, in which commands may write."""
    left_out = shutil.ignore_patterns(
        ".git", ".venv", "outputs", "data", ".pytest_cache", "__pycache__", "tests", "site"
    )
    shutil.copytree(ROOT, folder, ignore=lambda place, names: left_out(place, names) if Path(place) == ROOT else set())
    return folder


def run(words: list[str], folder: Path) -> str:
    """The command's standard output."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
    }
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"{shlex.join(words)}: {done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_the_quick_start(tmp_path: Path) -> None:
    """All five commands but the installation, with stages of one step."""
    here = project(tmp_path / "project")
    commands = [shlex.split(line, comments=True) for line in block(README, "bash", "Quick start").splitlines()]
    assert commands[:2] == [["make", "install"], [".", ".venv/bin/activate"]]
    stages, generate, chat = commands[2:]
    run([*stages, "run.steps=1", *QUICK], here)
    assert (here / "outputs/tiny/stage3/report.html").is_file()
    run(generate, here)
    assert len(list((here / "outputs/generated").glob("000-*.png"))) == 16
    assert run(chat, here).endswith("\n")


@pytest.mark.slow
def test_the_walk_through_of_ones_own_images(tmp_path: Path) -> None:
    """In a copy of the project, with three images: prepare, stage 3, LoRA; and then generate with the result."""
    here = project(tmp_path / "project")
    (here / "images").mkdir()
    talks, captions = [], []
    for name, colour in (("red", (200, 30, 30)), ("green", (30, 200, 30)), ("blue", (30, 30, 200))):
        Image.new("RGB", (80, 60), colour).save(here / f"images/{name}.png")
        turns = [{"from": "human", "value": "<image>\nWhich colour?"}, {"from": "gpt", "value": f"It is {name}."}]
        talks.append({"image": f"{name}.png", "conversations": turns})
        captions.append({"image": f"{name}.png", "caption": f"a {name} field"})
    (here / "mine.jsonl").write_text("".join(json.dumps(talk) + "\n" for talk in talks))
    (here / "captions.jsonl").write_text("".join(json.dumps(caption) + "\n" for caption in captions))
    (here / "data_recipes/mine.yaml").write_text(block(DATA, "yaml", "Your own data"))
    commands = [shlex.split(line, comments=True) for line in block(README, "bash", "Your own images").splitlines()]
    assert [words[0] for words in commands] == ["janus-train", "janus-train", "accelerate", "accelerate"]
    for words in commands:
        short = ["run.steps=1", *QUICK] if words[0] == "accelerate" else []
        run([*words, *short], here)
    assert (here / "outputs/lora/adapter/adapter_model.safetensors").is_file()
    for name in ("mine", "lora"):
        prompt = ["--prompt", "a red field", "--num-images", "1", "--out", f"generated/{name}"]
        run(["janus-train", "generate", f"outputs/{name}/final", *prompt], here)
        assert (here / f"generated/{name}/000-0.png").is_file()
