"""Which files of a data set on the hub are a split's. In: ``hf://datasets/OWNER/NAME``. Out: URLs of Parquet files.

The rules are those of Hugging Face's ``datasets``: the ``configs`` in the data set's README.md, else the files' names. Of a
data set in another format the Parquet files are taken that the hub has made of it (its branch ``refs/convert/parquet``). No
code of a data set is run, and no file is downloaded but README.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import yaml

from janus_train.data.storage.remote import MISSING, as_os_error, file_system, find, read_all, with_retries
from janus_train.errors import UserError, one_line

CONVERTED = "refs%2Fconvert%2Fparquet"
"""The branch on which the hub converts data sets to Parquet: CONFIG/SPLIT/0000.parquet."""
_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*$", re.DOTALL | re.MULTILINE)
_OTHER_PLACE = re.compile(r"://|::|^/|^~|(^|/)\.\.(/|$)")
Result = TypeVar("Result")


def is_data_set(url: str) -> bool:
    """Whether the URL names a data set of the hub as a whole, with or without ``@revision``."""
    return re.fullmatch(r"hf://datasets/[^/]+/[^/]+", url.rstrip("/")) is not None


def split_files(url: str, split: str | None, subset: str | None) -> list[str]:
    """The Parquet files of a split, in order. None: the only split, the only or default subset.

    Raises `UserError` for a split or subset that is not there, with those that are, and for a data set without Parquet files.
    """
    url = url.rstrip("/")
    subsets = _declared(url)
    if subsets:
        name = _chosen("subset", url, subset, list(subsets), _default(subsets))
        files = _matching(url, subsets[name], split)
    elif subset is None:
        files = _matching(url, {}, split)
    else:
        files = []
    return files or _converted_files(url, split, subset)


def _declared(url: str) -> dict[str, Mapping[str, Any]]:
    """The ``configs`` in the data set's README.md, by their names."""
    try:
        text = read_all(f"{url}/README.md").decode("utf-8", "replace")
    except MISSING:
        return {}
    match = _FRONT_MATTER.match(text)
    try:
        values = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError as error:
        raise UserError(f"{url}: the head of its README.md is not valid YAML ({one_line(error)})") from None
    configs = values.get("configs") if isinstance(values, dict) else None
    named = [config for config in configs or [] if isinstance(config, dict) and config.get("config_name")]
    return {str(config["config_name"]): config for config in named}


def _default(subsets: Mapping[str, Mapping[str, Any]]) -> str | None:
    return next((name for name, config in subsets.items() if name == "default" or config.get("default")), None)


def _chosen(what: str, url: str, name: str | None, names: list[str], default: str | None = None) -> str:
    """``name``, or without one the default or the only one."""
    if name is None:
        name = default or (names[0] if len(names) == 1 else None)
        if name is None:
            raise UserError(f"{url} has the {what}s {', '.join(names)}: choose one with {what}: NAME")
    if name not in names:
        raise UserError(f"{url} has no {what} {name!r}; it has {', '.join(names)}")
    return name


def _matching(url: str, config: Mapping[str, Any], split: str | None) -> list[str]:
    """The Parquet files of a split by the patterns of a subset, or by the files' names; none if all are in other formats."""
    from datasets.data_files import get_data_patterns, resolve_pattern, sanitize_patterns

    base = f"{url}/{config['data_dir']}".rstrip("/") if config.get("data_dir") else url
    try:
        if config.get("data_files"):
            patterns = sanitize_patterns(config["data_files"])
        else:
            patterns = _from_hub(url, lambda: get_data_patterns(base))
    except ValueError as error:
        raise UserError(f"{url}: the configs in its README.md cannot be read ({one_line(error)})") from None
    except MISSING:
        return []
    files: dict[str, list[str]] = {}
    for name, of_split in patterns.items():
        for pattern in map(str, of_split):
            if _OTHER_PLACE.search(pattern):
                raise UserError(
                    f"{url}: its README.md names files outside of it ({pattern[:80]!r}), which are not read"
                )
            try:
                paths = _from_hub(url, lambda pattern=pattern: resolve_pattern(pattern, base, [".parquet"]))  # type: ignore[misc]
            except MISSING:
                continue
            files.setdefault(str(name), []).extend(paths)
    return sorted(set(files[_chosen("split", url, split, list(files))])) if files else []


def _from_hub(url: str, attempt: Callable[[], Result]) -> Result:
    return with_retries(url, lambda: as_os_error(attempt))


def _converted_files(url: str, split: str | None, subset: str | None) -> list[str]:
    """The files that the hub has made of a data set in another format."""
    root = f"{url}@{CONVERTED}"
    subsets = [] if "@" in url else _folders(root)
    if not subsets:
        raise UserError(
            f"{url} has no Parquet files{f' of a subset {subset!r}' if subset else ''}, and the hub has not made any of it: "
            "download it and use janus-train prepare"
        )
    place = f"{root}/{_chosen('subset', url, subset, subsets, 'default' if 'default' in subsets else None)}"
    files = find(f"{place}/{_chosen('split', url, split, _folders(place))}/*.parquet")
    return sorted(map(str, files))


def _folders(url: str) -> list[str]:
    files = file_system(url)
    try:
        entries = _from_hub(url, lambda: files.ls(url, detail=True))
    except MISSING:
        return []
    return [entry["name"].rpartition("/")[2] for entry in entries if entry["type"] == "directory"]
