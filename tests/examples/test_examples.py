"""Every example runs as its docstring says, with a few steps, and leaves what it promises."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from transformers import GenerationConfig

from janus_train.demo.objects import UNIT
from janus_train.paths import ROOT
from tests.helpers import TRANSFORMERS_DRAWS, read_lines

EXAMPLES = ROOT / "examples"
SMALL = ("batch.row_tokens=256", "data.lookahead=2", "run.cpu_threads=1")
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


def start(*words: object, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def run(name: str, *words: object, folder: Path) -> str:
    """What the example prints, and after it what it logs."""
    done = start(EXAMPLES / name, *words, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        return image.size


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What finetune_own_images.py wrote after two steps; ``printed.txt`` is what it said."""
    folder = tmp_path_factory.mktemp("own images")  # with a space, as folders of people have
    out = folder / "tuned"
    (folder / "printed.txt").write_text(
        run("finetune_own_images.py", "--out", out, "--steps", 2, *SMALL, folder=folder)
    )
    return out


def test_own_images_are_prepared_trained_on_and_generated(tuned: Path) -> None:
    assert len(list((tuned / "images").glob("*.png"))) == 24
    for name in ("captions", "questions"):
        assert list((tuned / name).glob("*.tar")), name
    assert "<img" in (tuned / "rows.html").read_text(encoding="utf-8")
    assert len((tuned / "run/metrics.jsonl").read_text().splitlines()) == 2
    assert size_of(tuned / "before_after.png") == (4 * UNIT, 2 * UNIT)
    printed = (tuned.parent / "printed.txt").read_text()
    assert printed.count("red_circle.png: What colour is it?") == 2
    assert "72 samples, none damaged, none bad" in printed


def test_own_images_without_captions_are_one_line(tmp_path: Path) -> None:
    done = start(EXAMPLES / "finetune_own_images.py", "--images", tmp_path, "--out", tmp_path / "out", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path / 'captions.jsonl'} is missing") and done.stderr.count("\n") == 1


def test_own_images_stop_where_a_command_fails(tuned: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "captions.jsonl").write_text('{"image": "gone.png", "caption": "Nothing."}\n')
    (images / "questions.jsonl").write_text("")
    done = start(EXAMPLES / "finetune_own_images.py", "--images", images, "--out", tmp_path / "out", folder=tmp_path)
    assert done.returncode != 0 and "gone.png" in done.stderr
    assert not (tmp_path / "out/recipe.yaml").exists()


def test_lora_writes_a_merged_model_and_adapters_that_agree(tuned: Path, tmp_path: Path) -> None:
    words = ("--recipe", tuned / "recipe.yaml", "--out", tmp_path / "lora", "--steps", 2, *SMALL)
    printed = run("lora.py", tuned / "run/final", *words, folder=tmp_path)
    assert (tmp_path / "lora/adapter/adapter_model.safetensors").is_file()
    assert (tmp_path / "lora/final/model.safetensors").is_file()
    assert size_of(tmp_path / "lora/generated.png") == (2 * UNIT, 3 * UNIT)
    difference = re.search(r"largest difference of their weights: (\S+)", printed)
    assert difference and float(difference[1]) < 1e-5
    parts = json.loads((tmp_path / "lora/manifest.json").read_text())["parts"]
    assert not any(row["trains"] for row in parts.values()) and "adapter" in parts["language_model"]


def test_sampling_saves_images_and_a_grid(tuned: Path, tmp_path: Path) -> None:
    printed = run("sample.py", tuned / "run/final", "--prompt", "A red circle.", folder=tmp_path)
    out = tmp_path / "outputs/sample"
    sizes = {path.name: size_of(path) for path in out.iterdir()}
    alone = ("transformers.png",) if TRANSFORMERS_DRAWS else ()
    single = dict.fromkeys(("0.png", "1.png", "2.png", "3.png", *alone), (UNIT, UNIT))
    assert sizes == {**single, "grid.png": (2 * UNIT, 2 * UNIT)}
    assert len({(out / f"{number}.png").read_bytes() for number in range(4)}) == 4
    assert "images: outputs/sample" in printed.splitlines()


@pytest.mark.parametrize("name", ["sample.py", "lora.py"])
def test_a_missing_model_is_one_line(name: str, tmp_path: Path) -> None:
    done = start(EXAMPLES / name, tmp_path / "nowhere", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: there is no folder") and done.stderr.count("\n") == 1


def test_transformers_alone_knows_how_a_runs_result_generates(tuned: Path) -> None:
    """It drops keys that it does not know from a file that says it was made from the model's configuration."""
    config = GenerationConfig.from_pretrained(tuned / "run/final")
    assert config.generation_kwargs["boi_token_id"] > 0 and config.guidance_scale == 1.3


def test_a_template_of_ones_own_is_packed_and_trained_on(tmp_path: Path) -> None:
    printed = run("custom_template.py", "--out", tmp_path / "out", *SMALL, folder=tmp_path)
    assert re.search(r"step 1, row 0: pairs\.jsonl:\d \(\d+ tokens\)", printed)
    pairs = re.findall(r"pairs\.jsonl:\d", printed)
    assert (tmp_path / "out/rows.html").read_text(encoding="utf-8").count("<img") == 2 * len(pairs) > 0
    metrics = read_lines(tmp_path / "out/run/metrics.jsonl")
    assert len(metrics) == 2 and all(line["samples/generation"] > 0 for line in metrics)
    inspect_as_a_plugin("custom_template", tmp_path / "out/recipe.yaml")


def test_a_source_of_ones_own_is_trained_on_and_resumed(tmp_path: Path) -> None:
    printed = run("custom_source.py", "--out", tmp_path / "out", *SMALL, folder=tmp_path)
    assert "24 records, the first is {'caption': 'A red field.'}" in printed
    steps = [line["step"] for line in read_lines(tmp_path / "out/run/metrics.jsonl")]
    assert steps == [1, 2, 3, 4]
    assert "starts from its checkpoint" in printed
    inspect_as_a_plugin("custom_source", tmp_path / "out/recipe.yaml")


def inspect_as_a_plugin(name: str, recipe: Path) -> None:
    """The way of the command line: the module is imported by its name, in the project's folder."""
    assert f"plugins=[examples.{name}]" in (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    words = (f"plugins=[examples.{name}]", "+stage=3", f"data.recipe={recipe}", "ratio.understanding=0", "ratio.text=0")
    done = start("-m", "janus_train.cli", "inspect", *words, folder=ROOT)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[0])["samples"]


# ------------------------------------------------------------------------------------------------------- the notebook


NOTEBOOK = EXAMPLES / "finetune_own_images.ipynb"


def test_the_notebook_is_stored_without_outputs_and_its_code_parses() -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 8
    for cell in cells:
        ast.parse("".join(cell["source"]))
        assert cell["outputs"] == [] and cell["execution_count"] is None


@pytest.mark.slow
def test_the_notebook_runs_headless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("JANUS_EXAMPLE_OUT", str(tmp_path / "out"))
    monkeypatch.setenv("JANUS_EXAMPLE_STEPS", "2")
    monkeypatch.setenv("PYTHONPATH", ENVIRONMENT["PYTHONPATH"])
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert size_of(tmp_path / "out/after.png") == (4 * UNIT, UNIT)
    shown = [
        output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    assert len(shown) == 3


# --------------------------------------------------------------------------------------------------------- the readme


def test_the_readme_lists_every_example_and_nothing_else() -> None:
    listed = re.findall(
        r"^\| \[`([^`]+)`\]\(([^)]+)\)", (EXAMPLES / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert all(name == target for name, target in listed)
    files = [path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")]
    assert sorted(name for name, _ in listed) == sorted(files)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_docstrings_say_how_to_start_the_example_and_how_long_it_takes(path: Path) -> None:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    assert f"python examples/{path.name}" in text
    assert re.search(r"\b(minutes?|seconds)\b", text)
