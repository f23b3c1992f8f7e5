"""Runs `accelerate launch` on a node for a scheduler: passes signals on to the trainers and returns their exit code.

python -m janus_train.launch [accelerate launch's options] {train.py | -m janus_train.train} +stage=2 ...

Accelerate's launcher answers SIGTERM by killing the trainers after 30 seconds, which may not be enough to save a checkpoint;
it ends at SIGUSR1; and it turns every exit code into 1. This module passes the three signals on, and ends when its trainers
end, with the code of the first that failed (128 + N for signal N) and one line instead of a traceback. As in Accelerate, a
trainer that dies ends the others on its node: by SIGTERM, then SIGKILL after 30 seconds.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from types import FrameType
from typing import TYPE_CHECKING

import psutil

from janus_train.errors import first_line
from janus_train.text import printable_line
from janus_train.train.distributed.signals import EXIT_PEER_LOST, EXIT_PREEMPTED

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

PASSED_ON = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def main() -> None:
    """Runs the launcher and exits with the trainers' code."""
    os.environ["PET_SIGNALS_TO_HANDLE"] = "SIGHUP,SIGQUIT"  # torch's launcher does not handle the others
    for number in PASSED_ON:
        signal.signal(number, _pass_on)
    code = launch(sys.argv[1:])
    for number in PASSED_ON:  # no trainer is left to pass them on to
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


def launch(arguments: list[str]) -> int:
    """Runs `accelerate launch` with ``arguments``; returns the exit code."""
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # our line replaces its messages
    options = launch_command_parser().parse_args(arguments)
    options.quiet = False  # quiet would turn every code of a single trainer into 1
    try:
        launch_command(options)
    except subprocess.CalledProcessError as error:  # a single trainer
        return exit_code(error.returncode)
    except ChildFailedError as error:
        rank, code = first_cause(error.failures)
        if code != EXIT_PREEMPTED:
            print(f"rank {rank} ended first on this node, with code {code}", file=sys.stderr)
        return code
    except (RuntimeError, ValueError, OSError, ImportError, AssertionError) as error:  # the launcher's own
        print(f"error: the processes could not be launched: {printable_line(first_line(error))}", file=sys.stderr)
        return 1
    return 0


def first_cause(failures: Mapping[int, ProcessFailure]) -> tuple[int, int]:
    """The rank that ended first of those seen at once, and its exit code.

    One that ended because another was gone (76) did so within moments: any other code tells more.
    """
    rank = min(failures, key=lambda rank: (failures[rank].exitcode == EXIT_PEER_LOST, failures[rank].timestamp))
    return rank, exit_code(failures[rank].exitcode)


def exit_code(returncode: int) -> int:
    """Converts a process's return code to a shell's exit code: 128 + N for a process ended by signal N."""
    return 128 - returncode if returncode < 0 else returncode


def _pass_on(number: int, frame: FrameType | None) -> None:
    for child in psutil.Process().children():
        try:
            child.send_signal(number)
        except psutil.NoSuchProcess:
            continue


if __name__ == "__main__":
    main()
