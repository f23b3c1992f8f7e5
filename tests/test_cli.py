"""``janus-train``: commands do what they say, a user's mistake is one line and exit code 2."""

from __future__ import annotations

import errno
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image

from janus_train.data.encode import Encoder
from janus_train.demo.objects import UNIT
from janus_train.errors import UserError
from janus_train.interop.processor import SYSTEM_PROMPT
from tests.helpers import read_lines
from tests.report.making import make_run

NEEDS_FASTAPI = pytest.mark.skipif(find_spec("fastapi") is None, reason="the extra serve is not installed")
NEEDS_GRADIO = pytest.mark.skipif(find_spec("gradio") is None, reason="the extra gradio is not installed")


def test_generate_writes_images(run, random_base, tmp_path):
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
    code, stdout, _ = run(*words)
    assert code == 0
    assert stdout.split() == [str(out / name) for name in ("000-7.png", "000-8.png", "001-9.png", "001-10.png")]
    images = [np.asarray(Image.open(path), int) for path in stdout.split()]
    assert all(abs(images[n] - images[m]).max() > 9 for n in range(4) for m in range(n))
    with Image.open(out / "grid.png") as grid:
        assert grid.size == (2 * UNIT, 2 * UNIT)  # a row a prompt
        assert np.array_equal(np.asarray(grid, int)[UNIT:, :UNIT], images[2])
    records = read_lines(out / "metadata.jsonl")
    assert records[2] == {
        "prompt": "a red apple",
        "seed": 9,
        "guidance": 1.3,
        "temperature": 0.4,
        "model": str(random_base),
        "file": "001-9.png",
    }
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [*(line["file"] for line in records), "grid.png", "metadata.jsonl"]
    )
    (tmp_path / "prompts.txt").write_text("\na dog\n", encoding="utf-8")
    words = ("generate", random_base, "--prompts-file", tmp_path / "prompts.txt", "--num-images", 1, "--seed", 8)
    assert run(*words, "--out", tmp_path / "again")[0] == 0
    with Image.open(tmp_path / "again/000-8.png") as again:
        assert np.array_equal(np.asarray(again, int), images[1]), "an image depends on prompt and seed alone"
    others = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    code, _, stderr = run(*words, "--out", out)
    assert code == 2 and stderr == f"error: --out {out} has 000-8.png already: give another folder, or --overwrite\n"
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == others
    code, stdout, _ = run(*words, "--out", out, "--overwrite")
    assert code == 0 and stdout.split() == [str(out / "000-8.png")] and {*out.iterdir()} == others.keys()
    changed = {path.name for path, time_ns in others.items() if path.stat().st_mtime_ns != time_ns}
    assert changed == {"000-8.png", "grid.png", "metadata.jsonl"} and len(read_lines(out / "metadata.jsonl")) == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    assert run(*words, "--out", tmp_path / "mine")[0] == 0
    names = {"000-8.png", "grid.png", "metadata.jsonl", "notes.txt"}
    assert {path.name for path in (tmp_path / "mine").iterdir()} == names
    code, _, stderr = run(*words, "--out", tmp_path / "long", "--prompt", "word " * 2000)
    assert code == 2 and stderr.count("\n") == 1 and "do not fit the context of 1024" in stderr
    assert not (tmp_path / "long").exists()


def test_a_full_disk_leaves_nothing(run, random_base, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("janus_train.infer.image_grid.write_json_lines", full)  # the last file
    words = ("generate", random_base, "--prompt", "a dog", "--num-images", 1, "--guidance", 1)
    code, stdout, stderr = run(*words, "--out", tmp_path / "new")
    assert (code, stdout) == (2, "")
    assert stderr.count("\n") == 1 and "cannot be written: No space left on device" in stderr
    assert not list(tmp_path.iterdir())


def test_generate_from_an_image_and_words(run, random_base, tmp_path):
    Image.new("RGB", (40, 30), (0, 90, 200)).save(tmp_path / "blue.png")
    words = ("generate", random_base, "--prompt", "make it red", "--num-images", 1, "--out", tmp_path / "out")
    code, stdout, _ = run(*words, "--image", tmp_path / "blue.png", "--guidance", 2)
    assert code == 0 and Image.open(stdout.strip()).size == (UNIT, UNIT)
    code, _, said = run(*words[:-1], tmp_path / "other", "--image", tmp_path / "none.png")
    assert code == 2 and "none.png: there is no such file" in said


def test_generate_with_temperature_0_needs_no_luck(run, random_base, tmp_path):
    code, stdout, _ = run(
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
    first, second = (np.asarray(Image.open(path), int) for path in stdout.split())
    assert np.array_equal(first, second)


def test_generate_with_top_k_1_draws_what_temperature_0_draws_and_says_so(run, random_base, tmp_path):
    words = ("generate", random_base, "--prompt", "a dog", "--num-images", 1, "--guidance", 1)
    assert run(*words, "--temperature", 0, "--out", tmp_path / "a")[0] == 0
    assert run(*words, "--top-k", 1, "--top-p", 0.9, "--out", tmp_path / "b")[0] == 0
    assert (tmp_path / "a/000-0.png").read_bytes() == (tmp_path / "b/000-0.png").read_bytes()
    [line] = read_lines(tmp_path / "b/metadata.jsonl")
    assert (line["top_k"], line["top_p"]) == (1, 0.9)


def test_generate_takes_other_roles_and_a_system_prompt(run, random_base, tmp_path):
    words = ("generate", random_base, "--prompt", "a dog", "--num-images", 1)

    def drawn(name, *more):
        code, stdout, stderr = run(*words, "--out", tmp_path / name, *more)
        assert code == 0, stderr
        [line] = read_lines(tmp_path / name / "metadata.jsonl")
        return np.asarray(Image.open(stdout.strip()), int), line

    own, line = drawn("own")
    assert not {"user_role", "assistant_role", "system"} & line.keys()
    same, line = drawn("same", "--user-role", "<|User|>", "--assistant-role", "<|Assistant|>")
    assert np.array_equal(same, own) and line["user_role"] == "<|User|>"
    for name, more in (("words", ("--user-role", "User")), ("system", ("--system", "Draw well."))):
        other, line = drawn(name, *more)
        assert not np.array_equal(other, own)
        assert line[more[0].removeprefix("--").replace("-", "_")] == more[1]


def test_chat_answers(run, random_base, tmp_path):
    Image.new("RGB", (40, 30), (0, 90, 200)).save(tmp_path / "blue.png")
    code, stdout, _ = run(
        "chat", random_base, "--image", tmp_path / "blue.png", "--prompt", "What colour is it?", "--max-new-tokens", 5
    )
    assert code == 0 and stdout.endswith("\n")
    code, _, _ = run("chat", random_base, "--prompt", "Hello", "--max-new-tokens", 3)
    assert code == 0


def test_chat_samples_by_a_seed_and_takes_roles_and_a_system_prompt(run, random_base, monkeypatch):
    words = ("chat", random_base, "--prompt", "Hello", "--max-new-tokens", 8)
    sampled = ("--temperature", 2, "--top-k", 100, "--top-p", 0.95, "--repetition-penalty", 1.1)
    answers = [run(*words, *more)[1] for more in ((), *((*sampled, "--seed", seed) for seed in (1, 1, 2)))]
    assert answers[1] == answers[2] and len(set(answers)) == 3
    prompts = []
    ids = Encoder.ids
    monkeypatch.setattr(Encoder, "ids", lambda self, text: (prompts.append(text), ids(self, text))[1])
    run(*words, "--system", "Be brief.", "--user-role", "User", "--assistant-role", "Assistant")
    run(*words)
    run(*words, "--always-system")
    asked = "<|User|>: Hello\n\n<|Assistant|>:"
    assert prompts == ["Be brief.\n\nUser: Hello\n\nAssistant:", asked, f"{SYSTEM_PROMPT}\n\n{asked}"]


@pytest.mark.parametrize("end", ["", EOFError()])
def test_chat_keeps_a_conversation(run, random_base, tmp_path, monkeypatch, end):
    Image.new("RGB", (40, 30), (0, 90, 200)).save(tmp_path / "blue.png")
    typed = iter(["Hello", "far too long", "And now?", end, "never read"])

    def read(_):
        line = next(typed)
        if isinstance(line, EOFError):
            raise line
        return line

    monkeypatch.setattr("builtins.input", read)
    seen, seeds = [], []

    def answering(_, __, messages, images, *___, seed, **____):
        if messages[-1]["content"] == "far too long":
            raise UserError("it does not fit")
        seen.append(([m["content"] for m in messages], len(images)))
        seeds.append(seed)
        yield from ("Ye", "s.")

    monkeypatch.setattr("janus_train.infer.load.stream_answer", answering)
    code, stdout, stderr = run("chat", random_base, "--image", tmp_path / "blue.png", "--image", tmp_path / "blue.png")
    assert stderr.endswith("error: it does not fit\n")
    first = "<image_placeholder>\n<image_placeholder>\nHello"
    assert (code, stdout) == (0, "Yes.\nYes.\n")
    assert seen == [([first], 2), ([first, "Yes.", "And now?"], 2)]
    assert seeds == [0, 1]
    assert next(typed) == "never read"


def test_evaluate_prints_the_table(run, random_base, tmp_path):
    code, stdout, stderr = run(
        "evaluate", random_base, "--out", tmp_path / "e", "--num-prompts", 4, "--num-questions", 4, "--guidance", 1
    )
    assert code == 0
    assert "Background colour" in stdout and "Named object" in stdout and "results.json" in stdout
    assert (tmp_path / "e/results.json").is_file()
    assert "draw: 4 of 4" in stderr


def test_report_prints_its_path(run, tmp_path):
    code, stdout, _ = run("report", make_run(tmp_path / "run", 2))
    assert code == 0 and stdout.strip() == str(tmp_path / "run/report.html")
    assert (tmp_path / "run/report.html").stat().st_size > 10000


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("generate", "NOWHERE", "--prompt", "x"), "there is no folder NOWHERE"),
        (("generate", "EMPTY", "--prompt", "x"), "config.json is missing"),
        (("generate", "EMPTY", "--prompt", " "), "--prompt is empty"),
        (("generate", "EMPTY"), "nothing to generate: give --prompt"),
        (("generate", "EMPTY", "--prompts-file", "NONE.txt"), "NONE.txt: there is no such file"),
        (("generate", "EMPTY", "--prompts-file", "EMPTY"), "EMPTY cannot be read: Is a directory"),
        (("generate", "EMPTY", "--prompts-file", "/dev/null"), "it is a device or a pipe"),
        (("generate", "EMPTY", "--prompt", "x", "--guidance", "0.5"), "'--guidance'"),
        (("generate", "EMPTY", "--prompt", "x", "--guidance", "nan"), "'--guidance'"),
        (("generate", "EMPTY", "--prompt", "x", "--temperature", "inf"), "--temperature inf"),
        (("generate", "EMPTY", "--prompt", "x", "--seed", "-1"), "'--seed'"),
        (("generate", "EMPTY", "--prompt", "x", "--top-k", "-1"), "'--top-k'"),
        (("generate", "EMPTY", "--prompt", "x", "--top-p", "0"), "--top-p 0.0 is not above 0 and at most 1"),
        (("generate", "EMPTY", "--prompt", "x", "--top-p", "nan"), "--top-p nan is not"),
        pytest.param(("app", "NOWHERE"), "there is no folder NOWHERE", marks=NEEDS_GRADIO),
        (("app", "EMPTY", "--port", "99999"), "'--port'"),
        pytest.param(("serve", "NOWHERE", "--port", "18769"), "there is no folder NOWHERE", marks=NEEDS_FASTAPI),
        pytest.param(("serve", "EMPTY", "--host", "x.invalid"), "http://x.invalid:8000 cannot be", marks=NEEDS_FASTAPI),
        (("serve", "EMPTY", "--port", "99999"), "'--port'"),
        (("serve", "EMPTY", "--max-waiting", "1"), "'--max-waiting'"),
        (("generate", "EMPTY", "--prompt", "x", "--device", "tpu"), "--device tpu is unknown"),
        (
            ("generate", "EMPTY", "--prompt", "x", "--precision", "fp8"),
            "--precision fp8 is unknown: bf16, fp32 or auto",
        ),
        (("generate", "EMPTY", "--prompt", "x", "--num-images", "0"), "'--num-images'"),
        (("generate", "EMPTY", "--prompt", "x", "--temperature", "-1"), "'--temperature'"),
        (("generate", "EMPTY", "--prompt", "x", "--out", "FILE/under"), "FILE/under cannot be created"),
        (("chat", "EMPTY", "--image", "NONE.png", "--prompt", "x"), "there is no such file"),
        (("chat", "EMPTY", "--image", "FILE", "--prompt", "x"), "cannot be read as an image"),
        (("chat", "EMPTY", "--image", "EMPTY", "--prompt", "x"), "EMPTY cannot be read as an image: Is a directory"),
        (
            ("chat", "EMPTY", "--image", "https://x.example/a.png", "--prompt", "x"),
            "nothing is fetched from an address",
        ),
        (("chat", "EMPTY", "--prompt", "x", "--temperature", "inf"), "temperature inf is not 0 or more"),
        (("chat", "EMPTY", "--prompt", "x", "--top-p", "0"), "top_p 0.0 is not above 0 and at most 1"),
        (("chat", "EMPTY", "--prompt", "x", "--repetition-penalty", "0"), "repetition_penalty 0.0 is not above 0"),
        (("chat", "https://hub.example/a/b", "--prompt", "x"), "a model of the hub is named OWNER/NAME"),
        (("import", "https://hub.example/a/b", "--out", "OUT"), "a model of the hub is named OWNER/NAME"),
        (("evaluate", "EMPTY", "--out", "OUT"), "config.json is missing"),
        (("evaluate", "EMPTY"), "Missing option '--out'"),
        (("report", "EMPTY"), "contains neither a run"),
        (("report", "NOWHERE"), "there is no folder"),
        (("draw", "x"), "No such command 'draw'"),
        (("report", "EMPTY", "--colour"), "No such option"),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "FILE").write_text("no image")
    code, stdout, stderr = run(*words)
    assert code == 2
    assert stderr.count("\n") == 1 and stderr.startswith("error: ") and says in stderr
    assert not stdout
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["EMPTY", "FILE"], "nothing is left behind"


def test_placeholders_must_match(run, random_base, tmp_path):
    code, _, stderr = run("chat", random_base, "--prompt", "<image_placeholder> what is it?")
    assert code == 2 and stderr.count("\n") == 1 and "1 <image_placeholder> but 0 images" in stderr
    code, _, stderr = run("generate", random_base, "--prompt", "<image_placeholder> in red", "--out", tmp_path / "out")
    assert code == 2 and stderr.count("\n") == 1 and "1 <image_placeholder> but 0 images" in stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee ..."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_too_little_memory_is_one_line(run, random_base, tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("janus_train.infer.load.generate_images", fail)
    code, _, stderr = run("generate", random_base, "--prompt", "a dog", "--out", tmp_path / "out")
    assert code == 2 and stderr.count("\n") == 1 and "out of memory: reduce --batch-size" in stderr
    assert not list(tmp_path.iterdir())


def test_ctrl_c_ends_it_and_leaves_nothing(run, random_base, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("janus_train.infer.load.generate_images", interrupted)
    monkeypatch.setattr("janus_train.infer.load.stream_answer", interrupted)
    for words in (("generate", random_base, "--out", tmp_path / "out"), ("chat", random_base)):
        assert run(*words, "--prompt", "a dog") == (130, "", "")
    assert not list(tmp_path.iterdir())


def test_another_error_is_no_users_mistake(run, random_base, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr("janus_train.infer.load.stream_answer", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        run("chat", random_base, "--prompt", "Hello")


def test_help_is_quick_and_names_the_commands():
    code = (
        "import sys; sys.argv = ['janus-train', '--help']\n"
        "from janus_train import cli\n"
        "try: cli.main()\n"
        "finally: print('HEAVY', [m for m in ('torch', 'transformers', 'numpy', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("generate", "chat", "app", "serve", "evaluate", "report"):
        assert command in done.stdout
    assert "HEAVY []" in done.stdout
