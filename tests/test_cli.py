"""``janus-train``: commands do what they say, a user's mistake is one line and exit code 2."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from janus_train import cli
from tests.test_report import make_run


@pytest.fixture
def run(monkeypatch, capsys):
    """Calls the entry point: (exit code, standard output, standard error)."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["janus-train", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        captured = capsys.readouterr()
        return left.value.code, captured.out, captured.err

    return call


def test_generate_writes_pictures(run, random_base, tmp_path):
    out = tmp_path / "new" / "pictures"
    words = (
        "generate",
        random_base,
        "--prompt",
        "a dog",
        "--prompt",
        "a red apple",
        "--num-images",
        2,
        "--seed",
        7,
        "--out",
        out,
    )
    code, printed, _ = run(*words)
    assert code == 0
    assert printed.split() == [str(out / name) for name in ("000-7.png", "000-8.png", "001-9.png", "001-10.png")]
    pictures = [np.asarray(Image.open(path), int) for path in printed.split()]
    assert all(abs(pictures[n] - pictures[m]).max() > 9 for n in range(4) for m in range(n))
    run("generate", random_base, "--prompt", "a dog", "--num-images", 1, "--seed", 8, "--out", tmp_path / "again")
    again = np.asarray(Image.open(tmp_path / "again/000-8.png"), int)
    assert abs(again - pictures[1]).max() <= 1, (
        "a picture depends on prompt and seed alone, but for the decoder's rounding"
    )


def test_generate_from_a_picture_and_words(run, random_base, tmp_path):
    Image.new("RGB", (40, 30), (0, 90, 200)).save(tmp_path / "blue.png")
    words = ("generate", random_base, "--prompt", "make it red", "--num-images", 1, "--out", tmp_path / "out")
    code, printed, _ = run(*words, "--image", tmp_path / "blue.png")
    assert code == 0 and Image.open(printed.strip()).size == (64, 64)
    code, _, said = run(*words, "--image", tmp_path / "none.png")
    assert code == 2 and "none.png: there is no such file" in said


def test_generate_with_temperature_0_needs_no_luck(run, random_base, tmp_path):
    code, printed, _ = run(
        "generate",
        random_base,
        "--prompt",
        "a dog",
        "--num-images",
        2,
        "--temperature",
        0,
        "--guidance",
        1,
        "--out",
        tmp_path,
    )
    assert code == 0
    first, second = (np.asarray(Image.open(path), int) for path in printed.split())
    assert abs(first - second).max() <= 1


def test_chat_answers(run, random_base, tmp_path):
    Image.new("RGB", (40, 30), (0, 90, 200)).save(tmp_path / "blue.png")
    code, printed, _ = run(
        "chat", random_base, "--image", tmp_path / "blue.png", "--prompt", "What colour is it?", "--max-new-tokens", 5
    )
    assert code == 0 and printed.endswith("\n")
    code, _, _ = run("chat", random_base, "--prompt", "Hello", "--max-new-tokens", 3)
    assert code == 0


def test_chat_keeps_a_conversation(run, random_base, monkeypatch):
    asked = iter(["Hello", "", "And now?"])

    def read(_):
        try:
            return next(asked)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)
    seen = []
    monkeypatch.setattr(
        "janus_train.infer.chat.answer", lambda j, e, requests, n: [seen.append(len(requests[0][0])) or "Yes."]
    )
    code, printed, _ = run("chat", random_base)
    assert (code, printed, seen) == (0, "Yes.\nYes.\n", [1, 3])


def test_evaluate_prints_the_table(run, random_base, tmp_path):
    code, printed, told = run(
        "evaluate", random_base, "--out", tmp_path / "e", "--num-prompts", 4, "--num-questions", 4, "--guidance", 1
    )
    assert code == 0
    assert "Background colour" in printed and "Named object, top 1" in printed and "results.json" in printed
    assert (tmp_path / "e/results.json").is_file()
    assert "draw: 4 of 4" in told


def test_report_prints_its_path(run, tmp_path):
    code, printed, _ = run("report", make_run(tmp_path / "run", 2))
    assert code == 0 and printed.strip() == str(tmp_path / "run/report.html")
    assert (tmp_path / "run/report.html").stat().st_size > 10000


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("generate", "NOWHERE", "--prompt", "x"), "there is no folder NOWHERE"),
        (("generate", "EMPTY", "--prompt", "x"), "config.json is missing"),
        (("generate", "EMPTY", "--prompt", " "), "--prompt is empty"),
        (("generate", "EMPTY"), "Missing option '--prompt'"),
        (("generate", "EMPTY", "--prompt", "x", "--device", "tpu"), "--device tpu is unknown"),
        (("generate", "EMPTY", "--prompt", "x", "--num-images", "0"), "'--num-images'"),
        (("generate", "EMPTY", "--prompt", "x", "--temperature", "-1"), "'--temperature'"),
        (("generate", "EMPTY", "--prompt", "x", "--out", "FILE/under"), "FILE/under cannot be made"),
        (("chat", "EMPTY", "--image", "NONE.png", "--prompt", "x"), "there is no such file"),
        (("chat", "EMPTY", "--image", "FILE", "--prompt", "x"), "cannot be read as a picture"),
        (("evaluate", "EMPTY", "--out", "OUT"), "config.json is missing"),
        (("evaluate", "EMPTY"), "Missing option '--out'"),
        (("report", "EMPTY"), "holds neither a run"),
        (("report", "NOWHERE"), "there is no folder"),
        (("draw", "x"), "No such command 'draw'"),
        (("report", "EMPTY", "--colour"), "No such option"),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "FILE").write_text("no picture")
    code, printed, told = run(*words)
    assert code == 2
    assert told.count("\n") == 1 and told.startswith("error: ") and says in told
    assert not printed
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["EMPTY", "FILE"], "nothing is left behind"


def test_placeholders_must_match(run, random_base):
    code, _, told = run("chat", random_base, "--prompt", "<image_placeholder> what is it?")
    assert code == 2 and told.count("\n") == 1 and "1 <image_placeholder> but 0 pictures" in told


def test_help_is_quick_and_names_the_commands():
    code = (
        "import sys; sys.argv = ['janus-train', '--help']\n"
        "from janus_train import cli\n"
        "try: cli.main()\n"
        "finally: print('HEAVY', [m for m in ('torch', 'transformers', 'numpy', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("generate", "chat", "evaluate", "report"):
        assert command in done.stdout
    assert "HEAVY []" in done.stdout
