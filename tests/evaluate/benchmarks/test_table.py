"""The table beside the papers' figures."""

from __future__ import annotations

import io
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from janus_train.evaluate.benchmarks.result import Published, Result, Score, share_of
from janus_train.evaluate.benchmarks.table import groups_table, results_table


def printed(table: Table) -> str:
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def shown(*results: tuple[str, Result, Published]) -> str:
    tasks = {
        title: {"title": title, **result.values(), "published": asdict(published), "manifest": {"num_samples": 8}}
        for title, result, published in results
    }
    return printed(results_table({"tasks": tasks}))


def test_a_row_has_the_score_its_interval_and_the_papers_figures() -> None:
    score = share_of("accuracy", 5, 8, "random")
    text = shown(("GQA", Result((score,), score, 1), Published(59.1, None, 62.0, "a paper")))
    [line] = [line for line in text.splitlines() if "GQA" in line]
    assert line.split() == ["GQA", "accuracy,", "random", "8", "1", "62.5", "30.6-86.3", "59.1", "62.0"]
    assert "as printed in a paper" in text


def test_what_somebody_else_judges_has_no_score_but_says_what_to_do() -> None:
    text = shown(("MM-Vet", Result((), None, 0, "Give the file to a judge."), Published(34.3, 39.8, 50.0, "a paper")))
    [line] = [line for line in text.splitlines() if "MM-Vet" in line]
    assert line.split() == ["MM-Vet", "8", "34.3", "39.8", "50.0"]
    assert "Give the file to a judge." in text


def test_shares_of_one_have_two_digits() -> None:
    assert "0.61" in shown(("GenEval", Result((), None), Published(0.61, 0.73, 0.8, "a paper")))


def test_every_category_has_a_row() -> None:
    scores = (Score("mean", 62.25, n=2), share_of("right images", 3, 4, "colors"))
    lines = printed(groups_table({"title": "GenEval", **Result(scores, scores[0]).values()})).splitlines()
    assert [line.split() for line in lines if line.split()[:1] in (["mean"], ["right"])] == [
        ["mean", "2", "62.3"],
        ["right", "images", "colors", "3/4", "75.0", "30.1-95.4"],
    ]


def test_names_from_data_are_neither_markup_nor_act_on_the_terminal() -> None:
    score = share_of("by [red]mine\x1b[2J", 1, 2, "[bold]")
    for text in (
        shown(("GenEval", Result((score,), score, note="see [blue]x"), Published(None, None, None, "a paper"))),
        printed(groups_table({"title": "GenEval", **Result((score,), score).values()})),
    ):
        assert "by [red]mine\\x1b[2J" in text and "[bold]" in text
