"""benchmarks/loading.py, the real command with four processes: no rank has a model in memory beside its own weights."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from janus_train.paths import ROOT


@pytest.mark.slow
def test_reading_takes_less_than_a_third_of_a_copy_beside_the_devices_own() -> None:
    command = [sys.executable, "benchmarks/loading.py", "--backends", "ddp", "zero3", "fsdp2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    lines = result.stdout.splitlines()
    rows = {words[0]: [float(word) for word in words[1:]] for words in map(str.split, lines[-3:])}
    assert rows.keys() == {"ddp", "zero3", "fsdp2"}
    for backend, (read_peak, read_end, *_) in rows.items():
        copies = 4 if backend == "ddp" else 1  # of the devices, which are the CPU here
        assert 0.9 * copies < read_end <= read_peak < copies + 0.3, (backend, lines)
    assert rows["fsdp2"][2] < 1.3
