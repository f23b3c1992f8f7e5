"""Copies what the package reads at run time from the checkout's folders into the wheel; all else is in pyproject.toml.

The copies stand in ``janus_train/shipped``, where ``janus_train.paths`` looks for them. An editable install needs none.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = (
    "configs/**/*.yaml",
    "data_recipes/*.yaml",
    "data_recipes/demo/*.yaml",
    "data_recipes/demo/base/*",
    "data_recipes/demo/shards/*",
    "benchmarks/train.jsonl",  # what `janus-train plan` builds on
    "launch/accelerate/*.yaml",  # what it recommends
)


def shipped_files() -> list[Path]:
    """Paths relative to the checkout."""
    root = Path(__file__).parent
    paths = [path for pattern in SHIPPED for path in sorted(root.glob(pattern)) if path.is_file()]
    return [path.relative_to(root) for path in paths]


class BuildWithShippedFiles(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        shutil.rmtree(self._folder(), ignore_errors=True)  # an earlier build may have left files that are gone since
        for path in shipped_files():
            target = self._folder() / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)

    def get_source_files(self) -> list[str]:
        return [*super().get_source_files(), *map(str, shipped_files())]  # for the source distribution

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        copies = [] if self.editable_mode else [str(self._folder() / path) for path in shipped_files()]
        return [*super().get_outputs(include_bytecode), *copies]

    def _folder(self) -> Path:
        return Path(self.build_lib) / "janus_train" / "shipped"


setup(cmdclass={"build_py": BuildWithShippedFiles})
