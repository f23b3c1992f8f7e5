"""Several processes that share a benchmark: ``accelerate launch -m janus_train.cli benchmark ...``, or torchrun.

Each has a whole model and answers its share of the items. They meet over gloo, on GPUs too: nothing but short messages
travels between them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from janus_train.errors import UserError

TIMEOUT = timedelta(days=7)
"""How long a process waits for the others: one may finish its share hours before them."""


@dataclass(frozen=True)
class Processes:
    """This process's number among ``count``."""

    rank: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Waits until all processes are here."""
        if self.count > 1:
            dist.barrier()

    @contextmanager
    def meeting(self) -> Iterator[None]:
        """All processes leave the block together; if any raises `UserError` in it, all raise the first one's."""
        message = None
        try:
            yield
        except UserError as error:
            message = str(error)
        messages: list[str | None] = [message]
        if self.count > 1:
            messages = [None] * self.count
            dist.all_gather_object(messages, message)
        first = next((text for text in messages if text is not None), None)
        if first is not None:
            raise UserError(first)


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes that a launcher has started; one alone without a launcher."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    dist.init_process_group("gloo", timeout=TIMEOUT)
    try:
        yield Processes(dist.get_rank(), count)
    finally:
        dist.destroy_process_group()
