"""Tasks by name."""

from __future__ import annotations

import pytest

from janus_train.errors import UserError
from janus_train.evaluate.benchmarks.registry import TASK_MODULES, get_tasks


def test_tasks_come_in_the_order_that_is_asked_for() -> None:
    assert [task.name for task in get_tasks("mme, pope")] == ["mme", "pope"]
    assert {type(task).__module__.rpartition(".")[2] for task in get_tasks("mme,pope")} <= set(TASK_MODULES)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("pope,vqa", "--tasks: there is no task 'vqa', known are .*mmbench, mmbench_circular, mme"),
        ("pope,pope", "--tasks: pope stands there twice"),
        (" , ", "--tasks is empty: give some of .*mme, mmmu, mmvet, pope"),
    ],
)
def test_a_wrong_list_is_one_line(names: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        get_tasks(names)
