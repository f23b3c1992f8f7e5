"""The figures of evaluations that are in a run's folder, for its model card.

In: the results.json of ``janus-train evaluate`` (own data, the demonstration) in ``evaluation/`` and that of
``janus-train benchmark`` in ``benchmarks/``. Out: one line a figure. Results of another model of the run are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from janus_train.errors import UserError
from janus_train.files import read_json_object

Results = dict[str, Any]


class Figure(NamedTuple):
    """One figure: of what, its value as text, and of how many samples (None: not said)."""

    what: str
    value: str
    samples: int | None


def figures_of(run: Path, model: str) -> list[Figure]:
    """The figures in the run's folder that are of its model ``model``, such as ``final``. Raises `UserError` if damaged."""
    figures: list[Figure] = []
    for path in (run / "evaluation/results.json", run / "benchmarks/results.json"):
        if not path.is_file():
            continue
        results = read_json_object(path)
        try:
            figures += _reader_of(results)(results, model)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise UserError(
                f"{path} does not hold the figures of an evaluation: move it away, or evaluate again"
            ) from None
    return figures


def _reader_of(results: Results) -> Callable[[Results, str], Iterator[Figure]]:
    if results.get("evaluation") == "own_data":
        return _own_data
    return _benchmarks if "tasks" in results else _measures


def _is_of(named: object, model: str) -> bool:
    return Path(str(named)).name == model


def _own_data(results: Results, model: str) -> Iterator[Figure]:
    if not _is_of(results["manifest"]["model"], model):
        return
    losses = results["losses"]
    yield from _loss("loss on held-out data", losses)
    for kind, values in losses["by_kind"].items():
        yield from _loss(f"loss on held-out data, {kind}", values)
    answers, captions = (results[key].get("all") for key in ("answers", "captions"))
    if answers:
        for key, words in (("exact", "exact"), ("contains", "contain a true one")):
            yield Figure(f"answers: {words}", f"{answers[key]['percent']:.1f} %", answers["n"])
        yield Figure("answers: F1 of words", f"{answers['f1']['mean']:.3f}", answers["n"])
    if captions:
        yield Figure("captions: CIDEr-D", f"{captions['cider']['mean']:.3f}", captions["n"])


def _loss(what: str, values: Results) -> Iterator[Figure]:
    if values["loss"] is not None:
        yield Figure(f"{what} (targets)", f"{values['loss']:.4f}", values["targets"])


def _measures(results: Results, model: str) -> Iterator[Figure]:
    if not _is_of(results["model"], model):
        return
    for measure in results["measures"]:
        yield Figure(f"{measure['group']}: {measure['label']}", f"{measure['percent']:.1f} %", measure["n"])


def _benchmarks(results: Results, model: str) -> Iterator[Figure]:
    for task in results["tasks"].values():
        headline = task["headline"]
        if headline is not None and _is_of(task["manifest"]["model"], model):
            yield Figure(
                f"{task['title']}, {headline['name']}", f"{headline['value']:.1f}", task["manifest"]["num_samples"]
            )
