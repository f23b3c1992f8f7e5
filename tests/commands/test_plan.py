"""``janus-train plan``: tables, a page, and a line for each mistake."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest

from janus_train.paths import ROOT
from tests.helpers import Run, config_of
from tests.pages.parsed import Page as ParsedPage

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def run(run: Run) -> Run:
    return partial(run, "plan")


SEVEN = ("+stage=2", "model=janus_pro_7b", "--gpus", 256, "--gpu", "a100-40gb")


def test_it_says_what_it_takes(run: Run, tmp_path: Path) -> None:
    html = tmp_path / "plan.html"
    code, out, err = run(*SEVEN, "--html", html)
    assert code == 0 and f"page: {html}" in err
    assert "janus_pro_7b, stage 2: 512 rows of 4096 tokens per step, 270000 steps, on 256 x a100-40gb" in out
    assert "40 % of peak while computing (assumed, not measured)" in out
    for words in (
        "language model",
        "zero2, selective",
        "hsdp, full",
        "GB across nodes",
        "GPU-hours",
        "24 % of peak",
        "sending / computing",
    ):
        assert words in out
    assert re.search(r"^zero3, none +.* yes +1$", out, re.M) and re.search(r"^ddp, full +.* no +none$", out, re.M)
    command = next(line.strip() for line in out.splitlines() if "accelerate launch" in line)
    assert command == (
        "accelerate launch --config_file launch/accelerate/zero3.yaml train.py +stage=2 model=janus_pro_7b "
        "batch.micro_rows=1 memory.activation_checkpointing=none"
    )
    page = ParsedPage(html.read_text(encoding="utf-8"))
    assert command in page.text and "24 % of peak" in page.text and "128 of the 256 GPUs" in page.text
    assert sum(tag == "span" and a.get("class") == "stack" for tag, a in page.tags) == 18 + 8
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "img", "iframe")]
    assert "http:" not in html.read_text(encoding="utf-8") and "https:" not in html.read_text(encoding="utf-8")


def test_asked_shares_and_cached_codes_are_taken(run: Run) -> None:
    code, out, _ = run(*SEVEN, "--mfu", 0.5, "--cached-codes")
    assert code == 0 and "50 % of peak while computing (as requested)" in out and "codes cached" in out
    assert re.search(r"^generation encoder +0.000", out, re.M)


def test_what_does_not_fit_is_a_warning_not_a_failure(run: Run) -> None:
    code, out, _ = run("+stage=2", "model=janus_pro_1b", "--gpu", "rtx4090")
    assert code == 0 and "warning: stage 2 does not fit" in out and "accelerate launch" not in out


def commands_in(out: str) -> list[str]:
    return [line.strip() for line in out.splitlines() if line.strip().startswith("accelerate launch")]


def test_ways_to_fine_tune_have_their_memory_gpu_and_command(run: Run, tmp_path: Path) -> None:
    html = tmp_path / "plan.html"
    code, out, _ = run("+stage=3", "model=janus_pro_1b", "seed=7", "--gpu", "a100-80gb", "--html", html)
    assert code == 0 and "Ways to fine-tune on one GPU" in out
    assert re.search(r"^all parts +2,004\.6 +none +4\d\.\d +a100-80gb +none", out, re.M)
    assert re.search(r"^LoRA of rank 16 +15\.1 +none +9\.\d +rtx4090 +none", out, re.M)
    *ways, recommended = commands_in(out)
    assert [command.partition(" seed=7 ")[2].partition("batch.")[0].strip() for command in ways] == [
        "",
        "'train_parts=[image_head,language_model.layers.12-23]'",
        "'train_parts=[image_head,language_model.layers.18-23]'",
        "'train_parts=[understanding_adaptor,generation_adaptor,image_head]'",
        "+peft=lora",
    ]
    assert all(command.startswith("accelerate launch train.py +stage=3 model=janus_pro_1b seed=7") for command in ways)
    text = ParsedPage(html.read_text(encoding="utf-8")).text
    assert all(command in text for command in (*ways, recommended)) and "Ways to fine-tune" in text


def test_every_command_is_one_that_composes(run: Run) -> None:
    """With choices of one's own, which are a way as well; the plan's values replace those given."""
    own = ("train_parts=[language_model.layers.20-]", "+optim.parts.language_model.learning_rate=1e-5")
    words = ("+stage=3", "model=janus_pro_7b", "memory.activation_checkpointing=full", "batch.micro_rows=4", *own)
    code, out, _ = run(*words, "--gpus", 16)
    assert code == 0 and "as requested" in out and "hsdp" in out
    commands = commands_in(out)
    assert len(commands) == 7
    for command in commands:
        _, _, _, file, trainer, *overrides = shlex.split(command)
        assert (ROOT / file).is_file() and trainer == "train.py"
        config = config_of(*overrides)
        assert config.model.name == "janus_pro_7b" and config.batch.micro_rows < 4
    assert [("optim.parts" in command) for command in commands] == [True, *[False] * 5, True]


def test_only_fine_tuning_has_ways(run: Run) -> None:
    assert "Ways to fine-tune" not in run("+stage=2", "--gpu", "rtx4090")[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "no stage given"),
        (("+stage=2", "model=janus_pro_2b"), "model=janus_pro_2b: no such model, choose"),
        (("+stage=2", "--gpu", "a1000"), "--gpu a1000: no such GPU, choose a100-40gb"),
        (("+stage=2", "--gpus", 0), "Invalid value for '--gpus'"),
        (("+stage=2", "--mfu", 40), "Invalid value for '--mfu'"),
        (("+stage=2", "batch.micro=1"), "batch.micro: no such option"),
        (("+stage=2", "--html", "nowhere/plan.html"), "there is no folder nowhere"),
    ],
)
def test_a_mistake_is_one_line(run: Run, words: tuple[object, ...], said: str) -> None:
    code, out, err = run(*words)
    assert code == 2 and said in err and err.count("\n") == 1 and not out


@pytest.mark.chromium
@pytest.mark.skipif(CHROMIUM is None, reason="needs a headless Chromium")
def test_in_chromium_the_page_fits_a_phone(run: Run, tmp_path: Path) -> None:
    html = tmp_path / "plan.html"
    run(*SEVEN, "--html", html)
    probe = "<script>document.title = [innerWidth, document.documentElement.scrollWidth].join(' ')</script>"
    text = html.read_text(encoding="utf-8").replace("</body>", f"{probe}</body>")
    html.write_text(text.replace("http-equiv", "name"), encoding="utf-8")  # the page forbids scripts
    words = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    dom = subprocess.run(
        [str(CHROMIUM), *words, "--window-size=390,1600", "--dump-dom", html.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    title = re.search(r"<title>(\d+) (\d+)</title>", dom)
    assert title and int(title[2]) <= int(title[1]), f"wider than the screen: {title and title[0]}"
