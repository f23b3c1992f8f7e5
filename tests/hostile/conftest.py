"""The `ground` fixture: where attacks take place."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import Run
from tests.hostile.ground import Ground, make_ground


@pytest.fixture
def ground(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> Ground:
    return make_ground(tmp_path, run, monkeypatch)
