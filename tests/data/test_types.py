from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("library", ["torch", "transformers", "PIL"])
def test_the_shapes_of_the_data_path_need_numpy_alone(library: str) -> None:
    script = f"import sys, janus_train.data.types; sys.exit({library!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
