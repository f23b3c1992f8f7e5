"""Writes what a check found as a page: one table a step, and what was not run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.gpu.steps import STEPS

Result = Mapping[str, Any]


def page(results: Sequence[Result], commit: str, date: str, command: str) -> str:
    """The page in Markdown. ``results``: lines of results.jsonl; each names its step under ``step``."""
    versions = next((result for result in results if result.get("what") == "versions"), {})
    card = versions.get("card")
    machine = f"{card} ({versions['memory_gib']:.0f} GiB)" if card else "no GPU: a rehearsal with tiny models"
    lines = [
        "# Checked on a GPU" if card else "# A rehearsal without a GPU",
        "",
        f"{machine}; torch {versions.get('torch')}, transformers {versions.get('transformers')}, "
        f"{versions.get('cpus')} CPU cores. Commit {commit}, {date}, `{command}`.",
    ]
    for name, step in STEPS.items():
        of_step = [result for result in results if result["step"] == name]
        lines += ["", f"## {name}: {step.answers}", ""]
        end = next((result for result in reversed(of_step) if "exit_code" in result), None)
        if end is None:
            lines.append("Not run.")
            continue
        lines.append(_ending(end))
        found = [result for result in of_step if "exit_code" not in result]
        measured = [result for result in found if "mode" in result and "error" not in result]
        others = [result for result in found if result not in measured]
        if others:
            lines += ["", *(f"- {_entry(result)}" for result in others)]
        if measured:
            lines += ["", *_table(measured)]
    return "\n".join(lines) + "\n"


def _table(results: Sequence[Result]) -> list[str]:
    """One row a result, one column a value that any of them has."""
    keys = list(dict.fromkeys(key for result in results for key in result if key not in ("step", "stage")))
    rows = [[_value(result[key]) if key in result else "" for key in keys] for result in results]
    return [f"| {' | '.join(cells)} |" for cells in (keys, ["---"] * len(keys), *rows)]


def _ending(end: Result) -> str:
    if end["exit_code"] == 0:
        return f"Passed in {end['seconds']:.0f} s."
    how = "out of time" if end["exit_code"] == 124 else f"exit code {end['exit_code']}"
    last = "".join(f"\n    {line}" for line in end.get("last_lines", []))
    return f"**Failed** after {end['seconds']:.0f} s ({how})." + (f"\n{last}" if last else "")


def _entry(result: Result) -> str:
    title = result.get("what") or result.get("mode")
    values = {key: value for key, value in result.items() if key not in ("step", "what") and value != title}
    return f"{title}: " + ", ".join(f"{key} {_value(value)}" for key, value in values.items())


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return "unknown" if value is None else str(value)
