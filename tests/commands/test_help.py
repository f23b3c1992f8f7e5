"""Every command explains itself, and the options of ``prepare`` are those declared in its one record of options."""

from __future__ import annotations

import dataclasses

import pytest
import typer

from janus_train import cli
from janus_train.datatools.prepare.options import FORMATS, PrepareOptions, flag, option_specs
from tests.helpers import Run

COMMANDS = sorted(typer.main.get_command(cli.app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_has_an_example_and_explains_every_parameter(run: Run, command: str) -> None:
    code, output, _ = run(command, "--help")
    assert code == 0
    assert "\n  Example" in output and f"    janus-train {command} " in output
    parameters = typer.main.get_command(cli.app).commands[command].params  # type: ignore[attr-defined]
    assert all(len(parameter.help.split()) > 2 for parameter in parameters)


def test_every_field_of_the_options_is_a_parameter_of_prepare() -> None:
    command = typer.main.get_command(cli.app).commands["prepare"]  # type: ignore[attr-defined]
    names = {parameter.name: parameter.opts for parameter in command.params}
    for field in dataclasses.fields(PrepareOptions):
        required = field.default is dataclasses.MISSING
        assert names.pop(field.name) == [field.name if required else flag(field.name)]
    assert sorted(names) == ["index_only", "max_bad", "out", "workers"]


def test_options_are_for_formats_that_exist() -> None:
    for spec in option_specs().values():
        assert spec.formats and set(spec.formats) <= set(FORMATS)
