"""The training command: composes the configuration, checks it and runs one stage.

accelerate launch -m janus_train.train +stage={1,2,3} [model=tiny|janus_pro_1b|janus_pro_7b|from_folder] [key=value ...]
accelerate launch -m janus_train.train +stage=2 model=janus_pro_1b --cfg job      # print the configuration and stop

``train.py`` in a checkout is the same.

Exit codes: 0 finished, 1 a mistake or an error, 75 stopped by a signal with a checkpoint, 76 another process is gone or
hangs. After 75 and 76, run the same command again to resume (docs/clusters.md).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import hydra
from omegaconf import DictConfig, OmegaConf

from janus_train.compose import check_overrides, quote_stage, validate
from janus_train.errors import UserError
from janus_train.lifetime import stop_without_launcher
from janus_train.paths import CONFIGS
from janus_train.text import printable_line
from janus_train.train.distributed.signals import (
    EXIT_PEER_LOST,
    EXIT_PREEMPTED,
    PeerLost,
    Preempted,
)

LAUNCHER_S = 10.0
"""What a launcher needs, at most, to end the other ranks once rank 0 has failed."""


def main() -> None:
    """Train the stage that ``sys.argv`` asks for. A `UserError` ends the process with one line and exit code 1."""
    stop_without_launcher()
    try:
        sys.argv[1:] = quote_stage(sys.argv[1:])
        check_overrides(sys.argv[1:])
        _compose_and_run()
    except UserError as error:
        fail(error)
    except KeyboardInterrupt:  # during start-up; once training runs, Ctrl-C saves a checkpoint first
        sys.exit(130)


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")
def _compose_and_run(values: DictConfig) -> None:
    config = validate(OmegaConf.to_container(values, resolve=True))  # type: ignore[arg-type]
    # torch and transformers load only once the configuration is right
    from janus_train import report
    from janus_train.train.distributed.context import destroy_process_group
    from janus_train.train.run import run

    try:
        run(config, write_report=report.build)
    except UserError as error:  # caught inside: Hydra would print a traceback
        fail(error)
    except Preempted as error:
        if os.environ.get("RANK", "0") == "0":
            print(printable_line(str(error)), file=sys.stderr)
        sys.exit(EXIT_PREEMPTED)
    except PeerLost as error:
        print(f"error: {printable_line(str(error))}", file=sys.stderr, flush=True)
        os._exit(EXIT_PEER_LOST)  # a normal exit would wait for the other processes
    destroy_process_group()


def fail(error: UserError) -> NoReturn:
    """End the process with one line and exit code 1.

    Rank 0 prints at once. The other ranks wait, so that they print only if rank 0 does not fail too.
    """
    if os.environ.get("RANK", "0") != "0":
        # The launcher sends it once rank 0 has failed: its report then names rank 0 alone.
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
        time.sleep(LAUNCHER_S)
    line = f"error: {printable_line(str(error))}"
    _tell_launcher(line)
    sys.exit(line)


def _tell_launcher(line: str) -> None:
    """Put ``line`` into the report with which torch's launcher ends, after pages of its own."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        report = {"message": {"message": line, "extraInfo": {"py_callstack": line, "timestamp": str(int(time.time()))}}}
        with suppress(OSError):
            Path(path).write_text(json.dumps(report), encoding="utf-8")
