"""What the READMEs tell people to type, as it is written there."""

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

from janus_train.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
RECIPES = (ROOT / "data_recipes/README.md").read_text(encoding="utf-8")
QUICK = ("batch.row_tokens=256", "batch.rows_per_step=2", "batch.micro_rows=2", "data.lookahead=2", "run.cpu_threads=1")


def block(text: str, language: str, of: str) -> str:
    """The first fenced block of ``language`` after the heading ``of``."""
    after = text[text.index(f"## {of}\n") :]
    found = re.search(rf"```{language}\n(.*?)```", after, re.DOTALL)
    assert found, f"no {language} under {of}"
    return found[1]


def test_the_python_example(random_base: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "outputs/tiny/stage3").mkdir(parents=True)
    (tmp_path / "outputs/tiny/stage3/final").symlink_to(random_base)
    Image.new("RGB", (80, 60), (200, 30, 30)).save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    code = block(README, "python", "From Python")
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.endswith("\n")
    drawn = [Image.open(tmp_path / f"moose-{n}.png") for n in range(4)]
    assert [picture.size for picture in drawn] == [(64, 64)] * 4
    assert len({picture.tobytes() for picture in drawn}) == 4
    from transformers import JanusForConditionalGeneration

    assert "`JanusForConditionalGeneration.from_pretrained(folder)`" in README
    JanusForConditionalGeneration.from_pretrained("outputs/tiny/stage3/final")


@pytest.mark.slow
def test_the_walk_through_of_ones_own_pictures(tmp_path: Path) -> None:
    """In a copy of the project, with three pictures: prepare, stage 3, LoRA; and then draw with the result."""
    here = tmp_path / "project"
    left_out = shutil.ignore_patterns(".git", ".venv", "outputs", "data", ".pytest_cache", "__pycache__", "tests")
    shutil.copytree(ROOT, here, ignore=lambda folder, names: left_out(folder, names) if Path(folder) == ROOT else set())
    (here / "pictures").mkdir()
    talks, captions = [], []
    for name, colour in (("red", (200, 30, 30)), ("green", (30, 200, 30)), ("blue", (30, 30, 200))):
        Image.new("RGB", (80, 60), colour).save(here / f"pictures/{name}.png")
        said = [{"from": "human", "value": "<image>\nWhich colour?"}, {"from": "gpt", "value": f"It is {name}."}]
        talks.append({"image": f"{name}.png", "conversations": said})
        captions.append({"image": f"{name}.png", "caption": f"a {name} field"})
    (here / "mine.jsonl").write_text("".join(json.dumps(one) + "\n" for one in talks))
    (here / "captions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in captions))
    (here / "data_recipes/mine.yaml").write_text(block(RECIPES, "yaml", "Your own data"))
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(here),
    }

    def run(words: list[str]) -> None:
        done = subprocess.run(words, cwd=here, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{shlex.join(words)}: {done.stderr}"

    commands = [shlex.split(line, comments=True) for line in block(README, "bash", "Your own pictures").splitlines()]
    assert [words[0] for words in commands] == ["janus-train", "janus-train", "accelerate", "accelerate"]
    for words in commands:
        short = ["run.steps=1", *QUICK] if words[0] == "accelerate" else []
        run([*words, *short])
    assert (here / "outputs/lora/adapter/adapter_model.safetensors").is_file()
    for name in ("mine", "lora"):
        prompt = ["--prompt", "a red field", "--num-images", "1", "--out", f"drawn/{name}"]
        run(["janus-train", "generate", f"outputs/{name}/final", *prompt])
        assert (here / f"drawn/{name}/000-0.png").is_file()
