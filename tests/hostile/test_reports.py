"""Run and evaluation folders from somebody else, through ``report``: nothing but their own files is on the page."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import encoded, plain_image
from tests.hostile.ground import SECRET, Ground

SCRIPT = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
MEASURE: dict[str, Any] = {"group": "g", "label": "l", "percent": 1.0, "low": 0.0, "high": 2.0, "n": 3}


def written(ground: Ground, **files: Any) -> Path:
    """An evaluation's folder; text as it is, lists as JSON lines, all else as JSON."""
    folder = ground.out / "evaluation"
    folder.mkdir()
    names = {
        "results": "results.json",
        "pictures": "pictures.jsonl",
        "answers": "answers.jsonl",
        "metrics": "metrics.jsonl",
    }
    names |= {"config": "config.yaml", "manifest": "manifest.json"}
    for name, value in files.items():
        if isinstance(value, list):
            text = "".join(json.dumps(line) + "\n" for line in value)
        else:
            text = value if isinstance(value, str) else json.dumps(value)
        (folder / names[name]).write_text(text, encoding="utf-8")
    return folder


def page(ground: Ground, folder: Path) -> str:
    """The report; nothing in it can run, be fetched, or is the secret."""
    outcome = ground.command("report", folder)
    ground.is_clean(outcome)
    assert outcome.code == 0, outcome.err
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert "<script" not in html and "<img src=x" not in html and SECRET not in html
    assert "http://" not in html.replace("http://www.w3.org/", "") or "href" not in html
    return html


def secret_png(ground: Ground) -> bytes:
    """The secret as an image: its bytes must not be on a page."""
    data = encoded(plain_image((1, 2, 3)))
    ground.secret.write_bytes(data)
    return data


NAMES = [
    "../../outside/secret.png",
    "/etc/passwd",
    "link.png",
    "a\0.png",
    "pipe.png",
    "http://127.0.0.1:9/a.png",
    1,
    ["x"],
    "x" * 9999,
]


@pytest.mark.parametrize("name", NAMES)
def test_a_path_in_an_evaluation_leads_nowhere_else(ground: Ground, name: Any) -> None:
    import base64

    data = secret_png(ground)
    line = {"prompt": SCRIPT, "picture": name, "true_picture": name, "right": {SCRIPT: True}}
    answer = {"sort": SCRIPT, "question": SCRIPT, "answer": SCRIPT, "expected": SCRIPT, "right": 1, "picture": name}
    folder = written(ground, results={"measures": []}, pictures=[line], answers=[answer])
    (folder / "link.png").symlink_to(ground.secret)
    os.mkfifo(folder / "pipe.png")
    html = page(ground, folder)
    assert base64.b64encode(data).decode() not in html


@pytest.mark.parametrize("key", [*MEASURE])
def test_a_measure_of_markup_is_text_or_refused(ground: Ground, key: str) -> None:
    folder = written(ground, results={"measures": [MEASURE | {key: SCRIPT}]})
    if key in ("percent", "low", "high"):
        ground.refuses(ground.command("report", folder), r"results\.json")
    else:
        page(ground, folder)


RESULTS: dict[str, Any] = {
    "no JSON": "{",
    "nested deep": "[" * 100_000,
    "a list": "[]",
    "measures a number": {"measures": 1},
    "measures of numbers": {"measures": [1]},
    "a measure without a group": {"measures": [{"label": "x"}]},
    "a percent of NaN": '{"measures": [{"group": "g", "label": "l", "percent": NaN, "low": 0, "high": 1, "n": 1}]}',
    "a percent of 1e400": '{"measures": [{"group": "g", "label": "l", "percent": 1e400, "low": 0, "high": 1, "n": 1}]}',
    "a text of letters": {"measures": [], "text": "x"},
    "guidance of letters": {"measures": [], "guidance": SCRIPT},
    "a group that is a list": {"measures": [MEASURE | {"group": ["x"]}]},
}


@pytest.mark.parametrize("name", RESULTS)
def test_results_that_are_none_are_refused_in_one_line(ground: Ground, name: str) -> None:
    folder = written(ground, results=RESULTS[name])
    outcome = ground.command("report", folder)
    if "percent of" in name and outcome.code == 0:  # a number, if a strange one
        page(ground, folder)
    else:
        ground.refuses(outcome, r"results\.json")


LINES: dict[str, Any] = {
    "images of numbers": {"pictures": "1\n2\n"},
    "an image without a prompt": {"pictures": [{}]},
    "verdicts a list": {"pictures": [{"prompt": "x", "picture": "a", "true_picture": "b", "right": [1]}]},
    "an answer without a sort": {"answers": [{}]},
    "a sort that is a list": {"answers": [{"sort": ["x"], "question": 1, "answer": 2, "expected": 3, "right": 1}]},
    "lines of noise": {"answers": "\x00\x01\n{}\n"},
    "a line nested deep": {"pictures": "[" * 100_000 + "\n{}\n"},
}


@pytest.mark.parametrize("name", LINES)
def test_lines_that_are_none_are_refused_in_one_line(ground: Ground, name: str) -> None:
    folder = written(ground, results={"measures": []}, **LINES[name])
    ground.refuses(ground.command("report", folder), r"(pictures|answers)\.jsonl")


GOOD = [{"step": n, "loss": 1.0, "lr": 0.1, "step_s": 0.1} for n in range(1, 4)]
RUNS: dict[str, dict[str, Any]] = {
    "metrics empty": {"metrics": ""},
    "metrics of numbers": {"metrics": "1\n2\n3\n"},
    "metrics cut": {"metrics": '{"step": 1, "loss": 1.0}\n{"step": 2, "lo'},
    "steps of letters": {"metrics": [{"step": "x", "loss": 1.0}]},
    "steps of 10^30": {"metrics": [{"step": 10**30, "loss": 1.0}, *GOOD]},
    "steps below zero": {"metrics": [{"step": -5, "loss": 1.0}, *GOOD]},
    "a step of true": {"metrics": [{"step": True, "loss": 1.0}, *GOOD]},
    "losses of letters": {"metrics": [{"step": 1, "loss": SCRIPT}, *GOOD]},
    "losses of 1e308": {"metrics": [{"step": n, "loss": (-1) ** n * 1e308} for n in range(1, 5)]},
    "losses of NaN": {"metrics": '{"step": 1, "loss": NaN}\n{"step": 2, "loss": Infinity}\n'},
    "a list as a loss": {"metrics": [{"step": 1, "loss": [1]}, *GOOD]},
    "config of code": {"metrics": GOOD, "config": "!!python/object/apply:os.system ['touch ../code_ran']"},
    "config of aliases": {"metrics": GOOD, "config": "a: &a [x]\nb: [*a, *a]\n"},
    "config a list": {"metrics": GOOD, "config": "[1]"},
    "config of markup": {"metrics": GOOD, "config": {"stage": SCRIPT, "model": SCRIPT, "ratio": SCRIPT, "batch": [1]}},
    "manifest cut": {"metrics": GOOD, "manifest": '{"stage": '},
    "manifest a list": {"metrics": GOOD, "manifest": "[]"},
    "manifest nested deep": {"metrics": GOOD, "manifest": "[" * 100_000},
    "manifest of markup": {"metrics": GOOD, "manifest": {"parts": {SCRIPT: {"parameters": SCRIPT}}, "commit": SCRIPT}},
    "parts a list": {"metrics": GOOD, "manifest": {"parts": [1]}},
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_somebody_else_is_shown_as_text_or_refused(ground: Ground, name: str) -> None:
    folder = written(ground, **RUNS[name])
    outcome = ground.command("report", folder)
    ground.is_clean(outcome)
    if outcome.code:
        ground.refuses(outcome, "evaluation")
    else:
        page(ground, folder)


def test_previews_that_lead_elsewhere_are_not_shown(ground: Ground) -> None:
    import base64

    data = secret_png(ground)
    folder = written(ground, metrics=GOOD)
    (folder / "samples").mkdir()
    (folder / "samples/step-000001.png").symlink_to(ground.secret)
    os.mkfifo(folder / "samples/step-000002.png")
    assert base64.b64encode(data).decode() not in page(ground, folder)
