"""`accelerate launch`, once a node, as a scheduler needs it: signals reach the trainers, their exit code comes back.

python -m janus_train.launch [accelerate launch's options] {train.py | -m janus_train.train} +stage=2 ...

Accelerate's launcher answers SIGTERM by killing the trainers after 30 seconds, which may not be enough to save a checkpoint;
ends at SIGUSR1; and makes every exit code 1. Here the three signals are passed on, and the launcher ends when its trainers
do, with the code of the first that failed (128 + N for signal N), and one line where it would print a traceback. A trainer
that dies ends the others on its node as before: SIGTERM, then SIGKILL after 30 seconds.
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
    """Never returns: exits with the trainers' code."""
    os.environ["PET_SIGNALS_TO_HANDLE"] = "SIGHUP,SIGQUIT"  # torch's launcher keeps its hands off the others
    for number in PASSED_ON:
        signal.signal(number, _pass_on)
    code = launch(sys.argv[1:])
    for number in PASSED_ON:  # on the way out nobody is left to pass them on to
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


def launch(arguments: list[str]) -> int:
    """Run `accelerate launch` with ``arguments``; the exit code."""
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # its news are in our one line
    options = launch_command_parser().parse_args(arguments)
    options.quiet = False  # it would make every code of a single trainer 1
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
    rank = min(failures, key=lambda one: (failures[one].exitcode == EXIT_PEER_LOST, failures[one].timestamp))
    return rank, exit_code(failures[rank].exitcode)


def exit_code(returncode: int) -> int:
    """A process's return code as a shell has it: 128 + N for one that signal N ended."""
    return 128 - returncode if returncode < 0 else returncode


def _pass_on(number: int, frame: FrameType | None) -> None:
    for child in psutil.Process().children():
        try:
            child.send_signal(number)
        except psutil.NoSuchProcess:
            continue


if __name__ == "__main__":
    main()
