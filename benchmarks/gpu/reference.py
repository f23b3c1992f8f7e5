"""Makes cpu_metrics.jsonl: the run of the step "end_to_end" in fp32 on this CPU. After a change of the data or of the demonstration:

python -m benchmarks.gpu.reference
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from benchmarks.gpu.steps import REFERENCE, REFERENCE_RUN, metrics_of, train_command
from janus_train.jsonl import append_json_lines
from janus_train.paths import ROOT

KEYS = ("step", "loss", "batch_digest")


def cpu_run(folder: Path) -> list[dict[str, object]]:
    """Train the reference run in ``folder`` and return what is compared of each of its steps."""
    command = train_command("reference", "run.steps=20", "precision=fp32", f"output_dir={folder}")
    command = (*command[: command.index("--num_processes")], "--cpu", *command[command.index("--num_processes") :])
    subprocess.run(command, cwd=ROOT, check=True)
    return [{key: line[key] for key in KEYS} for line in metrics_of(folder / "metrics.jsonl")]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        lines = cpu_run(Path(folder) / "run")
    REFERENCE.unlink(missing_ok=True)
    append_json_lines(REFERENCE, lines)
    print(f"{REFERENCE}: {len(lines)} steps of {' '.join(REFERENCE_RUN)}")


if __name__ == "__main__":
    main()
