"""``chat --image`` and ``generate --image``: a file that is no image is one line, before a model is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import Run
from tests.hostile_images import HOSTILE, hostile_file, nothing_runs


@pytest.mark.parametrize("command", ["chat", "generate"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_one_line(command: str, kind: str, run: Run, tmp_path: Path) -> None:
    path = hostile_file(kind, tmp_path)
    out = ("--out", tmp_path / "out") if command == "generate" else ()
    with nothing_runs(tmp_path):
        code, output, error_output = run(command, tmp_path, "--image", path, "--prompt", "x", *out)
    assert code == 2 and not output
    assert error_output.count("\n") == 1 and error_output.startswith(
        f"error: --image {path} cannot be read as an image: it "
    )
    assert error_output.endswith("; give a JPEG, PNG or WebP of at most 100 megapixels\n")
