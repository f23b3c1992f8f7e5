"""``report.html`` of a run's folder or of a demo's: one file without scripts or external resources.

metrics.jsonl, config.yaml, manifest.json, samples/, final/   of each stage
results.json, pictures.jsonl or images.jsonl, answers.jsonl   of the evaluation, if there is one
    -> read.py -> results.py or own_data.py, stages.py (charts.py) -> page.py -> pages/templates/report.html.j2 -> report.html
"""

from __future__ import annotations

from pathlib import Path

from janus_train.files import write_text
from janus_train.report.page import page
from janus_train.report.read import read_folder


def build(folder: str | Path) -> Path:
    """Writes ``report.html`` into ``folder`` and returns its path. Raises `UserError` if there is nothing to report."""
    source = read_folder(Path(folder).expanduser())
    path = source.folder / "report.html"
    write_text(path, page(source))
    return path
