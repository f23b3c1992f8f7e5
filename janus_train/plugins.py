"""Registries of templates, source types and evaluations, and the plug-ins that add to them.

A plug-in is a Python module that registers its entries when it is imported. For an unknown name a registry imports
`BUILT_IN`, then the plug-ins of installed packages (entry points of the group `GROUP`), one after the other, until one of
them registers the name. A user's own modules are named in the configuration (``plugins``) or with ``--plugin``. Recipes
are data and name no modules.
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
"""Plug-ins that are found without entry points, which a checkout that is not installed does not have."""

T = TypeVar("T")

_imported_modules: list[str] = []


class Registry(Generic[T]):
    """Entries by name. ``kind`` is what messages call an entry, for example "template"."""

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, tuple[T, str]] = {}

    def add(self, name: str, entry: T, module: str) -> None:
        """Registers ``entry`` of ``module``. Raises `UserError` if another module has one of this name."""
        owner = self._entries.get(name, (entry, module))[1]
        if owner != module:
            raise UserError(f"{self.kind} {name!r} of {module}: {owner} has one of this name")
        self._entries[name] = (entry, module)

    def get(self, name: str, where: str = "") -> T:
        """Returns the entry of this name; ``where`` is where the name is used. Raises `UserError` with the known names."""
        plugins = _installed_plugins()
        while name not in self._entries:
            plugin = next(plugins, None)
            if plugin is None:
                names = ", ".join(sorted(self._entries))
                raise UserError(f"{where and where + ': '}there is no {self.kind} {name!r}, known are {names}")
            _import(plugin, f"plug-in {plugin}")
        return self._entries[name][0]

    def __iter__(self) -> Iterator[T]:
        """Iterates over the registered entries, in the order of registration."""
        return iter([entry for entry, _ in self._entries.values()])


def import_plugins(modules: Iterable[str], where: str = "plugins") -> None:
    """Imports a user's plug-ins; ``where`` is the option that names them. Raises `UserError` for one that cannot be imported.

    Modules in the current folder are found too; all others take precedence.
    """
    for module in modules:
        if not all(part.isidentifier() for part in module.split(".")):
            raise UserError(
                f"{where}: {module!r} is not the name of a Python module: write it as in import, without .py"
            )
        current_folder = str(Path.cwd())
        if current_folder not in sys.path:
            sys.path.append(current_folder)  # console scripts start without it
        _import(module, f"{where}: {module}")
        if module not in _imported_modules:
            _imported_modules.append(module)


def imported_plugins() -> tuple[str, ...]:
    """Returns the user's imported plug-ins, for processes that have to import them again."""
    return tuple(_imported_modules)


def _installed_plugins() -> Iterator[str]:
    yield from BUILT_IN
    for point in entry_points(group=GROUP):
        if point.module not in BUILT_IN:
            yield point.module


def _import(module: str, where: str) -> None:
    try:
        importlib.import_module(module)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    except Exception as error:  # any error of the imported module
        raise UserError(f"{where} cannot be imported ({type(error).__name__}: {one_line(error)})") from error
