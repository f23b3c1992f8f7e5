"""The heartbeat's count; that a hanging process ends is tested with real ones in test_faults.py."""

from __future__ import annotations

import time

import pytest

from janus_train.train.distributed.watchdog import Watchdog


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What would have ended the process."""
    ends: list[str] = []
    monkeypatch.setattr(Watchdog, "_end", lambda self: ends.append(self._last_event))
    return ends


def test_the_first_step_may_take_longer_and_beats_keep_it_quiet(ended: list[str]) -> None:
    with Watchdog(0, first_s=30, later_s=0.5) as watchdog:
        time.sleep(1.0)
        for step in range(5):
            watchdog.beat(f"step {step}")
            time.sleep(0.2)
        watchdog.beat("the last step", long=True)
        time.sleep(1.0)
    assert ended == []


def test_silence_past_the_deadline_ends_the_process(ended: list[str]) -> None:
    with Watchdog(0, first_s=30, later_s=0.3) as watchdog:
        watchdog.beat("step 7")
        time.sleep(1.5)
    assert ended and set(ended) == {"step 7"}
    count = len(ended)
    time.sleep(0.3)
    assert len(ended) == count  # nothing after it is closed


def test_a_process_that_was_suspended_did_not_hang(ended: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock jumps by an hour, as it does over Ctrl-Z: only ticks count."""
    jumps, clock = iter([0.0, 0.0, 3600.0]), time.monotonic
    monkeypatch.setattr("janus_train.train.distributed.watchdog.time.monotonic", lambda: clock() + next(jumps, 3600.0))
    with Watchdog(0, first_s=30, later_s=2) as watchdog:
        watchdog.beat("step 1")
        time.sleep(1.5)
    assert ended == []
