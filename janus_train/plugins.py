"""Registries of templates, source types and evaluations, and the plug-ins that add to them.

A plug-in is a Python module that registers what it has when it is imported. A name that a registry does not know yet is
looked for in `BUILT_IN`, then in the plug-ins of installed packages (entry points of the group `GROUP`), one after the
other until one registers it; before that none of them is imported. A user's own modules are named in the configuration
(``plugins``) or with ``--plugin``. Recipes are data and name no modules.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Generic, TypeVar

from janus_train.errors import UserError, one_line

GROUP = "janus_train.plugins"
BUILT_IN = ("janus_train.demo.plugin",)
"""Found without entry points too: a checkout that is not installed has none."""

T = TypeVar("T")

_imported: list[str] = []


class Registry(Generic[T]):
    """Entries by name. ``what`` says in messages what they are, for example "template"."""

    def __init__(self, what: str):
        self.what = what
        self._entries: dict[str, tuple[T, str]] = {}

    def add(self, name: str, entry: T, module: str) -> None:
        """Register ``entry``, which ``module`` brings. Raises `UserError` if another module has one of this name."""
        owner = self._entries.get(name, (entry, module))[1]
        if owner != module:
            raise UserError(f"{self.what} {name!r} of {module}: {owner} has one of this name")
        self._entries[name] = (entry, module)

    def get(self, name: str, where: str = "") -> T:
        """The entry of this name. Raises `UserError` with the known names; ``where`` says what asks for it."""
        plugins = _installed()
        while name not in self._entries:
            plugin = next(plugins, None)
            if plugin is None:
                known = ", ".join(sorted(self._entries))
                raise UserError(f"{where and where + ': '}there is no {self.what} {name!r}, known are {known}")
            _import(plugin, f"plug-in {plugin}")
        return self._entries[name][0]

    def __iter__(self) -> Iterator[T]:
        """What is registered so far, in the order of registration."""
        return iter([entry for entry, _ in self._entries.values()])


def import_plugins(modules: Iterable[str], where: str = "plugins") -> None:
    """Import a user's plug-ins; ``where`` names the option. Raises `UserError` for one that cannot be imported.

    Modules in the current folder are found too, after all others.
    """
    for module in modules:
        if not all(part.isidentifier() for part in module.split(".")):
            raise UserError(f"{where}: {module!r} is no name of a Python module: write it as in import, without .py")
        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.append(here)  # console scripts start without it
        _import(module, f"{where}: {module}")
        if module not in _imported:
            _imported.append(module)


def imported_plugins() -> tuple[str, ...]:
    """A user's plug-ins that were imported, for processes started afresh."""
    return tuple(_imported)


def _installed() -> Iterator[str]:
    yield from BUILT_IN
    for point in entry_points(group=GROUP):
        if point.module not in BUILT_IN:
            yield point.module


def _import(module: str, where: str) -> None:
    try:
        importlib.import_module(module)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    except Exception as error:  # whatever a module does when it is imported
        raise UserError(f"{where} cannot be imported ({type(error).__name__}: {one_line(error)})") from error
